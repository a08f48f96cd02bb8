"""Which token comes next: llama.cpp's sampler chain, grammars, and JSON schemas as grammars."""
