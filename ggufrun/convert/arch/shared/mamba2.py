"""Mamba 2, as it stands in layers of Granite 4 and Falcon-H1.

Source of names and shapes: ``Mamba2Model`` in llama.cpp's ``conversion/mamba.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.layout import Sizes
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import minus_exp, renamed, reshaped, squeezed
from ggufrun.errors import FormatError

MAMBA = """
ssm_in           projected width
ssm_conv1d       mixed kernel
ssm_conv1d.bias  mixed
ssm_dt.bias      mamba_heads
ssm_a.           mamba_heads 1
ssm_d.           mamba_heads 1
ssm_out          width mamba_inner
"""
NORM = "ssm_norm  groups group\n"


def mamba_heads(config: Config) -> int:
    return config.integer("mamba_n_heads", high=1 << 20)


def mamba_sizes(config: Config, inner: int) -> Sizes:
    """Its sizes, ``inner`` values wide."""
    groups, state = config.integer("mamba_n_groups", high=65536), config.integer("mamba_d_state", high=1 << 20)
    mixed = inner + 2 * groups * state
    return {
        "mamba_heads": mamba_heads(config),
        "mamba_inner": inner,
        "groups": groups,
        "group": 0 if inner % groups else inner // groups,
        "state": state,
        "mixed": mixed,
        "projected": inner + mixed + mamba_heads(config),
        "kernel": config.integer("mamba_d_conv", high=65536),
    }


def check_heads(config: Config, sizes: Sizes) -> None:
    """Refuse heads that do not fill the width. Their size may be given as "auto": what fills it."""
    n_heads, inner = mamba_heads(config), sizes["mamba_inner"]
    size = inner // n_heads if config.values.get("mamba_d_head") == "auto" else config.integer("mamba_d_head")
    if n_heads * size != inner or not sizes["group"]:
        raise FormatError(f"{config.path} has heads of Mamba that do not fill its width", "correct the file")


def mamba_parts(tensor: Tensor, sizes: Sizes) -> Iterable[Tensor]:
    """A tensor of it as a GGUF has it; any other as it is."""
    stem, mamba, part = tensor.name.partition(".mamba.")
    if part == "dt_bias":
        yield renamed(tensor, f"{stem}{mamba}dt_proj.bias")
    elif part in ("A_log", "D"):
        yield reshaped(minus_exp(tensor) if part == "A_log" else tensor, sizes["mamba_heads"], 1)
    elif part == "norm.weight":
        yield reshaped(tensor, sizes["groups"], sizes["group"])
    else:
        yield squeezed(tensor) if part == "conv1d.weight" else tensor
