"""Three ways to talk: a conversation at a terminal, a message a line, and one message in a pipe."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from ggufrun.chat import commands, store
from ggufrun.chat.formats.prompt import AffixPrompt
from ggufrun.chat.reply import Text, Thought
from ggufrun.chat.session import Done, Event, Session, Start
from ggufrun.cli.talk import choose_model
from ggufrun.cli.talk.input import Reader, history_file
from ggufrun.cli.talk.keyboard import Hangup, no_echo, on_ctrl_c
from ggufrun.cli.talk.rescue import mark_continued, recently_rescued, rescue_file
from ggufrun.cli.talk.screen import Screen
from ggufrun.cli.terminal.abort import guarded
from ggufrun.engine.generate import StopReason
from ggufrun.errors import EndlessError, GgufrunError

MENTIONED = 3
"""Conversations that were cut off, of which a new one tells."""
"""Seconds."""


class Talk:
    """A session, the screen it is drawn on, and what becomes of typed text (``typed``).

    With ``file`` the session is kept there after every turn. ``multiline`` is llama.cpp's ``-mli``; with ``slash`` a
    line that ends in one is sent without it, as there. With ``waits`` the text at the beginning of the context is not
    answered: a message comes first. Without ``saves`` it is no conversation that somebody might go on with. ``trouble``
    says why the session could not be kept, when that was last tried.
    """

    def __init__(
        self,
        session: Session,
        screen: Screen,
        typed: Callable[[str], str],
        *,
        file: Path | None = None,
        multiline: bool = False,
        slash: bool = False,
        waits: bool = False,
        saves: bool = True,
    ) -> None:
        self.session = session
        self.screen = screen
        self.typed = typed
        self.file = file
        self.multiline = multiline
        self.slash = slash
        self.waits = waits
        self.saves = saves
        self.next_model: Path | None = None
        self.trouble = ""

    def single(self, message: str | None, raw: str | None) -> None:
        """One answer and nothing else. Ctrl+C shows what there is and leaves with KeyboardInterrupt."""
        with self._kept():
            for events in self._opening(message, raw):
                self._checked(events)

    def lines(self, source: Iterable[bytes], message: str | None, raw: str | None, *, obeys: bool = True) -> None:
        """Every line of ``source`` is a message, as in llama.cpp's interactive mode; a backslash joins two lines.

        With ``obeys`` a line that is one is carried out, as at a terminal; what only looks like one is a message.
        """
        with self._kept():
            for events in self._opening(message, raw):
                self._checked(events)
            texts = (line.decode("utf-8", "surrogateescape") for line in source)
            for line in join_lines(texts, multiline=self.multiline, slash=self.slash):
                command = commands.parse(line) if obeys else None
                if command is not None and command[0] in commands.BY_NAME:
                    if not self._obeyed_in_pipe(command):
                        break
                    continue
                line = commands.message(line) if obeys else line
                if self._handed_back(line):
                    continue
                if line or isinstance(self.session.format, AffixPrompt):
                    self._checked(self.session.ask(self.typed(line)))

    def _obeyed_in_pipe(self, command: tuple[str, str]) -> bool:
        """Do what a command says where nobody is at the keyboard; returns whether there is more to come."""
        outcome = commands.run(self.session, *command)
        self.screen.note(*outcome.lines)
        self.screen.table(outcome.rows)
        if outcome.thinking is not None:
            self.screen.thinking = outcome.thinking
        if outcome.copy is not None or outcome.model is not None or outcome.edit is not None:
            self.screen.note(f"/{command[0]} needs a terminal")
        elif outcome.answer is not None:
            self._checked(outcome.answer)
        elif outcome.message is not None:
            self._checked(self.session.ask(outcome.message))
        else:
            self._keep(always=False)
        return not outcome.leave

    def _checked(self, events: Iterator[Event]) -> None:
        done = self._show(events, status=False)
        if done is not None and done.reason is StopReason.INTERRUPTED:
            raise KeyboardInterrupt

    def conversation(self, message: str | None, raw: str | None) -> None:
        """A person at a terminal. Errors that concern one message do not end the conversation.

        Afterwards `next_model` is the one that is to go on with it, if the user wants another.
        """
        self.screen.header(self.session, first_time=not history_file().exists())
        if self.file is None and not self.session.past:
            for rescued in recently_rescued()[:MENTIONED]:
                self.screen.note(f"a conversation that was cut off is kept: /load {rescued}", "")
        reader = Reader(
            colored=self.screen.colored,
            plain=self.screen.plain,
            arguments=arguments(),
            status=lambda: self.screen.status(self.session),
            multiline=self.multiline,
            slash=self.slash,
        )
        self.screen.toolbar = reader.edits
        with Hangup(self.session.context.interrupt) as hangup:
            # Between an answer and the prompt Ctrl+C comes too late for the one and too early for the other.
            with self._kept(), on_ctrl_c(lambda: None):
                try:
                    for events in self._opening(message, raw):
                        self._forgiving(events)
                    while not hangup.happened and self._turn(reader, hangup):
                        pass
                except OSError as error:
                    # A terminal that is gone may be noticed by writing to it before the signal comes.
                    if error.errno != errno.EIO:
                        raise
                    hangup.note()
            if hangup.happened and self.file is None and self.session.past:
                store.save(self.session, rescue_file())
        if hangup.happened:
            raise SystemExit(hangup.status)

    def _turn(self, reader: Reader, hangup: Hangup) -> bool:
        """Read a line and do what it says; returns whether there is more to come."""
        with hangup.reading():
            line = reader.read(self.screen)
        if line is None:
            return False
        command = commands.parse(line)
        if command is not None:
            return self._obeyed(command, reader, hangup)
        if self._handed_back(line):
            self._keep(always=False)
        elif line.strip() or isinstance(self.session.format, AffixPrompt):
            self._forgiving(self._asked(commands.message(line)))
        return True

    def _obeyed(self, command: tuple[str, str], reader: Reader, hangup: Hangup) -> bool:
        """Do what a command says; returns whether there is more to come."""
        outcome = commands.run(self.session, *command)
        if command[0] == "load" and self.session.past:
            mark_continued(Path(command[1].strip("\"'")).expanduser())
        self.screen.note(*outcome.lines)
        self.screen.table(outcome.rows)
        if self.screen.toolbar and outcome.answer is None and outcome.message is None and outcome.edit is None:
            self.screen.note("")
        if outcome.thinking is not None:
            self.screen.thinking = outcome.thinking
        if outcome.copy is not None:
            self.screen.copy(outcome.copy)
        if outcome.model is not None:
            return not self._leaves_for(outcome.model)
        if outcome.answer is not None:
            self._forgiving(outcome.answer)
        elif outcome.message is not None:
            self._forgiving(self.session.ask(outcome.message))
        elif outcome.edit is not None:
            with hangup.reading():
                changed = reader.read(self.screen, commands.typed(outcome.edit))
            other = None if changed is None else commands.parse(changed)
            if changed is None or not changed.strip():
                self.screen.note("nothing was changed", "")
            elif other is not None:
                return self._obeyed(other, reader, hangup)
            else:
                self.session.undo()
                self._forgiving(self._asked(commands.message(changed)))
        else:
            self._keep(always=False)
        return not outcome.leave

    def _leaves_for(self, name: str) -> bool:
        """Find the model that is to go on; False, and a line, where there is none."""
        from ggufrun.workflows.open_model import check_file

        try:
            path = choose_model.find_model(name)
            check_file(path)
        except GgufrunError as error:
            self.screen.note(str(error), "")
            return False
        self.next_model = path
        return True

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """However this ends, the session is in its file afterwards, with all that was computed."""
        with guarded(self._salvaged):
            try:
                yield
            finally:
                self._keep(always=True)

    def _salvaged(self) -> str:
        """The words of a conversation whose engine is dying, in its file or in one of ours."""
        if not self.session.salvage() or not self.saves:
            return ""
        path = self.file or rescue_file()
        store.save(self.session, path, words_only=True)
        return f"the conversation is kept: --session {path} continues it"

    def _keep(self, *, always: bool) -> None:
        if self.file is None:
            return
        trouble = ""
        try:
            store.save(self.session, self.file, always=always)
        except GgufrunError as error:
            # Not the conversation's fault, nor its end. It is said once.
            trouble = str(error)
            if trouble != self.trouble:
                self.screen.note(trouble)
        self.trouble = trouble

    def _handed_back(self, line: str) -> bool:
        """Is it the user's turn again after this line, as llama.cpp has it?"""
        start = self.session.hand_back(self.typed(line))
        if start is not None:
            self.screen.fed(self.session, start.new_ids)
        return start is not None

    def _asked(self, text: str) -> Iterator[Event]:
        yield from self.session.ask(self.typed(text))

    def _opening(self, message: str | None, raw: str | None) -> Iterator[Iterator[Event]]:
        if raw is not None:
            if self.waits or self.session.waits_after(raw):
                self.screen.fed(self.session, self.session.place(raw).new_ids)
            else:
                yield self.session.open(raw)
        if message is not None:
            yield self.session.ask(message)

    def _forgiving(self, events: Iterator[Event]) -> None:
        try:
            self._show(events, status=True)
        except EndlessError:
            # a thread is left that computes until this ends
            raise
        except GgufrunError as error:
            self.screen.end_answer()
            self.screen.note(str(error), "")

    def _show(self, events: Iterator[Event], *, status: bool) -> Done | None:
        """Draw the events; returns the last one."""
        done = None
        # In a conversation somebody else listens for the end.
        with _closing(events), no_echo(), on_ctrl_c(self.session.context.interrupt, ends=not status):
            for event in events:
                if isinstance(event, Text):
                    self.screen.answer(event.text)
                elif isinstance(event, Thought):
                    self.screen.thought(event.text)
                elif isinstance(event, Start):
                    self.screen.fed(self.session, event.new_ids)
                else:
                    done = event
        self.screen.end_answer()
        if done is not None:
            self.screen.done(done, self.session, status=status)
        self._keep(always=False)
        return done


