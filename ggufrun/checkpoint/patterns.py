"""Whether a name matches a regular expression, in time that a hostile expression cannot stretch.

PEFT's ``rank_pattern`` and ``alpha_pattern`` hold regular expressions, and Python's own matcher takes exponential time
for some of them. This one follows all ways through an expression at once: a node maps a set of positions to the set of
positions behind it. It knows what adapters use (literals, ``.``, classes, groups, alternatives, repetition, ``^`` and
``$``) and refuses the rest.
"""

from __future__ import annotations

import string
from collections.abc import Callable

from ggufrun.errors import UnsupportedError

MAX_PATTERN = 1000
MAX_DEPTH = 20
MAX_REPEAT = 1000

MAX_STEPS = 20_000
"""Rounds of all repetitions together; ``.*`` takes one a letter."""

Positions = frozenset[int]


class Subject:
    """The name that is matched, and the rounds that are left."""

    def __init__(self, text: str) -> None:
        self.text, self._left = text, MAX_STEPS

    def step(self) -> None:
        """Count a round."""
        self._left -= 1
        if not self._left:
            raise UnsupportedError("a pattern of the adapter takes too long to match", "simplify it")


Node = Callable[[Subject, Positions], Positions]

CLASSES = {
    "d": string.digits,
    "w": string.ascii_letters + string.digits + "_",
    "s": " \t\n\r\f\v",
}


def matches_end(pattern: str, name: str) -> bool:
    """Whether the whole of ``name``, or what follows one of its dots, matches ``pattern``: PEFT's rule for modules."""
    node = _Parser(pattern).parse()
    starts = frozenset([0, *(index + 1 for index, letter in enumerate(name) if letter == ".")])
    return len(name) in node(Subject(name), starts)


def _letter(allowed: Callable[[str], bool]) -> Node:
    def node(subject: Subject, starts: Positions) -> Positions:
        return frozenset(at + 1 for at in starts if at < len(subject.text) and allowed(subject.text[at]))

    return node


def _sequence(nodes: list[Node]) -> Node:
    def node(subject: Subject, starts: Positions) -> Positions:
        for step in nodes:
            if not starts:
                break
            starts = step(subject, starts)
        return starts

    return node


def _either(nodes: list[Node]) -> Node:
    return lambda subject, starts: frozenset().union(*(step(subject, starts) for step in nodes))


def _repeat(inner: Node, low: int, high: int | None) -> Node:
    def node(subject: Subject, starts: Positions) -> Positions:
        for _ in range(low):
            subject.step()
            starts = inner(subject, starts)
        reached, count = starts, low
        while starts and (high is None or count < high):
            subject.step()
            starts = inner(subject, starts) - reached
            reached |= starts
            count += 1
        return reached

    return node


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._at, self._depth = pattern, 0, 0
        if len(pattern) > MAX_PATTERN:
            raise self._unknown()

    def parse(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._pattern):
            raise self._unknown()
        return node

    def _unknown(self) -> UnsupportedError:
        return UnsupportedError(
            f"the adapter's pattern {self._pattern[:60]!r} is not one that ggufrun understands",
            "write it with letters, classes, groups and *",
        )

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        letter = self._peek()
        if not letter:
            raise self._unknown()
        self._at += 1
        return letter

    def _alternatives(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._unknown()
        options = [self._branch()]
        while self._peek() == "|":
            self._next()
            options.append(self._branch())
        self._depth -= 1
        return options[0] if len(options) == 1 else _either(options)

    def _branch(self) -> Node:
        nodes = []
        while self._peek() not in ("", "|", ")"):
            nodes.append(self._repeated(self._atom()))
        return _sequence(nodes)

    def _repeated(self, node: Node) -> Node:
        ranges = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self._peek() in ranges and self._peek():
            node = _repeat(node, *ranges[self._next()])
        elif self._peek() == "{":
            node = _repeat(node, *self._counts())
        else:
            return node
        if self._peek() == "?":  # lazy: finds the same matches
            self._next()
        if self._peek() in ("*", "+", "?", "{") and self._peek():
            raise self._unknown()
        return node

    def _counts(self) -> tuple[int, int | None]:
        self._next()
        text = ""
        while (letter := self._next()) != "}":
            text += letter
        low, comma, high = text.partition(",")
        numbers = [part for part in (low, high) if part]
        if not low or not all(part.isdecimal() and part.isascii() and int(part) <= MAX_REPEAT for part in numbers):
            raise self._unknown()
        return int(low), int(high) if high else (None if comma else int(low))

    def _atom(self) -> Node:
        letter = self._next()
        if letter == "(":
            if self._peek() == "?" and (self._next(), self._next())[1] != ":":
                raise self._unknown()
            node = self._alternatives()
            if self._next() != ")":
                raise self._unknown()
            return node
        if letter == "[":
            return self._class()
        if letter == ".":
            return _letter(lambda found: found != "\n")
        if letter == "^":
            return lambda subject, starts: starts & {0}
        if letter == "$":
            return lambda subject, starts: starts & {len(subject.text)}
        if letter == "\\":
            return _letter(self._escape())
        if letter in "*+?{":
            raise self._unknown()
        return _letter(lambda found: found == letter)

    def _escape(self) -> Callable[[str], bool]:
        letter = self._next()
        if letter.lower() in CLASSES:
            members = CLASSES[letter.lower()]
            return lambda found: (found in members) == letter.islower()
        if letter.isalnum():
            raise self._unknown()
        return lambda found: found == letter

    def _class(self) -> Node:
        negated = self._peek() == "^"
        if negated:
            self._next()
        tests: list[Callable[[str], bool]] = []
        while self._peek() != "]" or not tests:
            letter = self._next()
            if letter == "\\":
                tests.append(self._escape())
            elif self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._next()
                last = self._next()
                tests.append(lambda found, low=letter, high=last: low <= found <= high)  # type: ignore[misc]
            else:
                tests.append(lambda found, own=letter: found == own)  # type: ignore[misc]
        self._next()
        return _letter(lambda found: any(test(found) for test in tests) != negated)
