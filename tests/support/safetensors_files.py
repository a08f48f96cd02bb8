"""Reading safetensors whose BF16 numpy does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized import as_float32
from ggufrun.checkpoint.safetensors import SAFETENSORS


def load_floats(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every tensor of a plain float type as float32."""
    file = SAFETENSORS.open(path)
    found = {
        name: as_float32(tensor.dtype, np.array(tensor.rows(0, tensor.n_rows))).reshape(tensor.shape)
        for name, tensor in file.tensors.items()
        if tensor.dtype in ("F32", "F16", "BF16", "F64")
    }
    file.file.close()
    return found
