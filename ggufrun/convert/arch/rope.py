"""Rotary position scaling: what config.json says and how a GGUF says it.

Source: transformers' ``modeling_rope_utils`` for the keys and formulas, llama.cpp's ``conversion/base.py`` for the
metadata they become.
"""

from __future__ import annotations

import math
from typing import Any

import gguf
import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import constant
from ggufrun.errors import UnsupportedError

KINDS = ("default", "linear", "yarn", "llama3")


def _section(config: Config) -> Config | None:
    """``rope_parameters`` (transformers 5) or ``rope_scaling`` (before)."""
    return config.section("rope_parameters") or config.section("rope_scaling")


def _kind(section: Config) -> str:
    return str(section.values.get("rope_type") or section.values.get("type") or "default").lower()


def check_rope(config: Config) -> None:
    """Refuse a scaling that the GGUF could not express."""
    section = _section(config)
    if section is None:
        return
    if _kind(section) not in KINDS:
        raise UnsupportedError(
            f"{config.path} scales positions by {_kind(section)!r}", f"this release knows {', '.join(KINDS)}"
        )
    if _kind(section) in ("linear", "yarn"):
        section.number("factor")


def rope_theta(config: Config) -> float:
    """The base of the rotation frequencies."""
    section = _section(config)
    return (section if section is not None and "rope_theta" in section.values else config).number("rope_theta")


def rope_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """Scaling, then base: the order of llama.cpp's converter."""
    section = _section(config)
    kind = "default" if section is None else _kind(section)
    if section is not None and kind in ("linear", "yarn"):
        yarn = kind == "yarn"
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN if yarn else gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(section.number("factor"))
        if yarn:
            holder = section if "original_max_position_embeddings" in section.values else config
            writer.add_rope_scaling_orig_ctx_len(holder.integer("original_max_position_embeddings"))
            for keys, add in (
                (("extrapolation_factor",), writer.add_rope_scaling_yarn_ext_factor),
                (("attention_factor", "attn_factor"), writer.add_rope_scaling_yarn_attn_factor),
                (("beta_fast",), writer.add_rope_scaling_yarn_beta_fast),
                (("beta_slow",), writer.add_rope_scaling_yarn_beta_slow),
            ):
                key = next((key for key in keys if section.values.get(key) is not None), None)
                if key is not None:
                    add(section.number(key))
    writer.add_rope_freq_base(rope_theta(config))


def rope_frequencies(config: Config, head: int) -> list[Tensor]:
    """Llama 3.1's scaling as the ``rope_freqs.weight`` tensor, one factor a rotation pair; empty for other scalings.

    Wavelengths below ``original / high_freq_factor`` stay, those above ``original / low_freq_factor`` are divided by
    ``factor``, and those between are interpolated.
    """
    section = _section(config)
    if section is None or _kind(section) != "llama3":
        return []
    values = section.with_defaults(
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    )
    factor, low, high = (values.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = values.integer("original_max_position_embeddings")
    exponents = np.arange(0, head, 2, dtype=np.float32) / np.float32(head)
    # powers in double, rounded once: numpy's single-precision power is off by a unit in the last place in one case of
    # ten, torch's (which the reference converter uses) in one of a hundred
    powers = (rope_theta(config) ** exponents.astype(np.float64)).astype(np.float32)
    # from here on single precision throughout, in the order of the reference converter
    one = np.float32(1)
    wavelengths = one / (one / powers) * np.float32(2 * math.pi)

    def scale(wavelength: Any) -> Any:
        if wavelength < original / high:
            return one
        if wavelength > original / low:
            return np.float32(factor)
        smooth = (one / wavelength * np.float32(original) - np.float32(low)) / np.float32(high - low)
        return one / ((one - smooth) / np.float32(factor) + smooth)

    return [constant("rope_freqs.weight", np.array([scale(length) for length in wavelengths], np.float32))]
