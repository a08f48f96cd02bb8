"""How a conversation is held at a terminal or in a pipe, what is shown of it, and lists of questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from ggufrun.cli.flags.option import option


@dataclass(frozen=True)
class TalkFlags:
    """The course of a conversation."""

    SECTION: ClassVar[str] = "Conversation"

    interactive: Annotated[
        bool, option("-i", "--interactive", help="Continue the conversation after the first answer, also in a pipe.")
    ] = False
    interactive_first: Annotated[
        bool, option("-if", "--interactive-first", help="Wait for a typed message before the first answer.")
    ] = False
    single_turn: Annotated[bool, option("-st", "--single-turn", help="Exit after the first answer.")] = False
    once: Annotated[bool, option("--once", help="Start a new conversation with every message.")] = False
    multiline: Annotated[
        bool, option("-mli", "--multiline-input", help="Read messages of several lines, each ended by \\ or /.")
    ] = False
    slash_sends: Annotated[
        bool, option("--slash-sends", help="Remove a / at the end of a line before sending, as llama.cpp does.")
    ] = False
    session: Annotated[
        Path | None, option("--session", help="File to keep the conversation in and to resume it from.", metavar="FILE")
    ] = None
    keep: Annotated[
        int | None,
        option("--keep", help="Tokens kept when old ones are dropped; -1 for all of -p (the system prompt)."),
    ] = None
    context_shift: Annotated[
        bool | None,
        option(
            "--context-shift/--no-context-shift",
            help="Drop old tokens when the context is full, or end the answer (drop).",
        ),
    ] = None
    compat: Annotated[
        bool, option("--compat", help="Behave as llama.cpp's interactive mode wherever the two differ.")
    ] = False


@dataclass(frozen=True)
class ScreenFlags:
    """What a terminal shows."""

    SECTION: ClassVar[str] = "Screen"

    color: Annotated[str | None, option("-co", "--color", help="Use colors (auto).", metavar="[on|off|auto]")] = None
    plain: Annotated[
        bool, option("--plain", "--simple-io", help="Turn off line editing, colors and the status line.")
    ] = False
    markdown: Annotated[
        bool, option("--markdown/--no-markdown", help="Render answers as Markdown at a terminal, or print them raw.")
    ] = True
    hide_thinking: Annotated[
        bool, option("--hide-thinking", "--hidethinking", help="Hide the thinking of a model.")
    ] = False


@dataclass(frozen=True)
class TraceFlags:
    """What is reported on stderr."""

    SECTION: ClassVar[str] = "Reports on stderr"

    show_tokens: Annotated[bool, option("--show-tokens", help="Print the token ids of every turn.")] = False
    stats: Annotated[
        bool, option("--stats", "--show-timings", help="Print speed and token counts after every answer.")
    ] = False
    verbose_prompt: Annotated[
        bool, option("--verbose-prompt", help="Print every token of the prompt with its text.")
    ] = False


@dataclass(frozen=True)
class ListFlags:
    """A list of questions to answer."""

    SECTION: ClassVar[str] = "List of questions"

    batch_file: Annotated[
        Path | None, option("--file", help="File with questions to answer, one per line or as JSON.", metavar="LIST")
    ] = None
    batch_output: Annotated[
        Path | None, option("-o", "--output", help="File for the answers to --file: .jsonl or .json.", metavar="PATH")
    ] = None
    parallel: Annotated[
        int | None, option("-np", "--parallel", help="Number of questions answered in parallel (16).", metavar="N")
    ] = None
