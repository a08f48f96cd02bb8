"""A context: the model's memory of the tokens it has seen, and the logits after the last one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ggufrun.engine.adapters import Adapter, attach
from ggufrun.engine.model import DAMAGED, Model, catching
from ggufrun.engine.placement.devices import card_memory
from ggufrun.engine.placement.offload import goes_ahead, on_devices
from ggufrun.engine.rope import RopeParams
from ggufrun.engine.sequence import TokenSequence
from ggufrun.engine.threads import MAX_THREADS, default_threads
from ggufrun.engine.token_batch import TokenBatch
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama
from ggufrun.native.log import forget_log, reason
from ggufrun.native.signals import held, noting

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

DEFAULT_CONTEXT = 4096
"""Tokens, unless the user says otherwise: models trained with 128 K would ask for gigabytes of cache."""

SEQUENCE = 0
"""The sequence that is the context itself; others have numbers from 1 on."""


@dataclass(frozen=True)
class ContextParams:
    """Sizes are in tokens. ``n_ctx`` 0 takes the length that the model was trained with, None no more than 4096 of it;
    threads None chooses.

    ``outputs`` is how many tokens of one batch may have logits: 1 for plain generation. llama.cpp reserves a row of the
    vocabulary's width for each, so the usual n_batch rows would cost hundreds of megabytes for nothing. ``sequences``
    is how many texts share the memory; with ``separate`` each has ``n_ctx`` tokens of its own. Layers with a sliding
    window keep the window only, unless ``swa_full``: that takes more memory, and saves the work when much is taken back
    or moved.
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
    separate: bool = False
    swa_full: bool = False
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
        if self.flash_attention == "off" and CACHE_TYPES[self.type_v][1] < 16:
            raise UsageError(f"-ctv {self.type_v} wants flash attention", "leave out -fa off")
        if self.flash_attention not in FLASH_ATTENTION:
            raise UsageError(f"-fa {self.flash_attention}", f"choose from {', '.join(FLASH_ATTENTION)}")


class Context(TokenSequence):
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
        # of sequences that share one memory, none is as long as all of it
        if params.sequences == 1 or params.separate:
            model.check_length(wanted)
        if not model.params.no_alloc:
            self._check_memory(wanted * (params.sequences if params.separate else 1), bits_k, bits_v)
        threads = params.threads or default_threads()
        native = api.llama_context_default_params()
        native.n_ctx = wanted * (params.sequences if params.separate else 1)
        native.n_batch = params.n_batch
        native.n_ubatch = params.n_ubatch
        native.n_outputs_max = self._outputs()
        native.n_seq_max = params.sequences
        native.kv_unified = params.sequences > 1 and not params.separate
        native.n_threads = threads
        native.n_threads_batch = params.threads_batch or threads
        native.swa_full = params.swa_full
        native.flash_attn_type = FLASH_ATTENTION[params.flash_attention]
        native.type_k, native.type_v = type_k, type_v
        params.rope.apply(native, model, wanted)
        self.threads = threads
        forget_log()
        with held(), catching(model.params):
            self._context = api.llama_init_from_model(model.pointer, native)
        if not self._context:
            why = reason("llama.cpp gave no reason")
            advice = "try a shorter one (-c) or a smaller cache (-ctk q8_0)"
            raise EngineError(f"no context of {wanted} tokens: {why}", DAMAGED if "GGML_ASSERT" in why else advice)
        try:
            attach(self._context, model, params.adapters)
        except BaseException:
            self.close()
            raise
        self.memory = api.llama_get_memory(self._context)
        self.sequences: list[TokenSequence] = []
        # llama.cpp rounds up
        room = int(api.llama_n_ctx_seq(self._context))
        super().__init__(self, 0, room if model.positions is None else min(room, model.positions))
        self.batch = TokenBatch(api.llama_n_batch(self._context))
        # A device does not ask whether to stop. Pieces of what it computes at once cost nothing, not even where several
        # devices work on one after another: they go on while the next piece is handed in.
        layers, placement = model.params.gpu_layers, model.params.placement
        self.stride = api.llama_n_ubatch(self._context) if on_devices(layers, placement) else self.batch.capacity
        self.ahead = goes_ahead(layers, placement, int(api.llama_model_n_layer(model.pointer)))
        self._stop = False
        self._decode = api.llama_decode
        self._abort = api.ggml_abort_callback(self._asked_to_stop)
        self._no_abort = api.ggml_abort_callback()

    def _outputs(self) -> int:
        # llama.cpp aborts when a recurrent model's small batch has all its logits at the end only (seen with RWKV 7).
        batch = min(self.params.n_batch, self.params.n_ubatch)
        return max(self.params.outputs, batch) if self.model.recurrent and batch < 512 else self.params.outputs

    def _check_memory(self, tokens: int, bits_k: float, bits_v: float) -> None:
        # Linux hands out memory that it does not have and then kills the process that touches it.
        if not hasattr(os, "sysconf"):
            return
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.model.params.gpu_layers != 0:
            physical += card_memory()
        mask = tokens * min(self.params.n_ubatch, tokens) * 4
        needed = self.model.cache_bytes(tokens, bits_k, bits_v) + mask
        if needed > physical:
            raise EngineError(
                f"a context of {tokens} tokens needs {needed / 2**30:.1f} GiB of {physical / 2**30:.1f}",
                "give a shorter one with -c",
            )

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

    def sequence(self, number: int) -> TokenSequence:
        """The text number ``number`` (from 1 on) of ``params.sequences``; the context itself is number 0."""
        return TokenSequence(self, number, self.n_ctx)

    def decode(self, count: int) -> int:
        """Compute the first ``count`` tokens of ``batch``; returns llama.cpp's status. All logits are new then."""
        for sequence in self.sequences:
            sequence.ready = False
        self.batch.native.n_tokens = count
        return int(self._decode(self._context, self.batch.native))

    def failed(self, status: int) -> NoReturn:
        """What a status that is not 0 means. What the memory holds then is unknown, so it is emptied."""
        why = reason(f"llama_decode returned {status}")
        self.clear()
        raise EngineError(f"the model could not be run: {why}", "try a shorter context (-c) or a smaller batch (-b)")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """While this lasts, `interrupt`, or a signal, stops even a computation that is under way."""
        api = llama()
        # Called some hundred times a batch: nothing beside a prompt's work, too much beside a single token's.
        api.llama_set_abort_callback(self.pointer, self._abort, None)
        try:
            with noting(self.interrupt):
                yield
        finally:
            api.llama_set_abort_callback(self.pointer, self._no_abort, None)

    def clear(self) -> None:
        """Forget everything, in all sequences. A closed context has nothing to forget."""
        if self._context:
            llama().llama_memory_clear(self.memory, False)
        for sequence in self.sequences:
            sequence.adopt([])

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        if self._context:
            llama().llama_free(self._context)
            self._context = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
