"""A JSON schema as a GBNF grammar, for the keywords that a grammar can keep to the letter; any other is refused.

Meanings are those of JSON Schema 2020-12, but for three habits of llama.cpp's converter: properties come in the order
in which the schema names them, an object that names properties has no others unless ``additionalProperties`` says it,
and white space is at most a line break and an indentation.
"""

from __future__ import annotations

import json
from typing import Any

from ggufrun import jsontext
from ggufrun.errors import FormatError, UnsupportedError

CHARACTER = r'[^"\\\x00-\x1F\x7F]'

BUILTIN: dict[str, str] = {
    "ws": r'(" " | "\n" [ \t]{0,20})?',
    "char": CHARACTER + r' | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\""',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "value": "string | number | boolean | null | object | array",
    "object": r'"{" ws (string ws ":" ws value (ws "," ws string ws ":" ws value)*)? ws "}"',
    "array": '"[" ws (value (ws "," ws value)*)? ws "]"',
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "uuid": "[0-9a-fA-F]{8} " + '"-" [0-9a-fA-F]{4} ' * 3 + '"-" [0-9a-fA-F]{12}',
}
"""Rules of JSON itself (RFC 8259), and of formats (RFC 3339, RFC 4122)."""

FORMATS: dict[str, str] = {"date": "date", "time": "time", "date-time": 'date "T" time', "uuid": "uuid"}

REMARKS = frozenset(
    ("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")
)
"""Keywords that say nothing about the value."""

KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "format")),
    "number": frozenset(),
    "integer": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""What may stand beside each type."""

MAX_LENGTH = 1 << 20
"""Characters of a schema, and of the grammar that it makes."""

MAX_NAME = 128
"""Characters of a property's name, where others are allowed too: that a name is another is said letter by letter."""

MAX_DEPTH = 64
MAX_COUNT = 2000
"""llama.cpp writes every repetition out."""

ADVICE = "leave it out, or write the grammar yourself (--grammar)"


def to_grammar(text: str) -> str:
    """The grammar whose sentences are the JSON values that the schema ``text`` allows.

    Raises FormatError when it is no JSON (with the line) or no schema, UnsupportedError for an unknown keyword.
    """
    if len(text) > MAX_LENGTH:
        raise FormatError("the JSON schema is longer than a megabyte", "simplify it")
    try:
        schema = jsontext.parse(text)
    except ValueError as error:
        raise FormatError(f"the JSON schema cannot be read: {error}", "check it") from error
    grammar = _Writer(schema).grammar()
    if len(grammar) > MAX_LENGTH:
        raise FormatError("the JSON schema makes a grammar longer than a megabyte", "simplify it")
    return grammar


