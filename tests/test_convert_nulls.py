"""null in a config.json, for every key that transformers writes: what it means there, it means here.

``golden/nulls.json`` was recorded by ``$ORACLE_PYTHON -m tests.writers.nulls`` with transformers 5.24: under ``same``
the keys for which null changes nothing, under ``other`` those for which the model computes something else, and what.
For all others transformers refuses the file or fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.convert import pipeline
from ggufrun.convert.plan import Wishes, plan_convert
from ggufrun.errors import GgufrunError
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import replace_vocabulary, some_vocabulary
from tests.test_convert_writers import NEAR, ROUGH
from tests.writers.checkpoint import GOLDEN, logits_of, write
from tests.writers.nulls import NULLS, places, with_null
from tests.writers.pieces import IDS, VOCABULARY
from tests.writers.record import EVERY, FIRST

MODELS: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))["models"]
ANSWERS: dict[str, Any] = json.loads(NULLS.read_text("utf-8"))

REFUSED: dict[str, str] = {
    "q_lora_rank": "whole query matri",
    "dim_model_base": "dim_model_base = 64",
    "scale_depth": "scale_depth = 2.0",
    "layer_types": "no place in a lfm2 GGUF for model.layers.0.conv.conv.weight",
    "mamba_conv_bias": "mamba_conv_bias = False",
    "moe_renormalize": "moe_renormalize = False",
    "parallel_attn": "parallel_attn = False",
    "rope_interleave": "rope_interleave = False",
    # sections of heads of 128 values, in a model whose heads have 16
    "text_config.rope_parameters": "heads of 16 values, which mrope_section = [24, 20, 20] does not fit",
}
"""Keys for which transformers computes something with null and llama.cpp cannot, and what is said of them."""

CHANCE = {("gemma-3", "tie_word_embeddings")}
"""What transformers starts with random weights for."""


@pytest.fixture(autouse=True)
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)


def said(folder: Path, config: dict[str, Any], out: Path | None = None) -> str:
    """What is said of the checkpoint in ``folder`` with this config.json; nothing where it converts, to ``out``."""
    (folder / "config.json").write_text(json.dumps(config))
    try:
        path = out or folder / "m.gguf"
        plan = plan_convert(folder, [FILE_TYPES["F32"]], lambda kind: path, wishes=Wishes("tiny"))
    except GgufrunError as error:
        return str(error)
    if out is not None:
        pipeline.run(plan, threads=1)
    plan.close()
    return ""


def nulls(kind: str) -> Iterator[tuple[str, str]]:
    for key, models in ANSWERS[kind].items():
        yield from ((model, key) for model in models)


def test_null_that_changes_nothing(tmp_path: Path) -> None:
    folders = {name: write(tmp_path / name, recorded) for name, recorded in MODELS.items()}
    refused = {}
    for model, key in nulls("same"):
        words = said(folders[model], with_null(MODELS[model]["config"], tuple(key.split("."))))
        if words and not any(key.endswith(known) and text in words for known, text in REFUSED.items()):
            refused[model, key] = words
    assert not refused
    assert sum(map(len, ANSWERS["same"].values())) > 250


def test_null_that_changes_the_model(tmp_path: Path) -> None:
    """It converts to what transformers computes then, or is refused in words that name it."""
    paths, wrong = {}, {}
    for model, key in nulls("other"):
        folder = write(tmp_path / f"{model} {key}", MODELS[model])
        out = tmp_path / f"{model} {key}.gguf"
        words = said(folder, with_null(MODELS[model]["config"], tuple(key.split("."))), out)
        if not words:
            if (model, key) not in CHANCE:
                paths[model, key] = out
        elif not any(key.endswith(known) and text in words for known, text in REFUSED.items()):
            wrong[model, key] = words
    computed = logits_of(list(paths.values()), IDS, VOCABULARY)
    for (model, key), path in paths.items():
        expected, values = np.array(ANSWERS["other"][key][model]), np.array(computed[path.stem])
        error = np.abs(values[FIRST::EVERY] - expected).max() / np.abs(values).max()
        # without rope_parameters, it is a gpt-oss like the others
        if not error < ROUGH.get(model.removesuffix("-truncated"), NEAR):
            wrong[model, key] = str(error)
    assert not wrong
    assert ("gemma-2", "attn_logit_softcapping") in paths


def test_null_that_transformers_refuses(tmp_path: Path) -> None:
    """What is said of it is not that the key is missing: it is there."""
    wrong = {}
    known = {*nulls("same"), *nulls("other")}
    for model, recorded in MODELS.items():
        folder = write(tmp_path / model, recorded)
        for place in places(recorded["config"]):
            if (model, ".".join(place)) not in known:
                words = said(folder, with_null(recorded["config"], place))
                if f"lacks {place[-1]}" in words:
                    wrong[model, place] = words
    assert not wrong
