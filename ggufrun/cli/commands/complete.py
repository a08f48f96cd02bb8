"""``ggufrun complete``: the model goes on where a text ends, for base models and pipes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from ggufrun.cli.flags import records, settings
from ggufrun.cli.flags.chat import FlagCommand, GenerationFlags
from ggufrun.cli.flags.guidance import negative, with_room_for_guidance
from ggufrun.cli.flags.option import option
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

FILLED = -2
"""Of ``-n``: until the context is full. Base models often know no end, and a pipe must have one."""


@dataclass(frozen=True)
class EchoFlags:
    """What is printed besides the continuation."""

    SECTION: ClassVar[str] = "Length of answers"

    echo: Annotated[bool, option("--echo", help="Print the text before the continuation.")] = False


@dataclass(frozen=True)
class CompleteFlags(GenerationFlags):
    """What stands on the command line, unchecked."""

    output: EchoFlags = field(default_factory=EchoFlags)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("complete", cls=FlagCommand)(records.command_from(CompleteFlags, run, DOC, abort.guarded))


def run(flags: CompleteFlags) -> None:
    """Open the model and continue the text."""
    from ggufrun.workflows.open_model import check_file
    from ggufrun.workflows.speculation import speculation, with_room_for_draft

    if flags.source.model is not None and flags.source.first is not None:
        raise UsageError("the model is given twice, by -m and by itself", "give it once; -p takes the text")
    name, _ = flags.source.name()
    path = choose_model.find_model(name)
    check_file(path)
    text = prompt_text(flags)
    from ggufrun.chat.formats.choose_format import recommended
    from ggufrun.chat.formats.plain import PlainPrompt
    from ggufrun.chat.session import Session
    from ggufrun.engine.context import Context

    # What is wrong with the flags is said before a model is loaded.
    draft = flags.draft.params()
    guidance, limit = flags.guidance_params(), flags.answer.limit()
    context_params = with_room_for_guidance(with_room_for_draft(flags.context_params(), draft), guidance)
    flags.sampling.params({}, flags.text.expanded)
    small = None if flags.draft.draft_model is None else choose_model.find_model(flags.draft.draft_model)
    if small is not None:
        check_file(small)
    with (
        settings.open_model(path, flags, context_params) as model,
        Context(model, context_params) as context,
        speculation(context, draft, small, flags.loading.mmap, note) as guesses,
    ):
        session = Session(
            context,
            PlainPrompt(model.vocab, reverse=[flags.text.expanded(stop) for stop in flags.answer.reverse or ()]),
            flags.sampling.params(recommended(model), flags.text.expanded),
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
        show_tokens=flags.trace.show_tokens,
        verbose_prompt=flags.trace.verbose_prompt,
        figures=flags.trace.stats,
    )
    if flags.output.echo:
        screen.answer(text)
    Talk(session, screen, str, saves=False).single(None, text)


def prompt_text(flags: CompleteFlags) -> str:
    """The text of ``-p`` or ``-f``, or stdin as it stands but for its last newline."""
    text = flags.text.opening()
    if text is None and flags.text.prompt is None and flags.text.prompt_file is None:
        if sys.stdin.isatty():
            raise UsageError("there is no text to continue", "give one with -p, or pipe it in")
        text = textfile.read_stdin().removesuffix("\n").removesuffix("\r")
    if not text:
        raise UsageError("the text to continue is empty", "give one with -p, or pipe it in")
    return text
