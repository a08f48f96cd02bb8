"""Repetitions of what may be empty, within one another: `((a{0,999}){0,999}){0,999}` is a short grammar, and following
all that it allows takes for ever.
"""

from __future__ import annotations

import re

UNBOUNDED = 1000
"""What a star counts as."""

TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|<[^>\s]*>|::=|[A-Za-z0-9_-]+|\{\d*,?\d*\}|[()|?*+.]|#[^\n]*', re.DOTALL
)
MAX_DEPTH = 100


def nesting(grammar: str) -> int:
    """The largest product of counts of repetitions, each of something that may be empty, within one another in a rule
    of a GBNF grammar. A thousand is usual.

    >>> nesting('root ::= "a"{0,20} ("b" "c"{0,9}){0,30}'), nesting('root ::= (("a"{0,20}){0,30})*')
    (30, 600000)
    """
    tokens = [token for token in TOKEN.findall(grammar) if not token.startswith("#")]
    worst, place = 1, 0
    while place < len(tokens):
        if tokens[place] == "::=":
            place += 1
            continue
        _, weight, place = _alternatives(tokens, place, 0)
        worst = max(worst, weight)
        # a bracket that was never opened
        place += place < len(tokens) and tokens[place] == ")"
    return worst


def _alternatives(tokens: list[str], place: int, depth: int) -> tuple[bool, int, int]:
    """Whether it may be empty, the product, and where it ends."""
    empty_any, empty, worst = False, True, 1
    while place < len(tokens) and tokens[place] != ")":
        token = tokens[place]
        if token == "::=":
            if depth == 0:
                break
            place += 1
            continue
        if token == "|":
            empty_any, empty, place = empty_any or empty, True, place + 1
            continue
        if token == "(" and depth < MAX_DEPTH:
            body_empty, weight, place = _alternatives(tokens, place + 1, depth + 1)
            place += 1
        else:
            body_empty, weight, place = token == '""', 1, place + 1
        while place < len(tokens) and (tokens[place] in "?*+" or tokens[place].startswith("{")):
            low, high = _counts(tokens[place])
            weight = weight * high if body_empty else max(weight, high)
            body_empty = body_empty or low == 0
            place += 1
        empty = empty and body_empty
        worst = max(worst, weight)
    return empty_any or empty, worst, place


def _counts(token: str) -> tuple[int, int]:
    if token == "?":
        return 0, 1
    if token in "*+":
        return int(token == "+"), UNBOUNDED
    low, comma, high = token[1:-1].partition(",")
    least = int(low[:9] or 0)
    return least, int(high[:9]) if high else UNBOUNDED if comma else least
