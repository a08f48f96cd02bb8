"""Published checkpoints, planned without their weights: what becomes of every tensor, and all metadata, against
llama.cpp's own converter.

``tests/golden/layouts`` has a file a checkpoint: its config.json, its tensors, and the converter's answer (see
``tests/layouts/layout.py``). A checkpoint here is a header and a hole, so even the largest is planned in a second.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from ggufrun.convert import arch, plan
from ggufrun.convert.config import Config
from ggufrun.errors import UnsupportedError
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import no_vocabulary, replace_vocabulary
from tests.layouts import layout, sparse
from tests.layouts.patterns import collapse, expand


@functools.cache
def recipe_of(name: str) -> dict[str, Any]:
    return layout.load(layout.FOLDER / f"{name}.json")


NAMES = sorted(path.stem for path in layout.FOLDER.glob("*.json"))

PARTS = {
    "images": re.compile(r"visual|vision|^vit\.|mm_projector|multi_modal_projector"),
    "sound": re.compile("audio"),
    "speech": re.compile("talker|token2wav|code2wav"),
    "layers that predict further tokens": re.compile(r"mtp|^model\.layers\."),
}
"""What the names of tensors of such a part hold."""

UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

BETTER: dict[str, dict[str, Any]] = {
    # llama.cpp refuses to load a Qwen 1 without it
    "QWenLMHeadModel": {"qwen.attention.layer_norm_rms_epsilon": 9.999999974752427e-07},
    # the converter forgets it; it rotates as these do
    "falcon-11B": {"falcon.rope.freq_base": 500042.0},
    # the converter reads keys that only the older form of the checkpoint has, and takes its own defaults for the values
    "glm-4-9b-chat-hf": {
        "chatglm.context_length": 131072,
        "chatglm.attention.layer_norm_rms_epsilon": 1.56249996052793e-07,
        "chatglm.rope.freq_base": 5000000.0,
    },
    "glm-edge-1.5b-chat": {"chatglm.context_length": 8192},
    # the converter's transformers looks for these in text_config, which the file does not have
    "GLM-4.1V-9B-Thinking": {"glm4.context_length": 65536, "glm4.rope.dimension_sections": [8, 12, 12, 0]},
    # see MORE
    "gemma-3n-E2B-it-text": {"general.size_label": "4.5B"},
    # the converter counts layers that predict a further token where transformers has left none
    "Qwen3.5-27B-text": {
        "qwen35.block_count": 64,
        "qwen35.attention.recurrent_layers": [True, True, True, False] * 16,
        "qwen35.nextn_predict_layers": None,
    },
    "Qwen3.5-35B-A3B-text": {
        "qwen35moe.block_count": 40,
        "qwen35moe.attention.recurrent_layers": [True, True, True, False] * 10,
        "qwen35moe.nextn_predict_layers": None,
    },
}
"""Keys that are not as llama.cpp's converter writes them, and their values here, by the layout's name or architecture;
None stands for no such key. Why: see ``BETTER`` in test_convert_families.py, unless it is said here."""

OTHER_ORDER = {
    "Kimi-K2-Instruct": "transformers does not know kimi_k2, so the converter meets the keys without its defaults",
    "Kimi-K2.5": "the converter writes experts that were packed after all that was not",
    "Kimi-K2.5-saved": "the converter does not understand the names, and is shown others",
}
"""Where keys or tensors are written in another order than by llama.cpp's converter, which no reader notices."""

MORE = {
    # transformers leaves out keys and values of layers that use those of others; llama.cpp wants some to load it
    "gemma-3n-E2B-it-text": r"blk\.2\d\.attn_(k|v|k_norm)\.weight",
}
"""Tensors that llama.cpp's converter does not write, and without which llama.cpp does not load the file."""

REFUSED = {
    "MobileLLM-R1-950M": "llama.cpp loads a Llama 4 with experts only",
    "bitnet-b1.58-2B-4T-bf16": "hidden_act = 'relu2', and llama.cpp computes BitNet with 'silu' only",
}
"""Published checkpoints that llama.cpp cannot run, and what is said of them."""


