"""What a model file says about itself, as one record: from the header of a GGUF, or of the GGUF it would become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.gguf.file import Header
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.convert.plan import plan_convert
from ggufrun.quantize.types import name_of


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
    """Sizes in bytes, lengths in tokens; a number that the file does not give is None."""

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

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data a weight."""
        return 8 * self.tensor_bytes / self.parameters if self.parameters else 0.0


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
