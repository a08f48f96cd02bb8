"""Rotary position scaling: what config.json says and how a GGUF says it.

Source: transformers' ``modeling_rope_utils`` for the keys, their defaults and the formulas; llama.cpp's
``conversion/base.py`` for the metadata they become.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import gguf
import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import constant
from ggufrun.errors import FormatError, UnsupportedError

Standard = Callable[[Config], dict[str, Any]]
"""config.json -> rope parameters."""

PLAIN = ("default", "dynamic")
"""What every GGUF can say. Dynamic scaling leaves all positions up to the trained length alone, and the GGUF's context
length ends there."""

SCALED = (*PLAIN, "linear", "yarn")
"""What ``rope_metadata`` can say."""

THETA = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
LOCAL_THETA = ("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq")
PARTIAL = ("partial_rotary_factor", "rope_pct", "rope_percent")

ORIGINAL = "original_max_position_embeddings"


def of_two_bases(whole: tuple[str, float], window: tuple[str, float]) -> Standard:
    """For layers that attend to everything and layers with a window: each kind has a base of its own (its key and what
    it is without one), and only the first is scaled.
    """

    def read(config: Config) -> dict[str, Any]:
        section = config.section("rope_parameters") or Config(config.path, {})
        full, local = (
            dict(part.values) if (part := section.section(key)) else {}
            for key in ("full_attention", "sliding_attention")
        )
        if scaling := config.section("rope_scaling"):
            full |= scaling.values
        for found, (key, usual) in ((full, whole), (local, window)):
            found.setdefault("rope_theta", config.values.get(key, usual))
        full.setdefault("rope_type", full.get("type", "default"))
        return {"full_attention": full, "sliding_attention": local}

    return read


def as_written(config: Config) -> dict[str, Any]:
    """The parameters of a family that transformers does not know: just what the file says."""
    section = config.section("rope_parameters") or config.section("rope_scaling")
    return dict(section.values) if section else {}


def standard(theta: float = 10000.0, partial: float | None = None) -> Standard:
    """The parameters as transformers completes them, with a family's defaults of base and rotated part of a head."""

    def complete(config: Config) -> dict[str, Any]:
        section = config.section("rope_scaling") or config.section("rope_parameters")
        found = dict(section.values) if section else {}
        found.setdefault("rope_theta", config.values.get("rope_theta", theta))
        part = config.values.get("partial_rotary_factor", partial)
        if part is not None:
            found.setdefault("partial_rotary_factor", part)
        found.setdefault("rope_type", found.get("type", "default"))
        if found["rope_type"] in ("llama3", "yarn", "longrope"):
            found.setdefault(ORIGINAL, config.values.get("max_position_embeddings"))
        return found

    return complete


def standard_or(unsaid: Mapping[str, Any], theta: float = 10000.0) -> Standard:
    """The same, but ``unsaid`` where config.json does not describe positions."""
    usual = standard(theta)

    def complete(config: Config) -> dict[str, Any]:
        said = any(config.has(key) for key in ("rope_parameters", "rope_scaling"))
        return usual(config) if said else dict(unsaid)

    return complete


def mirrored(config: Config, found: dict[str, Any]) -> dict[str, Any]:
    """Parameters that stand elsewhere in config.json, added as llama.cpp's converter does."""
    if "full_attention" in found or "sliding_attention" in found:
        return found
    local, base, partial = (config.first(*keys) for keys in (LOCAL_THETA, THETA, PARTIAL))
    if local:
        found["sliding_attention"] = {"rope_theta": config.values[local]}
    if base:
        found.setdefault("rope_theta", config.values[base])
    if found.get("type") is not None:
        found.setdefault("rope_type", found["type"])
    if partial:
        found.setdefault("partial_rotary_factor", config.values[partial])
    if config.has(ORIGINAL):
        found.setdefault(ORIGINAL, config.values[ORIGINAL])
    return found


def rope(config: Config) -> Config:
    """The completed parameters, those of full attention where the layers differ."""
    whole = config.section("rope_parameters") or Config(config.path, {})
    return whole.section("full_attention") or whole


def kind(config: Config) -> str:
    """The name of the scaling."""
    return str(rope(config).values.get("rope_type") or "default").lower()


def check_rope(config: Config, kinds: Collection[str]) -> None:
    """Refuse a scaling that the GGUF could not express."""
    if kind(config) not in kinds:
        raise UnsupportedError(
            f"{config.path} scales positions by {kind(config)!r}", f"only {', '.join(kinds)} can be told for this model"
        )
    parameters = rope(config)
    for key in ("rope_theta", *(["factor"] if kind(config) in ("linear", "yarn") else [])):
        if (key == "factor" or parameters.has(key)) and not parameters.number(key) > 0:
            raise FormatError(f"{config.path} says {key} = {parameters.values[key]} of its positions", "correct it")


