"""Where a message comes from at a terminal: a line editor, or plain lines where that is not wanted or not possible."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Protocol

from ggufrun.cli.chat_keys import give_up, on_ctrl_c

PROMPT = "> "
CONTINUED = "… "


class Notes(Protocol):
    """What can show a line beside the conversation."""

    def note(self, *lines: str) -> None:
        """Show the lines."""


class Reader:
    """Reads messages. ``words`` are the names of commands, for completion."""

    def __init__(self, *, colored: bool, plain: bool, words: list[str]) -> None:
        self._colored = colored
        self._session: Any = None
        if not plain and sys.stdin.isatty() and sys.stdout.isatty():
            self._session = _editor(colored, words)

    def read(self, notes: Notes) -> str | None:
        """The next message, or None when the user leaves: with Ctrl+D, or with Ctrl+C twice."""
        interrupted = False
        while True:
            try:
                with on_ctrl_c(give_up):
                    return self._line()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if interrupted:
                    return None
                interrupted = True
                notes.note("Ctrl+C again, or Ctrl+D, leaves")

    def _line(self) -> str:
        if self._session is not None:
            return str(self._session.prompt())
        text = self._plain_line(PROMPT)
        while text.endswith("\\"):
            text = text[:-1] + "\n" + self._plain_line(CONTINUED)
        return text

    def _plain_line(self, prompt: str) -> str:
        # Not input(): its prompt goes to stdout, which is for answers.
        mark = f"\x1b[1;32m{prompt}\x1b[0m" if self._colored else prompt
        sys.stderr.write(mark)
        sys.stderr.flush()
        raw = sys.stdin.buffer.readline()
        if not raw:
            sys.stderr.write("\n")
            raise EOFError
        return raw.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _editor(colored: bool, words: list[str]) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        # A backslash before Enter goes on, as in llama.cpp.
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: Any = None
    completer = WordCompleter([f"/{word}" for word in words], sentence=True)
    style = "ansigreen bold" if colored else ""
    session = PromptSession(
        FormattedText([(style, PROMPT)]),
        multiline=True,
        prompt_continuation=FormattedText([(style, CONTINUED)]),
        key_bindings=keys,
        history=_history(),
        completer=completer,
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
        enable_history_search=False,
    )
    return session


def _history() -> Any:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        with contextlib.suppress(OSError):
            path.chmod(0o600)
        return FileHistory(str(path))
    except OSError:
        # A home that cannot be written to is no reason not to talk.
        return InMemoryHistory()


def history_file() -> Path:
    """Where typed messages are remembered."""
    from platformdirs import user_data_path

    return user_data_path("ggufrun", appauthor=False) / "chat_history"
