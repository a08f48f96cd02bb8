"""From the flags of `chat` and `complete` to what the rooms understand: the model, and its prompt format.

What is wrong with a flag is a UsageError that names it, raised before anything is loaded.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.flags import placement
from ggufrun.cli.flags.chat import ChatFlags, GenerationFlags
from ggufrun.cli.terminal.console import err, literal, note

if TYPE_CHECKING:
    from ggufrun.chat.formats.choose_format import Choice
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import Model


def with_compat(flags: ChatFlags) -> ChatFlags:
    """With ``--compat`` every flag that brings llama.cpp's way back, where no other says otherwise."""
    talk = flags.talk
    if not talk.compat:
        return flags
    return replace(
        flags,
        text=replace(flags.text, escape=flags.text.escape is None or flags.text.escape),
        answer=replace(flags.answer, n_predict=-1 if flags.answer.n_predict is None else flags.answer.n_predict),
        talk=replace(
            talk,
            slash_sends=True,
            keep=0 if talk.keep is None else talk.keep,
            context_shift=bool(talk.context_shift),
        ),
    )


def local_model(name: str) -> Path:
    """The file that ``name`` means, or the model of the local folder. Raises NotFoundError, UsageError."""
    from ggufrun.hub.models import resolve_model

    return resolve_model(name, gguf_only=True)


def model_and_instruction(flags: ChatFlags) -> tuple[Path, str | None]:
    """The model's path, and the first message."""
    name, instruction = flags.source.name(flags.second)
    return local_model(name), instruction


def choose_format(model: Model, flags: ChatFlags) -> Choice:
    """The prompt format that the flags ask for, else the one that the model reveals."""
    from ggufrun.chat.formats.choose_format import choose

    return choose(model, flags.format.options(flags.text, flags.answer))


def open_model(path: Path, flags: GenerationFlags, context: ContextParams, *, plain: bool = False) -> Model:
    """The model, where it fits with such a context; with its progress on a terminal."""
    from ggufrun.engine.model import Model, ModelParams
    from ggufrun.engine.placement import memory_check
    from ggufrun.workflows import open_model as workflow

    place, loading = flags.place, flags.loading
    params = placement.params(path, place, mmap=loading.mmap, mlock=loading.mlock)
    if not loading.oversize:
        memory_check.check(params, context)

    def load(params: ModelParams) -> Model:
        if plain or not (sys.stderr.isatty() and sys.stdin.isatty()):
            return Model(params)
        with err().status(literal(f"loading {path.name}")) as status:

            def progress(fraction: float) -> bool:
                status.update(literal(f"loading {path.name} {fraction:.0%}"))
                return True

            return Model(params, progress)

    model = workflow.open_model(params, context, placement.margin(place), load, note)
    try:
        model.check_talks()
    except BaseException:
        model.close()
        raise
    return model
