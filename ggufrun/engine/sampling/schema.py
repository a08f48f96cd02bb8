"""A JSON schema as a GBNF grammar, for the keywords that a grammar can keep to the letter; any other is refused.

Meanings are those of JSON Schema 2020-12, but for three habits of llama.cpp's converter: properties come in the order
in which the schema names them, an object that names properties has no others unless ``additionalProperties`` says it,
and white space is at most a line break and an indentation.
"""

from __future__ import annotations

import json
from typing import Any

from ggufrun import jsontext
from ggufrun.engine.sampling.schema_merge import choices, conjunction
from ggufrun.engine.sampling.schema_numbers import LONGEST, Bound, bound_of, decimal_of, multiples, number, whole
from ggufrun.engine.sampling.schema_pattern import pattern
from ggufrun.engine.sampling.schema_rules import (
    BUILTIN,
    FORMATS,
    LONGEST_FORMAT,
    REMARKS,
    TOLD_ONLY,
    either,
    fixed,
    literal,
    other_key,
    times,
)
from ggufrun.errors import FormatError, UnsupportedError

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format")

KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "format", "pattern")),
    "number": frozenset(BOUNDS),
    "integer": frozenset(BOUNDS),
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

    Raises FormatError when it is not JSON (with the line) or no schema, UnsupportedError for an unknown keyword.
    """
    if len(text) > MAX_LENGTH:
        raise FormatError("the JSON schema is longer than a megabyte", "simplify it")
    try:
        schema = jsontext.parse(text)
    except ValueError as error:
        raise FormatError(f"the JSON schema cannot be read: {error}", "check it") from error
    grammar = _Writer(_unwrapped(schema)).grammar()
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
        keywords = {name for name in schema if name not in REMARKS}
        if not keywords:
            return "value"
        if "nullable" in keywords:
            rest = {name: value for name, value in schema.items() if name != "nullable"}
            inner = self._value(rest, where, depth + 1)
            return either([inner, "null"]) if schema["nullable"] is True and "type" in rest else inner
        if "not" in keywords:
            self._only({"not"}, set(), where)
        if "allOf" in keywords or (keywords & {"$ref", "anyOf", "oneOf"} and len(keywords) > 1):
            every = choices(schema, "allOf", where) if keywords == {"allOf"} else []
            # one schema alone may speak of itself
            one = every[0] if len(every) == 1 else conjunction([schema], where, self._found)
            return self._value(one, where, depth + 1)
        for name in ("$ref", "const", "enum", "anyOf", "oneOf"):
            if name in keywords:
                # A type beside fixed values says nothing new, if it fits; together with more it would be a conjunction.
                self._only(keywords - ({"type"} if name in ("const", "enum") else set()), {name}, where)
                return self._choice(name, schema, where, depth)
        kinds = schema.get("type")
        if kinds is None:
            # every whole number is a number
            fitting = [kind for kind, allowed in KEYWORDS.items() if keywords <= allowed and kind != "integer"]
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
        return either([self._typed(kind, schema, where, depth) for kind in several])

    def _only(self, keywords: set[str], allowed: set[str], where: str) -> None:
        for name in sorted(keywords - allowed):
            raise UnsupportedError(f"{where}: {_short(name)!r} cannot be kept to by a grammar here", ADVICE)

    def _choice(self, name: str, schema: dict[str, Any], where: str, depth: int) -> str:
        if name == "$ref":
            return self._reference(schema["$ref"], where, depth)
        if name == "const":
            return fixed(schema["const"])
        options = choices(schema, name, where)
        if name == "enum":
            fitting = [option for option in options if _has_type(option, schema.get("type"))]
            if not fitting:
                raise FormatError(f"{where}: no value of enum has the type", "check them")
            return either([fixed(option) for option in fitting])
        # Of oneOf the grammar cannot tell when two fit at once; that one does, it can.
        return either([self._value(option, f"{where}, {name}", depth + 1) for option in options])

    def _found(self, target: Any, where: str) -> Any:
        """The part of the schema that a ``$ref`` names."""
        if not isinstance(target, str) or not target.startswith("#"):
            raise UnsupportedError(f"{where}: $ref {jsontext.shown(target)} leads out of the schema", "put it inside")
        found = self._schema
        for step in filter(None, target.removeprefix("#").split("/")):
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise FormatError(f"{where}: $ref {_short(target)} leads nowhere", "check the name")
            found = found[key]
        return found

    def _reference(self, target: Any, where: str, depth: int) -> str:
        found = self._found(target, where)
        if target not in self._references:
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
            return self._string(schema, where)
        if kind in ("number", "integer"):
            return self._number(kind, schema, where)
        return kind

    def _string(self, schema: dict[str, Any], where: str) -> str:
        """One of: a format, a pattern, a length."""
        format, told = schema.get("format"), schema.get("pattern")
        sized = "minLength" in schema or "maxLength" in schema
        if format is not None and not (isinstance(format, str) and format in TOLD_ONLY):
            known = FORMATS.get(format) if isinstance(format, str) else None
            # every format has at least one character, and fewer than what this allows
            most = schema.get("maxLength", LONGEST_FORMAT)
            sized = schema.get("minLength", 0) not in (0, 1) or not isinstance(most, int) or most < LONGEST_FORMAT
            if known is None or sized or told is not None:
                raise UnsupportedError(f"{where}: format {jsontext.shown(format, 40)}", ADVICE)
            return f'"\\"" {known} "\\""'
        if told is not None:
            if not isinstance(told, str):
                raise FormatError(f"{where}: pattern is not a text", "check it")
            if sized:
                raise UnsupportedError(f"{where}: pattern next to a length", "say the length in the pattern")
            return f'"\\"" {pattern(told, where)} "\\""'
        low, high = self._bounds(schema, "minLength", "maxLength", where)
        return "string" if (low, high) == (0, None) else f'"\\"" char{times(low, high)} "\\""'

    def _number(self, kind: str, schema: dict[str, Any], where: str) -> str:
        """A number within bounds, written without an exponent."""
        low, high = bound_of(schema, "minimum", where), bound_of(schema, "maximum", where)
        factor, places = schema.get("multipleOf"), LONGEST if kind == "number" else 0
        if factor is not None:
            step = decimal_of(factor, "multipleOf", where)
            if step <= 0:
                raise FormatError(f"{where}: multipleOf is {jsontext.shown(factor, 40)}", "a number above 0")
            if step == step.to_integral_value() and step != 1:
                return self._multiple(low, high, int(step), where)
            # a power of ten says how many digits follow the point
            places = -int(step.adjusted()) if step <= 1 and step.scaleb(-step.adjusted()) == 1 else -1
            if places < 0 or (kind == "integer" and places):
                raise UnsupportedError(f"{where}: multipleOf {jsontext.shown(factor, 40)}", ADVICE)
        elif low is None and high is None:
            return kind
        found = number(*((low, high) if places else whole(low, high)), places)
        if found is None:
            raise FormatError(f"{where}: no number is within its bounds", "check minimum and maximum")
        return found

    def _multiple(self, low: Bound | None, high: Bound | None, divisor: int, where: str) -> str:
        found = multiples(low, high, divisor)
        if found is None:
            raise UnsupportedError(f"{where}: multipleOf {divisor} within these bounds", ADVICE)
        if isinstance(found, str):
            return found
        steps, start = found
        names = {rest: self._rule("") for rest in steps}
        for rest, body in steps.items():
            self._rules[names[rest]] = body.format_map(names)
        return f"({start.format_map(names)})"

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
                raise UnsupportedError(f"{where}: prefixItems together with items, minItems or maxItems", ADVICE)
            parts = [self._value(item, f"{where}, item {n}", depth + 1) for n, item in enumerate(first)]
            joined = ' ws "," ws '.join(parts)
            return f'"[" ws {joined} ws "]"'
        items = schema.get("items", True)
        if items is False or high == 0:
            return '"[" ws "]"'
        item = self._value(items, f"{where}, items", depth + 1)
        rest = f'(ws "," ws {item}){times(max(0, low - 1), None if high is None else high - 1)}'
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
                raise UnsupportedError(f"{where}: additionalProperties with a name over {MAX_NAME} letters", ADVICE)
            extra = f'{other_key(list(named))} ws ":" ws {self._value(more, f"{where}, additional", depth + 1)}'
            tail = self._rule(f'(ws "," ws {extra})*')
            head = self._rule(f"({extra} {tail})?")
        # Backwards: what may come once something stands before it (tail), and while nothing does (head).
        for name, value in reversed(named.items()):
            key = literal(json.dumps(name, ensure_ascii=False))
            pair = self._rule(f'{key} ws ":" ws {self._value(value, f"{where}, {_short(name)}", depth + 1)}')
            if name in required:
                head, tail = self._rule(f"{pair} {tail}"), self._rule(f'ws "," ws {pair} {tail}')
            else:
                head, tail = self._rule(f"{pair} {tail} | {head}"), self._rule(f'(ws "," ws {pair})? {tail}')
        return f'"{{" ws {head} ws "}}"'


def _unwrapped(schema: Any) -> Any:
    """The schema within what OpenAI's API wraps around it (``response_format``)."""
    if isinstance(schema, dict) and schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), dict):
        schema = schema["json_schema"]
    if isinstance(schema, dict) and "schema" in schema and schema.keys() <= {"name", "schema", "strict", "description"}:
        schema = schema["schema"]
    return schema


def _has_type(value: Any, kinds: Any) -> bool:
    if kinds is None:
        return True
    kind = {str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object", int: "integer"}
    name = kind.get(type(value), "number")
    several = kinds if isinstance(kinds, list) else [kinds]
    return name in several or (name == "integer" and "number" in several)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}…"
