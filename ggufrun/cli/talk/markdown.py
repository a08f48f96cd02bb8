"""Answers drawn as Markdown while they come.

Every line is shown as it comes and drawn again, once, when it is complete: so nothing flickers, nothing above it is
touched, and a scrolled-back screen stays as it was. Rows are broken between words. Only a table waits for its last row.
Where the terminal may count cells in another way than we do, or has changed its size meanwhile, the plain text stays.
"""

from __future__ import annotations

import io
import re
import shutil
import unicodedata
from collections.abc import Callable
from os import terminal_size
from typing import TYPE_CHECKING

from rich.cells import cell_len, get_character_cell_size

from ggufrun.cli.talk.colours import code_theme
from ggufrun.cli.talk.wrap import Row, places, wrap

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|\*\*(?=\S)(?P<bold>.+?)(?<=\S)\*\*"
    r"|(?<![\w*])\*(?=[^\s*])(?P<italic>[^*\n]+?)(?<=\S)\*(?![\w*])"
    r"|~~(?=\S)(?P<strike>.+?)(?<=\S)~~"
    r"|\[(?P<label>[^\]\n]+)\]\((?P<link>https?://[^)\s]+)\)"
)
"""Marks inside a line. Unlike CommonMark's, a bold text may end before a Chinese character without a space."""

STYLES = {"code": "cyan", "bold": "bold", "italic": "italic", "strike": "strike"}

HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
BULLET = re.compile(r"(\s*)[-*+]\s+(.*)$")
NUMBERED = re.compile(r"(\s*\d{1,9}[.)])(\s+.*)$")
QUOTE = re.compile(r"((?:>\s?)+)(.*)$")
RULE = re.compile(r"\s{0,3}([-*_])(?:\s*\1){2,}\s*$")
FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$")
SEPARATOR = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")

CODE_CONTEXT = 60
"""Lines of a code block that the colours of the next one are worked out from."""


class MarkdownWriter:
    """Takes an answer in pieces. ``write`` gets what a terminal is to obey; ``size`` asks how large that is."""

    def __init__(
        self, write: Callable[[str], object], size: Callable[[], terminal_size] = shutil.get_terminal_size
    ) -> None:
        self._write = write
        self._size = size
        self._line = ""
        self._begun = size()
        self._table: list[str] = []
        self._table_begun = self._begun
        self._fence = ""
        self._language = ""
        self._code: list[str] = []
        self._row: Row | None = None
        self._mixed = False

    def feed(self, text: str) -> None:
        """More of the answer."""
        for part in text.splitlines(keepends=True):
            body = part.removesuffix("\n")
            if body:
                if not self._line:
                    self._begin(body)
                self._line += body
                self._write(self._broken(body))
            if body != part:
                self._end_line()

    def end(self) -> None:
        """The answer is over: its last line and its table are drawn."""
        if self._line:
            self._end_line()
        self._end_table()
        self.__init__(self._write, self._size)  # type: ignore[misc]

    @property
    def open(self) -> bool:
        """Is the cursor within a line?"""
        return bool(self._line)

    def _begin(self, body: str) -> None:
        self._begun = self._size()
        self._mixed = False
        plain = bool(self._fence) or body.startswith(("|", "```", "~~~"))
        self._row = None if plain or self._begun.columns < 4 else Row(self._begun.columns)
        if self._table and not body.startswith("|"):
            self._end_table()

    def _broken(self, body: str) -> str:
        """What is to be written for more of a line: where it is known how it stands, it breaks between words."""
        if self._row is None:
            return body
        uncertain = 2 * len(self._line) >= self._begun.columns and _doubtful(self._line)
        if uncertain or self._size() != self._begun:
            self._row, self._mixed = None, True
            return body
        return self._row.add(body)

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        if not line:
            self._end_table()
        fence = FENCE.match(line)
        if self._fence:
            closing = fence is not None and fence[1].startswith(self._fence) and not fence[2]
            if closing:
                self._fence = ""
            else:
                self._code.append(line)
            self._redraw(line, self._dim(line) if closing else self._highlighted())
        elif fence is not None:
            self._fence, self._language, self._code = fence[1], fence[2], []
            self._redraw(line, self._dim(line))
        elif line.startswith("|"):
            if not self._table:
                self._table_begun = self._begun
            self._table.append(line)
            self._write("\n")
        else:
            self._redraw(line, styled(line, self._begun.columns), hanging(line))

    def _redraw(self, line: str, text: Text | None, indent: str = "") -> None:
        if text is None or not line or self._mixed or not self._certain([line], self._begun):
            self._write("\n")
            return
        above = (rows(line, self._begun.columns) if self._row is None else self._row.height) - 1
        up = f"\x1b[{above}A" if above else ""
        parts = [text] if self._row is None else broken(text, self._begun.columns, indent)
        drawn = "\n".join(self._ansi(part) for part in parts)
        self._write(f"\r{up}\x1b[J{drawn}\n")

    def _end_table(self) -> None:
        lines, self._table = self._table, []
        if len(lines) < 2 or not SEPARATOR.match(lines[1]) or not self._certain(lines, self._table_begun):
            return
        height = sum(rows(line, self._table_begun.columns) for line in lines)
        # rich puts an empty line above and below; an answer has its own
        drawn = self._ansi(table(lines)).split("\n")
        self._write(f"\r\x1b[{height}A\x1b[J" + "\n".join(line for line in drawn if line.strip()) + "\n")

    def _certain(self, lines: list[str], begun: terminal_size) -> bool:
        """Is it certain where on the screen the lines begin?"""
        if self._size() != begun or begun.columns < 4:
            return False
        heights = [rows(line, begun.columns) for line in lines]
        if self._row is not None:
            heights[-1] = max(heights[-1], self._row.height)
        if sum(heights) >= begun.lines:
            return False
        # One that is far from the margin takes one row, however wide its characters are.
        return all(2 * len(line) < begun.columns or not _doubtful(line) for line in lines)

    def _highlighted(self) -> Text | None:
        from rich.syntax import Syntax

        if not self._language:
            return None
        known = self._code[-CODE_CONTEXT:]
        whole = Syntax("", self._language, theme=code_theme(), background_color="default").highlight("\n".join(known))
        return whole.split("\n", allow_blank=True)[len(known) - 1]

    @staticmethod
    def _dim(line: str) -> Text:
        from rich.text import Text

        return Text(line, "dim")

    def _ansi(self, what: RenderableType) -> str:
        console = self._console()
        soft = not hasattr(what, "columns")
        console.print(what, soft_wrap=soft, end="" if soft else "\n", highlight=False, markup=False)
        file = console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()

    def _console(self) -> Console:
        from rich.console import Console

        return Console(file=io.StringIO(), force_terminal=True, width=self._begun.columns, highlight=False)


