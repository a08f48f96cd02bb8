"""JSON schemas of every day as grammars: what pydantic writes, bounds, patterns, several schemas at once."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.schema import to_grammar
from ggufrun.engine.sampling.schema_numbers import Bound, number, whole
from ggufrun.engine.sampling.schema_pattern import pattern
from ggufrun.engine.sampling.schema_rules import BUILTIN
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError
from tests.oracles.pydantic_schemas import GOLDEN
from tests.test_engine_grammar import accepts

PYDANTIC: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))


@pytest.fixture(scope="module")
def vocab(demo_gguf: Callable[[str], Path]) -> Iterator[Vocab]:
    with Model(ModelParams(demo_gguf("q8_0"), vocab_only=True)) as model:
        yield model.vocab


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("name", PYDANTIC)
def test_what_pydantic_writes(vocab: Vocab, name: str) -> None:
    case = PYDANTIC[name]
    grammar = to_grammar(json.dumps(case["schema"]))
    assert case["good"] and case["bad"]
    for value in case["good"]:
        assert accepts(vocab, grammar, text_of(value)), value
    for value in case["bad"]:
        assert not accepts(vocab, grammar, text_of(value)), value


SCHEMAS: list[tuple[Any, list[Any], list[Any]]] = [
    # what OpenAI's API wraps around a schema
    (
        {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "integer"}}},
        [1],
        ["a"],
    ),
    ({"name": "n", "schema": {"enum": ["a"]}}, ["a"], [1]),
    # OpenAPI 3.0
    ({"type": "string", "nullable": True}, ["a", None], [1]),
    ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, [4], [3]),
    # a value that does not have the type is not allowed by both
    ({"type": "string", "enum": ["a", 1, None]}, ["a"], [1, None]),
    ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6, "a"]),
    ({"allOf": [{"type": ["number", "null"]}, {"type": ["integer", "string"]}]}, [3], [None, "a", 1.5]),
    (
        {
            "allOf": [{"$ref": "#/$defs/named"}, {"properties": {"n": {"minimum": 2}}, "required": ["n"]}],
            "$defs": {"named": {"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}}},
        },
        [{"a": "x", "n": 2}, {"n": 3}],
        [{"a": "x"}, {"n": 1}, {"n": "2"}, {"n": 2.5}],
    ),
    (
        {"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"a": {}, "b": {}}}]},
        [{}, {"a": 1}],
        [{"b": 1}],
    ),
    (
        {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}],
        [{}, {"c": 1}],
    ),
    ({"type": "string", "anyOf": [{"maxLength": 1}, {"enum": ["long"]}]}, ["a", "long"], ["ab", 1]),
    ({"$ref": "#/$defs/n", "maximum": 4, "$defs": {"n": {"type": "integer", "minimum": 2}}}, [2, 4], [1, 5]),
    (
        {"allOf": [{"$ref": "#/$defs/t"}], "$defs": {"t": {"properties": {"up": {"$ref": "#/$defs/t"}}}}},
        [{}, {"up": {"up": {}}}],
        [{"up": 1}],
    ),
    ({"type": "number", "minimum": -0.0}, [0, 0.5], [-1]),
    ({"type": "number", "multipleOf": 0.01}, [1, 1.5, -2.25], [1.125]),
    ({"type": "integer", "multipleOf": 12}, [0, 12, -24, 144], [13, -6]),
    ({"type": "string", "format": "email"}, ["li.bai@example.org"], ["li.bai", "@example.org"]),
    ({"type": "string", "format": "password"}, ["x", ""], [1]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS)
def test_schemas(vocab: Vocab, schema: Any, good: list[Any], bad: list[Any]) -> None:
    grammar = to_grammar(json.dumps(schema))
    for value in good:
        assert accepts(vocab, grammar, text_of(value)), value
    for value in bad:
        assert not accepts(vocab, grammar, text_of(value)), value


@pytest.mark.parametrize(
    ("schema", "kind", "words"),
    [
        ({"not": {"type": "string"}}, UnsupportedError, "'not'"),
        ({"type": "string", "not": {"enum": [""]}}, UnsupportedError, "'not'"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, FormatError, "no number is within"),
        ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, FormatError, "no number is within"),
        ({"type": "integer", "minimum": "5"}, FormatError, "minimum is '5'"),
        ({"type": "integer", "minimum": True}, FormatError, "minimum is true"),
        ({"type": "number", "minimum": 1e300}, UnsupportedError, "minimum is 1e.300"),
        ({"type": "integer", "multipleOf": 0}, FormatError, "multipleOf is 0"),
        ({"type": "integer", "multipleOf": 100_003}, UnsupportedError, "multipleOf"),
        ({"type": "number", "multipleOf": 0.3}, UnsupportedError, "multipleOf"),
        ({"type": "string", "pattern": "(?=a)b"}, UnsupportedError, "a look around"),
        ({"type": "string", "pattern": r"(a)\1"}, UnsupportedError, r"has .{1,2}1"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, UnsupportedError, "pattern next to a length"),
        ({"type": "string", "pattern": "("}, UnsupportedError, "not closed"),
        ({"type": "string", "pattern": "[a"}, UnsupportedError, "not closed"),
        ({"type": "string", "pattern": "a{3,2}"}, UnsupportedError, "backwards"),
        ({"type": "string", "pattern": "(" * 80 + ")" * 80}, UnsupportedError, "groups within groups"),
        ({"type": "string", "pattern": 3}, FormatError, "pattern is not a text"),
        ({"type": "string", "enum": [1]}, FormatError, "no value of enum"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, FormatError, "both types"),
        ({"allOf": [{"enum": [1, 2]}, {"enum": [3]}]}, FormatError, "both lists"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, UnsupportedError, "a different 'pattern'"),
        ({"allOf": []}, FormatError, "choices"),
        ({"allOf": [{"$ref": "#"}, {}]}, FormatError, "never end"),
        ({"allOf": [{"anyOf": [{"minimum": n} for n in range(20)]}] * 3}, UnsupportedError, "combinations"),
        (
            {"allOf": [{"properties": {}, "additionalProperties": False}, {"required": ["b"]}]},
            FormatError,
            "is required, and not allowed",
        ),
    ],
)  # fmt: skip
def test_schemas_that_are_refused(schema: Any, kind: type[GgufrunError], words: str) -> None:
    with pytest.raises(kind, match=words.replace("'", ".")):
        to_grammar(json.dumps(schema))


def expression(text: str) -> re.Pattern[str]:
    """An expression of rules without names, as Python writes it."""
    return re.compile(re.sub(r'"([^"]*)"', lambda literal: re.escape(literal[1]), text).replace(" ", ""))


@pytest.mark.parametrize("places", [0, 1, 3])
def test_bounds(places: int) -> None:
    """Random ranges, and numbers within them, at their ends and outside."""
    draw = random.Random(places)

    def bound() -> Bound | None:
        value = Decimal(draw.randint(-1500, 1500)).scaleb(-draw.choice((0, places)))
        return None if draw.random() < 0.2 else Bound(value, draw.random() < 0.4)

    seen = {True: 0, False: 0}
    for _ in range(400):
        low, high = (bound(), bound()) if places else whole(bound(), bound())
        found = number(low, high, places)
        allowed = expression(found) if found is not None else None
        for _ in range(50):
            near = draw.choice([end.value for end in (low, high) if end is not None] or [Decimal(0)])
            value = near + Decimal(draw.randint(-30, 30)).scaleb(-places)
            fits = (low is None or value > low.value or (value == low.value and not low.open)) and (
                high is None or value < high.value or (value == high.value and not high.open)
            )
            written = format(value, "f")
            written = written.rstrip("0").rstrip(".") if "." in written else written
            assert (allowed is not None and bool(allowed.fullmatch(written))) == fits, (low, high, written)
            seen[fits] += 1
    assert min(seen.values()) > 1000


def random_pattern(draw: random.Random, depth: int = 0) -> str:
    atoms = ["a", "b", "月", r"\d", "[ab]", "[^ab]", "[a-c月]", ".", r"\.", r"\w", r"\n", '"', r"\\", "-"]
    parts = []
    for _ in range(draw.randint(1, 3)):
        if depth < 2 and draw.random() < 0.25:
            inner = "|".join(random_pattern(draw, depth + 1) for _ in range(draw.randint(1, 2)))
            atom = f"({'?:' if draw.random() < 0.5 else ''}{inner})"
        else:
            atom = draw.choice(atoms)
        parts.append(atom + draw.choice(["", "", "", "*", "+", "?", "{2}", "{1,2}", "*?"]))
    return "".join(parts)


def test_patterns_match_as_pythons_do(vocab: Vocab) -> None:
    draw = random.Random(7)
    seen = {True: 0, False: 0}
    for _ in range(60):
        source = draw.choice(["", "^"]) + random_pattern(draw) + draw.choice(["", "$"])
        rules = {"root": f'"\\"" {pattern(source, "it")} "\\""', "char": BUILTIN["char"]}
        grammar = "".join(f"{name} ::= {body}\n" for name, body in rules.items())
        for _ in range(8):
            value = "".join(draw.choice('aabbc1月."\\\n-_') for _ in range(draw.randint(0, 6)))
            # $ is the end in ECMA 262, and \d and \w are ASCII
            fits = re.search(re.sub(r"\$$", r"\\Z", source), value, re.ASCII) is not None
            assert accepts(vocab, grammar, text_of(value)) == fits, (source, value)
            seen[fits] += 1
    assert min(seen.values()) > 50
