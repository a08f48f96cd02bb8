"""A device's report of its memory, replaced. A device begins with a table of functions (``ggml-backend-impl.h``)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ggufrun.native.library import ggml
from ggufrun.native.structures import DeviceInterface, GetMemory

Report = Callable[[int, int], tuple[int, int]]
"""Free and total bytes as the device says; those that others are to hear."""

_kept: list[Any] = []
"""The functions that devices were given: they must live as long as those."""


def replace_report(device: int, report: Report) -> bool:
    """Have the device at this address say what ``report`` makes of it. False, and nothing changed, where the device is
    not built as we take it to be: where the function in that place does not say what the library says.
    """
    interface = DeviceInterface.from_address(device)
    free, known, total = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
    ggml().ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(known))
    if interface.get_memory is None:
        return False
    before = GetMemory(interface.get_memory)
    before(device, ctypes.pointer(free), ctypes.pointer(total))
    if total.value != known.value:
        return False

    def tell(device: int, free: Any, total: Any) -> None:
        before(device, free, total)
        free[0], total[0] = report(free[0], total[0])

    callback = GetMemory(tell)
    _kept.append((callback, before))
    interface.get_memory = ctypes.cast(callback, ctypes.c_void_p).value
    return True
