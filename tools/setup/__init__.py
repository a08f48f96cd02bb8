"""Builds the engine and keeps its wheel: `python -m tools.setup`, which `make setup` and `make cuda` run."""
