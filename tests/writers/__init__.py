"""Checkpoints as today's transformers writes them, recorded from it, and how to make them again without it."""
