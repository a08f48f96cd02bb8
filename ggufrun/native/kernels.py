"""Which kernels multiply quantized weights: ours (``tools/kernels/matmul``) or llama.cpp's.

Ours read weights where they lie, in the file's layout. llama.cpp's are faster on a copy in another layout, which it
makes of some types when it loads a model, for twice the memory and some seconds.
"""

from __future__ import annotations

from ggufrun.native.library import llama, our_kernels

STOCK = "stock"
"""The name of llama.cpp's own, which are the default.

``GGUFRUN_KERNELS=ours`` asks for the best of ours; the name of a set asks for that one. Read at the first product."""


def kernels() -> str:
    """The instruction set of the kernels in use (``avx512``, ``avxvnni``, ``avx2``), or ``stock``."""
    llama()
    found = our_kernels()
    return STOCK if found is None else str(found.ggufrun_kernels(None).decode())


def wants_copy() -> bool:
    """Whether weights should be copied into llama.cpp's other layouts.

    They should where its kernels compute, and where the processor has matrix instructions (AMX), which llama.cpp uses
    on such a copy.
    """
    return kernels() == STOCK or "AMX_INT8 = 1" in llama().llama_print_system_info().decode("utf-8", "replace")
