"""The one place that runs a model: a ``llama_context``, the batch that it decodes, and what stops it.

Whoever decodes (a conversation, texts continued together, chunks of a long text) has a decoder and writes into its
batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ggufrun.engine.model import DAMAGED, Model, catching
from ggufrun.engine.placement.devices import card_memory
from ggufrun.engine.token_batch import TokenBatch
from ggufrun.errors import EngineError
from ggufrun.native.library import llama
from ggufrun.native.log import forget_log, reason
from ggufrun.native.signals import defer_signals, note_signals

OK, NO_SLOT, ABORTED = 0, 1, 2
"""What ``llama_decode`` returns; of `NO_SLOT` the memory has no room for the batch."""


class Text(Protocol):
    """A text in the memory, as far as a decoder knows it. ``ready``: the logits of the last batch are this text's."""

    ready: bool

    def adopt(self, ids: Sequence[int]) -> None:
        """The memory holds ``ids`` of this text now."""


class Interrupted(Exception):
    """`Decoder.interrupt` was called while tokens were being decoded. What was decoded stays in the memory."""


class Decoder:
    """A ``llama_context`` made from ``native``, its parameters. Close it before its model.

    ``texts`` are those in its memory: whatever is decoded takes their logits away. ``n_batch`` is how many tokens were
    asked to be decoded in one call, ``outputs`` how many of them may have logits. Raises EngineError with ``advice``
    when llama.cpp cannot make a context of ``tokens``.
    """

    def __init__(self, model: Model, native: Any, tokens: int, advice: str) -> None:
        api = llama()
        self.model = model
        self.texts: list[Text] = []
        self.n_batch, self.outputs = int(native.n_batch), int(native.n_outputs_max)
        forget_log()
        with defer_signals(), catching(model.params):
            self._context = api.llama_init_from_model(model.pointer, native)
        if not self._context:
            why = reason("llama.cpp gave no reason")
            raise EngineError(f"no context of {tokens} tokens: {why}", DAMAGED if "GGML_ASSERT" in why else advice)
        self.memory = api.llama_get_memory(self._context)
        self.batch = TokenBatch(api.llama_n_batch(self._context))
        self._stop = False
        self._decode = api.llama_decode
        self._abort = api.ggml_abort_callback(self._asked_to_stop)
        self._no_abort = api.ggml_abort_callback()

    @property
    def pointer(self) -> Any:
        """The ``llama_context *``."""
        if not self._context:
            raise EngineError("the context is closed")
        return self._context

    def interrupt(self) -> None:
        """Stop decoding soon; safe to call from a signal handler. Stays asked for until `resume`."""
        self._stop = True

    def resume(self) -> None:
        """Forget an earlier `interrupt`."""
        self._stop = False

    @property
    def interrupted(self) -> bool:
        """Has `interrupt` been called since the last `resume`?"""
        return self._stop

    def _asked_to_stop(self, _: Any) -> bool:
        return self._stop

    def decode(self, count: int) -> int:
        """Compute the first ``count`` tokens of ``batch``; returns llama.cpp's status. All logits are new then."""
        for text in self.texts:
            text.ready = False
        forget_log()
        self.batch.native.n_tokens = count
        return self._decode(self._context, self.batch.native)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """While this lasts, `interrupt`, or a signal, stops even a computation that is under way."""
        api = llama()
        # Called some hundred times a batch: nothing compared with a prompt's work, too much with a single token's.
        api.llama_set_abort_callback(self.pointer, self._abort, None)
        try:
            with note_signals(self.interrupt):
                yield
        finally:
            api.llama_set_abort_callback(self.pointer, self._no_abort, None)

    def failure(self, status: int, advice: str) -> EngineError:
        """What a status that is not `OK` means. What the memory holds then is unknown, so it is emptied."""
        why = reason(f"llama_decode returned {status}")
        self.clear()
        return EngineError(f"the model could not be run: {why}", advice)

    def clear(self) -> None:
        """Forget all texts. A closed context has nothing to forget."""
        if self._context:
            llama().llama_memory_clear(self.memory, False)
        for text in self.texts:
            text.adopt([])

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        if self._context:
            llama().llama_free(self._context)
            self._context = None


def require_memory(needed: int, what: str, advice: str, *, cards: bool) -> None:
    """Raise EngineError where ``what`` takes more than this computer, with its ``cards`` if they count, has at all.

    Linux hands out memory that it does not have, and then kills the process that touches it.
    """
    if not hasattr(os, "sysconf"):
        return
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + (card_memory() if cards else 0)
    if needed > physical:
        raise EngineError(f"{what} needs {needed / 2**30:.1f} GiB of {physical / 2**30:.1f}", advice)
