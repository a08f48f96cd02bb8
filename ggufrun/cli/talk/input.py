"""Where a message comes from at a terminal: a line editor, or plain lines where that is not wanted or not possible."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ggufrun.chat import commands
from ggufrun.cli.talk.keyboard import TerminalGone, give_up, on_ctrl_c

PROMPT = "> "
CONTINUED = "… "
HINT = "Write a message, or /help"
QUOTES = '"""'
"""Around a message of several lines, as in Ollama."""


class Notes(Protocol):
    """What can show a line beside the conversation."""

    def note(self, *lines: str) -> None:
        """Show the lines."""


class Reader:
    """Reads messages. ``arguments`` are the commands with the words that may follow each, None for a file; ``status``
    is shown under the line that is edited. With ``multiline`` Enter starts a new line, and a slash or a backslash
    before it sends, as llama.cpp's ``-mli`` has it; with ``slash`` one at the end of a message is left out.
    """

    def __init__(
        self,
        *,
        colored: bool,
        plain: bool,
        arguments: Mapping[str, list[str] | None],
        status: Callable[[], str],
        multiline: bool = False,
        slash: bool = False,
    ) -> None:
        self._colored = colored
        self._slash = slash
        self._multiline = multiline
        self._session: Any = None
        if not plain and sys.stdin.isatty() and sys.stdout.isatty():
            self._session = _editor(colored, arguments, status, multiline)

    @property
    def edits(self) -> bool:
        """Is there a line editor?"""
        return self._session is not None

    def read(self, notes: Notes, text: str = "") -> str | None:
        """The next message, or None when the user leaves: with Ctrl+D, or with Ctrl+C twice.

        ``text`` is there already, to be changed; without a line editor, in the program that $VISUAL or $EDITOR names.
        Then one Ctrl+C leaves it as it was.
        """
        interrupted = False
        while True:
            try:
                with on_ctrl_c(give_up):
                    line = self._line(text)
                    ends = self._slash and line.endswith("/") and commands.parse(line) is None
                    return line[:-1] if ends else line
            except (EOFError, TerminalGone):
                return None
            except KeyboardInterrupt:
                if interrupted or text:
                    return None
                interrupted = True
                notes.note("Ctrl+C again, or Ctrl+D, leaves")

    def _line(self, text: str) -> str:
        if self._session is not None:
            return unquoted(str(self._session.prompt(default=text)))
        if text:
            return edited(text)
        text = self._plain_line(PROMPT)
        while not complete(text, multiline=self._multiline):
            text = text.removesuffix("\\") + "\n" + self._plain_line(CONTINUED)
        return unquoted(text[:-1] if self._multiline and text.endswith(("/", "\\")) else text)

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


def complete(text: str, *, multiline: bool = False) -> bool:
    """Does Enter send ``text``? Not after a backslash, nor within triple quotation marks; a command is one line.

    >>> complete("a\\\\"), complete("\"\"\"a"), complete("\"\"\"a\"\"\"")
    (False, False, True)
    """
    if text.startswith(QUOTES):
        return text.rstrip().endswith(QUOTES) and len(text.rstrip()) >= 2 * len(QUOTES)
    if multiline:
        return text.endswith(("/", "\\")) or commands.parse(text) is not None
    return not text.endswith("\\")


def unquoted(text: str) -> str:
    """``text`` without the triple quotation marks around it."""
    if text.startswith(QUOTES) and complete(text):
        return text.strip()[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text


def edited(text: str) -> str:
    """``text`` as the user's own editor leaves it; empty when that fails."""
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.txt"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        try:
            failed = subprocess.run([*command, str(path)], check=False).returncode
            return "" if failed else path.read_bytes().decode("utf-8", "surrogateescape").rstrip("\r\n")
        except OSError:
            return ""


def _editor(
    colored: bool, arguments: Mapping[str, list[str] | None], status: Callable[[], str], multiline: bool
) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.layout.processors import TabsProcessor
    from prompt_toolkit.styles import Style

    keys = KeyBindings()

    def send(buffer: Any) -> None:
        if multiline and buffer.text.endswith(("/", "\\")) and not buffer.text.startswith(QUOTES):
            buffer.text = buffer.text[:-1]
        buffer.validate_and_handle()

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        if complete(buffer.text, multiline=multiline) or (multiline and not buffer.text):
            send(buffer)
            return
        # A backslash before Enter goes on, as in llama.cpp.
        if not multiline and not buffer.text.startswith(QUOTES) and buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
        buffer.insert_text("\n")

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        if multiline:
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    session: Any = None
    style = "ansigreen bold" if colored else ""
    grey = colored and not os.environ.get("NO_COLOR")
    session = PromptSession(
        FormattedText([(style, PROMPT)]),
        multiline=True,
        prompt_continuation=FormattedText([(style, CONTINUED)]),
        key_bindings=keys,
        history=_history(),
        completer=_completer(arguments),
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
        enable_history_search=False,
        # Ctrl+X Ctrl+E
        enable_open_in_editor=True,
        # Without colours it would look like something typed; after Ctrl+C or Ctrl+D it would stay on the screen.
        placeholder=lambda: FormattedText([("ansibrightblack", HINT)] if grey and not get_app().is_done else []),
        # what is pasted may have tabs, which would be shown as ^I
        input_processors=[TabsProcessor(char1=" ", char2=" ")],
        # Ctrl+Z
        enable_suspend=True,
        bottom_toolbar=lambda: FormattedText([("", status())]),
        style=Style([("bottom-toolbar", "noreverse ansibrightblack" if colored else "noreverse")]),
        # Room for the menu of completions would be empty rows below the prompt most of the time.
        reserve_space_for_menu=4,
    )
    return session


def _completer(arguments: Mapping[str, list[str] | None]) -> Any:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    files = PathCompleter(expanduser=True)

    class Commands(Completer):
        """Commands, then what may follow the one that is there."""

        def get_completions(self, document: Any, event: Any) -> Iterator[Any]:
            text = document.text_before_cursor
            if not text.startswith("/") or "\n" in text:
                return
            name, space, rest = text[1:].partition(" ")
            if not space:
                yield from (
                    Completion(f"/{word}", start_position=-len(text)) for word in arguments if word.startswith(name)
                )
                return
            words = arguments.get(name, [])
            if words is None:
                yield from files.get_completions(Document(rest, len(rest)), event)
            else:
                yield from (Completion(word, start_position=-len(rest)) for word in words if word.startswith(rest))

    return Commands()


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
