"""How many ways a grammar can go on at once: llama.cpp follows every one of them, in one call that nothing interrupts.

An estimate from the grammar's text, of the ways from the beginning of a rule to its first characters. What cannot be
read here is left to llama.cpp's own parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST = 1_000_000
"""Ways that are still followed within seconds."""

TOKEN = re.compile(
    r"""(?P<name>[A-Za-z0-9-]+)(?P<defines>\s*::=)?|(?P<text>"(?:\\.|[^"\\])*")|(?P<one>\[(?:\\.|[^\]\\])*\]|!?<[^>]*>|\.)
    |(?P<mark>[()|*+?])|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\}|\#[^\n]*|\s+|(?P<strange>.)""",
    re.VERBOSE | re.DOTALL,
)

Ways = tuple[int, int]
"""To a first character, and past the whole without one."""


def widest(text: str) -> tuple[str, int]:
    """The rule of the grammar ``text`` that begins in most ways, and in how many, at most one more than `MOST`.

    ``("", 0)`` where that cannot be told.
    """
    rules: dict[str, list[re.Match[str]]] = {}
    for match in TOKEN.finditer(text):
        if match["strange"]:
            return "", 0
        if match["defines"]:
            rules[match["name"]] = []
        elif rules and match[0].strip() and not match[0].startswith("#"):
            next(reversed(rules.values())).append(match)
    known: dict[str, Ways] = {}
    try:
        for name in rules:
            _of_rule(name, rules, known)
    except (RecursionError, ValueError, StopIteration):
        return "", 0
    return max(((name, ways[0]) for name, ways in known.items()), key=lambda pair: pair[1], default=("", 0))


def _of_rule(name: str, rules: dict[str, list[re.Match[str]]], known: dict[str, Ways]) -> Ways:
    if name not in known:
        # one that begins with itself is refused by llama.cpp
        known[name] = (1, 0)
        parts = iter(rules[name]) if name in rules else iter(())
        known[name] = _alternatives(parts, rules, known)
    return known[name]


def _alternatives(
    parts: Iterator[re.Match[str]], rules: dict[str, list[re.Match[str]]], known: dict[str, Ways]
) -> Ways:
    """Up to the end, or the parenthesis that closes."""
    total: Ways = (0, 0)
    before: Ways = (0, 1)
    last: Ways | None = None

    def joined() -> Ways:
        return before if last is None else (_few(before[0] + before[1] * last[0]), _few(before[1] * last[1]))

    for part in parts:
        mark = part["mark"]
        if mark in ("|", ")"):
            ways = joined()
            total = (_few(total[0] + ways[0]), _few(total[1] + ways[1]))
            before, last = (0, 1), None
            if mark == ")":
                return total
        elif part["comma"] is not None or mark in ("*", "+", "?"):
            if last is None:
                raise ValueError(part[0])
            last = _repeated(last, part)
        else:
            before = joined()
            if mark == "(":
                last = _alternatives(parts, rules, known)
            elif part["name"]:
                last = _of_rule(part["name"], rules, known)
            else:
                last = (0, 1) if part["text"] == '""' else (1, 0)
    ways = joined()
    return _few(total[0] + ways[0]), _few(total[1] + ways[1])


def _repeated(ways: Ways, part: re.Match[str]) -> Ways:
    """As llama.cpp rewrites repetitions: ``x+`` as ``s ::= x s | x``, ``x?`` as ``s ::= x |``."""
    first, none = ways
    if part["mark"] == "+":
        return _few(2 * first), _few(2 * none)
    if part["mark"] in ("*", "?"):
        return first, _few(none + 1)
    low = int(part["low"] or 0)
    high = int(part["high"]) if part["high"] else low + bool(part["comma"])
    total, past, ends = 0, 1, 0
    for count in range(high + 1):
        ends = _few(ends + past) if count >= low else 0
        total = _few(total + past * first) if count < high else total
        past = _few(past * none)
    return total, ends


def _few(count: int) -> int:
    return min(count, MOST + 1)
