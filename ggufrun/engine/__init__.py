"""RUN: token ids in, token ids out, over the low-level API of llama-cpp-python. Formats no text and prints nothing."""
