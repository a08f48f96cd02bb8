"""``ggufrun complete``: the model goes on where a text ends, for base models and pipes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli.flags import records, settings
from ggufrun.cli.flags.chat import ChatFlags, FlagCommand
from ggufrun.cli.flags.draft import draft_params
from ggufrun.cli.flags.guidance import doubled, guidance_params, negative
from ggufrun.cli.talk import choose_model
from ggufrun.cli.terminal import abort
from ggufrun.cli.terminal.console import note
from ggufrun.errors import UsageError
from ggufrun.workflows import textfile

if TYPE_CHECKING:
    from ggufrun.chat.session import Session

DOC = """Let a model continue a text.

The text is that of -p or -f, else all of stdin. stdout gets the continuation and nothing else; --echo puts the text
before it. Without -n it goes on until the model ends it or the context is full.
"""

WITHOUT = frozenset(
    {
        "second",
        "system",
        "system_file",
        "style",
        "chat_template",
        "chat_template_file",
        "chat_template_kwargs",
        "think",
        "reasoning",
        "reasoning_effort",
        "hide_thinking",
        "in_prefix",
        "in_suffix",
        "in_prefix_bos",
        "conversation",
        "interactive",
        "interactive_first",
        "single_turn",
        "once",
        "color",
        "plain",
        "keep",
        "context_shift",
        "multiline",
        "slash_sends",
        "compat",
        "session",
        "batch_file",
        "batch_output",
        "parallel",
        "markdown",
    }
)
"""Flags of a conversation, which mean nothing here."""

FILLED = -2
"""Of ``-n``: until the context is full. Base models often know no end, and a pipe must have one."""


@dataclass(frozen=True)
class CompleteFlags(ChatFlags):
    """What stands on the command line, unchecked."""

    echo: Annotated[bool, typer.Option("--echo", help="Print the text before its continuation.")] = False


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("complete", cls=FlagCommand)(records.command_from(CompleteFlags, run, DOC, WITHOUT, abort.guarded))


def run(flags: CompleteFlags) -> None:
    """Open the model and continue the text."""
    from ggufrun.workflows.open_model import check_file
    from ggufrun.workflows.speculation import speculation, with_room_for_draft

    if flags.model is not None and flags.first is not None:
        raise UsageError("the model is given twice, by -m and by itself", "give it once; -p takes the text")
    name, _ = settings.model_name(flags)
    path = choose_model.named(name)
    check_file(path)
    text = prompt_text(flags)
    from ggufrun.chat.formats.choose_format import recommended
    from ggufrun.chat.formats.plain import PlainPrompt
    from ggufrun.chat.session import Session
    from ggufrun.engine.context import Context

    # What is wrong with the flags is said before a model is loaded.
    draft = draft_params(flags)
    guidance, limit = guidance_params(flags), settings.n_predict(flags)
    context_params = doubled(with_room_for_draft(settings.context_params(flags), draft), guidance)
    settings.sampling_params(flags, {})
    small = None if flags.draft_model is None else choose_model.named(flags.draft_model)
    if small is not None:
        check_file(small)
    with (
        settings.open_model(path, flags, context_params) as model,
        Context(model, context_params) as context,
        speculation(context, draft, small, flags.mmap, note) as guesses,
    ):
        session = Session(
            context,
            PlainPrompt(model.vocab, reverse=[settings.expanded(flags, stop) for stop in flags.reverse or ()]),
            settings.sampling_params(flags, recommended(model)),
            limit=FILLED if limit is None or limit < 0 else limit,
            speculation=guesses,
            negative=negative(context, guidance),
        )
        _continue(flags, session, text)


def _continue(flags: CompleteFlags, session: Session, text: str) -> None:
    from ggufrun.cli.talk.conversation import Talk
    from ggufrun.cli.talk.screen import Screen

    screen = Screen(
        color="off",
        plain=True,
        show_tokens=flags.show_tokens,
        verbose_prompt=flags.verbose_prompt,
        figures=flags.stats,
    )
    if flags.echo:
        screen.answer(text)
    Talk(session, screen, str, saves=False).single(None, text)


def prompt_text(flags: CompleteFlags) -> str:
    """The text of ``-p`` or ``-f``, or stdin as it stands but for its last newline."""
    text = settings.opening_text(flags)
    if text is None and flags.prompt is None and flags.prompt_file is None:
        if sys.stdin.isatty():
            raise UsageError("there is no text to continue", "give one with -p, or pipe it in")
        text = textfile.read_stdin().removesuffix("\n").removesuffix("\r")
    if not text:
        raise UsageError("the text to continue is empty", "give one with -p, or pipe it in")
    return text
