"""MAP: names, shapes, metadata and vocabulary become what a GGUF says."""
