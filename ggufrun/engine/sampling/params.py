"""How a token is chosen: one frozen record, with llama.cpp's names, order and defaults (``common_params_sampling``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

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
class Values:
    """The values that a setting may have, and what they are called in an error."""

    allowed: Callable[[float], bool]
    name: str


FINITE = Values(lambda v: abs(v) < 1e30, "a finite number")
POSITIVE = Values(lambda v: 1e-30 < v < 1e30, "a number greater than 0")
NOT_NEGATIVE = Values(lambda v: 0 <= v < 1e30, "a number of at least 0")
AT_LEAST_ONE = Values(lambda v: 1 <= v < 1e30, "a number of at least 1")
SHARE = Values(lambda v: 0 <= v <= 1, "a number from 0 to 1")
INTEGER = Values(lambda v: -(2**31) <= v < 2**31, "a 32-bit integer")
COUNT = Values(lambda v: 0 <= v < 2**31, "a count of tokens")
WINDOW = Values(lambda v: -1 <= v < MAX_WINDOW, "-1 or a count of tokens")
SEED = Values(lambda v: -1 <= v < 2**32, "-1 or a 32-bit number")
MIROSTAT = Values(lambda v: v in (0, 1, 2), "0, 1 or 2")
TARGET = Values(lambda v: v <= 1, "a number up to 1, negative for none")
DECAY = Values(lambda v: 0 <= v <= 0.99, "a number from 0 to 0.99")

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What there is to know of a setting that is one number or a switch: its flags, what they do, what they take.

    Whatever hands settings on (flags, the Python API, sessions) reads this, so that a new one is one line below.
    """

    flags: tuple[str, ...]
    help: str
    values: Values | None


def setting(default: T, *flags: str, help: str, values: Values | None = None) -> T:
    """A field of `SamplingParams` with a flag: see `Setting`."""
    made: T = field(default=default, metadata={"setting": Setting(flags, help, values)})
    return made


def settings(record: Any) -> dict[str, Setting]:
    """The settings of a class such as `SamplingParams` that are one number or a switch, by name."""
    return {item.name: item.metadata["setting"] for item in fields(record) if "setting" in item.metadata}


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen. A temperature of 0 takes the most probable one.

    ``repeat_last_n`` and ``dry_penalty_last_n`` -1 look back over the whole context; ``ignore_eos`` never ends a text;
    ``mirostat`` 1 or 2 takes the place of all samplers but the temperature; ``grammar`` is GBNF. Raises UsageError for
    what llama.cpp would misread.
    """

    temp: float = setting(
        0.8,
        "--temp",
        "--temperature",
        help="Sampling temperature; 0 always takes the most probable token (0.8).",
        values=FINITE,
    )
    top_k: int = setting(
        40, "--top-k", help="Sample from the K most probable tokens only; 0 for all (40).", values=INTEGER
    )
    top_p: float = setting(
        0.95, "--top-p", help="Sample from the fewest tokens that reach this total probability (0.95).", values=SHARE
    )
    min_p: float = setting(
        0.05, "--min-p", help="Drop tokens below this share of the top token's probability (0.05).", values=SHARE
    )
    typical: float = setting(
        1.0,
        "--typical",
        "--typical-p",
        help="Locally typical sampling up to this total probability (1: off).",
        values=SHARE,
    )
    top_n_sigma: float = setting(
        -1.0,
        "--top-n-sigma",
        "--top-nsigma",
        help="Drop logits more than N standard deviations below the top one (-1: off).",
        values=FINITE,
    )
    repeat_penalty: float = setting(
        1.0, "--repeat-penalty", help="Penalty for tokens that were used before (1: off).", values=POSITIVE
    )
    repeat_last_n: int = setting(
        64, "--repeat-last-n", help="Number of recent tokens that penalties apply to; -1 for all (64).", values=WINDOW
    )
    presence_penalty: float = setting(
        0.0, "--presence-penalty", help="Penalty for every token that was used at all (0: off).", values=FINITE
    )
    frequency_penalty: float = setting(
        0.0, "--frequency-penalty", help="Penalty that grows with each use of a token (0: off).", values=FINITE
    )
    dry_multiplier: float = setting(
        0.0, "--dry-multiplier", help="DRY: strength of the penalty for repeated passages (0: off).", values=FINITE
    )
    dry_base: float = setting(
        1.75, "--dry-base", help="DRY: base of the exponential penalty (1.75).", values=AT_LEAST_ONE
    )
    dry_allowed_length: int = setting(
        2, "--dry-allowed-length", help="DRY: longest repetition without a penalty, in tokens (2).", values=COUNT
    )
    dry_penalty_last_n: int = setting(
        64, "--dry-penalty-last-n", help="DRY: number of recent tokens to search; -1 for all (64).", values=WINDOW
    )
    dry_breakers: tuple[str, ...] = BREAKERS
    xtc_probability: float = setting(
        0.0, "--xtc-probability", help="XTC: chance of removing the most probable tokens (0: off).", values=SHARE
    )
    xtc_threshold: float = setting(
        0.1, "--xtc-threshold", help="XTC: probability from which a token may be removed (0.1).", values=SHARE
    )
    dynatemp_range: float = setting(
        0.0, "--dynatemp-range", help="Dynamic temperature: range around --temp (0: off).", values=NOT_NEGATIVE
    )
    dynatemp_exp: float = setting(
        1.0, "--dynatemp-exp", help="Dynamic temperature: exponent applied to the entropy (1).", values=FINITE
    )
    mirostat: int = setting(
        0, "--mirostat", help="Mirostat version 1 or 2 in place of the other samplers (0: off).", values=MIROSTAT
    )
    mirostat_lr: float = setting(0.1, "--mirostat-lr", help="Mirostat: learning rate (0.1).", values=FINITE)
    mirostat_ent: float = setting(5.0, "--mirostat-ent", help="Mirostat: target entropy (5).", values=FINITE)
    adaptive_target: float = setting(
        -1.0,
        "--adaptive-target",
        help="adaptive_p: probability that sampled tokens should have (-1: off).",
        values=TARGET,
    )
    adaptive_decay: float = setting(
        0.9, "--adaptive-decay", help="adaptive_p: weight of earlier tokens, 0 to 0.99 (0.9).", values=DECAY
    )
    seed: int = setting(
        RANDOM_SEED, "-s", "--seed", help="Seed of the random number generator; -1 for a random seed.", values=SEED
    )
    ignore_eos: bool = setting(False, "--ignore-eos", help="Never end an answer by itself; only -n or Ctrl+C does.")
    samplers: tuple[str, ...] = ORDER
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""

    def __post_init__(self) -> None:
        for text in (self.grammar, *self.dry_breakers):
            try:
                text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                raise UsageError("a grammar or a text holds half a character", "write it as whole ones") from None
        for name, one in settings(self).items():
            value = getattr(self, name)
            if one.values is not None and not (math.isfinite(value) and one.values.allowed(value)):
                raise UsageError(f"{name} is {value}", f"give {one.values.name}")
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
