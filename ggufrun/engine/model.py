"""A GGUF file opened by llama.cpp: its weights, its metadata, its vocabulary."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ggufrun.engine.placement.offload import Placement, gpu_layers, on_devices
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import EngineError, NotFoundError, UnsupportedError
from ggufrun.native.abort import aborts_thrown
from ggufrun.native.kernels import wants_copy
from ggufrun.native.library import llama
from ggufrun.native.log import forget_log, reason
from ggufrun.native.signals import note_signals

LOAD_READ, LOAD_MMAP, LOAD_MLOCK, LOAD_MMAP_MLOCK = 0, 1, 2, 3
"""``enum llama_load_mode``."""


@dataclass(frozen=True)
class ModelParams:
    """How to open a model. ``gpu_layers`` None means all of them where there is a GPU; negative means all.

    ``no_alloc`` reads the header and the vocabulary and plans the memory without taking it: for measuring only.
    """

    path: Path
    gpu_layers: int | None = None
    mmap: bool = True
    mlock: bool = False
    vocab_only: bool = False
    no_alloc: bool = False
    placement: Placement = field(default_factory=Placement)


ADVICE = (
    ("mmap failed", "close other programs, or take a smaller type of the model"),
    ("main_gpu", "-mg counts the devices from 0"),
    ("split buffers", "split by layers: -sm layer; on NVIDIA cards also -sm tensor"),
    ("split mode", "split by layers: -sm layer"),
    ("regular expression", "-ot takes C++'s regular expressions"),
    ("alloc", "give fewer layers (-ngl), or leave it out, and what fits is found"),
)
"""What llama.cpp's reason is about, where it is not the file."""


LEARNED_POSITIONS = ("gpt2", "starcoder")
"""Architectures that look a token's place up in ``position_embd``: no text may be longer than that."""

RANK = "4"
"""llama.cpp's ``pooling_type`` of models that score pairs of texts."""

ENCODERS = (
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert",
    "nomic-bert-moe", "wavtokenizer-dec",
)  # fmt: skip
"""Architectures that llama.cpp gives no memory of a text (``llama_model::create_memory``), diffusion's aside: asked
for a next token they end in an abort.
"""

DAMAGED = "the file may be damaged, or its architecture newer than this engine; download or convert it again"


def _advice(why: str) -> str:
    return next((advice for word, advice in ADVICE if word in why), DAMAGED)


def catching(params: ModelParams) -> AbstractContextManager[None]:
    """While this lasts, a broken invariant in llama.cpp is an error that it reports: what it cannot use in a file.

    Not where a device computes: that ends the process for reasons of its own, and there are words for those.
    """
    plain = params.no_alloc or params.vocab_only or not on_devices(params.gpu_layers, params.placement)
    return aborts_thrown() if plain else nullcontext()


