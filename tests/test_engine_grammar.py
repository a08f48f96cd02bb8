"""Grammars and JSON schemas: what is accepted, what is refused, and what the errors say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggufrun.engine.context import Context
from ggufrun.engine.generate import generate
from ggufrun.engine.sampling.grammar import Grammar, check
from ggufrun.engine.sampling.grammar_sampler import GrammarSampler
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.engine.sampling.schema import to_grammar
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import EngineError, FormatError, GgufrunError, UnsupportedError

BYTE_TOKENS = 3
"""After <unk>, <s> and </s>."""


def accepts(vocab: Vocab, grammar: str, text: str) -> bool:
    """Is ``text`` a whole sentence of the grammar? Asked of llama.cpp, byte token by byte token."""
    judge = GrammarSampler(vocab, grammar)
    assert judge.failure is None
    try:
        for byte in text.encode():
            token = BYTE_TOKENS + byte
            assert vocab.piece(token) == bytes([byte])
            if not judge.fits(token):
                return False
            judge.accept(token)
        return judge.fits(vocab.eos)
    finally:
        judge.close()


OBJECT = {"type": "object", "properties": {"名": {"type": "string"}, "n": {"type": "integer"}}, "required": ["n"]}

SCHEMAS: list[tuple[Any, list[Any], list[Any]]] = [
    # schema, values that it allows, values that it does not
    ({}, [1, "a", None, [1, {"a": []}], {"b": {"c": -1.5e3}}], []),
    ({"type": "string"}, ["", "床前\n", 'a"b\\'], [1, None]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "月月月"], ["a", "abcd"]),
    ({"minLength": 1}, ["a"], [""]),
    ({"type": ["integer", "null"]}, [0, -12, None], ["0", 1.5, True]),
    ({"type": "number"}, [0, -1.25, 3e5], ["1"]),
    ({"type": "boolean"}, [True, False], [0, None]),
    ({"enum": ["red", 3, None, [1]]}, ["red", 3, None], ["blue", 4]),
    ({"const": {"a": '"]'}}, [{"a": '"]'}], [{}]),
    (OBJECT, [{"n": 1}, {"名": "x", "n": 1}], [{}, {"名": "x"}, {"n": 1, "m": 2}, {"n": "1"}, []]),
    ({"type": "object"}, [{}, {"a": [1]}], [[], "{}"]),
    ({"properties": {"a": {}, "b": {}}}, [{}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}], [{"c": 1}]),
    (
        {"type": "object", "properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
        [{}, {"ab": None}, {"a": 1, "abc": 2, "": 3}, {"ab": None, "x": 1}],
        [{"ab": 1}, {"x": "1"}, {"ab": None, "ab2": None}],
    ),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, [{"a": 1}], [{}, {"b": 1}]),
    ({"type": "array", "items": {"type": "integer"}}, [[], [1], [1, 2, 3]], [["1"], [1, None], {}]),
    ({"type": "array", "minItems": 2, "maxItems": 3}, [[1, 2], [1, 2, 3]], [[], [1], [1, 2, 3, 4]]),
    ({"type": "array", "maxItems": 1}, [[], [1]], [[1, 2]]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [[1, "a"]], [[1]]),
    ({"anyOf": [{"type": "integer"}, OBJECT]}, [1, {"n": 2}], ["1", {}]),
    (
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"up": {"$ref": "#/$defs/tree"}}}}},
        [{}, {"up": {"up": {}}}],
        [{"up": 1}, []],
    ),
    ({"type": "string", "format": "date"}, ["2024-02-29"], ["2024-13-01", "24-01-01"]),
    ({"type": "string", "format": "date-time"}, ["2024-02-29T23:59:59Z"], ["2024-02-29"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
    ({"title": "anything", "description": "..."}, [1], []),
]


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS)
def test_schemas(demo_context: Context, schema: Any, good: list[Any], bad: list[Any]) -> None:
    vocab = demo_context.model.vocab
    grammar = to_grammar(json.dumps(schema))
    for value in good:
        # json.dumps writes ", " and ": "
        assert accepts(vocab, grammar, json.dumps(value, ensure_ascii=False)), value
        if value not in ("", 'a"b\\'):
            assert accepts(vocab, grammar, json.dumps(value, ensure_ascii=False, separators=(",", ":"))), value
    for value in bad:
        assert not accepts(vocab, grammar, json.dumps(value, ensure_ascii=False)), value


@pytest.mark.parametrize(
    ("schema", "kind", "words"),
    [
        ('{"type": "string",\n "x" 1}', FormatError, "line 2"),
        ('{"type": "text"}', FormatError, "no type"),
        ("[]", FormatError, "not a JSON schema"),
        ('{"anyOf": []}', FormatError, "choices"),
        ('{"$ref": "http://x/y"}', UnsupportedError, "out of the schema"),
        ('{"$ref": "#/$defs/a"}', FormatError, "nowhere"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', FormatError, "to itself"),
        ('{"type": "array", "minItems": 3, "maxItems": 2}', FormatError, "less than"),
        ('{"type": "array", "minItems": 99999999}', UnsupportedError, "minItems"),
        ('{"type": "string", "format": "iri"}', UnsupportedError, "format"),
        ('{"items": ' * 100 + "{}" + "}" * 100, FormatError, "deeply"),
        ("[" * 100_000, FormatError, "deeply"),
    ],
)
def test_schemas_that_are_refused(schema: str, kind: type[GgufrunError], words: str) -> None:
    with pytest.raises(kind, match=words.replace("'", ".")):
        to_grammar(schema)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('root ::= "a"\n\nb ::= (\n', "expecting '\\)'"),
        ('root ::= "a"\nx ::= y', "line 2: Undefined rule identifier 'y'"),
        ('root ::= "a"\nroot2 ::= %%', "line 2.* at %%"),
        ('foo ::= "a"', "'root' symbol"),
        ('root ::= root "a"', "left recursion"),
        ('root ::= "a" "', "end of input"),
        ('root ::= "a"\n | "b"{5,2}', r"line 2: \{5,2\}"),
        ('root ::= "a"{99999999}', "repetition"),
        ('root ::= "a"{x}', "repetition"),
        ("root ::= " + "(" * 100_000, "nests"),
        ("a" * (1 << 21), "megabyte"),
        ('root ::= "\0"', "zero byte"),
    ],
)
def test_grammars_that_are_none(
    demo_context: Context, capfd: pytest.CaptureFixture[str], grammar: str, words: str
) -> None:
    with pytest.raises(FormatError, match=words):
        Grammar(demo_context.model.vocab, grammar)
    # llama.cpp prints what it thinks of it; nobody sees that.
    assert capfd.readouterr().err == ""


def test_what_looks_like_a_repetition() -> None:
    check('root ::= "{9999999}" [{5,2}] # {5,2}\n')


def test_an_answer_is_json(demo_context: Context) -> None:
    ids = demo_context.model.vocab.tokenize("[INST] 你好 [/INST]", special=True, bos=True)
    grammar = to_grammar('{"properties": {"a": {"type": "boolean"}, "b": {"enum": [1, "诗"]}}, "required": ["a", "b"]}')
    for seed in range(5):
        sampler = Sampler(demo_context.model, SamplingParams(temp=2.0, seed=seed, grammar=grammar), 512)
        made = list(generate(demo_context, sampler, ids, limit=200))
        sampler.close()
        text = b"".join(map(demo_context.model.vocab.piece, made)).decode()
        value = json.loads(text)
        assert list(value) == ["a", "b"] and isinstance(value["a"], bool) and value["b"] in (1, "诗")


def test_a_grammar_that_nothing_fits(demo_context: Context) -> None:
    vocab = demo_context.model.vocab
    demo_context.feed([vocab.bos])
    barred = tuple((token, float("-inf")) for token in range(vocab.size) if b"a" in vocab.piece(token))
    sampler = Sampler(demo_context.model, SamplingParams(temp=0, grammar='root ::= "a"', logit_bias=barred), 512)
    with pytest.raises(EngineError, match="no token fits"):
        sampler.sample(demo_context)
    sampler.close()
