"""Markdown as it is drawn: on a real terminal's screen, whatever pieces it comes in."""

from __future__ import annotations

import re
from os import terminal_size

import pyte
import pytest
from rich.cells import cell_len

from ggufrun.cli.talk.markdown import MarkdownWriter, rows, styled
from ggufrun.cli.talk.wrap import wrap

ANSWER = """# Title

Some **bold** and `code`, a [link](https://a.b/c).
- one *two*
  - three
1. first
> said
---
```python
def f(x: int) -> str:
    return "**no**"
```
| a | 名字 |
|---|:--:|
| 1 | **李白** |
| 22 | 杜甫 |

中文**重点：**后面，2 * 3 * 4 = 24 和 a_b_c
"""

SHOWN = """Title

Some bold and code, a link (https://a.b/c).
• one two
  • three
1. first
│ said
────────────────────────────────────────
```python
def f(x: int) -> str:
    return "**no**"
```

 a    名字
───────────
 1    李白
 22   杜甫


中文重点：后面，2 * 3 * 4 = 24 和 a_b_c"""


class Terminal(pyte.HistoryScreen):
    """pyte lets half of a wide character hang over the margin; terminals put it on the next row."""

    def draw(self, data: str) -> None:
        for character in data:
            if self.cursor.x == self.columns - 1 and cell_len(character) == 2:
                super().draw(" ")
            super().draw(character)


class Drawn:
    def __init__(self, columns: int = 80, lines: int = 40) -> None:
        self.size = terminal_size((columns, lines))
        self.screen = Terminal(columns, lines, history=1000)
        self.screen.set_mode(pyte.modes.LNM)
        self.stream = pyte.Stream(self.screen)
        self.writer = MarkdownWriter(self.stream.feed, lambda: self.size)

    def resize(self, columns: int, lines: int) -> None:
        self.size = terminal_size((columns, lines))
        self.screen.resize(lines, columns)

    def draw(self, text: str, step: int) -> str:
        for start in range(0, len(text), step):
            self.writer.feed(text[start : start + step])
        self.writer.end()
        return self.text()

    def text(self) -> str:
        above = ["".join(line[x].data for x in range(self.size.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip()


def squeezed(text: str) -> list[str]:
    """The lines that are not empty, whatever the length of rules."""
    return [re.sub("─+", "─", line.strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_an_answer(step: int) -> None:
    drawn = Drawn()
    shown = drawn.draw(ANSWER, step)
    assert squeezed(shown) == squeezed(SHOWN)
    bold = next(y for y, line in enumerate(drawn.screen.display) if line.startswith("Some bold"))
    assert drawn.screen.buffer[bold][5].bold and not drawn.screen.buffer[bold][0].bold
    code = next(y for y, line in enumerate(drawn.screen.display) if line.startswith("def f"))
    assert drawn.screen.buffer[code][0].fg != "default"


@pytest.mark.parametrize("columns", [9, 20, 21])
@pytest.mark.parametrize("lines", [3, 6])
def test_what_is_above_stays(columns: int, lines: int) -> None:
    """Long and wide lines on a small screen: every line drawn anew lies where it lay."""
    words = [f"**行{i}** 中文与English混排 {'很' * i}" for i in range(12)]
    drawn = Drawn(columns, lines)
    shown = drawn.draw("\n".join(words), 2).replace("\n", "").replace(" ", "")
    for word in words:
        plain = word.replace(" ", "")
        assert shown.count(plain) + shown.count(plain.replace("**", "")) == 1


def test_plain_text_is_left_alone() -> None:
    """Nothing but the text goes to the terminal: no cursor moves where there is nothing to draw."""
    sent: list[str] = []
    writer = MarkdownWriter(sent.append, lambda: terminal_size((80, 24)))
    text = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n\n2 * 3, snake_case_name, a | b\n"
    writer.feed(text)
    writer.end()
    assert "".join(sent) == text


def test_a_resized_window_keeps_the_plain_line() -> None:
    drawn = Drawn(40, 10)
    drawn.writer.feed("before\n**bo")
    drawn.resize(20, 10)
    drawn.writer.feed("ld** text\n**next**\n")
    drawn.writer.end()
    assert [line for line in drawn.text().splitlines() if line] == ["before", "**bold** text", "next"]


def test_a_table_larger_than_the_screen_stays_text() -> None:
    text = "|a|b|\n|-|-|\n" + "|1|2|\n" * 20
    assert Drawn(40, 10).draw(text, 7).replace("\n", "") == text.replace("\n", "")
    assert "|1|2|" not in Drawn(40, 30).draw(text, 7)


def test_uncertain_widths_are_not_redrawn() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    sent: list[str] = []
    writer = MarkdownWriter(sent.append, lambda: terminal_size((20, 24)))
    writer.feed(f"**{family * 5}** and more\n")
    assert "\x1b[" not in "".join(sent)


def test_rows() -> None:
    assert [rows("a" * n, 10) for n in (0, 1, 10, 11, 20, 21)] == [1, 1, 1, 2, 2, 3]
    # A wide character does not fit into the last cell.
    assert rows("a" * 9 + "中", 10) == 2 and rows("中" * 5, 9) == 2 and rows("中" * 5, 10) == 1


@pytest.mark.parametrize("line", ["", "text", "1.5 is", "-x", "#tag", "2*3*4", "**", "` `` `", "a * b * c", "__init__"])
def test_what_is_no_mark(line: str) -> None:
    assert styled(line, 80) is None or styled(line, 80).plain.replace("`", "") == line.replace("`", "")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("some words that wrap", 10, ["some words", "that wrap"]),
        ("中文之间可以断行，但逗号不在行首。", 16, ["中文之间可以断", "行，但逗号不在行", "首。"]),
        ("他说（春晓）好", 6, ["他说", "（春", "晓）好"]),
        ("中文and English混排", 12, ["中文and", "English混排"]),
        ("aaaaaaaaaaaa bb", 5, ["aaaaa", "aaaaa", "aa bb"]),
        ("one     two", 5, ["one", "two"]),
        ("exactly ten", 11, ["exactly ten"]),
        ("  indented text", 10, ["  indented", "text"]),
        ("", 5, [""]),
    ],
)
def test_rows_break_between_words(text: str, width: int, shown: list[str]) -> None:
    assert [row.rstrip() for row in wrap(text, width)] == shown
    # Whatever the pieces it comes in, on the screen too, at every moment but for the last word.
    for step in (1, 2, 5, 100):
        drawn = Drawn(width, 10)
        for start in range(0, len(text), step):
            drawn.writer.feed(text[start : start + step])
            so_far = [row.rstrip() for row in wrap(text[: start + step], width)]
            assert drawn.text().splitlines() == [row for row in so_far if row]
        drawn.writer.feed("\nnext")
        assert drawn.text().splitlines() == [*shown, "next"]


def test_lists_and_quotations_hang() -> None:
    text = "- one **two** three four\n12. 一二三四五六七八九\n> said in many words\n# A heading of words\n"
    for step in (1, 4, 100):
        assert Drawn(14, 30).draw(text, step).splitlines() == [
            "• one two", "  three four", "12. 一二三四五", "    六七八九",
            "│ said in many", "│ words", "A heading of", "words",
        ]  # fmt: skip


@pytest.mark.parametrize("columns", [8, 13, 20])
def test_long_paragraphs_on_a_small_screen(columns: int) -> None:
    words = [f"w{number} **重{number}**" for number in range(8)]
    text = "\n".join(f"{number} " + " ".join(words) for number in range(6)) + "\n"
    shown = Drawn(columns, 40).draw(text, 3).split()
    assert shown == text.replace("**", "").split()
