"""Changes of a mixture's experts in a GGUF adapter: one ``a`` and one ``b`` with all experts' matrices.

llama.cpp multiplies with the matrices of the chosen experts alone, ``a`` of shape (experts, r, in) and ``b`` (experts,
out, r). Two layouts of adapters lead there: today's peft changes the parameters that hold all experts
(``experts.gate_up_proj``); before, the layers of each expert had changes of their own (``experts.7.gate_proj``), or
none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ggufrun.checkpoint.adapters.adapter import Adapter, Delta, changed_twice
from ggufrun.checkpoint.adapters.config import ends_with_any
from ggufrun.checkpoint.adapters.matrices import Matrices, read_floats
from ggufrun.checkpoint.adapters.merge import plain_scale
from ggufrun.checkpoint.adapters.model_names import APART, HALVES, canonical
from ggufrun.checkpoint.adapters.parameters import TRANSPOSED_MODELS, Factors
from ggufrun.checkpoint.quantized import Floats
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.convert.arch.shared.layout import Expected
from ggufrun.convert.arch.shared.text import is_text
from ggufrun.convert.config import Config
from ggufrun.errors import FormatError, UnsupportedError

EXPERTS = re.compile(r"(?:mtp\.)?layers\.(\d{1,5})\.(?:(?:.*\.)?experts|mlp\.(?:input|output)_linear)")
"""The canonical name of a module whose parameters are all experts of a layer."""
LAYER = re.compile(r"(?:mtp\.)?layers\.(\d{1,5})\.")
AHEAD = "mtp."
"""How names of layers begin that predict further tokens; others of these just have higher numbers."""

LINEAR = {"input_linear": "gate_up_proj", "output_linear": "down_proj"}
"""What Granite's mixtures called their parameters' modules."""

PARTS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}
"""Layers of an expert, and what a GGUF calls them."""

INPUT_FIRST_MODELS = ("gpt_oss", "llama4", "llama4_text")
"""``model_type`` of those whose experts are (in, out) in the running model."""

ALTERNATING_MODELS = ("gpt_oss",)
"""``model_type`` of those whose experts have a row of gate, one of up, and so on."""

MERGE = "merge it instead: leave --lora-out away"


def scaled_apart(adapter: Path, module: str) -> UnsupportedError:
    """The error for a change of a weight that the model multiplies by a scale of its own."""
    return UnsupportedError(
        f"{adapter} changes {module}, which llama.cpp multiplies by a scale, but not what an adapter adds to it", MERGE
    )


@dataclass
class _Apart:
    """The changes of one layer's gates, ups or downs, by the number of the expert."""

    module: str
    deltas: dict[int, Delta] = field(default_factory=dict)


