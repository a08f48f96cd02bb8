"""Products of matrices by libggml's own graphs, through ctypes: what the engine does with a model's weights.

Source of the signatures: ``ggml.h`` and ``ggml-cpu.h`` of the llama.cpp inside the pinned llama-cpp-python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.native import library
from ggufrun.quantize import ggml

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

F32, F16, I32, Q8_0, Q8_1, Q8_K = 0, 1, 26, 8, 9, 15


class InitParams(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits_cpu``."""

    _fields_ = (
        ("from_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    )


@cache
def libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """libggml-base and libggml-cpu."""
    base = library._libggml_base()
    cpu = ctypes.CDLL(str(library._file_of(Path(base._name).parent, "ggml-cpu")))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    signatures: list[tuple[ctypes.CDLL, str, Any, list[Any]]] = [
        (base, "ggml_init", pointer, [InitParams]),
        (base, "ggml_free", None, [pointer]),
        (base, "ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, count, count, count, count]),
        (base, "ggml_permute", pointer, [pointer, pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int]),
        (base, "ggml_get_data", pointer, [pointer]),
        (base, "ggml_nbytes", ctypes.c_size_t, [pointer]),
        (base, "ggml_mul_mat", pointer, [pointer, pointer, pointer]),
        (base, "ggml_mul_mat_id", pointer, [pointer, pointer, pointer, pointer]),
        (base, "ggml_flash_attn_ext", pointer, [pointer] * 5 + [ctypes.c_float] * 3),
        (base, "ggml_flash_attn_ext_add_sinks", None, [pointer, pointer]),
        (base, "ggml_new_graph", pointer, [pointer]),
        (base, "ggml_build_forward_expand", None, [pointer, pointer]),
        (cpu, "ggml_cpu_init", None, []),
        (cpu, "ggml_graph_compute_with_ctx", ctypes.c_int, [pointer, pointer, ctypes.c_int]),
        (cpu, "ggml_get_type_traits_cpu", ctypes.POINTER(TypeTraits), [ctypes.c_int]),
    ]
    for lib, name, result, arguments in signatures:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    if hasattr(cpu, "ggufrun_kernels"):
        cpu.ggufrun_kernels.restype, cpu.ggufrun_kernels.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    cpu.ggml_cpu_init()
    return base, cpu


def kernels() -> str:
    """The kernels in use; empty where the library has none but ggml's."""
    _, cpu = libraries()
    return cpu.ggufrun_kernels(None).decode() if hasattr(cpu, "ggufrun_kernels") else ""


@contextmanager
def using(name: str) -> Iterator[None]:
    """Meanwhile products are computed by these kernels."""
    _, cpu = libraries()
    before = kernels()
    assert cpu.ggufrun_kernels(name.encode()) == name.encode()
    try:
        yield
    finally:
        cpu.ggufrun_kernels(before.encode())


class Graph:
    """One node's worth of tensors."""

    def __init__(self, size: int) -> None:
        base, _ = libraries()
        self.base = base
        self.context = base.ggml_init(InitParams(size, None, False))
        assert self.context

    def tensor(self, kind: int, shape: tuple[int, ...], data: npt.NDArray[Any]) -> int:
        """``shape`` as numpy has it: rows last."""
        dims = (*reversed(shape), 1, 1, 1, 1)[:4]
        tensor = self.base.ggml_new_tensor_4d(self.context, kind, *dims)
        data = np.ascontiguousarray(data)
        assert self.base.ggml_nbytes(tensor) == data.nbytes
        ctypes.memmove(self.base.ggml_get_data(tensor), data.ctypes.data, data.nbytes)
        return int(tensor)

    def compute(self, node: int, shape: tuple[int, ...], threads: int) -> Floats:
        """The node's values."""
        _, cpu = libraries()
        graph = self.base.ggml_new_graph(self.context)
        self.base.ggml_build_forward_expand(graph, node)
        assert cpu.ggml_graph_compute_with_ctx(self.context, graph, threads) == 0
        out = np.empty(shape, np.float32)
        assert self.base.ggml_nbytes(node) == out.nbytes
        ctypes.memmove(out.ctypes.data, self.base.ggml_get_data(node), out.nbytes)
        return out

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self.base.ggml_free(self.context)


def room(*arrays: npt.NDArray[Any], extra: int = 0) -> int:
    """Bytes for a graph of these and its work."""
    return sum(array.nbytes for array in arrays) * 4 + extra * 4 + (64 << 20)


def product(kind: int, weights: Bytes, x: Floats, threads: int = 1, swap: bool = False) -> Floats:
    """``x @ weights.T``: weights (..., rows, bytes), x (..., columns, values); the result (..., columns, rows).

    With ``swap`` the activations lie in memory with columns and the dimension before exchanged.
    """
    block = next(one for one in ggml.block_types().values() if one.id == kind)
    rows, values = weights.shape[-2], weights.shape[-1] // block.size * block.block
    assert x.shape[-1] == values
    shape = (*x.shape[:-1], rows)
    with Graph(room(weights, x, extra=4 * int(np.prod(shape)))) as graph:
        w = graph.tensor(kind, (*weights.shape[:-1], values), weights)
        if swap:
            turned = np.ascontiguousarray(np.swapaxes(x, -2, -3))
            a = graph.base.ggml_permute(graph.context, graph.tensor(F32, turned.shape, turned), 0, 2, 1, 3)
        else:
            a = graph.tensor(F32, x.shape, x)
        return graph.compute(graph.base.ggml_mul_mat(graph.context, w, a), shape, threads)


def product_of_experts(kind: int, weights: Bytes, x: Floats, ids: npt.NDArray[np.int32], threads: int = 1) -> Floats:
    """weights (experts, rows, bytes), x (tokens, one or used, values), ids (tokens, used): (tokens, used, rows)."""
    block = next(one for one in ggml.block_types().values() if one.id == kind)
    experts, rows = weights.shape[:2]
    shape = (*ids.shape, rows)
    with Graph(room(weights, x, extra=4 * int(np.prod(shape)))) as graph:
        w = graph.tensor(kind, (experts, rows, weights.shape[-1] // block.size * block.block), weights)
        a, i = graph.tensor(F32, x.shape, x), graph.tensor(I32, ids.shape, ids)
        return graph.compute(graph.base.ggml_mul_mat_id(graph.context, w, a, i), shape, threads)


def as_floats(kind: int, blocks: Bytes) -> Floats:
    """Rows of blocks as floats."""
    block = next(one for one in ggml.block_types().values() if one.id == kind)
    out = np.empty((*blocks.shape[:-1], blocks.shape[-1] // block.size * block.block), np.float32)
    data = np.ascontiguousarray(blocks)
    library.ggml_base().ggml_get_type_traits(kind).contents.to_float(data.ctypes.data, out.ctypes.data, out.size)
    return out


def activations(kind: int, x: Floats) -> npt.NDArray[np.float64]:
    """The values that a product with weights of this type really takes: x in whole numbers with scales."""
    _, cpu = libraries()
    to = cpu.ggml_get_type_traits_cpu(kind).contents.vec_dot_type
    # Q8_1 has the same scales and numbers, and a sum
    to = Q8_0 if to == Q8_1 else to
    block = next(one for one in ggml.block_types().values() if one.id == to)
    out = np.empty((*x.shape[:-1], x.shape[-1] // block.block, block.size), np.uint8)
    data = np.ascontiguousarray(x)
    cpu.ggml_get_type_traits_cpu(to).contents.from_float(data.ctypes.data, out.ctypes.data, data.size)
    width = 4 if to == Q8_K else 2
    scales = out[..., :width].copy().view(np.float32 if to == Q8_K else np.float16).astype(np.float64)
    numbers = out[..., width : width + block.block].view(np.int8)
    values: npt.NDArray[np.float64] = (scales * numbers).reshape(x.shape)
    return values


def attention(
    q: Floats,
    k: npt.NDArray[Any],
    v: npt.NDArray[Any],
    mask: npt.NDArray[np.float16] | None,
    scale: float,
    bias: float = 0,
    sinks: Floats | None = None,
    threads: int = 1,
    kinds: tuple[int, int] = (F16, F16),
) -> Floats:
    """q (batch, heads, tokens, width), k and v (batch, key heads, cells, bytes or values), mask (1 or batch, 1, tokens,
    cells): (batch, tokens, heads, width)."""
    widths = []
    for kind, one in zip(kinds, (k, v), strict=True):
        block = next(block for block in ggml.block_types().values() if block.id == kind)
        widths.append(one.shape[-1] * one.itemsize // block.size * block.block)
    batch, heads, tokens, _ = q.shape
    shape = (batch, tokens, heads, widths[1])
    with Graph(room(q, k, v, extra=4 * int(np.prod(shape)))) as graph:
        a, context = graph.tensor(F32, q.shape, q), graph.context
        b = graph.tensor(kinds[0], (*k.shape[:-1], widths[0]), k)
        c = graph.tensor(kinds[1], (*v.shape[:-1], widths[1]), v)
        m = None if mask is None else graph.tensor(F16, mask.shape, mask)
        node = graph.base.ggml_flash_attn_ext(context, a, b, c, m, scale, bias, 0.0)
        if sinks is not None:
            graph.base.ggml_flash_attn_ext_add_sinks(node, graph.tensor(F32, sinks.shape, sinks))
        return graph.compute(node, shape, threads)
