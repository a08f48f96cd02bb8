"""``--lookup`` and ``-md``: who guesses ahead in a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.terminal.console import note
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.cli.flags.chat import ChatFlags
    from ggufrun.engine.context import Context, ContextParams
    from ggufrun.engine.draft import DraftParams, Speculation


def draft_params(flags: ChatFlags) -> DraftParams | None:
    """The lengths of a guess; None when nobody is to guess. Raises UsageError."""
    from ggufrun.engine.draft import DraftParams

    if not flags.lookup and flags.draft_model is None:
        if any(value is not None for value in (flags.draft_max, flags.draft_min, flags.draft_p_min)):
            raise UsageError("the --draft flags say how much is guessed, not by whom", "add --lookup or -md")
        return None
    if flags.lookup and flags.draft_model is not None:
        raise UsageError("--lookup and -md both guess ahead", "give one of them")
    usual = DraftParams()
    return DraftParams(
        usual.most if flags.draft_max is None else flags.draft_max,
        usual.least if flags.draft_min is None else flags.draft_min,
        usual.sure if flags.draft_p_min is None else flags.draft_p_min,
    )


def widened(params: ContextParams, draft: DraftParams | None) -> ContextParams:
    """A context in which every guess can have its logits."""
    return params if draft is None else replace(params, outputs=min(draft.most + 1, params.n_batch))


@contextmanager
def guessing(
    flags: ChatFlags, context: Context, draft: DraftParams | None, small_model: Path | None
) -> Iterator[Speculation | None]:
    """The speculation that the flags ask for, with the draft model, a file, open while it is needed."""
    from ggufrun.engine.context import Context, ContextParams
    from ggufrun.engine.draft import DraftModel, Lookup, Speculation, check_vocabularies
    from ggufrun.engine.model import ModelParams
    from ggufrun.workflows.open_model import open_model

    if draft is None:
        yield None
    elif small_model is None:
        yield Speculation(context, Lookup(), draft)
    else:
        given = context.params
        params = ContextParams(
            n_ctx=context.n_ctx, threads=context.threads, threads_batch=given.threads_batch, n_ubatch=given.n_ubatch
        )
        # after the model itself: it gets what is left
        small_params = ModelParams(small_model, mmap=flags.mmap)
        with open_model(small_params, params, note=note, quiet=True) as model:
            check_vocabularies(context.model, model)
            with Context(model, params) as small:
                drafter = DraftModel(small, draft.sure)
                try:
                    yield Speculation(context, drafter, draft)
                finally:
                    drafter.close()