@contextlib.contextmanager
def _closing(events: Iterator[Event]) -> Iterator[None]:
    """What came of an answer is in the session afterwards, also when it could not be shown."""
    try:
        yield
    finally:
        if isinstance(events, Generator):
            events.close()


def arguments() -> dict[str, list[str] | None]:
    """Commands for completion, each with the words that may follow it; None where a file does."""
    from dataclasses import fields

    from ggufrun.chat.formats.stylebook import known as known_styles
    from ggufrun.engine.sampling.sampler import SamplingParams

    known: dict[str, list[str] | None] = {name: [] for name in sorted(commands.BY_NAME)}
    known |= dict.fromkeys(commands.TAKES_FILE)
    return known | {
        "style": ["auto", *known_styles()],
        "think": ["on", "off", "show", "hide"],
        "set": [*(item.name for item in fields(SamplingParams)), "n"],
        "help": [command.names[0] for command in commands.COMMANDS],
    }


def join_lines(lines: Iterable[str], *, multiline: bool = False, slash: bool = False) -> Iterator[str]:
    r"""Lines without their ends; one that ends in a backslash goes on in the next, with a newline between.

    With ``multiline``, llama.cpp's ``-mli``, it is the other way round: a message goes on until a line ends in a
    backslash or a slash. With ``slash`` one that ends in a slash loses it and ends the message, as always in llama.cpp.

    >>> list(join_lines(["a\\\n", "b\n", "c\n"]))
    ['a\nb', 'c']
    """
    whole, more = "", False
    for line in lines:
        text = line.rstrip("\r\n")
        sends = text.endswith("/") and (multiline or slash)
        turned = text.endswith("\\")
        text = text[:-1] if sends or turned else text
        more = not sends and turned != multiline
        if more:
            whole += text + "\n"
            continue
        yield whole + text
        whole = ""
    if more:
        yield whole.removesuffix("\n")
