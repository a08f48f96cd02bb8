"""One short file a model family, and the registry that finds it by the name in config.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.config import Config
from ggufrun.errors import UnsupportedError


@dataclass(frozen=True)
class Family:
    """What it takes to map a checkpoint of one family.

    ``defaults`` are transformers' own for keys a config.json may leave out. ``check`` refuses what the GGUF could not
    express. ``metadata`` and ``metadata_after_file_type`` write the hyper-parameters, in the order of llama.cpp's
    converter, which puts the file type between the two. ``transform`` changes one tensor's rows or drops it (None);
    names come from the ``gguf`` package's map. ``extra`` adds tensors in front, under their GGUF names. ``shapes`` says
    which tensors a sound checkpoint has at least, by GGUF name, in numpy's order of dimensions.
    """

    names: tuple[str, ...]
    arch: gguf.MODEL_ARCH
    check: Callable[[Config], None]
    metadata: Callable[[Config, gguf.GGUFWriter], None]
    metadata_after_file_type: Callable[[Config, gguf.GGUFWriter], None]
    transform: Callable[[Config, Tensor], Tensor | None]
    shapes: Callable[[Config], Mapping[str, tuple[int, ...]]]
    extra: Callable[[Config], Iterable[Tensor]] = lambda config: ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


def families() -> dict[str, Family]:
    """Every family by each of its names."""
    from ggufrun.convert.arch import llama

    return {name: family for module in (llama,) for family in module.FAMILIES for name in family.names}


def find(config: Config) -> Family:
    """The family of a checkpoint; UnsupportedError lists the known names."""
    known = families()
    for name in config.architectures:
        if name in known:
            return known[name]
    names = ", ".join(sorted(known))
    raise UnsupportedError(f"{config.path} is a {config.architectures[0]}", f"this release converts {names}")
