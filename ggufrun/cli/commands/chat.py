"""``ggufrun chat``: what the flags mean, a model opened as they say, and the way it is talked to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ggufrun.cli.flags import records, settings
from ggufrun.cli.flags.chat import ChatFlags, FlagCommand
from ggufrun.cli.flags.guidance import negative, with_room_for_guidance
from ggufrun.cli.flags.option import SWITCH_VALUES
from ggufrun.cli.talk import answer_list, choose_model
from ggufrun.cli.terminal import abort
from ggufrun.cli.terminal.console import note, warn
from ggufrun.errors import GgufrunError, TargetError, UsageError
from ggufrun.workflows import textfile

if TYPE_CHECKING:
    from ggufrun.chat.formats.choose_format import Choice
    from ggufrun.chat.negative import Negative
    from ggufrun.chat.session import Session
    from ggufrun.chat.switch_model import Carried
    from ggufrun.engine.context import Context
    from ggufrun.engine.draft import Speculation
    from ggufrun.engine.sampling.sampler import SamplingParams

DOC = """Talk to a model.

At a terminal it is a conversation: /help lists the commands, Ctrl+C stops an answer, Ctrl+D leaves. In a pipe, the
whole of stdin is one message (after INSTRUCTION, if there is one), and the answer is all that stdout gets; with -i,
every line is a message.
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("chat", cls=FlagCommand)(records.command_from(ChatFlags, run, DOC, around=abort.guarded))


def run(flags: ChatFlags) -> None:
    """Open the model and talk, as ``flags`` say."""
    flags = settings.with_compat(flags)
    if flags.questions.batch_file is not None or flags.questions.batch_output is not None:
        answer_list.run(flags)
        return
    opening = flags.text.opening()
    source = flags.source
    if opening is not None and (flags.second is not None or (source.model is not None and source.first is not None)):
        raise UsageError("-p and INSTRUCTION are both the first message", "give one of them")
    with _session_claimed(flags.talk.session) if flags.talk.session is not None else nullcontext():
        _run(flags, opening)


@contextmanager
def _session_claimed(path: Path) -> Iterator[None]:
    """Raise TargetError, before anything is asked or loaded, for a session that could not be kept in ``path``, or that
    another chat is at: each would write over what the other adds.
    """
    from ggufrun.filelock import claimed

    if path.is_dir() or not path.parent.is_dir():
        raise TargetError(f"--session {path} cannot be written", "give a file in a folder that exists")
    if path.exists() and not os.access(path, os.W_OK):
        raise TargetError(f"--session {path} is read-only", "copy it and give the copy, or /load it in a conversation")
    with claimed(path, "leave that conversation first, or give another --session"):
        yield


def _run(flags: ChatFlags, opening: str | None) -> None:
    from ggufrun.chat.switch_model import carry
    from ggufrun.engine.context import Context
    from ggufrun.workflows.open_model import check_file
    from ggufrun.workflows.speculation import speculation, with_room_for_draft

    draft = flags.draft.params()
    guidance, n_predict = flags.guidance_params(), flags.answer.limit()
    context_params = with_room_for_guidance(with_room_for_draft(flags.context_params(), draft), guidance)
    flags.sampling.params({}, flags.text.expanded)
    # What is wrong with the flags is said before anything is asked, fetched or loaded.
    path, instruction = choose_model.find(flags)
    check_file(path)
    small = None if flags.draft.draft_model is None else choose_model.find_model(flags.draft.draft_model)
    if small is not None:
        check_file(small)
    if flags.format.style is None and not flags.format.in_prefix and not flags.format.in_suffix:
        from ggufrun.chat.formats import template_process

        template_process.prepare()
    carried: Carried | None = None
    before = path
    while True:
        with ExitStack() as stack:
            try:
                model = stack.enter_context(settings.open_model(path, flags, context_params, plain=flags.screen.plain))
                choice = settings.choose_format(model, flags)
                sampling = flags.sampling.params(choice.sampling, flags.text.expanded)
                context = stack.enter_context(Context(model, context_params))
                guesses = stack.enter_context(speculation(context, draft, small, flags.loading.mmap, note))
                away = negative(context, guidance)
                session = _session(flags, context, choice, sampling, n_predict, guesses, away, carried)
            except (GgufrunError, KeyboardInterrupt) as error:
                if carried is None or path == before:
                    raise
                # The conversation is not lost: the model that was left continues it.
                warn(str(error) or "interrupted")
                path = before
                continue
            goes_on = _talk(flags, session, choice, instruction, opening, again=carried is not None)
            if goes_on is None:
                return
            carried = carry(session, sampling, choice.system)
            before, path = path, goes_on


