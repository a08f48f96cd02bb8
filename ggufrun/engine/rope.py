"""How positions are stretched beyond the length that a model was trained with: llama.cpp's RoPE and YaRN settings, and
the NTK factor of Chinese-LLaMA-Alpaca.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ggufrun.engine.model import Model
from ggufrun.errors import EngineError, UsageError

SCALING: dict[str, int] = {"none": 0, "linear": 1, "yarn": 2}
"""``enum llama_rope_scaling_type``."""

USUAL_BASE = 10000.0
"""The frequency base of a file that names none."""


@dataclass(frozen=True)
class RopeParams:
    """None leaves a value to the model file. ``ntk_alpha`` is a factor, or 0 for the one that the context asks for."""

    scaling: str | None = None
    freq_base: float | None = None
    freq_scale: float | None = None
    yarn_orig_ctx: int | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_slow: float | None = None
    yarn_beta_fast: float | None = None
    ntk_alpha: float | None = None

    def __post_init__(self) -> None:
        if self.scaling is not None and self.scaling not in SCALING:
            raise UsageError(f"--rope-scaling {self.scaling}", f"choose from {', '.join(SCALING)}")
        for flag, value, lowest in (
            ("--rope-freq-base", self.freq_base, 1e-6),
            ("--rope-freq-scale", self.freq_scale, 1e-6),
            ("--yarn-orig-ctx", self.yarn_orig_ctx, 0),
            ("--yarn-ext-factor", self.yarn_ext_factor, -1),
            ("--yarn-attn-factor", self.yarn_attn_factor, -1),
            ("--yarn-beta-slow", self.yarn_beta_slow, -1),
            ("--yarn-beta-fast", self.yarn_beta_fast, -1),
        ):
            if value is not None and not lowest <= value < 1e9:
                raise UsageError(f"{flag} is {value}", f"give a number from {lowest:g} up")
        if self.ntk_alpha is not None:
            if self.ntk_alpha != 0 and not 1 <= self.ntk_alpha < 1e6:
                raise UsageError(f"--ntk-alpha is {self.ntk_alpha}", "give a number of at least 1, or auto")
            if self.freq_base is not None:
                raise UsageError("--ntk-alpha and --rope-freq-base both set the frequency base", "give one of them")

    def apply(self, native: Any, model: Model, n_ctx: int) -> None:
        """Write the settings into ``llama_context_params``. Raises EngineError for a model without rotary positions."""
        if self.scaling is not None:
            native.rope_scaling_type = SCALING[self.scaling]
        base = self.freq_base
        if self.ntk_alpha is not None:
            base = stretched_base(model, self.ntk_alpha or auto_alpha(n_ctx, model.train_context))
        for name, value in (
            ("rope_freq_base", base),
            ("rope_freq_scale", self.freq_scale),
            ("yarn_orig_ctx", self.yarn_orig_ctx),
            ("yarn_ext_factor", self.yarn_ext_factor),
            ("yarn_attn_factor", self.yarn_attn_factor),
            ("yarn_beta_slow", self.yarn_beta_slow),
            ("yarn_beta_fast", self.yarn_beta_fast),
        ):
            if value is not None:
                setattr(native, name, value)


def auto_alpha(n_ctx: int, trained: int) -> float:
    """The NTK factor for a context of ``n_ctx`` tokens: 2·n/t − 1, and 1 while the context is not longer than trained.

    >>> auto_alpha(8192, 4096)
    3.0
    """
    return max(1.0, 2 * n_ctx / trained - 1) if trained > 0 else 1.0


def stretched_base(model: Model, alpha: float) -> float:
    """b·a^(d/(d−2)), with the model's frequency base b and its rotary dimension d."""
    dimension = rotary_dimension(model)
    if dimension <= 2:
        raise EngineError(f"{model.path.name} has no rotary positions to stretch", "leave out --ntk-alpha")
    text = model.meta(f"{model.architecture}.rope.freq_base")
    base = float(text) if text is not None else USUAL_BASE
    stretched: float = base * alpha ** (dimension / (dimension - 2))
    if not math.isfinite(stretched) or stretched <= 0:
        raise EngineError(f"the frequency base {base} times {alpha} is not a number", "give a smaller --ntk-alpha")
    return stretched


def rotary_dimension(model: Model) -> int:
    """How many of a head's values are rotated; all of them unless the file says otherwise."""
    from ggufrun.native.library import llama

    text = model.meta(f"{model.architecture}.rope.dimension_count")
    if text is not None:
        return int(text)
    api = llama()
    return int(api.llama_model_n_embd(model.pointer) // max(1, api.llama_model_n_head(model.pointer)))
