"""Checkpoints that are stored in fewer bits: read as the floats they stand for, or as ggml's blocks of the same bits.

``methods`` is the table of what is read; each method has a module that says how its files look.
"""

from ggufrun.checkpoint.quantized.floats import Floats, as_float32, fp8_values
from ggufrun.checkpoint.quantized.source import dequantized

__all__ = ["Floats", "as_float32", "dequantized", "fp8_values"]
