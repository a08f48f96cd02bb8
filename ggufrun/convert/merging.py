"""What merged adapters mean for a conversion: parts that a GGUF has no place for, and outputs of their own."""

from __future__ import annotations

from collections.abc import Sequence

from ggufrun.checkpoint.adapters.merge import MergedSource
from ggufrun.checkpoint.tensor import Source
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.config import Config
from ggufrun.errors import UnsupportedError


def check_output(config: Config, family: Family, source: Source) -> None:
    """Refuse an adapter that needs an output matrix where llama.cpp always takes the embedding."""
    if isinstance(source, MergedSource) and source.untied_by and "output.weight" not in family.expected(config):
        raise UnsupportedError(
            f"with {source.untied_by} the output is another matrix than the embedding, and llama.cpp takes one for "
            f"both in {family.gguf_arch}",
            "train both alike (ensure_weight_tying), or neither",
        )


def left_out(config: Config, family: Family, source: Source) -> tuple[str, ...]:
    """The modules that merged adapters change and that have no place in a GGUF of the family."""
    if not isinstance(source, MergedSource):
        return ()
    dropped = [
        name.removesuffix(".weight") for name in source.changed if family.kept(config, source.tensors[name]) is None
    ]
    return (*source.left_out, *dropped)


def some_of(names: Sequence[str]) -> str:
    """A few of them, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
