"""Markdown as it is drawn: on a real terminal's screen, whatever pieces it comes in."""

from __future__ import annotations

import re
from os import terminal_size

import pyte
import pytest
from rich.cells import cell_len

from ggufrun.cli.chat_markdown import MarkdownWriter, rows, styled

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
