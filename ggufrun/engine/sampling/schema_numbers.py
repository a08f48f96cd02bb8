"""Numbers within bounds as GBNF: digit by digit, as long as what was written could still become either bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ggufrun import jsontext
from ggufrun.errors import FormatError, UnsupportedError

LONGEST = 16
"""Digits before the point of a number without an upper bound, and after the point of one with fractions."""

MOST_DIGITS = 40
"""Digits of a bound that are still written out."""

MOST_LISTED = 1000
"""Multiples that are listed one by one."""

LARGEST_DIVISOR = 100
"""The largest divisor whose remainders are followed digit by digit."""


@dataclass(frozen=True)
class Bound:
    """A bound, which is a value of its range unless it is ``open``."""

    value: Decimal
    open: bool = False


def number(low: Bound | None, high: Bound | None, places: int) -> str | None:
    """The numbers from ``low`` to ``high`` (None: no bound) with at most ``places`` digits after the point.

    None when there are none. Numbers with an exponent are left out, and a zero has no sign.
    """
    zero = Bound(Decimal(0))
    options = []
    if low is None or low.value < 0:
        least = zero if high is None or high.value >= 0 else Bound(-high.value, high.open)
        if least.value == 0:
            least = Bound(Decimal(0), open=True)
        most = None if low is None else Bound(-low.value, low.open)
        if (body := _Digits(least, most, places).expression()) is not None:
            options.append(f'"-" {body}')
    if high is None or high.value >= 0:
        least = zero if low is None or low.value < 0 else low
        if (body := _Digits(least, high, places).expression()) is not None:
            options.append(body)
    return None if not options else options[0] if len(options) == 1 else f"({' | '.join(options)})"


def multiples(low: Bound | None, high: Bound | None, divisor: int) -> str | tuple[dict[str, str], str] | None:
    """The whole multiples of ``divisor`` within bounds: a list; or rules, one a remainder, and how a number begins, in
    which ``{rest7}`` is the name of the rule for remainder 7.

    None when neither is possible here, or there are none.
    """
    if low is not None and high is not None:
        first = -(-_least(low) // divisor)
        last = _most(high) // divisor
        if last - first < MOST_LISTED:
            found = [f'"{factor * divisor}"' for factor in range(first, last + 1)]
            return f"({' | '.join(found)})" if found else None
        return None
    free = high is None and (low is None or (_least(low) == 0))
    if not free or divisor > LARGEST_DIVISOR:
        return None
    rules = {}
    for rest in range(divisor):
        steps = [f'"{digit}" {{rest{(rest * 10 + digit) % divisor}}}' for digit in range(10)]
        rules[f"rest{rest}"] = " | ".join([*steps, '""'] if rest == 0 else steps)
    start = " | ".join(f'"{digit}" {{rest{digit % divisor}}}' for digit in range(1, 10))
    return rules, f'"0" | {"" if low is not None else chr(34) + "-" + chr(34) + "? "}({start})'


def _least(bound: Bound) -> int:
    """The least whole number that a lower bound allows."""
    whole = int(bound.value.to_integral_value("ROUND_CEILING"))
    return whole + (bound.open and whole == bound.value)


def _most(bound: Bound) -> int:
    """The greatest whole number that an upper bound allows."""
    whole = int(bound.value.to_integral_value("ROUND_FLOOR"))
    return whole - (bound.open and whole == bound.value)


def whole(low: Bound | None, high: Bound | None) -> tuple[Bound | None, Bound | None]:
    """The same bounds for whole numbers."""
    return (
        None if low is None else Bound(Decimal(_least(low))),
        None if high is None else Bound(Decimal(_most(high))),
    )


def decimal_of(value: Any, name: str, where: str) -> Decimal:
    """The number that keyword ``name`` has. Raises FormatError, at ``where``, for what is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FormatError(f"{where}: {name} is {jsontext.shown(value, 40)}", "a number")
    # a zero has no sign
    found = Decimal(repr(value)) + 0
    if abs(found.adjusted()) > MOST_DIGITS or len(found.as_tuple().digits) > MOST_DIGITS:
        raise UnsupportedError(f"{where}: {name} is {jsontext.shown(value, 40)}", f"up to {MOST_DIGITS} digits")
    return found


def bound_of(schema: dict[str, Any], name: str, where: str) -> Bound | None:
    """The bound ``minimum`` or ``maximum``, with what its exclusive form says; older schemas have a switch for that."""
    exclusive = "exclusive" + name.capitalize()
    plain, strict = schema.get(name), schema.get(exclusive)
    if isinstance(strict, bool):
        return None if plain is None else Bound(decimal_of(plain, name, where), open=strict)
    found = [] if plain is None else [Bound(decimal_of(plain, name, where))]
    found += [] if strict is None else [Bound(decimal_of(strict, exclusive, where), open=True)]
    sign = 1 if name == "minimum" else -1
    return max(found, key=lambda bound: (sign * bound.value, bound.open), default=None)


