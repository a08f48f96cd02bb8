"""GGUF files: their header as records, read with suspicion, and what llama.cpp cannot live with in one."""