def rope_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """Scaling, then base: the order of llama.cpp's converter."""
    found, scaling = rope(config), kind(config)
    if scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(found.number("factor"))
    elif scaling == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(found.number("factor"))
        writer.add_rope_scaling_orig_ctx_len(found.integer(ORIGINAL))
        for keys, add in (
            (("extrapolation_factor",), writer.add_rope_scaling_yarn_ext_factor),
            (("attention_factor", "attn_factor"), writer.add_rope_scaling_yarn_attn_factor),
            (("beta_fast",), writer.add_rope_scaling_yarn_beta_fast),
            (("beta_slow",), writer.add_rope_scaling_yarn_beta_slow),
        ):
            if key := found.first(*keys):
                add(found.number(key))
    elif scaling in ("su", "longrope"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    if found.has("mrope_section"):
        parts = [int(part) for part in found.numbers("mrope_section")]
        writer.add_rope_dimension_sections([*parts, 0, 0, 0][:4])
    if found.has("rope_theta"):
        writer.add_rope_freq_base(found.number("rope_theta"))
    whole = config.section("rope_parameters")
    local = whole.section("sliding_attention") if whole else None
    if local is not None and local.has("rope_theta"):
        writer.add_rope_freq_base_swa(local.number("rope_theta"))


def base_if_unusual(config: Config, writer: gguf.GGUFWriter) -> None:
    """The base of the rotation where it is not the 10000 that llama.cpp takes for granted.

    For the families where llama.cpp's converter leaves it out: without it such a model talks nonsense.
    """
    found = rope(config)
    if found.has("rope_theta") and found.number("rope_theta") != 10000:
        writer.add_rope_freq_base(found.number("rope_theta"))


def partial_factor(config: Config, default: float | None = None) -> float:
    """The rotated part of a head, from 0 to 1."""
    found = rope(config)
    if default is not None and not found.has("partial_rotary_factor"):
        return default
    part = found.number("partial_rotary_factor")
    if not 0 < part <= 1:
        raise FormatError(f"{config.path} rotates {part} of a head", "correct partial_rotary_factor")
    return part


MAX_HEAD = 1 << 16
"""Values of a head that factors are computed for; heads have up to 576."""


def llama3_frequencies(config: Config, head: int) -> list[Tensor]:
    """Llama 3.1's scaling as the ``rope_freqs.weight`` tensor, one factor a rotation pair; empty for other scalings.

    Wavelengths below ``original / high_freq_factor`` stay, those above ``original / low_freq_factor`` are divided by
    ``factor``, and those between are interpolated.
    """
    if kind(config) != "llama3":
        return []
    values = rope(config).with_defaults(
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 8192, "rope_theta": 10000.0}
    )
    factor, low, high = (values.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = values.integer(ORIGINAL)
    if not (factor > 0 and 0 < low <= high):
        raise FormatError(f"{config.path} has rope factors that make no sense", "correct the file")
    if head > MAX_HEAD:
        raise FormatError(f"{config.path} describes heads of {head} values", "correct the file")
    exponents = np.arange(0, head, 2, dtype=np.float32) / np.float32(head)
    # powers in double, rounded once: numpy's single-precision power is off by a unit in the last place in one case of
    # ten, torch's (which the reference converter uses) in one of a hundred
    with np.errstate(all="ignore"):
        powers = (values.number("rope_theta") ** exponents.astype(np.float64)).astype(np.float32)
        # from here on single precision throughout, in the order of the reference converter
        one = np.float32(1)
        wavelengths = one / (one / powers) * np.float32(2 * math.pi)

    def scale(wavelength: Any) -> Any:
        if wavelength < original / high:
            return one
        if wavelength > original / low or low == high:
            return np.float32(factor)
        smooth = (one / wavelength * np.float32(original) - np.float32(low)) / np.float32(high - low)
        return one / ((one - smooth) / np.float32(factor) + smooth)

    with np.errstate(all="ignore"):
        factors = np.array([scale(length) for length in wavelengths], np.float32)
    if not (np.isfinite(factors).all() and np.isfinite(wavelengths).all()):
        raise FormatError(f"{config.path} has rope factors that make no sense", "correct the file")
    return [constant("rope_freqs.weight", factors)]


def long_factors(config: Config, rotated: int) -> list[Tensor]:
    """The two tables of LongRoPE, one factor a pair of the ``rotated`` values of a head; empty without them."""
    found = rope(config)
    if not found.values.get("long_factor") and not found.values.get("short_factor"):
        return []
    tables: Mapping[str, list[float]] = {length: found.numbers(f"{length}_factor") for length in ("long", "short")}
    for length, factors in tables.items():
        if 2 * len(factors) != rotated:
            raise FormatError(
                f"{config.path} has {len(factors)} {length} rope factors, {rotated // 2} are needed", "correct the file"
            )
    return [
        constant(f"rope_factors_{length}.weight", np.array(factors, np.float32)) for length, factors in tables.items()
    ]