def styled(line: str, width: int) -> Text | None:
    """A line as it is to look, or None where it looks so already."""
    from rich.text import Text

    if RULE.match(line):
        return Text("─" * min(width, 40), "dim")
    if found := HEADING.match(line):
        return Text.assemble(_inline(found[2]), style="bold underline" if len(found[1]) < 3 else "bold")
    if found := BULLET.match(line):
        return Text.assemble(found[1], ("• ", "dim"), _inline(found[2]))
    if found := NUMBERED.match(line):
        return Text.assemble((found[1], "dim"), _inline(found[2]))
    if found := QUOTE.match(line):
        bars = "│ " * found[1].count(">")
        return Text.assemble((bars, "dim"), _inline(found[2]), style="italic")
    text = _inline(line)
    return text if text.spans or text.plain != line else None


def hanging(line: str) -> str:
    """What stands before every row of a line but the first: the width of a list's mark, or the bars of a quotation."""
    if found := BULLET.match(line):
        return " " * (len(found[1]) + 2)
    if found := NUMBERED.match(line):
        return " " * (len(found[1]) + 1)
    if found := QUOTE.match(line):
        return "│ " * found[1].count(">")
    return ""


def broken(text: Text, width: int, indent: str = "") -> list[Text]:
    """A line as rows of at most ``width`` cells, ``indent`` before all but the first."""
    from rich.text import Text

    size = cell_len(indent)
    if size > width // 2:
        indent, size = "", 0
    rows = wrap(text.plain, width, size)
    first, *rest = [text[start : start + len(row)] for start, row in zip(places(text.plain, rows), rows, strict=True)]
    return [first, *(Text.assemble((indent, "dim"), part) if indent else part for part in rest)]


def _inline(source: str) -> Text:
    from rich.text import Text

    text, position = Text(), 0
    for match in INLINE.finditer(source):
        text.append(source[position : match.start()])
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "link":
            text.append(match["label"], "underline")
            text.append(f" ({match['link']})", "dim")
        elif kind == "code":
            text.append(match["code"], STYLES["code"])
        else:
            inner = _inline(match[kind])
            inner.stylize(STYLES[kind])
            text.append_text(inner)
    text.append(source[position:])
    return text


def table(lines: list[str]) -> RenderableType:
    """A table of rows written with bars; the second is the line of dashes."""
    from rich import box
    from rich.table import Table

    head, marks, *body = (_cells(line) for line in lines)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, cell in enumerate(head):
        mark = marks[index] if index < len(marks) else ""
        right, left = mark.endswith(":"), mark.startswith(":")
        drawn.add_column(_inline(cell), justify="center" if right and left else "right" if right else "left")
    for row in body:
        drawn.add_row(*(_inline(cell) for cell in (row + [""] * len(head))[: len(head)]))
    return drawn


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def rows(line: str, width: int) -> int:
    """Rows of a terminal that a line takes; a wide character that does not fit goes to the next row."""
    count, column = 1, 0
    for character in line:
        cells = 8 - column % 8 if character == "\t" else get_character_cell_size(character)
        if character == "\t":
            column = min(column + cells, width - 1)
            continue
        if column + cells > width:
            count, column = count + 1, 0
        column += cells
    return count


def _doubtful(line: str) -> bool:
    """Has it characters whose width terminals do not agree on: marks that combine, emoji, tabs."""
    return any(
        ord(character) >= 0x1F000
        or character in "\t\u200d"
        or unicodedata.combining(character)
        or unicodedata.category(character) in ("Mn", "Me", "Cf")
        or (not character.isascii() and unicodedata.east_asian_width(character) == "A")
        for character in line
    )
