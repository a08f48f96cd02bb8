"""Tokenizer files become the vocabulary of a GGUF, and the proof that it splits text as the original does."""
