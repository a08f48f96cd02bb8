"""Picking one row of a table: with the arrows and by typing a part of its name, or by its number."""

from __future__ import annotations

import sys
from typing import Any

from ggufrun.cli.terminal.console import note

Row = tuple[str, str, str]
"""A name, a type, a size."""

SHOWN = 12
"""Rows that are shown at once."""


def by_number(rows: list[Row]) -> int | None:
    """The place of the row whose number was typed; None when nothing more can be typed."""
    for number, row in enumerate(rows, 1):
        note(f"{number:3}  " + "  ".join(part for part in row if part))
    while True:
        sys.stderr.write(f"which model (1-{len(rows)})? ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            sys.stderr.write("\n")
            return None
        if line.strip().isdigit() and 1 <= int(line) <= len(rows):
            return int(line) - 1


class Menu:
    """Rows of which those that contain what was typed are shown, and one of them is marked."""

    def __init__(self, rows: list[Row], title: str) -> None:
        self._rows = rows
        self._title = title
        self.typed = ""
        self.place = 0

    @property
    def shown(self) -> list[int]:
        """The rows that contain what was typed."""
        return [at for at, row in enumerate(self._rows) if self.typed.lower() in row[0].lower()]

    def move(self, by: int) -> None:
        """Mark another row."""
        self.place = max(0, min(self.place + by, len(self.shown) - 1))

    def type(self, typed: str) -> None:
        """Look for something else."""
        self.typed, self.place = typed, 0

    def text(self) -> list[tuple[str, str]]:
        """What is drawn, as prompt_toolkit's pairs of style and text."""
        from rich.cells import cell_len

        shown = self.shown
        first = max(0, min(self.place - SHOWN // 2, len(shown) - SHOWN))
        width = max(cell_len(row[0]) for row in self._rows)
        lines: list[tuple[str, str]] = [("class:title", "Which model? "), ("", self.typed)]
        lines.append(("class:dim", "\n" if self.typed else f"in {self._title}\n"))
        for at in shown[first : first + SHOWN]:
            name, kind, size = self._rows[at]
            marked = at == shown[self.place]
            lines.append(("class:marked" if marked else "", f"{'❯' if marked else ' '} {name}"))
            lines.append(("class:dim", f"{' ' * (width - cell_len(name))}  {kind:8}  {size:>10}\n"))
        if not shown:
            lines.append(("class:dim", "  none is called so\n"))
        more = len(shown) - SHOWN
        hint = f"{more} more · type to search · Enter talks" if more > 0 else "type to search · Enter talks"
        return [*lines, ("class:dim", f"↑ ↓ · {hint} · Esc leaves")]


def by_arrows(rows: list[Row], title: str) -> int | None:
    """The place of the row that was chosen with the keys; None when the user would rather leave."""
    from prompt_toolkit.application import Application
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.layout import Layout, Window
    from prompt_toolkit.layout.controls import FormattedTextControl
    from prompt_toolkit.styles import Style

    menu = Menu(rows, title)
    keys = KeyBindings()

    @keys.add("up")
    @keys.add("c-p")
    def _(event: Any) -> None:
        menu.move(-1)

    @keys.add("down")
    @keys.add("c-n")
    @keys.add("tab")
    def _(event: Any) -> None:
        menu.move(1)

    @keys.add("enter")
    def _(event: Any) -> None:
        if menu.shown:
            event.app.exit(result=menu.shown[menu.place])

    @keys.add("backspace")
    def _(event: Any) -> None:
        menu.type(menu.typed[:-1])

    @keys.add("escape", eager=True)
    @keys.add("c-c")
    @keys.add("c-d")
    def _(event: Any) -> None:
        event.app.exit(result=None)

    @keys.add("<any>")
    def _(event: Any) -> None:
        if event.data.isprintable():
            menu.type(menu.typed + event.data)

    drawn = FormattedTextControl(lambda: FormattedText(menu.text()), show_cursor=False)
    app: Application[int | None] = Application(
        layout=Layout(Window(drawn, dont_extend_height=True)),
        key_bindings=keys,
        erase_when_done=True,
        style=Style([("title", "bold"), ("marked", "ansigreen bold"), ("dim", "ansibrightblack")]),
    )
    return app.run()
