"""Keyword arguments of the Python API, and the records of the rooms below that they become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun.engine.sampling.sampler import SamplingParams
from ggufrun.engine.sampling.schema import to_grammar
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    class Sampling(TypedDict, total=False):
        """How an answer is generated. What is left out is what the model file recommends, else llama.cpp's default.

        ``stop`` ends the answer where one of these texts appears. ``max_tokens`` bounds it; without, it may fill the
        context. ``grammar`` is GBNF, ``json_schema`` a JSON schema as an object or as text: the answer keeps to it.
        ``logit_bias`` maps token ids to what is added to their logits. ``seed`` makes a choice repeatable.
        """

        temperature: float
        top_k: int
        top_p: float
        min_p: float
        typical_p: float
        top_n_sigma: float
        max_tokens: int | None
        stop: str | Sequence[str] | None
        seed: int | None
        presence_penalty: float
        frequency_penalty: float
        repeat_penalty: float
        repeat_last_n: int
        dry_multiplier: float
        dry_base: float
        dry_allowed_length: int
        dry_penalty_last_n: int
        dry_breakers: Sequence[str]
        xtc_probability: float
        xtc_threshold: float
        dynatemp_range: float
        dynatemp_exp: float
        mirostat: int
        mirostat_lr: float
        mirostat_ent: float
        adaptive_target: float
        adaptive_decay: float
        ignore_eos: bool
        samplers: Sequence[str]
        logit_bias: Mapping[int, float]
        grammar: str | None
        json_schema: Mapping[str, Any] | str | None


RENAMED = {"temperature": "temp", "typical_p": "typical"}
"""Names of the API that are shorter in llama.cpp."""

OWN = frozenset(("max_tokens", "stop", "json_schema"))
"""Arguments that are not sampling parameters of the engine."""

KINDS = {item.name: str(item.type) for item in fields(SamplingParams)}
"""The sampling parameters of the engine, and the types of their values."""

NAMES = OWN | {*KINDS} - {*RENAMED.values()} | {*RENAMED}
"""What the options are called here."""


@dataclass(frozen=True)
class AnswerOptions:
    """Options of one answer: its sampling, the texts that end it, and the most tokens (None: what fits)."""

    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


def answer_options(options: Mapping[str, Any], usual: Mapping[str, Any]) -> AnswerOptions:
    """Options over the ``usual`` sampling of a model. Raises UsageError for a name or value that makes no sense."""
    values: dict[str, Any] = {}
    for name, value in usual.items():
        if name in KINDS:
            # metadata brings every number as a float
            values[name] = int(value) if KINDS[name] == "int" else value
    for name, value in options.items():
        own = RENAMED.get(name, name)
        if name not in NAMES and own not in KINDS:
            raise UsageError(f"there is no option {name!r}", f"choose from {', '.join(sorted(NAMES))}")
        if name in OWN or value is None:
            continue
        values[own] = _checked(name, KINDS[own], value)
    schema = options.get("json_schema")
    if schema is not None:
        if options.get("grammar"):
            raise UsageError("grammar and json_schema both say what an answer keeps to", "give one of them")
        values["grammar"] = to_grammar(schema if isinstance(schema, str) else json.dumps(schema))
    stop = options.get("stop")
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(isinstance(text, str) and text for text in stops):
        raise UsageError(f"stop = {stop!r}", "give a text, or several, none of them empty")
    most = options.get("max_tokens")
    if most is not None and (type(most) is not int or most < 0):
        raise UsageError(f"max_tokens = {most!r}", "give a number of tokens")
    return AnswerOptions(SamplingParams(**values), stops, most)


def _checked(name: str, kind: str, value: Any) -> Any:
    """``value``, if it is of the ``kind`` that a sampling parameter has; a list for a tuple, a mapping for pairs."""
    try:
        if name == "logit_bias":
            return tuple((index(token), float(bias)) for token, bias in dict(value).items())
        if kind.startswith("tuple") and not isinstance(value, str):
            texts = tuple(value)
            if all(isinstance(text, str) for text in texts):
                return texts
        allowed = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}.get(kind, ())
        if type(value) in allowed:
            return value
    except (TypeError, ValueError):
        pass
    wanted_kind = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text"}.get(kind)
    wanted_kind = "token ids and numbers" if name == "logit_bias" else wanted_kind or "a list of texts"
    raise UsageError(f"{name} = {value!r:.60}", f"give {wanted_kind}")


def path_of(path: str | Path) -> Path:
    """A path as the caller gave it, ``~`` expanded."""
    return Path(path).expanduser()
