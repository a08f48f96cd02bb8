"""Whole kinds of changes gone through one by one, where dice would need long: every number of a family, every type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from ggufrun.checkpoint.gguf.file import Kind, encode
from ggufrun.checkpoint.gguf.tensor_types import BLOCKS, TensorType
from tests.attack import mutations
from tests.attack.models import Model, Tensor, base
from tests.attack.vocabularies import VOCABULARIES
from tests.families.family_cases import CASES

Step = tuple[str, str, str, Callable[[Model], None]]
"""A family, a vocabulary, what is changed in words, and the change."""

PLAIN = "sentencepiece"


def ending(tensor: Tensor) -> str:
    """``blk.3.ffn_up.weight`` -> ``ffn_up.weight``."""
    parts = tensor.name.split(".", 2)
    return parts[2] if parts[0] == "blk" else tensor.name


def without_tensors() -> Iterator[Step]:
    """Each tensor of a family taken away, in its last layer or in all."""
    for family in sorted(CASES):
        for name in sorted({ending(tensor) for tensor in base(family, "F16").tensors}):

            def remove(model: Model, name: str = name) -> None:
                model.tensors = [tensor for tensor in model.tensors if ending(tensor) != name]

            def remove_last(model: Model, name: str = name) -> None:
                model.tensors.remove(next(tensor for tensor in reversed(model.tensors) if ending(tensor) == name))

            yield family, PLAIN, f"without {name}", remove
            yield family, PLAIN, f"without the last {name}", remove_last


def types() -> Iterator[Step]:
    """Each tensor that some family has, in every type: what is allowed follows from the name."""
    seen: set[str] = set()
    for family in sorted(CASES):
        for name in sorted({ending(tensor) for tensor in base(family, "F16").tensors}):
            if name in seen:
                continue
            seen.add(name)
            for kind in TensorType:

                def turn(model: Model, name: str = name, kind: TensorType = kind) -> None:
                    for tensor in model.tensors:
                        if ending(tensor) == name and tensor.shape[-1] % BLOCKS[kind][0] == 0:
                            tensor.type = kind
                            tensor.data = (tensor.data * (tensor.n_bytes // len(tensor.data) + 1))[: tensor.n_bytes]

                yield family, PLAIN, f"{name} as {kind.name}", turn


def numbers() -> Iterator[Step]:
    """Every number and word of an architecture with every value of the list."""
    seen: set[str] = set()
    for family in sorted(CASES):
        model = base(family, "F16")
        for key, value in model.metadata.items():
            if not key.startswith(f"{model.architecture}.") or value.kind is Kind.ARRAY or key in seen:
                continue
            seen.add(key)
            values = mutations.WORDS if value.kind is Kind.STRING else mutations.NUMBERS[value.kind]
            for new in values:

                def put(model: Model, key: str = key, new: object = new, kind: Kind = value.kind) -> None:
                    model.set(key, new, kind)

                yield family, PLAIN, f"{key} = {str(new)[:30]!r}", put


def lists() -> Iterator[Step]:
    """Every list of an architecture with other lengths and items, and a list in the place of every number."""
    seen: set[str] = set()
    for family in sorted(CASES):
        model = base(family, "F16")
        layers = int(model.metadata[f"{model.architecture}.block_count"].decode())
        for key, value in model.metadata.items():
            if not key.startswith(f"{model.architecture}.") or value.kind is Kind.STRING or key in seen:
                continue
            seen.add(key)
            if value.kind is Kind.ARRAY:
                items, item = value.decode(), Kind(int.from_bytes(value.raw[:4], "little"))
            else:
                items, item = [value.decode()] * layers, value.kind
            if item is Kind.STRING:
                continue
            ends = mutations.NUMBERS[item]
            for new in (
                items, items[:-1], [*items, *items], [], [ends[0]] * len(items), [*items[:-1], ends[0]],
                [ends[0], *items[1:]], [ends[-1]] * len(items), [*items[:-1], ends[-1]], items[::-1],
            ):  # fmt: skip

                def put(model: Model, key: str = key, new: list[object] = new, item: Kind = item) -> None:
                    model.metadata[key] = encode(new, Kind.ARRAY, item)

                yield family, PLAIN, f"{key} = {item.name}{str(new)[:40]}", put


def foreign_keys() -> Iterator[Step]:
    """Every key that some family reads, in every other, with a small number and a large one."""
    for family in sorted({base(family, "F16").architecture: family for family in sorted(CASES)}.values()):
        model = base(family, "F16")
        for template in mutations.ARCH_KEYS:
            key = template.format(arch=model.architecture)
            if key in model.metadata:
                continue
            for new, kind in ((1, Kind.UINT32), (7, Kind.UINT32), (1 << 30, Kind.UINT32), (0.5, Kind.FLOAT32)):

                def put(model: Model, key: str = key, new: object = new, kind: Kind = kind) -> None:
                    model.set(key, new, kind)

                yield family, PLAIN, f"{key} = {new} (added)", put


def vocabularies() -> Iterator[Step]:
    """Every vocabulary that says to be of every kind, or to be cut up in every way."""
    for vocabulary in sorted(VOCABULARIES):
        for word in (*mutations.MODELS, *mutations.PRES):
            key = "tokenizer.ggml.model" if word in mutations.MODELS else "tokenizer.ggml.pre"

            def put(model: Model, key: str = key, word: str = word) -> None:
                model.set(key, word, Kind.STRING)

            yield next(iter(CASES)), vocabulary, f"{key} = {word}", put


def special_tokens() -> Iterator[Step]:
    """Every special token with numbers that no token has, in every vocabulary."""
    for vocabulary in sorted(VOCABULARIES):
        for key in mutations.TOKEN_IDS:
            for new in (0, 3, 319, 320, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):

                def put(model: Model, key: str = key, new: int = new) -> None:
                    model.set(key, new, Kind.UINT32)

                yield next(iter(CASES)), vocabulary, f"{key} = {new}", put


SWEEPS: dict[str, Callable[[], Iterator[Step]]] = {
    "without-tensors": without_tensors,
    "types": types,
    "numbers": numbers,
    "lists": lists,
    "foreign-keys": foreign_keys,
    "vocabularies": vocabularies,
    "special-tokens": special_tokens,
}


@cache
def steps(name: str) -> tuple[Step, ...]:
    """All steps of a sweep."""
    return tuple(SWEEPS[name]())
