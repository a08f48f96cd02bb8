"""Attacks what reaches the engine: sound GGUFs with one thing changed, run through every command that opens a model.

``python -m tests.attack --seconds 60 --seed 1``; ``docs/reliability.md`` says what is promised and what was seen.
"""
