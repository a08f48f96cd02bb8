"""Layouts of published checkpoints: their config.json, and the names, types and shapes of their tensors, no weights."""
