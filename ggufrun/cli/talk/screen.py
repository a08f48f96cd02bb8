"""What a conversation looks like: answers on stdout as they come, everything else on stderr and dim."""

from __future__ import annotations

import base64
import os
import sys
import textwrap
from collections.abc import Sequence
from time import monotonic
from typing import Any

from rich.cells import cell_len

from ggufrun.chat.session import Done, Session
from ggufrun.chat.stats import dropped_note, figures
from ggufrun.cli.terminal.console import err, shown
from ggufrun.engine.generate import StopReason

CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, which a terminal would obey: a model's words must not move the cursor or set the title."""

FRAME = 0.02
"""Seconds between two refreshes of a fast answer."""

FIRST_TIME = "Enter sends, Alt+Enter starts a new line, Ctrl+C stops an answer"
"""Told to those who have never typed anything here."""

DIM, BRIGHT = "\x1b[2m", "\x1b[22m"

REASONS: dict[StopReason, str] = {
    StopReason.LENGTH: "cut at the token limit (-n)",
    StopReason.FULL: "the context is full: /clear starts again, -c gives a longer one",
    StopReason.INTERRUPTED: "stopped",
}
"""Ends of an answer that the user should hear of."""


class Screen:
    """Draws. ``color`` is on, off or auto; ``plain`` leaves out colours, header and status; ``markdown`` draws answers
    at a terminal as such; ``thinking`` shows what a model thinks before it answers, ``figures`` what answers took.
    """

    def __init__(
        self,
        *,
        color: str,
        plain: bool,
        show_tokens: bool,
        verbose_prompt: bool,
        markdown: bool = False,
        thinking: bool = True,
        figures: bool = False,
    ) -> None:
        self.plain = plain
        self.show_tokens = show_tokens
        self.verbose_prompt = verbose_prompt
        self.thinking = thinking
        self.figures = figures
        capable = err().is_terminal and not err().is_dumb_terminal
        self.colored = not plain and (color == "on" or (color == "auto" and capable))
        self._obeys = sys.stdout.isatty()
        self._wraps = err().is_terminal
        self._column = 0
        self._shown_at = 0.0
        self._speed = ""
        self._thought_since: float | None = None
        self._row: Any = None
        self._forgets = False
        self.toolbar = False
        self._markdown: Any = None
        if markdown and self.colored and self._obeys and os.environ.get("TERM", "dumb") != "dumb":
            from ggufrun.cli.talk.markdown import MarkdownWriter

            self._markdown = MarkdownWriter(sys.stdout.write)
        if not self._obeys:
            # A pipe takes UTF-8, whatever the locale says.
            sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]

    def thought(self, text: str) -> None:
        """A piece of what the model thinks: dim at a terminal, on stderr where stdout is for answers."""
        stream = sys.stdout if self._obeys else sys.stderr
        if stream.isatty():
            text = text.translate(CONTROLS)
        first, self._thought_since = self._thought_since is None, self._thought_since or monotonic()
        if not self.thinking:
            if first and self._obeys and self.colored:
                stream.write(f"{DIM}thinking …{BRIGHT}")
                stream.flush()
            return
        dim = self.colored and stream.isatty()
        if first and not dim:
            stream.write("(thinking)\n")
        stream.write(f"{DIM}{self._broken(text, first)}{BRIGHT}" if dim else text)
        self._refresh(stream)

    def _broken(self, text: str, first: bool) -> str:
        """A piece of what is thought, its lines broken between words."""
        from ggufrun.cli.talk.wrap import Row

        written = ""
        for line in text.splitlines(keepends=True):
            if first or self._row is None:
                self._row, first = Row(err().width), False
            body = line.removesuffix("\n")
            written += self._row.add(body) if body else ""
            if body != line:
                written += "\n"
                self._row = None
        return written

    def _end_thought(self) -> None:
        """What was thought is over: a line apart comes the answer."""
        if self._thought_since is None:
            return
        seconds, self._thought_since = monotonic() - self._thought_since, None
        stream = sys.stdout if self._obeys else sys.stderr
        if self.thinking:
            stream.write("\n\n")
        elif self._obeys and self.colored:
            stream.write(f"\r\x1b[K{DIM}thought for {seconds:.1f} s{BRIGHT}\n\n")
        stream.flush()

    def _refresh(self, stream: Any) -> None:
        # Sooner than anybody sees, but not for each of a thousand tokens a second.
        now = monotonic()
        if now - self._shown_at >= FRAME:
            stream.flush()
            self._shown_at = now

    def answer(self, text: str) -> None:
        """A piece of an answer."""
        self._end_thought()
        if self._obeys:
            text = text.translate(CONTROLS)
        if text:
            if self._markdown is not None:
                self._markdown.feed(text)
            else:
                sys.stdout.write(text)
            self._column = 0 if text.endswith("\n") else 1
            self._refresh(sys.stdout)

    def end_answer(self) -> None:
        """Close the last line of an answer."""
        self._end_thought()
        if self._column:
            self.answer("\n")
        if self._markdown is not None:
            self._markdown.end()
        sys.stdout.flush()

    def copy(self, text: str) -> None:
        """Ask the terminal to put ``text`` into the clipboard (OSC 52)."""
        terminal = next((stream for stream in (sys.stdout, sys.stderr) if stream.isatty()), None)
        if terminal is not None:
            data = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
            terminal.write(f"\x1b]52;c;{data}\x07")
            terminal.flush()

    def status(self, session: Session) -> str:
        """The line under the prompt: the model, how full its context is, how fast the last answer came.

        What does not fit is left out, the speed first, then the model's name.
        """
        used = f"context {len(session.ids)}/{session.context.n_ctx}"
        name = shown(session.context.model.name)
        for parts in ((name, used, self._speed), (name, used), (used,)):
            line = " · ".join(part for part in parts if part)
            if cell_len(line) < err().width:
                break
        return line

    def note(self, *lines: str) -> None:
        """Lines beside the conversation."""
        for line in lines:
            # A terminal breaks lines where they end, rich between words.
            err().print(
                shown(line, lines=True), markup=False, style="dim" if self.colored else None, soft_wrap=not self._wraps
            )

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Rows of two columns; on a narrow screen the second goes below the first."""
        if not rows:
            return
        width = max(len(first) for first, _ in rows)
        room = err().width - width - 2
        for first, second in rows:
            if not first and not second:
                self.note("")
            elif not self._wraps:
                self.note(f"{first:<{width}}  {second}")
            elif room < 30:
                self.note(first, *textwrap.wrap(second, err().width - 3, initial_indent="  ", subsequent_indent="  "))
            else:
                lines = textwrap.wrap(second, room - 1) or [""]
                self.note(f"{first:<{width}}  {lines[0]}", *(f"{'':<{width}}  {line}" for line in lines[1:]))

    def header(self, session: Session, *, first_time: bool = False) -> None:
        """What is being talked to, and how."""
        if self.plain:
            return
        model, context = session.context.model, session.context
        beyond = f" (trained with {model.train_context})" if context.n_ctx > model.train_context > 0 else ""
        threads = f"{context.threads} thread" + ("s" if context.threads != 1 else "")
        self.note(
            f"{shown(model.name)} · {model.architecture} · {_count(model.parameters)} · {model.quantization} · "
            f"context {context.n_ctx}{beyond} · {threads}",
            shown(f"format {session.format.name}: {session.why}"),
            "/help lists the commands, Ctrl+D leaves",
            *((FIRST_TIME,) if first_time else ()),
            "",
        )

    def fed(self, session: Session, ids: Sequence[int]) -> None:
        """The tokens of a prompt, for those who asked to see them."""
        vocab = session.context.model.vocab
        if self.verbose_prompt:
            self.note(f"number of tokens in prompt = {len(ids)}")
            self.note(*(f"{token:6d} -> '{vocab.text(token)}'" for token in ids))
        if self.show_tokens:
            self.note("fed: " + " ".join(map(str, ids)))

    def done(self, done: Done, session: Session, *, status: bool) -> None:
        """After an answer: its tokens if wanted, why it ended if unusual, and its speed."""
        if self.show_tokens:
            self.note("answered: " + " ".join(map(str, done.generated)))
        if self.figures:
            self.note(*figures(session))
        reason = REASONS.get(done.reason)
        if not self._forgets and (what := dropped_note(session)):
            self._forgets = True
            self.note(f"the conversation has outgrown its context: the model has forgotten {what[0]} (-c: more room)")
        if not status or self.plain:
            last = session.past[-1] if session.past else None
            if last is not None and last.reasoning and not last.answer and done.reason in REASONS:
                self.note(f"no answer: {reason} while the model was thinking (--no-think, or a higher -n or -c)")
            elif reason and done.reason is StopReason.FULL:
                self.note(reason)
            return
        stats = done.stats
        self._speed = f"{stats.tokens_per_second:.1f} tokens/s"
        parts = [
            f"{stats.tokens} tokens",
            f"{stats.tokens_per_second:.1f} tokens/s",
            f"context {done.used}/{session.context.n_ctx}",
        ]
        if self.toolbar:
            # The line under the prompt says the rest, and leaves nothing on the screen.
            self.note(*([reason] if reason else []), "")
        else:
            self.note(" · ".join([*parts, reason] if reason else parts), "")


def _count(number: int) -> str:
    """``3.4M``, ``1.3B``."""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
