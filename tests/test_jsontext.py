"""JSON from strangers: what comes out is bounded, and what does not is refused with a reason in one line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ggufrun import jsontext
from ggufrun.jsontext import parse, shown

DEEP = jsontext.MAX_DEPTH


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value in line 1, column 1"),
        ('{"a": 1,\n "b" 2}', "Expecting ':' delimiter in line 2, column 6"),
        ("[1] [2]", "Extra data in line 1, column 5"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * (DEEP + 1) + "]" * (DEEP + 1), "nested too deeply"),
        ('{"a":' * (DEEP + 1) + "1" + "}" * (DEEP + 1), "nested too deeply"),
        ("9" * 301, "a number has 301 digits"),
        ("[1, -" + "9" * 301 + "]", "a number has 301 digits"),
        ("9" * 5000, "a number has 5000 digits"),
        ("9" * 3_000_000, "a number has 3000000 digits"),
        ("[" + "[]," * 3_000_000 + "0]", "more values than it should"),
        ("[1" + ",1" * 7_000_000 + "]", "more values than it should"),
        ('"\\ud800"', "half a character"),
        ('{"\\uDC00": 1}', "half a character"),
        ('["\\ud83d\\ude00", ["\\ud83d"]]', "half a character"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 100


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ValueError, match="byte 2 is not UTF-8 text"):
        parse(b'["\xff"]')


@pytest.mark.parametrize(
    "text",
    [
        "[" * DEEP + "]" * DEEP,
        "-" + "9" * 300,
        json.dumps("9" * 5000),
        '"\\ud83d\\ude00"',
        '{"model_max_length": 1000000000000000019884624838656}',
        "[0.0, Infinity]",
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_read(text: str) -> None:
    assert parse(text) == parse(text.encode()) == json.loads(text)


def test_every_whole_number_has_a_floating_point_value() -> None:
    assert math.isfinite(float(parse("9" * jsontext.MAX_DIGITS)))


@pytest.mark.parametrize("before", range(0, 700, 7))
def test_a_long_number_is_seen_wherever_it_stands(before: int) -> None:
    with pytest.raises(ValueError, match="has 301 digits"):
        parse(" " * before + "7" * 301 + " " * 400)


def test_names_that_appear_twice() -> None:
    assert parse('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="appears twice"):
        parse('{"a": 1, "a": 2}', unique=True)


def test_halves_where_they_are_welcome() -> None:
    assert parse('"\\ud800"', halves=True) == "\ud800"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, None, True]}, '{"a": [1, null, true]}'),
        ("字" * 100, '"' + "字" * 59 + "…"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1…"),
        (float("nan"), "NaN"),
        (10**300, "1" + "0" * 59 + "…"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_is_shown_short(value: Any, expected: str) -> None:
    assert shown(value) == expected
