"""Experts that a checkpoint stores together, in ways that several families share."""

from __future__ import annotations

from collections.abc import Iterable

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.transforms import renamed, row_numbers, take_rows, transposed

TOGETHER = ("gate_up_proj", "gate_up_proj.weight", "down_proj", "down_proj.weight")


def halves(tensor: Tensor, stem: str, experts: int, inner: int) -> Iterable[Tensor]:
    """Gate and up of all experts, of which each has the one over the other."""
    rows = row_numbers(tensor, experts, 2, inner)
    for half, name in enumerate(("gate_proj", "up_proj")):
        chosen = take_rows(tensor, rows[:, half], (experts, inner, tensor.shape[-1]))
        yield renamed(chosen, f"{stem}.experts.{name}.weight")


def turned_experts(tensor: Tensor, experts: int, inner: int) -> Iterable[Tensor]:
    """The experts' matrices where they lie transposed, which only some tools do; any other tensor as it is."""
    stem, found, part = tensor.name.rpartition(".experts.")
    if not found or part not in TOGETHER or len(tensor.shape) != 3:
        yield tensor
    elif part.startswith("gate_up_proj"):
        yield from halves(tensor if tensor.shape[2] != 2 * inner else transposed(tensor), stem, experts, inner)
    else:
        straight = tensor.shape[2] == inner != tensor.shape[1]
        yield renamed(tensor if straight else transposed(tensor), f"{stem}.experts.down_proj.weight")
