"""Tiny checkpoints of every architecture, and what is varied in them."""
