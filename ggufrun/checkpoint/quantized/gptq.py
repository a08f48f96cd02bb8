"""GPTQ: 2, 3, 4 or 8 bits, packed along the inputs; also what AutoRound writes in this form.

``qweight`` is I32 (inputs * bits / 32, outputs), ``scales`` (groups, outputs), ``qzeros`` I32 (groups, outputs * bits /
32), ``g_idx`` I32 (inputs) the group of each input, all in little-endian streams of bits. A weight is scale * (number -
zero point), rounded to the type of the scales. The first format keeps zero points less one: GPTQModel, which writes it
too, takes the one from each number of a whole word at once, with a carry to the next where a zero point is 0.

Source: the documentation and files of AutoGPTQ, GPTQModel and AutoRound; the bits and sizes follow from the shapes, as
one checkpoint may mix them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized import affine
from ggufrun.checkpoint.quantized.bits import unpack
from ggufrun.checkpoint.quantized.floats import Floats, as_float32
from ggufrun.checkpoint.quantized.module import AGAIN, Module, computed, precision_of, read_vector
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.errors import FormatError, UnsupportedError

BITS = (4, 8, 3, 2)
WORD = 32
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
"""A one in each number of a word."""

OTHER_LAYOUTS = ("gptq_p", "marlin", "bitblas", "qqq", "exl3")
"""Values of ``checkpoint_format`` that put the bits into another order."""

V2_PACKINGS = ("auto_round", "auto_round:gptqmodel")
"""AutoRound's names for zero points as they are."""


def read(module: Module) -> Tensor:
    """The weight of a layer, (outputs, inputs). FormatError, UnsupportedError."""
    settings = module.settings
    layout = "marlin" if settings.values.get("is_marlin_format") is True else settings.text("checkpoint_format")
    if layout in OTHER_LAYOUTS:
        raise UnsupportedError(
            f"the checkpoint keeps GPTQ's numbers in the order of {layout}, for one kernel",
            "convert the same model in the format gptq or gptq_v2, or the original one",
        )
    weight, scales = module.part(".qweight", "I32", dimensions=2), module.part(".scales", "F16", "BF16", "F32")
    zeros = module.part(".qzeros", "I32", dimensions=2)
    outputs = weight.shape[1]
    if len(scales.shape) != 2 or scales.shape[1] != outputs:
        raise module.wrong_shape(".scales", f"(groups, {outputs})")
    bits = _bits(module, zeros, outputs)
    inputs = weight.shape[0] * WORD // bits
    n_groups = scales.shape[0]
    if zeros.shape[0] != n_groups:
        raise module.wrong_shape(".qzeros", f"({n_groups}, {-(-outputs * bits // WORD)})")
    groups = _groups(module, inputs, n_groups)
    is_v2 = _is_v2(module, zeros, bits)
    precision = precision_of(scales)

    def rows(start: int, stop: int) -> Floats:
        words = module.panels.columns(weight, start, stop)
        codes = unpack(words.view(np.uint8), bits)[:, :inputs]
        points = _zeros(module, zeros, bits, is_v2, start, stop)
        factors = as_float32(scales.dtype, module.panels.columns(scales, start, stop))
        return affine.weights(codes, points, factors, groups, precision)

    return computed(module, (outputs, inputs), rows, precision)


def _bits(module: Module, zeros: Tensor, outputs: int) -> int:
    """The bits of a number, by the width of the zero points."""
    said = module.settings.whole("bits", "w_bit", least=1, most=64)
    if said is not None and said not in BITS:
        raise UnsupportedError(
            f"{module.settings.file.name} says GPTQ with {said} bits, of which ggufrun knows 2, 3, 4 and 8",
            "convert the original checkpoint",
        )
    fitting = [bits for bits in BITS if -(-outputs * bits // WORD) == zeros.shape[1]]
    if not fitting:
        raise module.wrong_shape(".qzeros", " or ".join(str(-(-outputs * bits // WORD)) for bits in sorted(BITS)))
    bits = said if said in fitting else fitting[0]
    height = module.parts[".qweight"].shape[0]
    if height * WORD % bits or (bits == 3 and height % 3):
        raise module.wrong_shape(".qweight", f"rows of a multiple of {bits} words")
    return bits


def _groups(module: Module, inputs: int, n_groups: int) -> affine.Groups | None:
    """The group of each input; None where they are equal and in order."""
    order = module.maybe(".g_idx", "I32", "I64", dimensions=1)
    if order is None:
        size = module.settings.whole("group_size", "q_group_size", least=-1) or -1
        size = size if size > 0 and -(-inputs // size) == n_groups else -(-inputs // n_groups)
        found = np.arange(inputs) // size
        if found[-1] != n_groups - 1:
            raise module.wrong_shape(".scales", f"groups of {inputs} inputs")
    else:
        if order.shape != (inputs,):
            raise module.wrong_shape(".g_idx", (inputs,))
        found = read_vector(order).astype(np.int64)
        if found.min() < 0 or found.max() >= n_groups:
            raise FormatError(
                f"{order.name} names group {found.min() if found.min() < 0 else found.max()} of {n_groups}", AGAIN
            )
    if inputs % n_groups == 0 and affine.regular(found, inputs // n_groups):
        return None
    return found


def _is_v2(module: Module, zeros: Tensor, bits: int) -> bool:
    """Are zero points stored as they are? In the first format they are one less."""
    settings = module.settings
    packing = settings.text("packing_format", "backend")
    if packing.startswith(("auto_round", "autoround")):
        return packing in V2_PACKINGS or ("gptq" not in packing or "gptqmodel" in packing)
    layout = settings.text("checkpoint_format")
    if layout or settings.method:
        return layout == "gptq_v2"
    # symmetric weights have the middle as their zero point, in all groups
    first = _zeros(module, zeros, bits, True, 0, min(WORD, module.parts[".qweight"].shape[1]))
    middle = 1 << (bits - 1)
    if (first == middle).all() or (first == middle - 1).all():
        return bool(first.flat[0] == middle)
    raise UnsupportedError(
        "the checkpoint is quantized (GPTQ), and nothing says how its zero points are stored",
        "put the quantize_config.json that belongs to it into its folder",
    )


def _zeros(module: Module, zeros: Tensor, bits: int, is_v2: bool, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """The zero points of outputs ``start`` to ``stop``, (outputs, groups)."""
    # 32 numbers are ``bits`` words, so that none begins in a word that is not read
    first, last = start // WORD * bits, min(-(-stop // WORD) * bits, zeros.shape[1])
    words = np.ascontiguousarray(module.panels.columns(zeros, first, last).T)
    skipped = start - start // WORD * WORD
    if not is_v2 and bits in ONES:
        words = words.view(np.uint32) + np.uint32(ONES[bits])
    if bits == 3 and words.shape[1] % 3:
        words = np.pad(words, ((0, 0), (0, -words.shape[1] % 3)))
    found: npt.NDArray[np.uint8] = unpack(words.view(np.uint8), bits)[:, skipped : skipped + stop - start].T
    if not is_v2 and bits not in ONES:
        # no number of 3 bits ends with its word
        found = (found + np.uint8(1)) & np.uint8((1 << bits) - 1)
    return found


def is_gptq(module: Module) -> bool:
    """GPTQ packs along the inputs: as many columns as outputs."""
    weight, scales = module.parts[".qweight"], module.parts.get(".scales")
    return scales is not None and len(weight.shape) == len(scales.shape) == 2 and weight.shape[1] == scales.shape[1]
