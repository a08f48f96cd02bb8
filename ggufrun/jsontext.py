"""JSON from strangers: parsed within bounds, so that what comes out can be walked, shown and counted with.

As in every reader of checkpoints, NaN and Infinity are numbers (Mamba-2's configurations have one) and of a name that
appears twice the last value counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 100
"""Lists and objects within one another. Configurations have 6, tokenizers 8."""

MAX_CONTAINERS = 2 << 20
MAX_VALUES = 6 << 20
"""Brackets and commas: a small text of nothing else would fill the memory once it is parsed."""

MAX_DIGITS = 300
"""Of a whole number, so that it has a floating-point value. ``model_max_length`` has 31 where there is no maximum."""

LONG = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def parse(data: str | bytes, *, max_values: int | None = MAX_VALUES, unique: bool = False, halves: bool = False) -> Any:
    """The value that ``data`` is. ValueError, with a reason in one line, for what is not JSON or out of bounds.

    ``max_values`` bounds the commas, and a third of it the brackets; None where the text's size is bound enough.
    ``unique`` refuses a name that appears twice in one object. ``halves`` lets halves of surrogate pairs pass, which no
    UTF-8 text can hold.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8 text") from error
    if max_values is not None and (text.count("[") + text.count("{") > max_values // 3 or text.count(",") > max_values):
        raise ValueError("it holds more values than it should")
    try:
        value = json.loads(
            text,
            parse_int=_integer if _has_long_number(text) else None,
            object_pairs_hook=_unique if unique else None,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(value)
    if not halves and HALF_CHARACTER.search(text):
        _check_text(value)
    return value


def shown(value: Any, length: int = 60) -> str:
    """A parsed value as JSON, cut to ``length`` characters: for messages.

    >>> shown({"a": [1, None]}), shown("x" * 99, 8)
    ('{"a": [1, null]}', '"xxxxxxx…')
    """
    # as much of it as may be shown, not a million numbers to be cut
    text = "".join(_pieces(value, length))
    return text if len(text) <= length else f"{text[:length]}…"


def _pieces(value: Any, length: int) -> Iterable[str]:
    seen = 0
    if isinstance(value, str):
        value = value[: length + 1]
    for piece in json.JSONEncoder(ensure_ascii=False, default=repr).iterencode(value):
        yield piece[: length + 1]
        seen += len(piece)
        if seen > length:
            return


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits.lstrip('-'))} digits")
    return int(digits)


def _has_long_number(text: str) -> bool:
    """Whether there are more than `MAX_DIGITS` digits in a row; looked for where such a row cannot be missed."""
    sample = text[MAX_DIGITS - 1 :: MAX_DIGITS]
    places = (MAX_DIGITS * (n + 1) - 1 for n, letter in enumerate(sample) if letter in "0123456789")
    return any(LONG.search(text, max(0, place - MAX_DIGITS), place + MAX_DIGITS + 1) for place in places)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if type(outer) in (dict, list)
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (dict, list)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _check_text(value: Any) -> None:
    """ValueError for half a character, which JSON can say and no text can hold."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise ValueError("a text holds half a character (a lone surrogate)") from None
        elif isinstance(item, dict):
            rest += [*item, *item.values()]
        elif isinstance(item, list):
            rest += item
