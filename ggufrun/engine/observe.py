"""Watch the matrix products of a model while it runs: the weight's name, and the activations it is multiplied with.

llama.cpp calls back for every node of its graph, first to ask whether anybody wants to see it, then, once it is
computed, to show it. A node is a ``struct ggml_tensor``; its mirror
(`ggufrun.native.structures`) is held against the library's own accessors on the first node of a run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.errors import EngineError
from ggufrun.native.library import ggml, llama
from ggufrun.native.structures import Tensor

F32 = 0
"""``GGML_TYPE_F32``."""

Floats = npt.NDArray[np.float32]


@cache
def operations() -> dict[str, int]:
    """The numbers of the two matrix products; they change between releases."""
    # both stand early in the list, whose end must not be passed
    names = {ggml().ggml_op_name(number).decode(): number for number in range(64)}
    try:
        return {name: names[name] for name in ("MUL_MAT", "MUL_MAT_ID")}
    except KeyError as error:
        raise EngineError(f"this llama.cpp has no {error.args[0]}", "reinstall the pinned llama-cpp-python") from error


class Product:
    """One matrix product that has been computed. Valid only while the callback runs."""

    def __init__(self, node: Tensor) -> None:
        self._input = Tensor.from_address(node.src[1])
        self._ids = Tensor.from_address(node.src[2]) if node.op == operations()["MUL_MAT_ID"] else None
        weight = Tensor.from_address(node.src[0])
        self.weight = weight_name(weight.name)
        self.matrices: tuple[int, int] = (weight.ne[3], weight.ne[2])
        """The weight's outer dimensions: (1, experts) of a mixture, (1, 1) of a plain matrix."""

    def inputs(self) -> Floats:
        """The activations, float32 of shape (ne3, ne2, tokens, columns); of a mixture, (1, tokens, slots, columns)."""
        return _array(self._input, np.dtype(np.float32))

    def experts(self) -> npt.NDArray[np.int32] | None:
        """Which expert each token is sent to, shape (tokens, slots), or None for a plain product."""
        return None if self._ids is None else _array(self._ids, np.dtype(np.int32))[0, 0]


def weight_name(name: bytes) -> str:
    """The name of a weight, without what the scheduler adds to that of a copy: ``CUDA0#blk.0.attn_k.weight#0``."""
    return name.split(b"#")[1 if b"#" in name else 0].decode("utf-8", "replace")


def _array(node: Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A view of a tensor in the memory of the processor, or a copy of one elsewhere."""
    lib = ggml()
    n_bytes = lib.ggml_nbytes(ctypes.byref(node))
    if lib.ggml_backend_buffer_is_host(node.buffer):
        memory: Any = (ctypes.c_char * n_bytes).from_address(node.data)
    else:
        memory = ctypes.create_string_buffer(n_bytes)
        lib.ggml_backend_tensor_get(ctypes.byref(node), memory, 0, n_bytes)
    shape, strides = tuple(reversed(node.ne)), tuple(reversed(node.nb))
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, memory, strides=strides)
    return array


class Observer:
    """Tells a context's graph which products to show. Keep it alive for as long as the context.

    ``wants`` is asked with the weight's name; ``sees`` gets each product. Products of the same activations follow one
    another (queries, keys and values; gate and up); only the first is shown to ``sees``, the others are named to
    ``repeats``, so that nobody computes the same twice. What they raise is kept in ``failure`` and stops the run.

    The logits of an observed run mean nothing: what comes after the last product of a graph is left out.
    """

    MIN_TOKENS = 16
    """Smaller batches are left out, as by llama.cpp's own collector."""

    def __init__(
        self, wants: Callable[[str], bool], sees: Callable[[Product], None], repeats: Callable[[str], None]
    ) -> None:
        self._wants, self._sees, self._repeats = wants, sees, repeats
        self.failure: BaseException | None = None
        self._seen: set[str] = set()
        self._previous = self._final = ""
        self._plain = operations()["MUL_MAT"]
        self._mixture = operations()["MUL_MAT_ID"]
        self._checked = False
        self._last: tuple[Any, ...] = ()
        self._served: set[str] = set()
        self.callback = llama().ggml_backend_sched_eval_callback(self._call)

    def _call(self, address: int, ask: bool, _: Any) -> bool:
        # Nothing may be raised into C.
        try:
            if self.failure is not None:
                return False
            node = Tensor.from_address(address)
            if not self._checked:
                _check_mirror(node)
                self._checked = True
            if ask:
                return node.op in (self._plain, self._mixture) and self._ask(node)
            product = Product(node)
            self._sees(product)
            self._last, self._served = self._key(node), {product.weight}
            # Once a second graph has begun it is known what the last product is, and what follows, mostly the large
            # output matrix, need not be computed: False ends the graph.
            return self._note(product.weight) != self._final
        except BaseException as failure:
            self.failure = failure
            return False

    def _note(self, weight: str) -> str:
        if not self._final and weight in self._seen:
            self._final = self._previous
        self._seen.add(weight)
        self._previous = weight
        return weight

    def _key(self, node: Tensor) -> tuple[Any, ...]:
        # The name tells the layer, and so tells graphs apart that happen to lie at the same address.
        return node.op, node.src[1], Tensor.from_address(node.src[1]).name, node.src[2]

    def _ask(self, node: Tensor) -> bool:
        activations = Tensor.from_address(node.src[1])
        if activations.type != F32 or (node.op == self._plain and activations.ne[1] < self.MIN_TOKENS):
            return False
        weight = Tensor.from_address(node.src[0])
        name = weight_name(weight.name)
        if not self._wants(name):
            return False
        alone = weight.ne[2] * weight.ne[3] == 1 or node.op == self._mixture
        if not alone or self._key(node) != self._last or name in self._served:
            return True
        self._served.add(name)
        self._note(name)
        self._repeats(name)
        return False


def _check_mirror(node: Tensor) -> None:
    lib, here, address = ggml(), ctypes.byref(node), ctypes.addressof(node)
    same = (
        lib.ggml_get_name(here) == address + Tensor.name.offset
        and (lib.ggml_get_data(here) or 0) == (node.data or 0)
        and lib.ggml_nelements(here) == prod(node.ne)
    )
    if not same:
        raise EngineError("this llama.cpp lays out its tensors in another way", "reinstall the pinned llama-cpp-python")
