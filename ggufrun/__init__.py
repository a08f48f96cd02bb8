"""ggufrun: convert checkpoints to GGUF, quantize them and talk to them.

Importing the package loads no native library; each room loads what it needs when it is used.
"""

__version__ = "0.1.0"
