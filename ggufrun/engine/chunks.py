"""Run a model over a long text cut into chunks of equal length, several at a time, and see the logits of many tokens.

The chunks of one batch are sequences of their own, as in llama.cpp's perplexity and imatrix programs, whose batches
these are: the same numbers come out.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.engine.context import CACHE_TYPES, FLASH_ATTENTION
from ggufrun.engine.model import DAMAGED, Model, catching
from ggufrun.engine.observe import Observer
from ggufrun.engine.placement.devices import has_gpu
from ggufrun.engine.sequence import ABORTED, OK
from ggufrun.engine.threads import MAX_THREADS, default_threads
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama
from ggufrun.native.log import forget_log, reason
from ggufrun.native.signals import held, noting

MAX_SEQUENCES = 256
"""``LLAMA_MAX_SEQ``."""

Tokens = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ChunkParams:
    """``length`` is the tokens of a chunk, ``n_batch`` those of a batch: several chunks, or a part of one."""

    length: int = 512
    n_batch: int = 2048
    n_ubatch: int = 512
    threads: int | None = None
    flash_attention: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"

    def __post_init__(self) -> None:
        for flag, value, lowest, highest in (
            ("-c/--ctx-size", self.length, 16, 1 << 24),
            ("-b/--batch-size", self.n_batch, 16, 1 << 20),
            ("-ub/--ubatch-size", self.n_ubatch, 16, 1 << 20),
            ("-t/--threads", self.threads or 1, 1, MAX_THREADS),
        ):
            if not lowest <= value <= highest:
                raise UsageError(f"{flag} is {value}", f"give a number from {lowest} to {highest}")

    @property
    def at_once(self) -> int:
        """Chunks in one batch."""
        return min(MAX_SEQUENCES, max(1, self.n_batch // self.length))

    @property
    def tokens_at_once(self) -> int:
        """Tokens in one batch."""
        return min(self.n_batch, self.at_once * self.length)


@dataclass(frozen=True)
class Piece:
    """Logits of one batch, float32 of shape (chunks, positions, vocabulary); ``start`` is the first position.

    They lie in the context's own memory: use them before the next piece is asked for.
    """

    start: int
    logits: Floats


class ChunkContext:
    """A context for chunks. Close it before its model. Raises EngineError when there is no memory for it.

    ``outputs`` is how many positions of a chunk have logits: memory is reserved for them.
    """

    def __init__(self, model: Model, params: ChunkParams, outputs: int, observer: Observer | None = None) -> None:
        api = llama()
        self.model, self.params, self.observer = model, params, observer
        self.threads = params.threads or default_threads()
        self._context: Any = None
        type_k, bits_k = CACHE_TYPES[params.type_k]
        type_v, bits_v = CACHE_TYPES[params.type_v]
        model.check_length(params.length)
        total = params.at_once * params.length
        rows = min(params.tokens_at_once, params.at_once * outputs)
        self._check_memory(model.cache_bytes(total, bits_k, bits_v) + rows * model.vocab.size * 4)
        native = api.llama_context_default_params()
        native.n_ctx = total
        native.n_seq_max = params.at_once
        native.n_batch = params.tokens_at_once
        native.n_ubatch = params.n_ubatch
        native.n_outputs_max = rows
        native.n_threads = native.n_threads_batch = self.threads
        native.flash_attn_type = FLASH_ATTENTION[params.flash_attention]
        native.type_k, native.type_v = type_k, type_v
        native.swa_full = False
        if observer is not None:
            native.cb_eval = observer.callback
        forget_log()
        with held(), catching(model.params):
            self._context = api.llama_init_from_model(model.pointer, native)
        if not self._context:
            why = reason("llama.cpp gave no reason")
            advice = DAMAGED if "GGML_ASSERT" in why else "try a smaller batch (-b)"
            raise EngineError(f"no context of {total} tokens: {why}", advice)
        self._memory = api.llama_get_memory(self._context)
        self._batch = _Batch(params.tokens_at_once)
        self._stop = False
        self._abort = api.ggml_abort_callback(self._asked_to_stop)
        api.llama_set_abort_callback(self._context, self._abort, None)

    @staticmethod
    def _check_memory(needed: int) -> None:
        # Linux hands out memory that it does not have and then kills the process that touches it.
        if not hasattr(os, "sysconf") or has_gpu():
            return
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > physical:
            raise EngineError(
                f"the batch needs {needed / 2**30:.1f} GiB of {physical / 2**30:.1f}", "give a smaller one with -b"
            )

    def _asked_to_stop(self, _: Any) -> bool:
        return self._stop

    def _interrupt(self) -> None:
        self._stop = True

    def decode(self, chunks: Tokens, first: int) -> Iterator[Piece]:
        """Decode ``chunks``, int32 of shape (up to `ChunkParams.at_once`, length), with the logits of the positions
        from ``first`` on. Raises EngineError, what the observer raised, or KeyboardInterrupt.
        """
        api = llama()
        api.llama_memory_clear(self._memory, True)
        length, step = self.params.length, self.params.tokens_at_once
        n_chunks = len(chunks)
        step = min(length, step)
        for start in range(0, length, step):
            stop = min(start + step, length)
            positions = np.arange(start, stop, dtype=np.int32)
            n_outputs = n_chunks * int((positions >= first).sum())
            self._batch.fill(chunks[:, start:stop], positions, positions >= first)
            self._run()
            if n_outputs:
                pointer = api.llama_get_logits(self._context)
                if not pointer:
                    raise EngineError("the model gave no logits")
                vocabulary = self.model.vocab.size
                logits = np.ctypeslib.as_array(pointer, (n_outputs, vocabulary))
                yield Piece(max(start, first), logits.reshape(n_chunks, -1, vocabulary))

    def _run(self) -> None:
        forget_log()
        with noting(self._interrupt):
            status = llama().llama_decode(self._context, self._batch.native)
        if self.observer is not None and self.observer.failure is not None:
            raise self.observer.failure
        if self._stop or status == ABORTED:
            raise KeyboardInterrupt
        if status != OK:
            why = reason(f"llama_decode returned {status}")
            raise EngineError(f"the model could not be run: {why}", "try a smaller batch (-b)")

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        if self._context:
            llama().llama_free(self._context)
            self._context = None

    def __enter__(self) -> ChunkContext:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class _Batch:
    """A ``llama_batch`` over arrays of our own."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._counts = np.ones(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._pointers = self._sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self._outputs = np.zeros(capacity, np.int8)
        self.native = llama().llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._pointers),
            ("logits", self._outputs),
        ):
            kind = dict(self.native._fields_)[name]
            setattr(self.native, name, ctypes.cast(array.ctypes.data, kind))

    def fill(self, tokens: Tokens, positions: Tokens, outputs: npt.NDArray[np.bool_]) -> None:
        """``tokens`` has the shape (sequences, positions)."""
        n_chunks, n_positions = tokens.shape
        size = tokens.size
        self.native.n_tokens = size
        self._tokens[:size] = tokens.reshape(-1)
        self._positions[:size] = np.tile(positions, n_chunks)
        self._sequences[:size] = np.repeat(np.arange(n_chunks, dtype=np.int32), n_positions)
        self._outputs[:size] = np.tile(outputs, n_chunks)