class _Writer:
    """Collects rules; every part of the schema becomes an expression, objects and references rules of their own."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}

    def grammar(self) -> str:
        root = self._value(self._schema, "the schema", 0)
        rules = {"root": f"{root} ws", **self._rules, **BUILTIN}
        return "".join(f"{name} ::= {body}\n" for name, body in rules.items())

    def _rule(self, body: str) -> str:
        name = f"part-{len(self._rules) + 1}"
        self._rules[name] = body
        return name

    def _value(self, schema: Any, where: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise FormatError("the JSON schema is nested too deeply", "simplify it")
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise FormatError(f"{where} is not a JSON schema: {jsontext.shown(schema, 40)}", "give an object")
        keywords = {name for name in schema if name not in REMARKS and name not in ("$defs", "definitions")}
        if not keywords:
            return "value"
        for name in ("$ref", "const", "enum", "anyOf", "oneOf"):
            if name in keywords:
                # A type beside fixed values says nothing new, if it fits; together with more it would be a conjunction.
                self._only(keywords - ({"type"} if name in ("const", "enum") else set()), {name}, where)
                return self._choice(name, schema, where, depth)
        kinds = schema.get("type")
        if kinds is None:
            fitting = [kind for kind, allowed in KEYWORDS.items() if keywords <= allowed]
            if len(fitting) != 1:
                self._only(keywords, {"type"}, where)
                raise FormatError(f"{where}: type is null", f"one of {', '.join(KEYWORDS)}")
            kinds = fitting[0]
        several = kinds if isinstance(kinds, list) else [kinds]
        for kind in several:
            if not isinstance(kind, str) or kind not in KEYWORDS:
                what = f"{where}: there is no type {jsontext.shown(kind, 40)}"
                raise FormatError(what, f"one of {', '.join(KEYWORDS)}")
        self._only(keywords, {"type"}.union(*(KEYWORDS[kind] for kind in several)), where)
        if not several:
            raise FormatError(f"{where}: no type is allowed", ADVICE)
        return _either([self._typed(kind, schema, where, depth) for kind in several])

    def _only(self, keywords: set[str], allowed: set[str], where: str) -> None:
        for name in sorted(keywords - allowed):
            raise UnsupportedError(f"{where}: {_short(name)!r} cannot be kept to by a grammar here", ADVICE)

    def _choice(self, name: str, schema: dict[str, Any], where: str, depth: int) -> str:
        if name == "$ref":
            return self._reference(schema["$ref"], where, depth)
        if name == "const":
            return _fixed(schema["const"])
        options = schema[name]
        if not isinstance(options, list) or not options:
            raise FormatError(f"{where}: {name} is not a list of choices", "give at least one")
        if name == "enum":
            return _either([_fixed(option) for option in options])
        # Of oneOf the grammar cannot tell when two fit at once; that one does, it can.
        return _either([self._value(option, f"{where}, {name}", depth + 1) for option in options])

    def _reference(self, target: Any, where: str, depth: int) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            raise UnsupportedError(f"{where}: $ref {jsontext.shown(target)} leads out of the schema", "put it inside")
        if target not in self._references:
            found = self._schema
            for step in filter(None, target.removeprefix("#").split("/")):
                key = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(found, dict) or key not in found:
                    raise FormatError(f"{where}: $ref {_short(target)} leads nowhere", "check the name")
                found = found[key]
            # The name stands before the rule does, for schemas that speak of themselves.
            name = self._references[target] = self._rule("")
            body = self._value(found, _short(target), depth + 1)
            # the rule of a reference that is still being written
            if self._rules.get(body) == "":
                raise FormatError(f"{where}: $ref {_short(target)} only leads to itself", "check the name")
            self._rules[name] = body
        return self._references[target]

    def _typed(self, kind: str, schema: dict[str, Any], where: str, depth: int) -> str:
        if kind == "object":
            return self._object(schema, where, depth)
        if kind == "array":
            return self._array(schema, where, depth)
        if kind == "string":
            if "format" in schema:
                known = FORMATS.get(schema["format"]) if isinstance(schema["format"], str) else None
                if known is None or "minLength" in schema or "maxLength" in schema:
                    raise UnsupportedError(f"{where}: format {jsontext.shown(schema['format'], 40)}", ADVICE)
                return f'"\\"" {known} "\\""'
            low, high = self._bounds(schema, "minLength", "maxLength", where)
            return "string" if (low, high) == (0, None) else f'"\\"" char{_times(low, high)} "\\""'
        return kind

    def _bounds(self, schema: dict[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
        low, high = schema.get(least, 0), schema.get(most)
        for value in (low, 0 if high is None else high):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
                what = f"{where}: {least} or {most} is {jsontext.shown(value, 40)}"
                raise UnsupportedError(what, f"0 to {MAX_COUNT}")
        if high is not None and high < low:
            raise FormatError(f"{where}: {most} is less than {least}", "swap them")
        return low, high

    def _array(self, schema: dict[str, Any], where: str, depth: int) -> str:
        low, high = self._bounds(schema, "minItems", "maxItems", where)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise FormatError(f"{where}: prefixItems is not a list", "check it")
        if first:
            # Fixed places; what comes after them would need counts that depend on them.
            if low not in (0, len(first)) or high not in (None, len(first)) or schema.get("items", False) is not False:
                raise UnsupportedError(f"{where}: prefixItems beside items, minItems or maxItems", ADVICE)
            parts = [self._value(item, f"{where}, item {n}", depth + 1) for n, item in enumerate(first)]
            joined = ' ws "," ws '.join(parts)
            return f'"[" ws {joined} ws "]"'
        items = schema.get("items", True)
        if items is False or high == 0:
            return '"[" ws "]"'
        item = self._value(items, f"{where}, items", depth + 1)
        rest = f'(ws "," ws {item}){_times(max(0, low - 1), None if high is None else high - 1)}'
        inner = f"{item} {rest}" if high != 1 else item
        return f'"[" ws ({inner}){"?" if low == 0 else ""} ws "]"'

    def _object(self, schema: dict[str, Any], where: str, depth: int) -> str:
        named, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(named, dict) or not _is_names(required):
            raise FormatError(f"{where}: properties or required is not what it should be", "check it")
        more = schema.get("additionalProperties", not named and not required)
        named = {**named, **{name: True for name in required if name not in named}}
        head, tail = '""', '""'
        if more is not False:
            if any(len(name) > MAX_NAME for name in named):
                raise UnsupportedError(f"{where}: additionalProperties beside a name over {MAX_NAME} letters", ADVICE)
            extra = f'{_other_key(list(named))} ws ":" ws {self._value(more, f"{where}, additional", depth + 1)}'
            tail = self._rule(f'(ws "," ws {extra})*')
            head = self._rule(f"({extra} {tail})?")
        # Backwards: what may come once something stands before it (tail), and while nothing does (head).
        for name, value in reversed(named.items()):
            key = _literal(json.dumps(name, ensure_ascii=False))
            pair = self._rule(f'{key} ws ":" ws {self._value(value, f"{where}, {_short(name)}", depth + 1)}')
            if name in required:
                head, tail = self._rule(f"{pair} {tail}"), self._rule(f'ws "," ws {pair} {tail}')
            else:
                head, tail = self._rule(f"{pair} {tail} | {head}"), self._rule(f'(ws "," ws {pair})? {tail}')
        return f'"{{" ws {head} ws "}}"'


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}…"


def _times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def _fixed(value: Any) -> str:
    """One JSON value, with white space where it may stand."""
    if isinstance(value, list) and value:
        return '"[" ws ' + ' ws "," ws '.join(_fixed(item) for item in value) + ' ws "]"'
    if isinstance(value, dict) and value:
        pairs = [f'{_fixed(name)} ws ":" ws {_fixed(item)}' for name, item in value.items()]
        return '"{" ws ' + ' ws "," ws '.join(pairs) + ' ws "}"'
    return _literal(json.dumps(value, ensure_ascii=False))


def _literal(text: str) -> str:
    r"""Text as GBNF writes it: ``"\"name\""``."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(letter, letter) for letter in text) + '"'


def _other_key(names: list[str]) -> str:
    """A key that is none of ``names``; written without escapes, or it might be one in disguise."""
    if not names:
        return "string"

    def after(begun: str) -> str:
        letters = sorted({name[len(begun)] for name in names if name.startswith(begun) and len(name) > len(begun)})
        plain = [letter for letter in letters if letter not in '"\\' and letter.isprintable()]
        barred = "".join("\\" + letter if letter in "]^-[" else letter for letter in plain)
        options = [f"{CHARACTER[:-1]}{barred}] {CHARACTER}*"]
        options += [f"{_literal(letter)} {after(begun + letter)}" for letter in plain]
        options += [] if begun in names else ['""']
        return f"({' | '.join(options)})"

    return f'"\\"" {after("")} "\\""'
