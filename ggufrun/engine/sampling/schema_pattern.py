r"""A regular expression of a JSON schema (``pattern``) as GBNF, for the strings whose contents it matches.

Of ECMA 262 what describes a regular language without looking around: characters, classes, groups, alternatives,
repetitions, anchors at the ends. Characters are written as JSON writes them: a quotation mark is ``\"``.
"""

from __future__ import annotations

import re

from ggufrun.errors import UnsupportedError

Ranges = tuple[tuple[int, int], ...]
"""First and last code point of each range, ascending, apart from one another."""

LAST = 0x10FFFF
MAX_DEPTH = 50
MAX_REPEATS = 2000
MAX_LENGTH = 10_000
"""Characters of an expression."""

DIGIT: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = (
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))

ESCAPED: dict[int, str] = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}
"""Code points that JSON writes with a backslash, and the letter after it."""

CONTROL: dict[str, int] = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}

REPEAT = re.compile(r"\{(\d{1,6})(,(\d{0,6}))?\}")
HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")

ADVICE = "leave it out, or write the grammar yourself (--grammar)"


def pattern(text: str, where: str) -> str:
    """The expression for the contents of the strings that ``text`` matches anywhere, as JSON Schema has it.

    Raises UnsupportedError, at ``where``, for what a grammar cannot keep to.
    """
    if len(text) > MAX_LENGTH:
        raise UnsupportedError(f"{where}: a pattern of over {MAX_LENGTH} characters", ADVICE)
    return _Parser(text, where).whole()


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where
        self._at = 0

    def whole(self) -> str:
        options = [self._anchored()]
        while self._take("|"):
            options.append(self._anchored())
        if self._at < len(self._text):
            raise self._refusal(f"{self._text[self._at]!r} there")
        return _either(options)

    def _refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{self._where}: the pattern {self._text[:60]!r} has {what} at {self._at}", ADVICE)

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _anchored(self) -> str:
        """One alternative of the whole, which may be anchored at either end."""
        begins = self._take("^")
        body = self._sequence(0)
        ends = self._take("$")
        parts = [*([] if begins else ["char*"]), *([body] if body else []), *([] if ends else ["char*"])]
        return " ".join(parts) or '""'

    def _sequence(self, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise self._refusal("too many groups within groups")
        parts = []
        while self._at < len(self._text) and self._text[self._at] not in "|)$":
            parts.append(self._repeated(self._atom(depth)))
        return " ".join(parts)

    def _atom(self, depth: int) -> str:
        letter = self._text[self._at]
        self._at += 1
        if letter == "(":
            return self._group(depth)
        if letter == "[":
            return _written(self._class())
        if letter == ".":
            return _written(_others(LINE_ENDS))
        if letter == "\\":
            return _written(self._escape(within=False))
        if letter in "*+?^" or (letter == "{" and REPEAT.match(self._text, self._at - 1)):
            self._at -= 1
            raise self._refusal(f"{letter!r}")
        return _written(_one(letter))

    def _group(self, depth: int) -> str:
        if self._take("?"):
            named = re.compile(r"<[A-Za-z_$][\w$]*>").match(self._text, self._at)
            if named:
                self._at = named.end()
            elif not self._take(":"):
                raise self._refusal("a look around, or flags,")
        options = [self._sequence(depth + 1)]
        while self._take("|"):
            options.append(self._sequence(depth + 1))
        if not self._take(")"):
            raise self._refusal("an anchor within a group, or a group that is not closed,")
        return f"({' | '.join(option or chr(34) * 2 for option in options)})"

    def _repeated(self, atom: str) -> str:
        found = REPEAT.match(self._text, self._at)
        if found:
            self._at = found.end()
            low = int(found[1])
            high = low if found[2] is None else int(found[3]) if found[3] else None
            if low > MAX_REPEATS or (high is not None and not low <= high <= MAX_REPEATS):
                raise self._refusal("a count that is too large, or backwards,")
            atom += f"{{{low},{'' if high is None else high}}}"
        elif self._at < len(self._text) and self._text[self._at] in "*+?":
            atom += self._text[self._at]
            self._at += 1
        else:
            return atom
        # lazy: the same strings
        self._take("?")
        if self._at < len(self._text) and (self._text[self._at] in "*+?" or REPEAT.match(self._text, self._at)):
            raise self._refusal("a repetition of a repetition")
        return atom

    def _escape(self, *, within: bool) -> Ranges:
        """The characters of what follows a backslash."""
        if self._at >= len(self._text):
            raise self._refusal("a backslash at its end")
        letter = self._text[self._at]
        for name, ranges in (("d", DIGIT), ("w", WORD), ("s", SPACE)):
            if letter in (name, name.upper()):
                self._at += 1
                return ranges if letter == name else _others(ranges)
        if within and letter == "b":
            self._at += 1
            return _one("\b")
        if (found := HEX.match(self._text, self._at)) is not None:
            self._at = found.end()
            code = int(found[1] or found[2] or found[3], 16)
            if code > LAST or 0xD800 <= code <= 0xDFFF:
                raise self._refusal("a character that does not exist")
            return ((code, code),)
        if letter in CONTROL and not (letter == "0" and self._text[self._at + 1 : self._at + 2].isdigit()):
            self._at += 1
            return _one(chr(CONTROL[letter]))
        if letter.isalnum():
            raise self._refusal(f"\\{letter}")
        self._at += 1
        return _one(letter)

    def _class(self) -> Ranges:
        barred = self._take("^")
        found: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._member()
            dash = self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at)
            if dash and len(first) == 1 and first[0][0] == first[0][1]:
                self._at += 1
                last = self._member()
                if len(last) != 1 or last[0][0] != last[0][1] or last[0][0] < first[0][0]:
                    raise self._refusal("a range that is backwards, or of classes,")
                first = ((first[0][0], last[0][0]),)
            found += first
        ranges = _joined(found)
        return _others(ranges) if barred else ranges

    def _member(self) -> Ranges:
        if self._at >= len(self._text):
            raise self._refusal("a class that is not closed")
        letter = self._text[self._at]
        self._at += 1
        return self._escape(within=True) if letter == "\\" else _one(letter)