def _session(
    flags: ChatFlags,
    context: Context,
    choice: Choice,
    sampling: SamplingParams,
    n_predict: int | None,
    speculation: Speculation | None,
    away: Negative | None,
    carried: Carried | None,
) -> Session:
    """A conversation, new or carried over from another model."""
    from ggufrun.chat.session import Session
    from ggufrun.chat.switch_model import take_up
    from ggufrun.chat.token_budget import Budget

    system = flags.format.system_prompt(flags.text)
    session = Session(
        context,
        choice.format,
        sampling,
        system=choice.system if system is None else system,
        # A model that never ends, in a context that never fills, would write for ever.
        limit=context.n_ctx if n_predict is None else n_predict,
        once=flags.talk.once,
        shift=flags.talk.context_shift is not False,
        keep=flags.talk.keep,
        speculation=speculation,
        why=choice.why,
        negative=away,
        budget=Budget() if flags.talk.compat else None,
    )
    if carried is not None:
        take_up(session, carried)
    return session


def _talk(
    flags: ChatFlags, session: Session, choice: Choice, instruction: str | None, opening: str | None, *, again: bool
) -> Path | None:
    """Talk, ``again`` with what was said before; returns the model that is to go on with it, if there is one."""
    from ggufrun.chat.escapes import expand
    from ggufrun.chat.formats.prompt import AffixPrompt
    from ggufrun.cli.talk.conversation import Talk
    from ggufrun.cli.talk.screen import Screen

    system = flags.format.system_prompt(flags.text)
    affixes = isinstance(choice.format, AffixPrompt)
    for warning in choice.warnings:
        warn(warning)
    if system and isinstance(choice.format, AffixPrompt):
        placed = choice.format.with_system(opening, system) if opening is not None else None
        opening = placed or opening
        if placed is None and (opening is not None or not choice.format.takes_system):
            warn("the system prompt is not used: nothing says where it belongs among these affixes; write it into -p")
    screen = Screen(
        color=SWITCH_VALUES.get((flags.screen.color or "auto").lower(), "auto"),
        plain=flags.screen.plain,
        show_tokens=flags.trace.show_tokens,
        verbose_prompt=flags.trace.verbose_prompt,
        markdown=flags.screen.markdown,
        thinking=not flags.screen.hide_thinking,
        figures=flags.trace.stats,
    )
    typed = expand if flags.text.escape else str
    talk = Talk(
        session,
        screen,
        typed,
        file=flags.talk.session,
        multiline=flags.talk.multiline,
        slash=flags.talk.slash_sends,
        waits=flags.talk.interactive_first,
    )
    if again:
        talk.conversation(None, None)
        return talk.next_model
    if flags.talk.session is not None and _resumed(session, flags, system):
        opening = None if affixes else opening
    if affixes:
        # Beside affixes -p is no message but the beginning of the text itself.
        first, raw = (typed(instruction) if instruction is not None else None), opening
        if flags.talk.compat and raw is None and not session.ids and session.context.model.vocab.add_bos:
            # llama.cpp begins with a BOS and continues from there.
            raw = ""
    else:
        first, raw = (typed(instruction) if instruction is not None else opening), None
    terminal = sys.stdin.isatty()
    go_on = flags.talk.interactive or flags.talk.interactive_first
    if terminal and not flags.talk.single_turn and (go_on or sys.stdout.isatty() or (first is None and raw is None)):
        talk.conversation(first, raw)
    elif go_on and not flags.talk.single_turn:
        talk.lines(sys.stdin.buffer, first, raw, obeys=not flags.talk.compat)
    else:
        piped = "" if terminal else read_piped()
        talk.single(*joined(first, raw, typed(piped)))
    if talk.trouble and not terminal:
        # a script that goes on with the session would go on without this turn
        raise typer.Exit(1)
    return talk.next_model


def _resumed(session: Session, flags: ChatFlags, system: str | None) -> bool:
    """Take the session up that --session names, if there is one with something in it.

    It brings its prompt format and its settings along, where no flag says otherwise.
    """
    from dataclasses import asdict

    from ggufrun.chat import store
    from ggufrun.chat.stats import session_notes

    path = flags.talk.session
    assert path is not None
    if not path.exists():
        return False
    loaded = store.load(session, path, system, adopt=not flags.format.is_given(flags.answer))
    if loaded.sampling is not None:
        session.sampling = flags.sampling.params(asdict(loaded.sampling), flags.text.expanded)
        session.limit = loaded.limit if loaded.limit is not None and flags.answer.n_predict is None else session.limit
    note(*session_notes(path, loaded))
    return bool(session.past or session.ids)


def joined(first: str | None, raw: str | None, piped: str) -> tuple[str | None, str | None]:
    """What stdin brought goes after the text of the command line; one of the two texts is not None."""
    if raw is not None:
        return first, f"{raw}\n{piped}" if piped and raw else raw + piped
    text = "\n".join(part for part in (first or "", piped) if part)
    if not text.strip():
        raise UsageError("there is no message", "write one after the model, or pipe it in")
    return text, None


def read_piped() -> str:
    """All of stdin, without the newline that ``echo`` ends with."""
    return textfile.read_stdin().rstrip("\r\n")
