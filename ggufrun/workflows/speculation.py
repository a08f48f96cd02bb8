"""Who guesses ahead of a model: a small one, or what the conversation has already said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.draft import DraftModel, DraftParams, Lookup, Speculation, check_vocabularies
from ggufrun.engine.model import ModelParams
from ggufrun.workflows.open_model import Note, open_model, silent


def with_room_for_draft(params: ContextParams, draft: DraftParams | None) -> ContextParams:
    """``params`` for a context in which every guessed token can have its logits."""
    return params if draft is None else replace(params, outputs=min(draft.most + 1, params.n_batch))


@contextmanager
def speculation(
    context: Context, draft: DraftParams | None, small_model: Path | None = None, mmap: bool = True, note: Note = silent
) -> Iterator[Speculation | None]:
    """Guess ahead in ``context``: with the draft model ``small_model``, open meanwhile, or by looking up.

    Without ``draft`` nobody guesses.
    """
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
        with open_model(ModelParams(small_model, mmap=mmap), params, note=note, quiet=True) as model:
            check_vocabularies(context.model, model)
            with Context(model, params) as small:
                drafter = DraftModel(small, draft.sure)
                try:
                    yield Speculation(context, drafter, draft)
                finally:
                    drafter.close()
