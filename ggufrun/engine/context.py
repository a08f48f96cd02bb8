"""A context: the model's memory of the tokens it has seen, and the logits after the last one.

The caller names the whole list of tokens; the context finds what it already holds and computes only the rest.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ggufrun.engine.adapters import Adapter, attach
from ggufrun.engine.devices import has_gpu
from ggufrun.engine.model import Model
from ggufrun.engine.native import forget_log, llama, reason
from ggufrun.engine.rope import RopeParams
from ggufrun.engine.threads import MAX_THREADS, default_threads
from ggufrun.errors import EngineError, UsageError

CACHE_TYPES: dict[str, tuple[int, float]] = {
    "f32": (0, 32.0),
    "f16": (1, 16.0),
    "bf16": (30, 16.0),
    "q8_0": (8, 8.5),
    "q5_1": (7, 6.0),
    "q5_0": (6, 5.5),
    "q4_1": (3, 5.0),
    "q4_0": (2, 4.5),
    "iq4_nl": (20, 4.5),
}
"""Types that llama.cpp keeps keys and values in: ``enum ggml_type`` and bits a value."""

FLASH_ATTENTION: dict[str, int] = {"auto": -1, "off": 0, "on": 1}
"""``enum llama_flash_attn_type``."""

OK, ABORTED = 0, 2
"""What ``llama_decode`` returns."""

DEFAULT_CONTEXT = 4096
"""Tokens, unless the user says otherwise: models trained with 128 K would ask for gigabytes of cache."""

SEQUENCE = 0
"""The only sequence in the memory."""


@dataclass(frozen=True)
class ContextParams:
    """Sizes are in tokens. ``n_ctx`` 0 takes the length that the model was trained with, None no more than 4096 of it;
    threads None chooses.

    ``outputs`` is how many tokens of one batch may have logits: 1 for plain generation. llama.cpp reserves a row of the
    vocabulary's width for each, so the usual n_batch rows would cost hundreds of megabytes for nothing. ``sequences``
    is how many texts share the memory, for `ggufrun.engine.batch`; the context itself knows the first.
    """

    n_ctx: int | None = None
    n_batch: int = 2048
    n_ubatch: int = 512
    threads: int | None = None
    threads_batch: int | None = None
    flash_attention: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    outputs: int = 1
    sequences: int = 1
    rope: RopeParams = field(default_factory=RopeParams)
    adapters: tuple[Adapter, ...] = ()

    def __post_init__(self) -> None:
        for flag, value, lowest, highest in (
            ("-c/--ctx-size", self.n_ctx or 0, 0, 1 << 27),
            ("-b/--batch-size", self.n_batch, 1, 1 << 20),
            ("-ub/--ubatch-size", self.n_ubatch, 1, 1 << 20),
            ("-t/--threads", self.threads or 1, 1, MAX_THREADS),
            ("-tb/--threads-batch", self.threads_batch or 1, 1, MAX_THREADS),
        ):
            if not lowest <= value <= highest:
                raise UsageError(f"{flag} is {value}", f"give a number from {lowest} to {highest}")
        for flag, name in (("-ctk", self.type_k), ("-ctv", self.type_v)):
            if name not in CACHE_TYPES:
                raise UsageError(f"{flag} {name} is no type of cache", f"choose from {', '.join(CACHE_TYPES)}")
        if self.flash_attention not in FLASH_ATTENTION:
            raise UsageError(f"-fa {self.flash_attention}", f"choose from {', '.join(FLASH_ATTENTION)}")


class Interrupted(Exception):
    """`Context.interrupt` was called while tokens were being decoded. What was decoded stays in the memory."""


class ContextFull(EngineError):
    """The tokens do not fit into the context."""


class Context:
    """One conversation's memory. Close it before its model.

    Raises EngineError when llama.cpp cannot make it, mostly for want of memory.
    """

    def __init__(self, model: Model, params: ContextParams) -> None:
        api = llama()
        self.model = model
        self.params = params
        type_k, bits_k = CACHE_TYPES[params.type_k]
        type_v, bits_v = CACHE_TYPES[params.type_v]
        trained = model.train_context
        wanted = params.n_ctx or (trained if params.n_ctx == 0 else min(trained, DEFAULT_CONTEXT))
        if wanted <= 0:
            raise EngineError("the file does not say how long its context is", "give a length with -c")
        if not model.params.no_alloc:
            self._check_memory(wanted, bits_k, bits_v)
        threads = params.threads or default_threads()
        native = api.llama_context_default_params()
        native.n_ctx = wanted
        native.n_batch = params.n_batch
        native.n_ubatch = params.n_ubatch
        native.n_outputs_max = params.outputs
        native.n_seq_max = params.sequences
        native.kv_unified = params.sequences > 1
        native.n_threads = threads
        native.n_threads_batch = params.threads_batch or threads
        native.flash_attn_type = FLASH_ATTENTION[params.flash_attention]
        native.type_k, native.type_v = type_k, type_v
        params.rope.apply(native, model, wanted)
        self.threads = threads
        forget_log()
        self._context = api.llama_init_from_model(model.pointer, native)
        if not self._context:
            why = reason("llama.cpp gave no reason")
            raise EngineError(
                f"no context of {wanted} tokens: {why}", "try a shorter one (-c) or a smaller cache (-ctk q8_0)"
            )
        try:
            attach(self._context, model, params.adapters)
        except BaseException:
            self.close()
            raise
        self.n_ctx: int = api.llama_n_ctx(self._context)
        self._n_batch: int = api.llama_n_batch(self._context)
        self._memory = api.llama_get_memory(self._context)
        self._held: list[int] = []
        self._wide: Any = None
        self.ready = False
        self._stop = False
        # Both batches are made once and point into arrays that live as long as the context.
        self._piece = (ctypes.c_int32 * self._n_batch)()
        self._batch = api.llama_batch_get_one(self._piece, 0)
        self._single = (ctypes.c_int32 * 1)()
        self._single_batch = api.llama_batch_get_one(self._single, 1)
        self._decode = api.llama_decode
        self._abort = api.ggml_abort_callback(self._asked_to_stop)
        self._no_abort = api.ggml_abort_callback()

    def _check_memory(self, tokens: int, bits_k: float, bits_v: float) -> None:
        # Linux hands out memory that it does not have and then kills the process that touches it.
        if not hasattr(os, "sysconf") or has_gpu():
            return
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        mask = tokens * min(self.params.n_ubatch, tokens) * 4
        needed = self.model.cache_bytes(tokens, bits_k, bits_v) + mask
        if needed > physical:
            raise EngineError(
                f"a context of {tokens} tokens needs {needed / 2**30:.1f} GiB of {physical / 2**30:.1f}",
                "give a shorter one with -c",
            )

    @property
    def held(self) -> Sequence[int]:
        """The tokens in the memory, in order."""
        return self._held

    @property
    def pointer(self) -> Any:
        """The ``llama_context *``."""
        if not self._context:
            raise EngineError("the context is closed")
        return self._context

    def adopt(self, ids: Sequence[int]) -> None:
        """The memory has been filled with ``ids`` by somebody else, or with something unknown (none)."""
        self._held = list(ids)
        self.ready = False

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
        # Runs on the calling thread between two operations of the graph, which is also when Python delivers signals.
        try:
            return self._stop
        except KeyboardInterrupt:
            self._stop = True
            return True

    def feed(self, ids: Sequence[int]) -> int:
        """Make the memory hold exactly ``ids``, with the logits of the last one ready; returns how many were decoded.

        The longest common prefix with what is held stays. Raises ContextFull, Interrupted, or EngineError.
        """
        if not ids:
            raise EngineError("there is nothing to decode")
        if len(ids) > self.n_ctx:
            raise ContextFull(
                f"{len(ids)} tokens do not fit into a context of {self.n_ctx}", "give a longer one with -c"
            )
        size = self.model.vocab.size
        if min(ids) < 0 or max(ids) >= size:
            wrong = next(i for i in ids if not 0 <= i < size)
            raise EngineError(f"token {wrong} is not in the vocabulary of {size} tokens")
        keep = common_prefix(self._held, ids)
        if keep == len(ids):
            if keep == len(self._held) and self.ready:
                return 0
            # Logits exist only for the last token decoded, so that one is decoded again.
            keep -= 1
        keep = self._cut(keep)
        self._prefill(ids, keep)
        return len(ids) - keep

    def push(self, token: int) -> None:
        """Append one token that is known to be in the vocabulary: the step of a generation.

        Raises ContextFull, or EngineError.
        """
        if len(self._held) >= self.n_ctx:
            raise ContextFull(f"the context of {self.n_ctx} tokens is full", "start a new conversation, or give -c")
        self._single[0] = token
        status = self._decode(self._context, self._single_batch)
        if status != OK:
            self._fail(status)
        self._held.append(token)
        self.ready = True

    def push_all(self, tokens: Sequence[int]) -> None:
        """Append tokens with the logits of every one ready, by their place; at most ``params.outputs`` of them.

        Raises ContextFull, or EngineError.
        """
        if len(self._held) + len(tokens) > self.n_ctx:
            raise ContextFull(f"the context of {self.n_ctx} tokens is full", "start a new conversation, or give -c")
        if not 0 < len(tokens) <= min(self.params.outputs, self._n_batch):
            raise EngineError(f"{len(tokens)} tokens cannot all have logits here")
        if self._wide is None:
            self._wide = llama().llama_batch_init(min(self.params.outputs, self._n_batch), 0, 1)
        batch, first = self._wide, len(self._held)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = first + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = SEQUENCE
            batch.logits[place] = True
        status = self._decode(self._context, batch)
        if status != OK:
            self._fail(status)
        self._held.extend(tokens)
        self.ready = True

    def trim(self, count: int) -> None:
        """Take back all but the first ``count`` tokens. The logits are gone: decode something next."""
        self._cut(count)

    def _cut(self, keep: int) -> int:
        """Remove what follows the first ``keep`` tokens; returns how many are really kept, perhaps none."""
        if keep == len(self._held):
            return keep
        self.ready = False
        api = llama()
        # With a sliding window old positions may be gone: what lies before the cut must still be complete.
        complete = api.llama_memory_seq_pos_min(self._memory, SEQUENCE) <= 0
        if keep == 0 or not complete or not api.llama_memory_seq_rm(self._memory, SEQUENCE, keep, -1):
            self.clear()
            return 0
        del self._held[keep:]
        return keep

    def discard(self, start: int, count: int) -> None:
        """Remove ``count`` tokens from position ``start`` on and move those after them up.

        Where the memory cannot do that, what is left is decoded anew. The logits are gone: decode something next.
        Raises Interrupted or EngineError.
        """
        api = llama()
        left = [*self._held[:start], *self._held[start + count :]]
        self.ready = False
        complete = api.llama_memory_seq_pos_min(self._memory, SEQUENCE) <= 0
        movable = complete and api.llama_memory_can_shift(self._memory)
        if movable and api.llama_memory_seq_rm(self._memory, SEQUENCE, start, start + count):
            api.llama_memory_seq_add(self._memory, SEQUENCE, start + count, len(self._held), -count)
            self._held = left
        else:
            self.clear()
            if left:
                self._prefill(left, 0)

    def _prefill(self, ids: Sequence[int], start: int) -> None:
        api = llama()
        # Called some hundred times a batch: nothing beside a prompt's work, too much beside a single token's.
        api.llama_set_abort_callback(self._context, self._abort, None)
        try:
            for first in range(start, len(ids), self._n_batch):
                if self._stop:
                    raise Interrupted
                piece = list(ids[first : first + self._n_batch])
                self._piece[: len(piece)] = piece
                self._batch.n_tokens = len(piece)
                self.ready = False
                status = self._decode(self._context, self._batch)
                if status != OK:
                    # The memory keeps the micro-batches that were finished.
                    done = api.llama_memory_seq_pos_max(self._memory, SEQUENCE) + 1
                    self._held.extend(piece[: max(0, done - len(self._held))])
                    if status == ABORTED:
                        raise Interrupted
                    self._fail(status)
                self._held.extend(piece)
                self.ready = True
        finally:
            api.llama_set_abort_callback(self._context, self._no_abort, None)

    def _fail(self, status: int) -> None:
        why = reason(f"llama_decode returned {status}")
        self.clear()
        raise EngineError(f"the model could not be run: {why}", "try a shorter context (-c) or a smaller batch (-b)")

    def clear(self) -> None:
        """Forget everything. A closed context has nothing to forget."""
        if self._context:
            llama().llama_memory_clear(self._memory, False)
        self._held.clear()
        self.ready = False

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        if self._context:
            if getattr(self, "_wide", None) is not None:
                llama().llama_batch_free(self._wide)
                self._wide = None
            llama().llama_free(self._context)
            self._context = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def common_prefix(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How many tokens both lists start with.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    limit = min(len(held), len(wanted))
    if list(held[:limit]) == list(wanted[:limit]):
        return limit
    return next(i for i in range(limit) if held[i] != wanted[i])
