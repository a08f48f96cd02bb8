"""MEASURE: how good and how fast a model is, and what this machine offers. Returns dataclasses, prints nothing."""
