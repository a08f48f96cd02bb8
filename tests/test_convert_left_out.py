"""Nothing is judged of a tensor that is not written: neither the shape nor the type of what belongs to another part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert import arch
from ggufrun.convert.config import Config
from ggufrun.convert.mapping import mapped
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError
from tests.families.family import write
from tests.families.family_cases import CASES

ODD: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "a convolution over time": ("BF16", (32, 3, 2, 14, 14)),
    "a counter": ("I64", ()),
    "nothing": ("F32", (0, 8)),
    "a mask": ("BOOL", (1, 1, 4, 4)),
    "bytes": ("U8", (7,)),
    "numbers of four bits": ("F4", (6, 8)),
    "a type of tomorrow": ("F9_E7M1", (3,)),
    "complex numbers": ("C64", (2, 2)),
}

ELSEWHERE = (
    "visual.patch_embed.proj.weight",
    "model.visual.patch_embed.proj.weight",
    "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "model.vision_tower.patch_conv.weight",
    "thinker.audio_tower.conv1.weight",
    "talker.model.embed_tokens.weight",
    "model.embed_vision.embedding.weight",
    "lm_head.weight",
    "model.layers.99.eh_proj.weight",
    "model.mtp_block.0.mlp.up_proj.weight",
    "transformer.rotary_pos_emb.inv_freq",
    "h.0.attn.bias",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.0.self_attn.core_attention._extra_state",
)
"""Names of tensors that some family or other does not write."""

SEEING = [name for name, case in CASES.items() if "ForConditionalGeneration" in case.config["architectures"][0]]


class Source:
    """A checkpoint with a few tensors more."""

    files: tuple[Path, ...] = ()

    def __init__(self, path: Path, more: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self.path = path

        def rows(start: int, stop: int) -> Any:
            raise AssertionError("read")

        plain = {name: ("F32", array.shape) for name, array in load_file(path / "model.safetensors").items()}
        self.tensors = {
            name: Tensor(name, dtype, tuple(shape), rows) for name, (dtype, shape) in {**plain, **more}.items()
        }

    def close(self) -> None:
        """Nothing is open."""


def small(folder: Path, name: str) -> Path:
    """The case as a checkpoint whose tensors numpy can read: only their names and shapes count here."""
    case = CASES[name]
    path = write(folder / name, case)
    shapes = {key: shape for key, shape in case.shapes.items() if not key.endswith(("_blocks", "_scales"))}
    save_file({key: np.zeros(shape, np.int8) for key, shape in shapes.items()}, path / "model.safetensors")
    return path


def names_of(path: Path, name: str, more: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    config = Config(path / "config.json", CASES[name].config)
    family = arch.find(config)
    source = Source(path, more)
    config = family.complete(config, source.tensors)
    return {key: tensor.shape for key, tensor in mapped(config, family, source).items()}


@pytest.mark.parametrize("name", [name for name in CASES if "gpt-oss" not in name])
def test_what_is_left_out_is_not_judged(tmp_path: Path, name: str) -> None:
    path = small(tmp_path, name)
    config = Config(path / "config.json", CASES[name].config)
    family = arch.find(config)
    config = family.complete(config, CASES[name].shapes)
    elsewhere = [
        key
        for key in ELSEWHERE
        if family.kept_name(config, key) is None or key.endswith(("rotary_emb.inv_freq", "_extra_state"))
    ]
    assert len(elsewhere) >= (4 if name in SEEING else 2)
    plain = names_of(path, name, {})
    for odd in ODD.values():
        assert names_of(path, name, dict.fromkeys(elsewhere, odd)) == plain


@pytest.mark.parametrize("odd", ODD)
def test_what_is_written_is_judged(tmp_path: Path, odd: str) -> None:
    path = small(tmp_path, "qwen2.5-vl")
    key = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert key in CASES["qwen2.5-vl"].shapes
    with pytest.raises((FormatError, UnsupportedError), match=r"layers\.0\.self_attn\.q_proj") as caught:
        names_of(path, "qwen2.5-vl", {key: ODD[odd]})
    assert isinstance(caught.value, GgufrunError)