class Model:
    """A model in memory. Closing it frees the weights; contexts must be closed before.

    Raises NotFoundError, EngineError (llama.cpp cannot open the file; with its reason) or UnsupportedError (a model
    that does not continue text, such as an encoder).
    """

    def __init__(self, params: ModelParams, on_progress: Callable[[float], bool] | None = None) -> None:
        """``on_progress`` hears fractions from 0 to 1 while the weights are read; returning False gives up."""
        api = llama()
        if not params.path.is_file():
            raise NotFoundError(f"{params.path}: no such file", "give the path of a .gguf file")
        native = api.llama_model_default_params()
        native.n_gpu_layers = gpu_layers(params.gpu_layers)
        self._kept = params.placement.apply(native)
        native.load_mode = {
            (True, False): native.load_mode,
            (True, True): LOAD_MMAP_MLOCK,
            (False, False): LOAD_READ,
            (False, True): LOAD_MLOCK,
        }[params.mmap, params.mlock]
        native.vocab_only = params.vocab_only
        native.use_extra_bufts = native.use_extra_bufts and wants_copy()
        if params.no_alloc:
            # mapping a file and planning without memory exclude each other
            native.no_alloc, native.load_mode = True, LOAD_READ
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            given_up = True

        def progress(fraction: float, _: Any) -> bool:
            if on_progress is not None and not on_progress(fraction):
                give_up()
            return not given_up

        callback = api.llama_progress_callback(progress)
        native.progress_callback = callback
        forget_log()
        self._model: Any = None
        try:
            with note_signals(give_up), catching(params):
                self._model = api.llama_model_load_from_file(os.fsencode(params.path), native)
            if given_up:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.close()
            raise
        if not self._model:
            why = reason("llama.cpp gave no reason")
            raise EngineError(f"{params.path.name} cannot be loaded: {why}", _advice(why))
        self.path = params.path
        self.params = params
        try:
            self._check(params)
            self.vocab = Vocab(api.llama_model_get_vocab(self._model), self.meta("tokenizer.ggml.pre") or "")
        except BaseException:
            self.close()
            raise

    def _check(self, params: ModelParams) -> None:
        api = llama()
        if params.vocab_only:
            return
        encodes = api.llama_model_has_encoder(self._model) or not api.llama_model_has_decoder(self._model)
        # in these a token also sees what follows it
        both_ways = self.architecture in ENCODERS or self.meta(f"{self.architecture}.attention.causal") == "false"
        diffuses = api.llama_model_is_diffusion(self._model)
        if encodes or (both_ways and not diffuses):
            raise UnsupportedError(
                f"{params.path.name} ({self.architecture}) does not continue text",
                "use a decoder-only model, such as a Llama, a Qwen or a Mistral",
            )
        if diffuses:
            raise UnsupportedError(
                f"{params.path.name} ({self.architecture}) writes by diffusion, not token by token",
                "use an autoregressive model",
            )

    def check_talks(self) -> None:
        """UnsupportedError for a model that makes vectors or scores of texts, though it could be run as if it wrote."""
        pooling = self.meta(f"{self.architecture}.pooling_type")
        if pooling not in (None, "", "0"):
            raise UnsupportedError(
                f"{self.params.path.name} makes {'scores' if pooling == RANK else 'vectors'} of texts, and does not "
                "continue them",
                "`ggufrun serve` offers it to programs; to chat, take the chat model of the same family",
            )

    @property
    def pointer(self) -> Any:
        """The ``llama_model *``."""
        if not self._model:
            raise EngineError("the model is closed")
        return self._model

    def meta(self, key: str) -> str | None:
        """A metadata value as text, or None. Arrays are not available this way."""
        name = key.encode()
        return self._text(lambda buffer, size: llama().llama_model_meta_val_str(self.pointer, name, buffer, size))

    def _text(self, call: Callable[[Any, int], int]) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        length = call(buffer, len(buffer))
        if length >= len(buffer):
            buffer = ctypes.create_string_buffer(length + 1)
            length = call(buffer, len(buffer))
        return buffer.raw[:length].decode("utf-8", "replace") if length >= 0 else None

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja template of ``tokenizer.chat_template``, or None."""
        text: bytes | None = llama().llama_model_chat_template(self.pointer, None)
        return text.decode("utf-8", "replace") if text else None

    @cached_property
    def name(self) -> str:
        """``general.name``, or the file's name without its ending."""
        return self.meta("general.name") or self.path.stem

    @cached_property
    def architecture(self) -> str:
        """``general.architecture``."""
        return self.meta("general.architecture") or "unknown"

    @cached_property
    def description(self) -> str:
        """llama.cpp's short description: architecture, size class, quantization."""
        return self._text(lambda buffer, size: llama().llama_model_desc(self.pointer, buffer, size)) or ""

    @cached_property
    def quantization(self) -> str:
        """llama.cpp's name for how the file is quantized, such as ``Q4_K - Medium``."""
        api = llama()
        name: bytes | None = api.llama_ftype_name(api.llama_model_ftype(self.pointer))
        return name.decode() if name else "unknown"

    @cached_property
    def parameters(self) -> int:
        """Number of weights."""
        return int(llama().llama_model_n_params(self.pointer))

    @cached_property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(llama().llama_model_size(self.pointer))

    @cached_property
    def train_context(self) -> int:
        """Tokens of context that the model was trained with."""
        return int(llama().llama_model_n_ctx_train(self.pointer))

    @cached_property
    def positions(self) -> int | None:
        """Tokens for whose places the model has learned something each; None where a place is computed."""
        learned = self.architecture in LEARNED_POSITIONS
        if self.architecture == "mpt":
            # most of these weigh distances instead
            learned = float(self.meta("mpt.attention.max_alibi_bias") or 0) == 0
        return self.train_context if learned else None

    def check_length(self, tokens: int, flags: str = "-c") -> None:
        """EngineError for a text of so many tokens where the model has fewer places: llama.cpp would abort there.

        ``flags`` are those that make it so long.
        """
        if self.positions is not None and tokens > self.positions:
            raise EngineError(
                f"{self.path.name} has learned positions for {self.positions} tokens, not for {tokens}",
                f"give at most {self.positions} with {flags}",
            )

    @cached_property
    def window(self) -> int:
        """Tokens of the sliding attention window, or 0 when every layer sees everything."""
        return int(llama().llama_model_n_swa(self.pointer))

    @cached_property
    def recurrent(self) -> bool:
        """Keeps a state instead of, or beside, a cache by position, so that the past cannot be cut at will."""
        api = llama()
        return bool(api.llama_model_is_recurrent(self.pointer) or api.llama_model_is_hybrid(self.pointer))

    def cache_bytes(self, tokens: int, key_bits: float, value_bits: float) -> int:
        """Bytes that a key/value cache of ``tokens`` positions takes, near enough to refuse what cannot fit."""
        api = llama()
        heads = max(1, api.llama_model_n_head(self.pointer))
        width = api.llama_model_n_embd(self.pointer) // heads * api.llama_model_n_head_kv(self.pointer)
        return int(tokens * api.llama_model_n_layer(self.pointer) * width * (key_bits + value_bits) / 8)

    def close(self) -> None:
        """Free the weights. Closing twice is fine."""
        if self._model:
            llama().llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
