"""The text parts of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, dense and with experts, and of Qwen2.5-Omni and Qwen3-Omni.

Source of names and order: llama.cpp's ``conversion/qwenvl.py`` and ``qwen3vl.py``; of defaults: transformers'
``Qwen2VLTextConfig``, ``Qwen2_5_VLTextConfig``, ``Qwen3VLTextConfig`` and ``Qwen3VLMoeTextConfig``, and those of the
thinkers. They rotate by time, height and width, which of text are one and the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import qwen
from ggufrun.convert.arch.shared.experts import turned_experts
from ggufrun.convert.arch.shared.family import Family, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, DECODER, EXPERTS, NORMS, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import partial_factor, rope, standard
from ggufrun.convert.arch.shared.text import text_name
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import FormatError, UnsupportedError

QWEN2 = {
    **qwen.QWEN2,
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}
QWEN3 = {
    **qwen.QWEN2,
    "num_key_value_heads": heads_if_null,
    "head_dim": 128,
    "max_position_embeddings": 128000,
}
QWEN3_MOE = {
    **qwen.QWEN2_MOE,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "max_position_embeddings": 128000,
    # the name of the only way that this family knows
    "norm_topk_prob": True,
}
del QWEN3_MOE["shared_expert_intermediate_size"]

OMNI2 = {
    **qwen.QWEN2,
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
OMNI3 = {
    **QWEN3_MOE,
    "vocab_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}

DEEPSTACK = 3
"""In how many layers what is seen is added again, unless the file says so."""


def positions(theta: float, sections: Sequence[int], partial: float | None = None) -> Any:
    """As transformers completes them; what older files call ``mrope`` is not a scaling."""
    usual = standard(theta, partial)

    def complete(config: Config) -> dict[str, Any]:
        found = usual(config)
        for key in ("rope_type", "type"):
            if found.get(key) == "mrope":
                found[key] = "default"
        if found.get("mrope_section") is None:
            found["mrope_section"] = list(sections)
        return found

    return complete


def check_sum(config: Config, parts: Sequence[float]) -> None:
    """Refuse sections for which llama.cpp would abort."""
    head = decoder_sizes(config)["head"]
    if sum(parts) > head:
        raise FormatError(
            f"{config.path} has heads of {head} values, which mrope_section = {parts} does not fit",
            "give the mrope_section of the model that this one was made from",
        )


def check_sections(config: Config, interleaved: bool = False) -> None:
    """Refuse sections that are not the pairs of a head; those that lie ``interleaved`` may be more."""
    found = rope(config).values.get("mrope_section")
    parts = found if isinstance(found, list) else []
    if not 1 <= len(parts) <= 4 or any(type(part) is not int or not 0 <= part < 1 << 16 for part in parts):
        raise FormatError(f"{config.path} says mrope_section = {found!r}", "complete rope_scaling")
    check_sum(config, parts)
    turned = int(decoder_sizes(config)["head"] * partial_factor(config, default=1.0))
    if turned and sum(parts) * 2 != turned and not interleaved:
        raise FormatError(
            f"{config.path} turns {turned // 2} pairs of values in a head, and by time, height and width those of "
            f"mrope_section = {parts}",
            "give the mrope_section of the model that this one was made from",
        )


def check(config: Config) -> None:
    qwen.check(config)
    check_sections(config)


def check3(config: Config) -> None:
    qwen.check(config)
    check_sections(config, interleaved=True)
    check_deepstack(config)


def check_moe(config: Config) -> None:
    qwen.check_qwen3_moe(config)
    check_sections(config, interleaved=True)
    check_deepstack(config)


def deepstack(config: Config) -> int:
    """In how many layers what is seen is added again."""
    seen = config.section("vision_config")
    layers = seen.values.get("deepstack_visual_indexes") if seen else None
    if layers is not None and not isinstance(layers, list):
        raise FormatError(f"{config.path} says deepstack_visual_indexes = {layers!r}", "correct the file")
    return DEEPSTACK if layers is None else len(layers)


def check_deepstack(config: Config) -> None:
    if deepstack(config) >= n_layers(config):
        # llama.cpp would abort at the last layer, which computes fewer tokens
        raise UnsupportedError(
            f"{config.path} adds what is seen to {deepstack(config)} of {n_layers(config)} layers",
            "llama.cpp can do so in all but the last",
        )


def qwen3_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_num_deepstack_layers(deepstack(config))


def moe_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    qwen.moe_metadata(config, writer)
    writer.add_num_deepstack_layers(deepstack(config))


def moe_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    sizes = qwen.moe_sizes(config)
    return turned_experts(tensor, sizes["experts"], sizes["expert"])


def omni_vocabulary(folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None) -> Original:
    """Qwen3-Omni's: a turn's end is the end, and is said to be the beginning too."""
    original = bpe_vocabulary(folder, config, writer, pretokenizer)
    number = TokenizerFiles.of(folder, config).ids.get("<|im_end|>")
    if number is not None:
        writer.add_bos_token_id(number)
        writer.add_eos_token_id(number)
    return original


def check_omni(config: Config) -> None:
    qwen.check_qwen3_moe(config)
    check_sections(config, interleaved=True)


def omni_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    qwen.moe_metadata(config, writer)
    writer.add_num_deepstack_layers(0)


QWEN2VL = Family(
    names={
        "Qwen2VLForConditionalGeneration": ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
        "Qwen2_5_VLForConditionalGeneration": ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    },
    title="Qwen2-VL, Qwen2.5-VL",
    left_out=("images",),
    arch=gguf.MODEL_ARCH.QWEN2VL,
    defaults=QWEN2,
    rope_parameters=positions(1e6, (16, 24, 24)),
    sections=True,
    check=check,
    kept_name=text_name,
)

QWEN3VL_MOE = replace(
    QWEN2VL,
    names={
        "Qwen3VLMoeForConditionalGeneration": ("Qwen/Qwen3-VL-235B-A22B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct"),
    },
    title="Qwen3-VL, mixtures",
    arch=gguf.MODEL_ARCH.QWEN3VLMOE,
    vocab=bpe_vocabulary,
    defaults=QWEN3_MOE,
    rope_parameters=positions(5e5, (24, 20, 20)),
    check=check_moe,
    metadata=moe_metadata,
    sizes=qwen.moe_sizes,
    layer=NORMS + ATTENTION + qwen.HEAD_NORMS + EXPERTS,
    transform=moe_transform,
    stacks=(qwen.EXPERT_STACK,),
)

FAMILIES = (
    QWEN2VL,
    replace(
        QWEN2VL,
        names={
            "Qwen2_5OmniModel": ("Qwen/Qwen2.5-Omni-7B",),
            # as transformers saves the whole, and what thinks alone
            "Qwen2_5OmniForConditionalGeneration": ("Qwen/Qwen2.5-Omni-7B",),
            "Qwen2_5OmniThinkerForConditionalGeneration": ("Qwen/Qwen2.5-Omni-7B",),
        },
        title="Qwen2.5-Omni",
        left_out=("images", "sound", "speech"),
        defaults=OMNI2,
    ),
    QWEN3VL_MOE,
    replace(
        QWEN3VL_MOE,
        names={
            "Qwen3OmniMoeForConditionalGeneration": ("Qwen/Qwen3-Omni-30B-A3B-Instruct",),
            # what thinks alone
            "Qwen3OmniMoeThinkerForConditionalGeneration": ("Qwen/Qwen3-Omni-30B-A3B-Thinking",),
        },
        title="Qwen3-Omni",
        left_out=("images", "sound", "speech"),
        vocab=omni_vocabulary,
        defaults=OMNI3,
        rope_parameters=positions(1e6, (24, 20, 20)),
        check=check_omni,
        metadata=omni_metadata,
    ),
    replace(
        QWEN2VL,
        names={
            "Qwen3VLForConditionalGeneration": (
                "Qwen/Qwen3-VL-4B-Instruct",
                "Qwen/Qwen3-VL-2B-Instruct",
                "Qwen/Qwen3-VL-32B-Instruct",
                "Qwen/Qwen3-VL-8B-Instruct",
            ),
        },
        title="Qwen3-VL",
        arch=gguf.MODEL_ARCH.QWEN3VL,
        defaults=QWEN3,
        rope_parameters=positions(5e5, (24, 20, 20)),
        check=check3,
        metadata=qwen3_metadata,
        layer=DECODER + qwen.HEAD_NORMS,
    ),
)
