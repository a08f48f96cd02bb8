"""Lines broken between words while they come: at spaces, and anywhere between Chinese characters but beside marks that
may not stand at that end of a row.
"""

from __future__ import annotations

import re

from rich.cells import cell_len, get_character_cell_size

NOT_FIRST = "，。、；：？！）】》」』”’…—～·,.;:?!)]}%"
"""Marks that belong to what stands before them."""

NOT_LAST = "（【《「『“‘([{"
"""Marks that belong to what follows."""

SPACES = re.compile(r"[ \t]+")


def units(text: str) -> list[str]:
    """``text`` in parts that are not broken: runs of spaces, words, single wide characters, with the marks beside them.

    >>> units("看（中文）。and on")
    ['看', '（中', '文）。', 'and', ' ', 'on']
    """
    found: list[str] = []
    narrow = False
    for character in text:
        space = character in " \t"
        wide = get_character_cell_size(character) == 2
        before = found[-1] if found else ""
        spaces = before.isspace()
        joins = bool(before) and (
            (space and spaces)
            or (not space and not spaces and (character in NOT_FIRST or before[-1] in NOT_LAST))
            or (not space and not spaces and narrow and not wide)
            or (get_character_cell_size(character) == 0 and not space)
        )
        if joins:
            found[-1] += character
        else:
            found.append(character)
        narrow = not wide and not space
    return found


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """``text`` in rows of at most ``width`` cells, ``indent`` fewer after the first. Spaces at a break are left out."""
    rows: list[str] = []
    row, used, whole = "", 0, width
    for unit in units(text):
        size = cell_len(unit)
        width = max(1, whole - indent) if rows else whole
        if used + size <= width:
            row, used = row + unit, used + size
            continue
        if unit.isspace():
            # what does not fit of them is at a break, or at the end
            row, used = row + unit[: width - used], width
            continue
        if row.strip() or used:
            rows.append(row.rstrip(" "))
            width = max(1, whole - indent)
        while size > width:
            head = cut(unit, width)
            rows.append(head)
            unit = unit[len(head) :]
            size = cell_len(unit)
        row, used = unit, size
    return [*rows, row]


def cut(text: str, width: int) -> str:
    """As much of the beginning of ``text`` as fits, one character at least."""
    used = 0
    for at, character in enumerate(text):
        used += get_character_cell_size(character)
        if used > width and at:
            return text[:at]
    return text


def places(text: str, rows: list[str]) -> list[int]:
    """Where in ``text`` its rows begin."""
    found, end = [], 0
    for row in rows:
        found.append(text.index(row, end))
        end = found[-1] + len(row)
    return found


class Row:
    """The line that is being written: what is to be sent to the terminal for every piece of it that comes."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._text = self._shown = ""
        self.height = 1
        """Rows that the line takes."""

    def add(self, text: str) -> str:
        """What shows the line with ``text`` at its end, sent where the line ended before.

        Only the last word may move, to the next row: the work does not grow with the line.
        """
        before, whole = self._shown, self._text + text
        first, *rest = rows = wrap(whole, self._width)
        same = next((at for at, (one, other) in enumerate(zip(before, first, strict=False)) if one != other), None)
        same = min(len(before), len(first)) if same is None else same
        # A column is named, for after a full row the cursor stands on its last cell, not behind it.
        back = f"\x1b[{cell_len(first[:same]) + 1}G\x1b[K" if before[same:].strip() else ""
        self._shown, self._text = rows[-1], whole[places(whole, rows)[-1] :]
        self.height += len(rest)
        return back + first[same:] + "".join(f"\n{row}" for row in rest)
