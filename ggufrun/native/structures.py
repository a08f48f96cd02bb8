"""C structures and callbacks that ggufrun mirrors itself, because llama-cpp-python does not.

Sources: ``ggml.h``, ``ggml-backend-impl.h``, ``gguf.h`` and ``llama.h`` of the llama.cpp inside the pinned release.
"""

from __future__ import annotations

import ctypes

MAX_DIMENSIONS = 4
"""``GGML_MAX_DIMS``."""

ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
"""``ggml_to_float_t``: a row of blocks, its values, how many."""

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
"""``ggml_log_callback``: level, text, the caller's own."""

AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
"""``ggml_abort_callback_t``, which hears the message; not ``ggml_abort_callback``, which is asked whether to stop."""

GetMemory = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t))
"""``get_memory`` of a device: the device, free, total."""

TerminateHandler = ctypes.CFUNCTYPE(None)
"""``std::terminate_handler``."""

SignalHandler = ctypes.CFUNCTYPE(None, ctypes.c_int)
"""What C's ``signal`` takes."""


class Tensor(ctypes.Structure):
    """``struct ggml_tensor``: a node of a graph."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMENSIONS),
        ("nb", ctypes.c_size_t * MAX_DIMENSIONS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits``; ``to_float`` turns a row of blocks into floats."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ToFloat),
        ("from_float_ref", ctypes.c_void_p),
    )


class GgufInitParams(ctypes.Structure):
    """``struct gguf_init_params``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class BufferOverride(ctypes.Structure):
    """``struct llama_model_tensor_buft_override``; a row of nulls ends the list."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


class DeviceInterface(ctypes.Structure):
    """The beginning of ``struct ggml_backend_device_i``, which a device begins with."""

    _fields_ = (
        ("get_name", ctypes.c_void_p),
        ("get_description", ctypes.c_void_p),
        ("get_memory", ctypes.c_void_p),
    )


class Breakdown(ctypes.Structure):
    """Room for a ``std::map`` of either C++ library, and large enough to be returned through memory, as a class is."""

    _fields_ = (("words", ctypes.c_size_t * 6),)
