"""Grammars that go on in more ways than can be followed, which llama.cpp would do in one call without end."""

from __future__ import annotations

import json

import pytest

from ggufrun.engine.model import Model
from ggufrun.engine.sampling.ambiguity import MOST, widest
from ggufrun.engine.sampling.grammar import Grammar, check
from ggufrun.engine.sampling.schema import to_grammar
from ggufrun.errors import FormatError


def doubling(depth: int) -> str:
    rules = [f"r{index} ::= r{index + 1} | r{index + 1}" for index in range(depth)]
    return "\n".join(["root ::= r0", *rules, f'r{depth} ::= "a"'])


COUNTED = [
    # text, and the ways to a first character by hand
    ('root ::= "a"', 1),
    ('root ::= "a" | "b" | [c-d]', 3),
    ('root ::= "a"? "b"* [c-d]', 3),
    ('root ::= ("a" | "b")? ("c" | "")  "d"', 4),
    ('root ::= "a"{0,3} "b"', 2),
    ('root ::= "a"{2} | "b"{3,5} | . # | "c"\n', 3),
    ('root ::= x y\nx ::= "" | "a"\ny ::= "b" |\n  "c"\n', 3),
    (doubling(10), 1024),
    ('root ::= "|" "\\"" [|\\]] <think> x\nx ::= "a"', 1),
]


@pytest.mark.parametrize(("text", "ways"), COUNTED)
def test_ways(text: str, ways: int) -> None:
    assert widest(text)[1] == ways


@pytest.mark.parametrize(
    "text", [doubling(40), "root ::= " + '("" | "")' * 40 + ' "a"', "root ::= " + "(" * 40 + '"a"' + ")+" * 40]
)
def test_too_many(text: str) -> None:
    with pytest.raises(FormatError, match=rf"over {MOST} ways where \w+ begins"):
        check(text)


def test_many_are_still_followed(demo_model: Model) -> None:
    grammar = Grammar(demo_model.vocab, doubling(12))
    grammar.close()


@pytest.mark.parametrize(
    "text", ['root ::= "', "root", "root ::= * x", "root ::= @", "a" * 100, "root ::= " + "(" * 3000]
)
def test_what_cannot_be_read_is_left_to_llama_cpp(text: str) -> None:
    assert widest(text)[1] <= 1


def test_schemas_are_narrow() -> None:
    properties = {f"p{index}": {"type": ["string", "integer", "null"]} for index in range(100)}
    schema = {"type": "object", "properties": properties, "additionalProperties": {"anyOf": [{"type": "array"}, {}]}}
    assert widest(to_grammar(json.dumps(schema)))[1] < 1000