class ExpertChanges:
    """Collects the changes of experts; ``expected`` are the tensors of the model's GGUF."""

    def __init__(self, config: Config, adapter: Adapter, expected: Mapping[str, Expected]) -> None:
        self._adapter, self._expected = adapter, expected
        self._model_type = str(config.values.get("model_type"))
        self._cache = Matrices()
        self._together: list[tuple[str, str, str, Delta]] = []
        self._apart: dict[str, _Apart] = {}
        self._ahead: list[str] = []

    def add(self, module: str, deltas: Sequence[Delta]) -> bool:
        """Take the changes of a module, if it is of experts."""
        key = canonical(f"{module}.weight").removesuffix(".weight")
        if (found := APART.fullmatch(f"{key}.weight")) and found["part"] in PARTS and is_text(module):
            layer = LAYER.match(key)
            if layer is None or len(deltas) != 1:
                raise self._no_such(module)
            if key.startswith(AHEAD):
                self._ahead.append(module)
                return True
            name = f"blk.{layer[1]}.ffn_{PARTS[found['part']]}_exps.weight"
            others, number = self._apart.setdefault(name, _Apart(module)).deltas, int(found["number"])
            if number in others:
                raise changed_twice(self._adapter.path, key, others[number].module, module)
            others[number] = deltas[0]
            return True
        match = EXPERTS.fullmatch(canonical(module))
        if match is None or not is_text(module):
            return False
        if key.startswith(AHEAD):
            self._ahead.append(module)
            return True
        for parameter, delta in zip(self._parameters(module, deltas), deltas, strict=True):
            self._together.append((match[1], module, parameter, delta))
        return True

    def _parameters(self, module: str, deltas: Sequence[Delta]) -> list[str]:
        """What the changes of a module belong to, the last wrapped first."""
        linear = LINEAR.get(module.rpartition(".")[2])
        named = [name for name in HALVES if ends_with_any(f"{module}.{name}", self._adapter.settings.parameters)]
        chosen = [linear] if linear else named or ["gate_up_proj", "down_proj"]
        if len(chosen) != len(deltas) or [delta.depth for delta in deltas] != list(range(len(deltas))):
            raise FormatError(
                f"{self._adapter.path} changes {len(deltas)} parameters of {module}, its settings name "
                f"{' and '.join(chosen)}",
                "download it again",
            )
        return chosen[::-1]

    def pairs(self) -> Iterator[tuple[str, list[Tensor]]]:
        """For each module its tensors of the GGUF adapter, ``a`` before ``b``; none where llama.cpp adds nothing."""
        for module in self._ahead:
            yield module, []
        for layer, module, parameter, delta in self._together:
            yield module, list(self._parameter_pairs(layer, module, parameter, delta))
        for name, apart in self._apart.items():
            yield apart.module, self._apart_pair(name, apart)

    def _parameter_pairs(self, layer: str, module: str, parameter: str, delta: Delta) -> Iterator[Tensor]:
        down, both = f"blk.{layer}.ffn_down_exps.weight", f"blk.{layer}.ffn_gate_up_exps.weight"
        if parameter != "gate_up_proj":
            targets = [down if parameter == "down_proj" else f"blk.{layer}.ffn_up_exps.weight"]
        elif both in self._expected:
            targets = [both]
        else:
            targets = [f"blk.{layer}.ffn_{part}_exps.weight" for part in ("gate", "up")]
        shapes = [self._shape(name, module) for name in targets]
        experts, height, columns = shapes[0]
        shape = experts, height * len(targets), columns
        known = self._model_type in TRANSPOSED_MODELS
        swapped = self._model_type in INPUT_FIRST_MODELS
        factors = Factors(self._adapter, f"{module}.{parameter}", delta, shape, known, swapped)
        rank, name = factors.rank, f"{module}.{parameter}"
        factor = np.float32(self._adapter.scale(name, rank) * rank / self._adapter.settings.alpha)
        for number, target in enumerate(targets):
            alternating = self._model_type in ALTERNATING_MODELS
            first, step = (number, len(targets)) if alternating else (number * height, 1)
            yield self._columns(f"{target}.lora_a", factors, (experts, rank, columns), delta.a)
            yield self._rows(f"{target}.lora_b", factors, (experts, height, rank), delta.b, first, step, factor)

    def _shape(self, name: str, module: str) -> tuple[int, int, int]:
        if name not in self._expected:
            raise self._no_such(module)
        if name.removesuffix(".weight") + ".scale" in self._expected:
            raise scaled_apart(self._adapter.path, module)
        experts, rows, columns = self._expected[name].shape
        return experts, rows, columns

    def _columns(self, name: str, factors: Factors, shape: tuple[int, int, int], like: Tensor) -> Tensor:
        def rows(start: int, stop: int) -> Rows:
            return _by_expert(start, stop, shape[1], lambda number: factors.columns(self._cache, number))

        return Tensor(name, "F32", shape, rows, like.dtype)

    def _rows(
        self,
        name: str,
        factors: Factors,
        shape: tuple[int, int, int],
        like: Tensor,
        first: int,
        step: int,
        factor: np.float32,
    ) -> Tensor:
        end = first + shape[1] * step

        def chosen(number: int) -> Floats:
            found: Floats = factors.rows(self._cache, number, 0, end)[first::step] * factor
            return found

        def rows(start: int, stop: int) -> Rows:
            return _by_expert(start, stop, shape[1], chosen)

        return Tensor(name, "F32", shape, rows, like.dtype)

    def _apart_pair(self, name: str, apart: _Apart) -> list[Tensor]:
        adapter = self._adapter
        experts, height, columns = self._shape(name, apart.module)
        some = next(iter(apart.deltas.values()))
        rank = some.a.shape[0]
        factors: dict[int, np.float32] = {}
        for number, delta in apart.deltas.items():
            factors[number] = np.float32(plain_scale(adapter, delta) * rank / adapter.settings.alpha)
            if number >= experts or (delta.b.shape[0], delta.a.shape[1]) != (height, columns):
                raise self._no_such(delta.module)
            if delta.a.shape[0] != rank or delta.b_bias is not None:
                raise UnsupportedError(
                    f"{adapter.path} changes experts of a layer by matrices of different ranks, or by biases, which "
                    "llama.cpp cannot add",
                    MERGE,
                )

        def first(number: int) -> Floats:
            found = apart.deltas.get(number)
            return read_floats(found.a, 0, rank) if found else np.zeros((rank, columns), np.float32)

        def second(number: int) -> Floats:
            found = apart.deltas.get(number)
            if found is None:
                return np.zeros((height, rank), np.float32)
            values: Floats = read_floats(found.b, 0, height) * factors[number]
            return values

        return [
            Tensor(
                f"{name}.lora_a", "F32", (experts, rank, columns), lambda i, j: _by_expert(i, j, rank, first), "F32"
            ),
            Tensor(
                f"{name}.lora_b", "F32", (experts, height, rank), lambda i, j: _by_expert(i, j, height, second), "F32"
            ),
        ]

    def _no_such(self, module: str) -> FormatError:
        return FormatError(f"the base has no {module}, which {self._adapter.path} changes", "name the base it is for")


def _by_expert(start: int, stop: int, height: int, matrix: Callable[[int], Floats]) -> Rows:
    """Rows ``start`` to ``stop`` of matrices of ``height`` rows each, one over the other."""
    parts = [
        matrix(number)[max(start - number * height, 0) : min(stop - number * height, height)]
        for number in range(start // height, -(-stop // height))
    ]
    if not parts:
        return matrix(0)[:0]
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)
