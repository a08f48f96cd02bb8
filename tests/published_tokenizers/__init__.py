"""Published tokenizers, out of package registries, converted and held against the programs that they belong to."""
