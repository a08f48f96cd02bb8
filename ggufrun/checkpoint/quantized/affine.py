"""Whole numbers back to weights: scale * (number - zero point), in groups of columns, rounded as the method rounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized.floats import Floats, round_to

LARGEST = 256
"""More than a number of 8 bits differs from its zero point."""

Groups = npt.NDArray[np.integer]
"""The group of each column."""


def weights(
    codes: npt.NDArray[np.uint8] | npt.NDArray[np.int8],
    zeros: npt.NDArray[np.number] | int,
    scales: Floats,
    groups: Groups | None,
    precision: str,
) -> Floats:
    """``codes`` (rows, columns) as floats, each the nearest of ``precision`` to the exact product.

    ``scales`` is (rows, groups), ``zeros`` the same or one for all. Without ``groups`` the columns are cut into equal
    groups in their order; with them each column has the number of its group.
    """
    found = codes.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if groups is not None:
            found -= zeros if isinstance(zeros, int) else np.take(zeros.astype(np.float32), groups, axis=1)
            found *= np.take(scales, groups, axis=1)
        else:
            view = found.reshape(codes.shape[0], scales.shape[1], -1)
            view -= zeros if isinstance(zeros, int) else zeros.astype(np.float32)[:, :, None]
            view *= scales[:, :, None]
        return round_to(precision, found, float(np.abs(scales).max(initial=0)) * LARGEST)


def regular(groups: Groups, size: int) -> bool:
    """Are the columns in groups of ``size`` in their order, and all groups full?"""
    return len(groups) % size == 0 and bool((groups == np.arange(len(groups)) // size).all())
