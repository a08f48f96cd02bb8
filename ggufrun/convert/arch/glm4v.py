"""The text parts of GLM-4.1V and 4.6V Flash (dense), and of GLM-4.5V and 4.6V (experts).

Source of names and order: llama.cpp's ``conversion/glm.py``; of defaults: transformers' ``Glm4vTextConfig`` and
``Glm4vMoeTextConfig``. They rotate by time, height and width, for which llama.cpp wants the two values of a pair half
a head apart; the dense ones have them side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import glm, glm4moe, qwenvl
from ggufrun.convert.arch.shared.layout import decoder_sizes
from ggufrun.convert.arch.shared.rope import partial_factor
from ggufrun.convert.arch.shared.text import text_name
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import row_numbers, take_rows
from ggufrun.errors import UnsupportedError

DENSE = {
    **{key: value for key, value in glm.GLM.items() if key != "head_dim"},
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}
MOE = {**glm4moe.DEFAULTS, "vocab_size": 151424, "num_key_value_heads": 8, "max_position_embeddings": 65536}
ROTATED = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")


def check(config: Config) -> None:
    glm.check_glm(config)
    qwenvl.check_sections(config)
    if rotated(config) % 2:
        raise UnsupportedError(f"{config.path} rotates {rotated(config)} values of a head", "llama.cpp wants pairs")


def check_moe(config: Config) -> None:
    glm4moe.check(config)
    config.require("use_qk_norm", (False,))
    qwenvl.check_sections(config)


def rotated(config: Config) -> int:
    """Values of a head that are rotated."""
    return int(decoder_sizes(config)["head"] * partial_factor(config, default=0.5))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    head, part = decoder_sizes(config)["head"], rotated(config)
    if not tensor.name.endswith(ROTATED):
        return (tensor,)
    rows = row_numbers(tensor, tensor.shape[0] // head, head)
    pairs = rows[:, :part]
    return (take_rows(tensor, np.concatenate([pairs[:, ::2], pairs[:, 1::2], rows[:, part:]], axis=1)),)


FAMILIES = (
    replace(
        glm.GLM4_FAMILY,
        names={"Glm4vForConditionalGeneration": ("zai-org/GLM-4.1V-9B-Thinking",)},
        title="GLM-4.1V, GLM-4.6V-Flash",
        left_out=("images",),
        defaults=DENSE,
        rope_parameters=qwenvl.positions(1e4, (8, 12, 12), partial=0.5),
        sections=True,
        check=check,
        kept_name=text_name,
        transform=transform,
    ),
    replace(
        glm4moe.GLM4_MOE,
        names={"Glm4vMoeForConditionalGeneration": ("zai-org/GLM-4.5V",)},
        title="GLM-4.5V, GLM-4.6V",
        left_out=("images",),
        defaults=MOE,
        rope_parameters=qwenvl.positions(1e4, (8, 12, 12), partial=0.5),
        sections=True,
        check=check_moe,
        kept_name=text_name,
    ),
)
