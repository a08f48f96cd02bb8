"""Several JSON schemas that a value has to satisfy at once, as one: ``allOf``, and keywords next to ``anyOf``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ggufrun import jsontext
from ggufrun.errors import FormatError, UnsupportedError

Schema = dict[str, Any]

LEAST = ("minLength", "minItems", "minimum", "exclusiveMinimum")
MOST = ("maxLength", "maxItems", "maximum", "exclusiveMaximum")
"""Bounds, of which the narrowest holds."""

MAX_CHOICES = 256
"""Combinations of choices that are written out."""

MAX_DEPTH = 32

ADVICE = "simplify it, or write the grammar yourself (--grammar)"


def conjunction(schemas: list[Any], where: str, resolve: Callable[[Any, str], Any], depth: int = 0) -> Any:
    """One schema that allows what all of ``schemas`` allow; ``resolve`` looks up a ``$ref``.

    Choices are combined: the result may be an ``anyOf`` with nothing next to it. Raises UnsupportedError for keywords
    that cannot be said in one, FormatError for schemas that exclude one another.
    """
    if depth > MAX_DEPTH:
        raise FormatError(f"{where}: schemas within schemas that never end", "check its $ref and allOf")
    merged: list[Schema] = [{}]
    for schema in schemas:
        parts = _parts(schema, where, resolve, depth)
        merged = [_both(one, part, where) for one in merged for part in parts]
        if len(merged) > MAX_CHOICES:
            raise UnsupportedError(f"{where}: over {MAX_CHOICES} combinations of choices", ADVICE)
    return merged[0] if len(merged) == 1 else {"anyOf": merged}


def _parts(schema: Any, where: str, resolve: Callable[[Any, str], Any], depth: int) -> list[Schema]:
    """The choices of a schema, each without ``$ref``, ``allOf``, ``anyOf`` and ``oneOf`` of its own."""
    if schema is True:
        return [{}]
    if not isinstance(schema, dict):
        raise FormatError(f"{where} is not a JSON schema: {jsontext.shown(schema, 40)}", "give an object")
    rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf", "anyOf", "oneOf", "const")}
    if "const" in schema:
        rest = _both(rest, {"enum": [schema["const"]]}, where)
    every: list[Any] = [rest]
    if "$ref" in schema:
        every.append(resolve(schema["$ref"], where))
    if "allOf" in schema:
        every += choices(schema, "allOf", where)
    found = [{}] if len(every) > 1 else [rest]
    if len(every) > 1:
        found = _options(conjunction(every, where, resolve, depth + 1))
    for name in ("anyOf", "oneOf"):
        if name in schema:
            options = [
                part for option in choices(schema, name, where) for part in _parts(option, where, resolve, depth + 1)
            ]
            if len(options) * len(found) > MAX_CHOICES:
                raise UnsupportedError(f"{where}: over {MAX_CHOICES} combinations of choices", ADVICE)
            found = [_both(one, option, where) for one in found for option in options]
    return found


def _options(schema: Schema) -> list[Schema]:
    return list(schema["anyOf"]) if set(schema) == {"anyOf"} else [schema]


def choices(schema: Mapping[str, Any], name: str, where: str) -> list[Any]:
    """The schemas of ``allOf``, ``anyOf`` or ``oneOf``. Raises FormatError where there are none."""
    options = schema[name]
    if not isinstance(options, list) or not options:
        raise FormatError(f"{where}: {name} is not a list of choices", "give at least one")
    return options


def _both(one: Schema, other: Schema, where: str) -> Schema:
    """One schema of two without choices."""
    found: Schema = {**other, **one}
    for name in one.keys() & other.keys():
        found[name] = _value(name, one[name], other[name], where)
    if "additionalProperties" in found or "properties" in found:
        _properties(found, one, other, where)
    return found


def _value(name: str, one: Any, other: Any, where: str) -> Any:
    """What a keyword says where two schemas have it."""
    if one == other or name in ("title", "description", "default", "examples", "$defs", "definitions", "properties"):
        return one
    if name == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(item for item in other if item not in one)]
    if name in LEAST + MOST and _is_number(one) and _is_number(other):
        return max(one, other) if name in LEAST else min(one, other)
    if name == "multipleOf" and isinstance(one, int) and isinstance(other, int) and one and other:
        return math.lcm(one, other)
    if name == "type":
        return _types(one, other, where)
    if name == "enum" and isinstance(one, list) and isinstance(other, list):
        common = [item for item in one if any(_same(item, value) for value in other)]
        if common:
            return common
        raise FormatError(f"{where}: no value is in both lists of enum", "check them")
    if name in ("items", "additionalProperties"):
        return _all(one, other)
    if name == "nullable":
        return bool(one) and bool(other)
    raise UnsupportedError(f"{where}: two schemas at once with a different {name!r}", ADVICE)


def _all(one: Any, other: Any) -> Any:
    """What both schemas allow, without a look into either."""
    if one is False or other is False:
        return False
    if one is True or other is True or one == other:
        return other if one is True else one
    return {"allOf": [one, other]}


def _same(one: Any, other: Any) -> bool:
    """Are two values one in JSON, where true is not 1?"""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _types(one: Any, other: Any, where: str) -> Any:
    """The types in both; a whole number is a number."""
    first, second = ([kinds] if isinstance(kinds, str) else kinds for kinds in (one, other))
    if not isinstance(first, list) or not isinstance(second, list):
        raise FormatError(f"{where}: type is {jsontext.shown(one, 40)}", "check it")
    common = [kind for kind in first if kind in second]
    common += ["integer" for a, b in ((first, second), (second, first)) if "integer" in a and "number" in b]
    common = list(dict.fromkeys(common))
    if not common:
        raise FormatError(f"{where}: no value has both types {first} and {second}", "check them")
    return common[0] if len(common) == 1 else common


def _properties(found: Schema, one: Schema, other: Schema, where: str) -> None:
    """Each property as both schemas have it, those included that only one of them names."""
    named: Schema = {}
    first, second = one.get("properties", {}), other.get("properties", {})
    names = found.get("required", [])
    if not isinstance(first, dict) or not isinstance(second, dict) or not isinstance(names, list):
        raise FormatError(f"{where}: properties or required is not what it should be", "check it")
    for name in [*first, *(name for name in second if name not in first)]:
        # what a schema says of names that it does not list
        a = first.get(name, one.get("additionalProperties", True))
        b = second.get(name, other.get("additionalProperties", True))
        if a is not False and b is not False:
            named[name] = _all(a, b)
    closed = one.get("additionalProperties") is False or other.get("additionalProperties") is False
    missing = [name for name in names if closed and name not in named]
    if missing:
        raise FormatError(f"{where}: {missing[0]!r} is required, and not allowed", "check additionalProperties")
    found["properties"] = named
