"""ENCODE: rows of floats become ggml blocks."""
