"""Three ways to talk: a conversation at a terminal, a message a line, and one message in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ggufrun.chat import commands
from ggufrun.chat.choose import Choice
from ggufrun.chat.prompt import AffixPrompt
from ggufrun.chat.session import Done, Event, Session, Start, Text
from ggufrun.cli.chat_input import Reader
from ggufrun.cli.chat_keys import no_echo, on_ctrl_c
from ggufrun.cli.chat_screen import Screen
from ggufrun.engine.generate import StopReason
from ggufrun.errors import GgufrunError


class Talk:
    """A session, the screen it is drawn on, and what becomes of typed text (``typed``)."""

    def __init__(self, session: Session, screen: Screen, typed: Callable[[str], str]) -> None:
        self.session = session
        self.screen = screen
        self.typed = typed

    def single(self, message: str | None, raw: str | None) -> None:
        """One answer and nothing else. Ctrl+C shows what there is and leaves with KeyboardInterrupt."""
        for events in self._opening(message, raw):
            done = self._show(events, status=False)
            if done is not None and done.reason is StopReason.INTERRUPTED:
                raise KeyboardInterrupt

    def lines(self, source: Iterable[bytes], message: str | None, raw: str | None) -> None:
        """Every line of ``source`` is a message, as in llama.cpp's interactive mode; a backslash joins two lines."""
        for events in self._opening(message, raw):
            self._checked(events)
        for line in join_lines(line.decode("utf-8", "surrogateescape") for line in source):
            if line or isinstance(self.session.format, AffixPrompt):
                self._checked(self.session.ask(self.typed(line)))

    def _checked(self, events: Iterator[Event]) -> None:
        done = self._show(events, status=False)
        if done is not None and done.reason is StopReason.INTERRUPTED:
            raise KeyboardInterrupt

    def conversation(self, choice: Choice, message: str | None, raw: str | None) -> None:
        """A person at a terminal. Errors that concern one message do not end the conversation."""
        self.screen.header(self.session, choice)
        # Between an answer and the prompt Ctrl+C comes too late for the one and too early for the other.
        with on_ctrl_c(lambda: None):
            for events in self._opening(message, raw):
                self._forgiving(events)
            self._converse(Reader(colored=self.screen.colored, plain=self.screen.plain, words=sorted(commands.BY_NAME)))

    def _converse(self, reader: Reader) -> None:
        while (line := reader.read(self.screen)) is not None:
            command = commands.parse(line)
            if command is not None:
                outcome = commands.run(self.session, *command)
                self.screen.note(*outcome.lines)
                if outcome.leave:
                    return
                if outcome.answer is not None:
                    self._forgiving(outcome.answer)
            elif line.strip() or isinstance(self.session.format, AffixPrompt):
                text = line.removeprefix("/") if line.startswith("//") else line
                self._forgiving(self._asked(text))

    def _asked(self, text: str) -> Iterator[Event]:
        yield from self.session.ask(self.typed(text))

    def _opening(self, message: str | None, raw: str | None) -> Iterator[Iterator[Event]]:
        if raw is not None:
            if self.session.waits_after(raw):
                self.session.place(raw)
            else:
                yield self.session.open(raw)
        if message is not None:
            yield self.session.ask(message)

    def _forgiving(self, events: Iterator[Event]) -> None:
        try:
            self._show(events, status=True)
        except GgufrunError as error:
            self.screen.end_answer()
            self.screen.note(str(error), "")

    def _show(self, events: Iterator[Event], *, status: bool) -> Done | None:
        """Draw the events; returns the last one."""
        done = None
        with no_echo(), on_ctrl_c(self.session.context.interrupt):
            for event in events:
                if isinstance(event, Text):
                    self.screen.answer(event.text)
                elif isinstance(event, Start):
                    self.screen.fed(self.session, event.new_ids)
                else:
                    done = event
        self.screen.end_answer()
        if done is not None:
            self.screen.done(done, self.session, status=status)
        return done


def join_lines(lines: Iterable[str]) -> Iterator[str]:
    r"""Lines without their ends; one that ends in a backslash goes on in the next, with a newline between.

    >>> list(join_lines(["a\\\n", "b\n", "c\n"]))
    ['a\nb', 'c']
    """
    whole = ""
    for line in lines:
        text = line.rstrip("\r\n")
        if text.endswith("\\"):
            whole += text[:-1] + "\n"
            continue
        yield whole + text
        whole = ""
    if whole:
        yield whole.removesuffix("\n")