def _one(letter: str) -> Ranges:
    return ((ord(letter), ord(letter)),)


def _joined(ranges: list[tuple[int, int]]) -> Ranges:
    """The same characters in ranges that are apart."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def _others(ranges: Ranges) -> Ranges:
    """All other characters."""
    found, start = [], 0
    for first, last in ranges:
        if start < first:
            found.append((start, first - 1))
        start = last + 1
    if start <= LAST:
        found.append((start, LAST))
    return tuple(found)


def _without(ranges: Ranges, barred: Ranges) -> Ranges:
    outside = _others(barred)
    return tuple(
        (max(first, begin), min(last, end))
        for first, last in ranges
        for begin, end in outside
        if max(first, begin) <= min(last, end)
    )


NEVER_PLAIN: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF))
"""Code points that cannot be written as they are within a JSON string, and surrogates."""


def _written(ranges: Ranges) -> str:
    """One of these characters as a JSON string has it."""
    plain = _without(ranges, NEVER_PLAIN)
    options = [f"[{''.join(_span(first, last) for first, last in plain)}]"] if plain else []
    escaped = [letter for code, letter in ESCAPED.items() if any(first <= code <= last for first, last in ranges)]
    options += [f'"\\\\{chr(92) + letter if letter in chr(34) + chr(92) else letter}"' for letter in escaped]
    # a character that no string here can hold: a class that nothing is in
    return _either(options) if options else '"\\x00"'


def _span(first: int, last: int) -> str:
    return _code(first) if first == last else f"{_code(first)}-{_code(last)}"


def _code(code: int) -> str:
    letter = chr(code)
    if code < 0x80 and letter.isalnum():
        return letter
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"
