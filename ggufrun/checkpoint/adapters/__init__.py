"""Adapters that peft writes: read, matched with the tensors of the base, merged while those are read."""
