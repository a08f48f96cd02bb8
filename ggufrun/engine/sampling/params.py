"""How a token is chosen: one frozen record, with llama.cpp's names, order and defaults (``common_params_sampling``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ggufrun.errors import UsageError

RANDOM_SEED = 0xFFFFFFFF
"""``LLAMA_DEFAULT_SEED``: take a new seed every time."""

LETTERS: dict[str, str] = {
    "penalties": "e",
    "dry": "d",
    "top_n_sigma": "s",
    "top_k": "k",
    "typ_p": "y",
    "top_p": "p",
    "min_p": "m",
    "xtc": "x",
    "temperature": "t",
    "adaptive_p": "a",
}
"""The samplers and their letters, all but the last in the usual order."""

ORDER: tuple[str, ...] = tuple(LETTERS)[:-1]
"""The samplers that are applied unless the user says otherwise, in order."""

ALIASES: dict[str, str] = {
    **{name: name for name in LETTERS},
    **{name.replace("_", "-"): name for name in LETTERS},
    **{name.replace("_", ""): name for name in LETTERS},
    "nucleus": "top_p",
    "temp": "temperature",
    "typ": "typ_p",
}

BREAKERS = ("\n", ":", '"', "*")
"""Texts that a repetition does not reach across, for DRY."""

MAX_WINDOW = 1 << 24
"""Tokens that penalties may look back over; llama.cpp keeps an array of them."""


def sampler_names(text: str) -> tuple[str, ...]:
    """``top_k;temp`` as names of samplers; raises UsageError for what is none (llama.cpp warns and leaves it out)."""
    names = []
    for name in filter(None, (part.strip().lower() for part in text.split(";"))):
        if name not in ALIASES:
            raise UsageError(f"there is no sampler {name!r}", f"choose from {';'.join(LETTERS)}")
        names.append(ALIASES[name])
    return tuple(names)


def sampler_letters(text: str) -> tuple[str, ...]:
    """``edskypmxt`` as names of samplers; raises UsageError for a letter that stands for none."""
    names = {letter: name for name, letter in LETTERS.items()}
    for letter in text:
        if letter not in names:
            raise UsageError(f"there is no sampler {letter!r}", f"choose from {''.join(names)}")
    return tuple(names[letter] for letter in text)


def logit_bias(text: str) -> tuple[int, float]:
    """``15043+1`` or ``15043-inf`` as a token and what its logit gains; raises UsageError."""
    place = next((index for index, letter in enumerate(text) if letter in "+-"), 0)
    try:
        return int(text[:place]), float(text[place:])
    except ValueError:
        raise UsageError(f"--logit-bias {text}", "write a token id, + or -, and a number: 15043+1") from None


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen. A temperature of 0 takes the most probable one.

    ``repeat_last_n`` and ``dry_penalty_last_n`` -1 look back over the whole context; ``ignore_eos`` never ends a text;
    ``mirostat`` 1 or 2 takes the place of all samplers but the temperature; ``grammar`` is GBNF. Raises UsageError for
    what llama.cpp would misread.
    """

    temp: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical: float = 1.0
    top_n_sigma: float = -1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_breakers: tuple[str, ...] = BREAKERS
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exp: float = 1.0
    mirostat: int = 0
    mirostat_lr: float = 0.1
    mirostat_ent: float = 5.0
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    seed: int = RANDOM_SEED
    ignore_eos: bool = False
    samplers: tuple[str, ...] = ORDER
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""

    def __post_init__(self) -> None:
        for text in (self.grammar, *self.dry_breakers):
            try:
                text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                raise UsageError("a grammar or a text holds half a character", "write it as whole ones") from None
        whole = (lambda v: -(2**31) <= v < 2**31, "a 32-bit integer")
        share = (lambda v: 0 <= v <= 1, "a number from 0 to 1")
        finite = (lambda v: abs(v) < 1e30, "a finite number")
        window = (lambda v: -1 <= v < MAX_WINDOW, "-1 or a count of tokens")
        checks: dict[str, tuple[Callable[[float], bool], str]] = {
            "temp": finite,
            "top_k": whole,
            "top_p": share,
            "min_p": share,
            "typical": share,
            "top_n_sigma": finite,
            "repeat_penalty": (lambda v: 1e-30 < v < 1e30, "a number greater than 0"),
            "repeat_last_n": window,
            "presence_penalty": finite,
            "frequency_penalty": finite,
            "dry_multiplier": finite,
            "dry_base": (lambda v: 1 <= v < 1e30, "a number of at least 1"),
            "dry_allowed_length": (lambda v: 0 <= v < 2**31, "a count of tokens"),
            "dry_penalty_last_n": window,
            "xtc_probability": share,
            "xtc_threshold": share,
            "dynatemp_range": (lambda v: 0 <= v < 1e30, "a number of at least 0"),
            "dynatemp_exp": finite,
            "mirostat": (lambda v: v in (0, 1, 2), "0, 1 or 2"),
            "mirostat_lr": finite,
            "mirostat_ent": finite,
            "adaptive_target": (lambda v: v <= 1, "a number up to 1, negative for none"),
            "adaptive_decay": (lambda v: 0 <= v <= 0.99, "a number from 0 to 0.99"),
            "seed": (lambda v: -1 <= v < 2**32, "-1 or a 32-bit number"),
        }
        for name, (fine, wanted) in checks.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and fine(value)):
                raise UsageError(f"{name} is {value}", f"give {wanted}")
        for sampler in self.samplers:
            if sampler not in LETTERS:
                raise UsageError(f"there is no sampler {sampler!r}", f"choose from {';'.join(LETTERS)}")
        for pair in self.logit_bias:
            if len(pair) != 2 or math.isnan(pair[1]) or pair[1] == math.inf:
                raise UsageError("a logit bias is a token id and a number", "such as 15043+1")

    @property
    def penalizes(self) -> bool:
        """Do earlier tokens change the choice by the penalties?"""
        changes = self.repeat_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        return changes and self.repeat_last_n != 0 and "penalties" in self.samplers and not self.mirostat

    @property
    def dry(self) -> bool:
        """Does DRY change the choice?"""
        return bool(self.dry_multiplier and self.dry_penalty_last_n) and "dry" in self.samplers and not self.mirostat

    @property
    def xtc(self) -> bool:
        """Does XTC change the choice?"""
        return self.xtc_probability > 0 and self.xtc_threshold <= 0.5 and "xtc" in self.samplers and not self.mirostat

    @property
    def greedy(self) -> bool:
        """Is the most probable token always taken?"""
        if self.mirostat:
            return self.temp <= 0
        plain = self.dynatemp_range <= 0 and not self.xtc and (self.typical >= 1.0 or "typ_p" not in self.samplers)
        return self.temp <= 0 and plain and "temperature" in self.samplers and "adaptive_p" not in self.samplers
