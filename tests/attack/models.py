"""A GGUF as something that can be changed: its metadata, its tensors and their bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufrun.checkpoint.gguf.file import DEFAULT_ALIGNMENT, Header, Kind, TensorInfo, Value, align, encode, serialize
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.tensor_types import BLOCKS, TensorType
from ggufrun.convert import pipeline, plan
from ggufrun.quantize.types import FILE_TYPES
from tests.attack import encoders
from tests.attack.encoders import ENCODERS
from tests.attack.vocabularies import VOCABULARIES
from tests.families.family import replace_vocabulary, write
from tests.families.family_cases import CASES


@dataclass
class Tensor:
    """``shape`` in numpy's order; data that is too short or missing is a hole."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: bytes = b""

    @property
    def n_bytes(self) -> int:
        block, size = BLOCKS[self.type]
        return prod(self.shape) // block * size


@dataclass
class Model:
    """Everything that a file says."""

    metadata: dict[str, Value]
    tensors: list[Tensor] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        value = self.metadata.get("general.architecture")
        return str(value.decode()) if value else ""

    def copy(self) -> Model:
        return Model(dict(self.metadata), [replace(tensor) for tensor in self.tensors])

    def set(self, key: str, value: object, kind: Kind, item: Kind | None = None) -> None:
        self.metadata[key] = encode(value, kind, item)

    def write(self, path: Path) -> None:
        alignment = DEFAULT_ALIGNMENT
        infos, offset = [], 0
        for tensor in self.tensors:
            infos.append(TensorInfo(tensor.name, tensor.shape, tensor.type, offset))
            offset = align(offset + tensor.n_bytes, alignment)
        with path.open("wb") as file:
            head = serialize(Header(self.metadata, tuple(infos)))
            file.write(head)
            for tensor, info in zip(self.tensors, infos, strict=True):
                if tensor.data:
                    file.seek(len(head) + info.offset)
                    file.write(tensor.data[: tensor.n_bytes])
            file.truncate(len(head) + offset)


def read(path: Path) -> Model:
    header, data = read_header(path), path.read_bytes()
    return Model(
        dict(header.metadata),
        [
            Tensor(
                info.name,
                info.shape,
                info.type,
                data[header.data_start + info.offset : header.data_start + info.offset + info.n_bytes],
            )
            for info in header.tensors
        ],
    )


def without_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Every case gets one of its own."""


@cache
def base(family: str, outtype: str) -> Model:
    """The tiny checkpoint of a family as a GGUF without a vocabulary. Not to be changed: `Model.copy` is."""
    if family in ENCODERS:
        return encoder(family, TensorType.F32 if outtype == "F32" else TensorType.F16)
    monkeypatch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory(prefix="ggufrun-attack-") as temporary, monkeypatch.context() as patch:
        replace_vocabulary(patch, without_vocabulary)
        folder, target = Path(temporary), Path(temporary) / "model.gguf"
        namer: Callable[[object], Path] = lambda kind: target  # noqa: E731
        # some names make llama.cpp look for tokens of the model they belong to
        wishes = plan.Wishes("tiny")
        planned = plan.plan_convert(write(folder / family, CASES[family]), [FILE_TYPES[outtype]], namer, wishes=wishes)
        try:
            pipeline.run(planned, threads=1)
        finally:
            planned.close()
        return read(target)


TOKEN_KINDS = "tokenizer.ggml.token_type_count"
"""Not of the vocabulary but of the tensors of BERT's kin."""


def encoder(architecture: str, kind: TensorType) -> Model:
    """A tiny model that does not continue text, without a vocabulary."""
    found = Model({"general.architecture": encode(architecture, Kind.STRING)})
    for key, (value, value_kind) in encoders.NUMBERS.items():
        found.set(f"{architecture}.{key}", value, value_kind)
    found.set(TOKEN_KINDS, 2, Kind.UINT32)
    found.tensors = [Tensor(*parts) for parts in encoders.tensors(architecture, kind)]
    return found


FAMILIES = (*sorted(CASES), *ENCODERS)


def with_vocabulary(model: Model, name: str) -> Model:
    """A copy with the small vocabulary called ``name``."""
    model = model.copy()
    for key in [key for key in model.metadata if key.startswith("tokenizer.ggml.") and key != TOKEN_KINDS]:
        del model.metadata[key]
    for key, value in VOCABULARIES[name]().items():
        kind = {list: Kind.ARRAY, bool: Kind.BOOL, int: Kind.UINT32, str: Kind.STRING}[type(value)]
        model.set(f"tokenizer.ggml.{key}", value, kind)
    return model


RANK = 4
EMBEDDING = "token_embd.weight"


def adapter_of(model: Model) -> Model:
    """A small LoRA adapter of the model's first matrices."""
    found = Model({"general.architecture": model.metadata["general.architecture"]})
    for key, text in (("general.type", "adapter"), ("adapter.type", "lora")):
        found.set(key, text, Kind.STRING)
    found.set("adapter.lora.alpha", 8.0, Kind.FLOAT32)
    # where it is the output, too, the embedding's adapter cannot be added
    tied = all(tensor.name != "output.weight" for tensor in model.tensors)
    matrices = [tensor for tensor in model.tensors if len(tensor.shape) > 1 and tensor.name.endswith(".weight")]
    matrices = [tensor for tensor in matrices if not (tied and tensor.name == EMBEDDING)]
    # to this one llama.cpp adds nothing, in either shape
    matrices = [tensor for tensor in matrices if tensor.name != f"per_layer_{EMBEDDING}"]
    for tensor in matrices[:9]:
        *outer, rows, columns = tensor.shape
        shapes = {"lora_a": (*outer, RANK, columns), "lora_b": (*outer, rows, RANK)}
        if tensor.name == EMBEDDING:
            shapes = {"lora_a": (rows, RANK), "lora_b": (columns, RANK)}
        for part, shape in shapes.items():
            data = np.full(shape, 0.01, np.float32).tobytes()
            found.tensors.append(Tensor(f"{tensor.name}.{part}", shape, TensorType.F32, data))
    return found
