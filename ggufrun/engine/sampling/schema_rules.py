"""The grammar's rules that every JSON schema may use, and how texts and values are written in GBNF."""

from __future__ import annotations

import json
from typing import Any

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
    "duration": '"P" (count "W" | day-part ("T" time-part)? | "T" time-part)',
    "count": "[0-9]{1,6}",
    "day-part": 'count "Y" (count "M")? (count "D")? | count "M" (count "D")? | count "D"',
    "time-part": 'count "H" (count "M" (count "S")?)? | count "M" (count "S")? | count "S"',
    "byte": '"25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9]? [0-9]',
    "ipv4": 'byte "." byte "." byte "." byte',
    "label": "[a-zA-Z0-9] ([-a-zA-Z0-9]{0,61} [a-zA-Z0-9])?",
    "hostname": 'label ("." label){0,9}',
    "email": '[a-zA-Z0-9_+-]{1,40} ("." [a-zA-Z0-9_+-]{1,20}){0,2} "@" label ("." label){1,5}',
    "uri": '[a-z] [a-z0-9+.-]{0,20} ":" "//" hostname (":" [1-9] [0-9]{0,3})? ("/" path)? ("?" path)? ("#" path)?',
    "path": "path-letter{0,300}",
    "path-letter": '[-a-zA-Z0-9._~/:@!$&()*+,;=] | "%" [0-9a-fA-F] [0-9a-fA-F]',
}
"""Rules of JSON itself (RFC 8259), and of formats (RFC 3339, 4122, 3339 A, 1123, 5321, 3986), at times narrower."""

FORMATS: dict[str, str] = {
    **{name: name for name in ("date", "time", "uuid", "duration", "ipv4", "hostname", "email", "uri")},
    "date-time": 'date "T" time',
}

LONGEST_FORMAT = 2000
"""More characters than any text of a format has here."""

TOLD_ONLY = frozenset(
    ("password", "binary", "byte", "path", "file-path", "directory-path", "json-string", "float", "double")
)
"""Formats that say what a value is for, not what it looks like."""

REMARKS = frozenset(
    (
        *("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly"),
        *("writeOnly", "example", "discriminator", "contentEncoding", "contentMediaType", "$defs", "definitions"),
    )
)
"""Keywords that say nothing about the value."""


def times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


def either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def fixed(value: Any) -> str:
    """One JSON value, with white space where it may stand."""
    if isinstance(value, list) and value:
        return '"[" ws ' + ' ws "," ws '.join(fixed(item) for item in value) + ' ws "]"'
    if isinstance(value, dict) and value:
        pairs = [f'{fixed(name)} ws ":" ws {fixed(item)}' for name, item in value.items()]
        return '"{" ws ' + ' ws "," ws '.join(pairs) + ' ws "}"'
    return literal(json.dumps(value, ensure_ascii=False))


def literal(text: str) -> str:
    r"""Text as GBNF writes it: ``"\"name\""``."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(letter, letter) for letter in text) + '"'


def other_key(names: list[str]) -> str:
    """A key that is none of ``names``; written without escapes, or it might be one in disguise."""
    if not names:
        return "string"

    def after(begun: str) -> str:
        letters = sorted({name[len(begun)] for name in names if name.startswith(begun) and len(name) > len(begun)})
        plain = [letter for letter in letters if letter not in '"\\' and letter.isprintable()]
        barred = "".join("\\" + letter if letter in "]^-[" else letter for letter in plain)
        options = [f"{CHARACTER[:-1]}{barred}] {CHARACTER}*"]
        options += [f"{literal(letter)} {after(begun + letter)}" for letter in plain]
        options += [] if begun in names else ['""']
        return f"({' | '.join(options)})"

    return f'"\\"" {after("")} "\\""'
