"""Run a model over a long text cut into chunks of equal length, several at a time, and see the logits of many tokens.

The chunks of one batch are sequences of their own, as in llama.cpp's perplexity and imatrix programs, whose batches
these are: the same numbers come out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggufrun.engine.context import CACHE_TYPES, FLASH_ATTENTION
from ggufrun.engine.decoder import ABORTED, OK, Decoder, require_memory
from ggufrun.engine.model import Model
from ggufrun.engine.observe import Observer
from ggufrun.engine.threads import MAX_THREADS, default_threads
from ggufrun.engine.token_batch import Tokens
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama

MAX_SEQUENCES = 256
"""``LLAMA_MAX_SEQ``."""

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
        type_k, bits_k = CACHE_TYPES[params.type_k]
        type_v, bits_v = CACHE_TYPES[params.type_v]
        model.check_length(params.length)
        total = params.at_once * params.length
        rows = min(params.tokens_at_once, params.at_once * outputs)
        needed = model.cache_bytes(total, bits_k, bits_v) + rows * model.vocab.size * 4
        require_memory(needed, "the batch", "give a smaller one with -b", cards=model.params.gpu_layers != 0)
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
        self._decoder = Decoder(model, native, total, "try a smaller batch (-b)")

    def decode(self, chunks: Tokens, first: int) -> Iterator[Piece]:
        """Decode ``chunks``, int32 of shape (up to `ChunkParams.at_once`, length), with the logits of the positions
        from ``first`` on. Raises EngineError, what the observer raised, or KeyboardInterrupt.
        """
        api = llama()
        api.llama_memory_clear(self._decoder.memory, True)
        length, step = self.params.length, self.params.tokens_at_once
        n_chunks = len(chunks)
        step = min(length, step)
        for start in range(0, length, step):
            stop = min(start + step, length)
            positions = np.arange(start, stop, dtype=np.int32)
            n_outputs = n_chunks * int((positions >= first).sum())
            self._run(self._decoder.batch.put_grid(chunks[:, start:stop], positions, positions >= first))
            if n_outputs:
                pointer = api.llama_get_logits(self._decoder.pointer)
                if not pointer:
                    raise EngineError("the model gave no logits")
                vocabulary = self.model.vocab.size
                logits = np.ctypeslib.as_array(pointer, (n_outputs, vocabulary))
                yield Piece(max(start, first), logits.reshape(n_chunks, -1, vocabulary))

    def _run(self, count: int) -> None:
        with self._decoder.interruptible():
            status = self._decoder.decode(count)
        if self.observer is not None and self.observer.failure is not None:
            raise self.observer.failure
        if self._decoder.interrupted or status == ABORTED:
            raise KeyboardInterrupt
        if status != OK:
            raise self._decoder.failure(status, "try a smaller batch (-b)")

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        self._decoder.close()

    def __enter__(self) -> ChunkContext:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