def planned(parent: Path, recipe: dict[str, Any], tensors: list[str]) -> dict[str, Any]:
    """What ggufrun would write, in the form of the recorded answer."""
    folder = sparse.write(layout.folder(parent, recipe), recipe["config"], expand(tensors))
    layout.write_files(folder, recipe)
    found = plan.plan_convert(folder, [FILE_TYPES[layout.outtype(recipe).upper()]], lambda kind: parent / "out.gguf")
    found.close()
    header = found.targets[0].header
    entries = [(info.name, info.type.name, info.shape) for info in header.tensors]
    return {
        "metadata": {key: header.get(key) for key in header.metadata if not key.startswith("tokenizer.")},
        "order": layout.digest(entries),
        "tensors": collapse(entries),
    }


@pytest.fixture(autouse=True)
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_cannot_run_is_refused(tmp_path: Path, name: str) -> None:
    recipe = recipe_of(name)
    with pytest.raises(UnsupportedError, match=REFUSED[name]):
        planned(tmp_path, recipe, recipe["tensors"])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_published_layout(tmp_path: Path, name: str) -> None:
    recipe = recipe_of(name)
    changes = BETTER.get(recipe["config"]["architectures"][0], {}) | BETTER.get(name, {})
    for layout_of in ("tensors", "saved"):
        if layout_of in recipe:
            theirs = recipe["saved_gguf" if layout_of == "saved" and "saved_gguf" in recipe else "gguf"]
            left = {key: value for key, value in theirs["metadata"].items() if changes.get(key, 0) is not None}
            wanted = left | {key: value for key, value in changes.items() if value is not None}
            mine = planned(tmp_path / layout_of, recipe, recipe[layout_of])
            if sorted(mine["tensors"]) != sorted(theirs["tensors"]):
                # the same may be joined to other lines
                tensors = [entry for entry in expand(mine["tensors"]) if not re.fullmatch(MORE.get(name, ""), entry[0])]
                assert sorted(tensors) == sorted(expand(theirs["tensors"]))
            assert mine["metadata"] == wanted
            keys = [[key for key in values if key not in changes] for values in (mine["metadata"], left)]
            same = keys[0] == keys[1] and mine["order"] == theirs["order"]
            assert same or layout_of == "saved" or name in OTHER_ORDER or name in MORE


@pytest.mark.parametrize("name", [name for name in NAMES if "parameters" in recipe_of(name)])
def test_parameters_are_as_many_as_published(name: str) -> None:
    """The shapes are those of the checkpoint: their sum is the published number, to its last digit."""
    recipe = recipe_of(name)
    digits, unit = re.fullmatch(r"([\d.]+)([KMBT]?)", recipe["parameters"]).groups()  # type: ignore[union-attr]
    last = 10.0 ** -len(digits.partition(".")[2])
    scale = UNITS.get(unit, 1)
    assert float(digits) * scale == pytest.approx(layout.n_values(recipe), abs=last * scale if unit else 0)


def test_every_name_has_a_checkpoint_that_is_planned() -> None:
    """Each example of a declaration has its layout here, under the name that its config.json gives; a name without one
    is that of a checkpoint that llama.cpp cannot run."""
    recipes = [recipe_of(name) for name in NAMES if name not in REFUSED]
    found = {(recipe["config"]["architectures"][0], recipe["checkpoint"]) for recipe in recipes}
    declared = {(name, each) for name, family in arch.families().items() for each in family.names[name]}
    refused = {recipe_of(name)["config"]["architectures"][0] for name in REFUSED}
    assert sorted(set(arch.families()) - {name for name, _ in declared} - refused) == []
    assert sorted(declared - found) == []


def test_what_is_left_out_is_declared() -> None:
    """Of each family, the parts of published checkpoints that do not become part of the GGUF."""
    left: dict[str, set[str]] = {family.title: set() for family in arch.families().values()}
    for name in NAMES:
        if name not in REFUSED:
            recipe = recipe_of(name)
            config = Config(Path("config.json"), recipe["config"])
            family = arch.find(config)
            names = [entry[0] for entry in expand(recipe["tensors"])]
            config = family.complete(config, names)
            dropped = [tensor for tensor in names if family.kept_name(config, tensor) is None]
            left[family.title] |= {part for part, name_of in PARTS.items() if any(map(name_of.search, dropped))}
    declared: dict[str, set[str]] = {}
    for family in arch.families().values():
        declared.setdefault(family.title, set()).update(family.left_out)
    assert left == declared
