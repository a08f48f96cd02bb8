"""``/set``: the settings of a conversation, shown and changed as they are typed."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from typing import Any

from ggufrun.chat.escapes import expand
from ggufrun.chat.session import Session
from ggufrun.engine.sampling.params import RANDOM_SEED, SamplingParams, logit_bias, sampler_names
from ggufrun.errors import UsageError

KINDS = {item.name: item.type for item in fields(SamplingParams)}
"""The settings of sampling, and the type of each."""


ALIASES = {
    "temperature": "temp",
    "typical_p": "typical",
    "num_predict": "n",
    "n_predict": "n",
    "predict": "n",
}
"""What the flags, llama.cpp and Ollama call them."""


def listed(session: Session) -> tuple[tuple[str, str], ...]:
    """Every setting and its value, as it would be typed."""
    now = [(name, getattr(session.sampling, name)) for name in KINDS]
    return tuple((name, _shown(name, value)) for name, value in [*now, ("n", session.limit)])


def change(session: Session, text: str) -> str:
    """Do what ``NAME VALUE`` says, or only look at ``NAME``; returns the name and its value as a sentence.

    ``n`` is the limit of an answer, all others are fields of SamplingParams. UsageError for an unknown name, and for a
    value that does not fit it.
    """
    name, typed = re.fullmatch(r"([^\s=]*)\s*=?\s*(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if name == "parameter" and typed:
        # Ollama's way
        return change(session, typed)
    name = name.replace("-", "_").lower()
    name = ALIASES.get(name, name)
    if name not in KINDS and name != "n":
        raise UsageError(f"there is no setting {name}", f"choose from {', '.join([*KINDS, 'n'])}")
    if typed:
        now = getattr(session.sampling, name, session.limit)
        try:
            if name == "n":
                session.limit = int(typed)
            else:
                session.sampling = replace(session.sampling, **{name: _value(name, now, typed)})
        except (ValueError, KeyError):
            kind = "on or off" if isinstance(now, bool) else "a number"
            raise UsageError(f"{name} wants {kind}, not {typed!r}") from None
    return f"{name} is {_shown(name, getattr(session.sampling, name, session.limit))}"


def _value(name: str, now: Any, text: str) -> Any:
    """What was typed after a setting's name; ``-`` for none of those that are lists or texts."""
    if isinstance(now, bool):
        return {"on": True, "off": False, "true": True, "false": False}[text.lower()]
    if isinstance(now, int | float):
        # a float may have been given as a whole number
        return (float if KINDS[name] == "float" else int)(text)
    if name == "samplers":
        return sampler_names(text.replace(" ", ";"))
    if text == "-":
        return "" if isinstance(now, str) else ()
    if name == "logit_bias":
        return tuple(logit_bias(part) for part in text.split())
    return text if isinstance(now, str) else tuple(expand(part) for part in text.split())


def _shown(name: str, value: Any) -> str:
    """A setting as it would be typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if name == "seed" and value in (-1, RANDOM_SEED):
        return "-1 (a new one every time)"
    if name == "logit_bias":
        return " ".join(f"{token}{bias:+g}" for token, bias in value) or "-"
    if name == "samplers":
        return ";".join(value)
    if isinstance(value, tuple):
        return " ".join(json.dumps(text, ensure_ascii=False)[1:-1] for text in value) or "-"
    return str(value) or "-"