class _Digits:
    """The numbers from ``low``, which is not negative, to ``high``.

    While what was written is the beginning of a bound, that bound is tight: it decides which digits may follow.
    """

    def __init__(self, low: Bound, high: Bound | None, places: int) -> None:
        self._low, self._high, self._places = low, high, places
        self._low_whole, self._low_part = _parts(low.value)
        self._high_whole, self._high_part = _parts(high.value) if high is not None else ("9" * LONGEST, "")

    def expression(self) -> str | None:
        """All of them; None when there are none."""
        high = self._high
        if high is not None and (high.value < self._low.value):
            return None
        shortest, longest = len(self._low_whole), max(len(self._high_whole), len(self._low_whole) + (high is None))
        options = []
        free = []
        for length in range(shortest, longest + 1):
            tight_low, tight_high = length == shortest, high is not None and length == longest
            if tight_low or tight_high:
                options.append(self._whole(length, 0, tight_low, tight_high))
            else:
                free.append(length)
        if free:
            # a number of several digits does not begin with a zero
            options.append(f"[1-9] [0-9]{{{free[0] - 1},{free[-1] - 1}}}{self._fraction()}")
        return _either(options)

    def _whole(self, length: int, place: int, tight_low: bool, tight_high: bool) -> str | None:
        """What may follow ``place`` digits of ``length`` before the point."""
        if place == length:
            return self._after_whole(tight_low, tight_high)
        if not tight_low and not tight_high:
            return f"[0-9]{{{length - place}}}{self._fraction()}"
        least = int(self._low_whole[place]) if tight_low else int(place == 0 and length > 1)
        most = int(self._high_whole[place]) if tight_high else 9
        if least > most:
            return None
        options = []
        inner_low, inner_high = least + tight_low, most - tight_high
        if tight_low and tight_high and least == most:
            options.append(_then(_digit(least, least), self._whole(length, place + 1, True, True)))
        else:
            if tight_low:
                options.append(_then(_digit(least, least), self._whole(length, place + 1, True, False)))
            if inner_low <= inner_high:
                options.append(_then(_digit(inner_low, inner_high), self._whole(length, place + 1, False, False)))
            if tight_high:
                options.append(_then(_digit(most, most), self._whole(length, place + 1, False, True)))
        return _either(options)

    def _fraction(self) -> str:
        return f' ("." [0-9]{{1,{self._places}}})?' if self._places else ""

    def _after_whole(self, tight_low: bool, tight_high: bool) -> str | None:
        ends, part = self._part(0, tight_low, tight_high)
        if part is None:
            return "" if ends else None
        return f'("." {part})?' if ends else f'"." {part}'

    def _part(self, place: int, tight_low: bool, tight_high: bool) -> tuple[bool, str | None]:
        """May the number end after ``place`` digits of its fraction, and what may follow them."""
        rest_low, rest_high = self._low_part[place:], self._high_part[place:]
        # past the bound's own digits only an open one still asks for something
        tight_low = tight_low and (bool(rest_low) or self._low.open)
        ends = not tight_low
        if tight_high and not rest_high:
            return ends and not (self._high is not None and self._high.open), None
        if place == self._places:
            return ends, None
        if not tight_low and not tight_high:
            return ends, f"[0-9]{{1,{self._places - place}}}"
        least = int(rest_low[0]) if tight_low and rest_low else 0
        most = int(rest_high[0]) if tight_high else 9
        options = []
        if tight_low and tight_high and least == most:
            options.append(self._step(place, least, least, True, True))
        else:
            if tight_low and least <= most:
                options.append(self._step(place, least, least, True, False))
            if least + tight_low <= most - tight_high:
                options.append(self._step(place, least + tight_low, most - tight_high, False, False))
            if tight_high and least <= most:
                options.append(self._step(place, most, most, False, True))
        return ends, _either(options)

    def _step(self, place: int, least: int, most: int, tight_low: bool, tight_high: bool) -> str | None:
        ends, more = self._part(place + 1, tight_low, tight_high)
        digit = _digit(least, most)
        if more is None:
            return digit if ends else None
        return f"{digit} ({more})?" if ends else f"{digit} {more}"


def _parts(value: Decimal) -> tuple[str, str]:
    """The digits before the point, and those after it without zeros at the end."""
    before, _, after = format(value, "f").partition(".")
    return before, after.rstrip("0")


def _digit(least: int, most: int) -> str:
    return f'"{least}"' if least == most else f"[{least}-{most}]"


def _then(first: str, rest: str | None) -> str | None:
    return None if rest is None else f"{first} {rest}".rstrip()


def _either(options: list[str | None]) -> str | None:
    found = [option for option in options if option is not None]
    return None if not found else found[0] if len(found) == 1 else f"({' | '.join(found)})"
