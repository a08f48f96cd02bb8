"""READ: files become lazy tensors. Nothing here knows an architecture."""
