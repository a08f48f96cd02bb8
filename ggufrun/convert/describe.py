"""What a model file says about itself, as one record: from the header of a GGUF, or of the GGUF it would become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from ggufrun.checkpoint.gguffile import Header
from ggufrun.checkpoint.ggufsource import GGUFSource
from ggufrun.convert.plan import plan_convert
from ggufrun.quantize.types import name_of

KV_BYTES = 2
"""Bytes of one cached value: llama.cpp keeps keys and values in F16 unless told otherwise."""

KV_PADDING = 256
"""llama.cpp rounds the size of the cache up to this many tokens."""


@dataclass(frozen=True)
class TypeShare:
    """How much of the model is stored in one type."""

    type: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Vocabulary:
    """``special`` maps bos, eos, ... to (id, text)."""

    model: str
    pre: str
    size: int
    special: dict[str, tuple[int, str]]
    add_bos: bool | None
    add_eos: bool | None


@dataclass(frozen=True)
class Description:
    """Sizes in bytes, lengths in tokens; a number that the file does not give is None.

    ``state_bytes`` are what layers without attention keep, however long the text.
    """

    path: Path
    kind: str
    name: str
    architecture: str
    file_type: str
    parameters: int
    tensor_bytes: int
    file_bytes: int
    layers: int | None
    width: int | None
    heads: int | None
    kv_heads: int | None
    context: int | None
    rope_base: float | None
    rope_scaling: str | None
    types: tuple[TypeShare, ...]
    vocabulary: Vocabulary
    template: str | None
    kv_bytes_per_token: int | None
    state_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data a weight."""
        return 8 * self.tensor_bytes / self.parameters if self.parameters else 0.0

    def memory(self, context: int) -> int | None:
        """Bytes of weights and key-value cache at ``context`` tokens; compute buffers come on top."""
        if self.kv_bytes_per_token is None:
            return None
        padded = -(-context // KV_PADDING) * KV_PADDING
        return self.tensor_bytes + padded * self.kv_bytes_per_token + self.state_bytes


def describe(path: Path) -> tuple[Description, Header]:
    """Describe a GGUF file, or a checkpoint folder by the GGUF it would become at its own precision."""
    if not path.is_dir():
        source = GGUFSource(path)
        source.close()
        return _describe(path, "GGUF", source.header, source.header.file_size), source.header
    plan = plan_convert(path, (), lambda file_type: path / "unused.gguf")
    plan.close()
    target = plan.targets[0]
    return _describe(path, "checkpoint", target.header, target.size), target.header


def _describe(path: Path, kind: str, header: Header, file_bytes: int) -> Description:
    arch = header.architecture

    def number(key: str) -> int | None:
        value = header.get(f"{arch}.{key}")
        if isinstance(value, list):
            # per layer: models with varying layers
            value = max((item for item in value if isinstance(item, int)), default=None)
        return value if isinstance(value, int) else None

    base, scaling = header.get(f"{arch}.rope.freq_base"), header.get(f"{arch}.rope.scaling.type")
    file_type = header.get("general.file_type")
    return Description(
        path=path,
        kind=kind,
        name=str(header.get("general.name", path.stem)),
        architecture=arch,
        file_type=name_of(file_type) if isinstance(file_type, int) else "unknown",
        parameters=sum(_values(info.shape) for info in header.tensors),
        tensor_bytes=sum(info.n_bytes for info in header.tensors),
        file_bytes=file_bytes,
        layers=number("block_count"),
        width=number("embedding_length"),
        heads=number("attention.head_count"),
        kv_heads=number("attention.head_count_kv") or number("attention.head_count"),
        context=number("context_length"),
        rope_base=float(base) if isinstance(base, (int, float)) else None,
        rope_scaling=str(scaling) if scaling else None,
        types=_types(header),
        vocabulary=_vocabulary(header),
        template=_text(header.get("tokenizer.chat_template")),
        kv_bytes_per_token=_kv_bytes(header, arch),
        state_bytes=_state_bytes(header, arch),
    )


def _values(shape: Iterable[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _types(header: Header) -> tuple[TypeShare, ...]:
    shares: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for info in header.tensors:
        share = shares[info.type.name]
        share[0] += 1
        share[1] += _values(info.shape)
        share[2] += info.n_bytes
    found = (TypeShare(kind, *share) for kind, share in shares.items())
    return tuple(sorted(found, key=lambda share: -share.bytes))


def _vocabulary(header: Header) -> Vocabulary:
    tokens = header.get("tokenizer.ggml.tokens", [])
    texts = tokens if isinstance(tokens, list) else []
    special = {}
    for key in header.metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            number = header.get(key)
            if isinstance(number, int):
                text = texts[number] if 0 <= number < len(texts) else "(not in the vocabulary)"
                special[key.removeprefix("tokenizer.ggml.").removesuffix("_token_id")] = (number, str(text))
    add = [header.get(f"tokenizer.ggml.add_{which}_token") for which in ("bos", "eos")]
    return Vocabulary(
        model=str(header.get("tokenizer.ggml.model", "none")),
        pre=str(header.get("tokenizer.ggml.pre", "")),
        size=len(texts),
        special=special,
        add_bos=add[0] if isinstance(add[0], bool) else None,
        add_eos=add[1] if isinstance(add[1], bool) else None,
    )


def _kv_bytes(header: Header, arch: str) -> int | None:
    """Bytes of keys and values a token over all layers, in F16; None where the header does not tell."""
    layers, width = header.get(f"{arch}.block_count"), header.get(f"{arch}.embedding_length")
    heads = header.get(f"{arch}.attention.head_count")
    if not isinstance(layers, int) or not 0 < layers <= 1 << 16:
        return None
    kv_heads = header.get(f"{arch}.attention.head_count_kv", heads)
    per_layer = list(kv_heads) if isinstance(kv_heads, list) else [kv_heads] * layers
    for number, recurrent in enumerate(_recurrent(header, arch)[: len(per_layer)]):
        if recurrent:
            per_layer[number] = 0
    ahead = header.get(f"{arch}.nextn_predict_layers")
    if isinstance(ahead, int) and 0 < ahead < len(per_layer):
        # loaded only to guess ahead
        per_layer[-ahead:] = [0] * ahead
    default = width // heads if isinstance(heads, int) and heads and isinstance(width, int) else None
    key = header.get(gguf.Keys.Attention.KEY_LENGTH.format(arch=arch), default)
    value = header.get(gguf.Keys.Attention.VALUE_LENGTH.format(arch=arch), default)
    if header.get(f"{arch}.attention.key_length_mla"):
        # latent attention: the values are part of what is kept as keys
        value = 0
    if not isinstance(key, int) or not isinstance(value, int) or not all(isinstance(n, int) for n in per_layer):
        return None
    return int(sum(per_layer)) * (key + value) * KV_BYTES


def _recurrent(header: Header, arch: str) -> list[bool]:
    """Which layers keep a state in place of keys and values, as far as the header tells."""
    layers, told = header.get(f"{arch}.block_count"), header.get(f"{arch}.attention.recurrent_layers")
    interval, kv_heads = header.get(f"{arch}.full_attention_interval"), header.get(f"{arch}.attention.head_count_kv")
    if isinstance(told, list):
        return [item is True or item == 1 for item in told]
    if isinstance(interval, int) and interval > 0 and isinstance(layers, int) and 0 < layers <= 1 << 16:
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    return [item == 0 for item in kv_heads] if isinstance(kv_heads, list) else []


def _state_bytes(header: Header, arch: str) -> int:
    """Bytes of the states of all recurrent layers, in F32 (``n_embd_r`` and ``n_embd_s`` in llama.cpp's hparams)."""

    def number(key: str) -> int:
        value = header.get(f"{arch}.{key}")
        return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0

    window, width = number("shortconv.l_cache"), number("embedding_length")
    kernel, inner, state = (number(f"ssm.{key}") for key in ("conv_kernel", "inner_size", "state_size"))
    if window:
        each = width * (window - 1)
    else:
        each = max(kernel - 1, 0) * (inner + 2 * number("ssm.group_count") * state) + state * inner
    return 4 * each * sum(_recurrent(header, arch))
