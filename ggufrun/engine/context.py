"""A context: the model's memory of the tokens it has seen, and the logits after the last one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ggufrun.engine.adapters import Adapter, attach
from ggufrun.engine.decoder import Decoder, require_memory
from ggufrun.engine.model import Model
from ggufrun.engine.placement.offload import goes_ahead, on_devices
from ggufrun.engine.rope import RopeParams
from ggufrun.engine.sequence import TokenSequence
from ggufrun.engine.threads import MAX_THREADS, default_threads
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama

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
                raise UsageError(f"{flag} {name} is not a cache type", f"choose from {', '.join(CACHE_TYPES)}")
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
        self.decoder = Decoder(model, native, wanted, "try a shorter one (-c) or a smaller cache (-ctk q8_0)")
        try:
            attach(self.decoder.pointer, model, params.adapters)
        except BaseException:
            self.close()
            raise
        # llama.cpp rounds up
        room = api.llama_n_ctx_seq(self.decoder.pointer)
        super().__init__(self.decoder, 0, room if model.positions is None else min(room, model.positions))
        # A device does not ask whether to stop. Pieces of what it computes at once cost nothing, not even where several
        # devices work on one after another: they go on while the next piece is handed in.
        layers, placement = model.params.gpu_layers, model.params.placement
        if on_devices(layers, placement):
            self.decoder.batch.stride = api.llama_n_ubatch(self.decoder.pointer)
        self.ahead = goes_ahead(layers, placement, api.llama_model_n_layer(model.pointer))

    def _outputs(self) -> int:
        # llama.cpp aborts when a recurrent model's small batch has all its logits at the end only (seen with RWKV 7).
        batch = min(self.params.n_batch, self.params.n_ubatch)
        return max(self.params.outputs, batch) if self.model.recurrent and batch < 512 else self.params.outputs

    def _check_memory(self, tokens: int, bits_k: float, bits_v: float) -> None:
        mask = tokens * min(self.params.n_ubatch, tokens) * 4
        needed = self.model.cache_bytes(tokens, bits_k, bits_v) + mask
        require_memory(
            needed,
            f"a context of {tokens} tokens",
            "give a shorter one with -c",
            cards=self.model.params.gpu_layers != 0,
        )

    @property
    def pointer(self) -> Any:
        """The ``llama_context *``."""
        return self.decoder.pointer

    @property
    def memory(self) -> Any:
        """The ``llama_memory_t``."""
        return self.decoder.memory

    def interrupt(self) -> None:
        """Stop decoding soon; safe to call from a signal handler. Stays asked for until `resume`."""
        self.decoder.interrupt()

    def resume(self) -> None:
        """Forget an earlier `interrupt`."""
        self.decoder.resume()

    @property
    def interrupted(self) -> bool:
        """Has `interrupt` been called since the last `resume`?"""
        return self.decoder.interrupted

    def sequence(self, number: int) -> TokenSequence:
        """The text number ``number`` (from 1 on) of ``params.sequences``; the context itself is number 0."""
        return TokenSequence(self.decoder, number, self.n_ctx)

    def clear(self) -> None:
        """Forget everything, in all sequences. A closed context has nothing to forget."""
        self.decoder.clear()

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        self.decoder.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
