"""Checkpoints that today's transformers saves, of every family that it knows: they convert, and the engine computes
what transformers does.

``tests/golden/writers.json`` has what ``tests/writers/record.py`` got from transformers: config.json, the tensors, and
logits. The weights are made again here, so that neither torch nor transformers is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.convert import arch, pipeline, plan
from ggufrun.quantize.types import FILE_TYPES, FileType
from tests.families.family import replace_vocabulary, some_vocabulary
from tests.writers.checkpoint import GOLDEN, logits_of, write
from tests.writers.pieces import IDS, VOCABULARY

NEAR = 2e-5
"""How near the largest difference is to come to the largest logit, where both compute in single precision throughout:
ten times what the families differ by."""

GELU = 1e-3
"""Where llama.cpp looks GELU up in a table of half precision."""

ROUGH = {
    **dict.fromkeys(("falcon", "falcon-40b", "gpt-2", "gpt-neox", "phi", "starcoder-2"), GELU),
    **dict.fromkeys(("gemma", "gemma-2", "gemma-2-uncapped", "gemma-3", "gemma-3-text"), GELU),
    **dict.fromkeys(("gemma-4", "gemma-4-text", "gemma-4-moe", "gemma-4-capped"), GELU),
    # GELU again, through twenty-five layers, in ten of which a value near the cut is let through or not
    "gemma-3n-text": 5e-3,
    # "truncate": false: llama.cpp's YaRN rounds the range that it interpolates to whole pairs, and has no key for it
    "gpt-oss": 5e-3,
}

ELSEWHERE = {
    # its tower is another package's, with 300 million weights; test_convert_logits.py has the tensors of the whole
    "Gemma3nForConditionalGeneration",
    # the thinkers are compared, and in test_convert_logits.py the wholes
    "Qwen2_5OmniForConditionalGeneration",
    "Qwen3OmniMoeForConditionalGeneration",
}
"""Names that transformers knows and that are not compared here."""


def namer(path: Path) -> Callable[[FileType], Path]:
    return lambda _: path


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def test_every_family_that_transformers_knows_is_compared(golden: dict[str, Any]) -> None:
    compared = {recorded["config"]["architectures"][0] for recorded in golden["models"].values()}
    assert set(golden["known"]) & set(arch.families()) <= compared | ELSEWHERE
    assert compared <= set(arch.families())
    assert not [name for name, recorded in golden["models"].items() if "trouble" in recorded]


def test_saved_checkpoints_compute_what_transformers_does(
    golden: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)
    paths = []
    for name, recorded in golden["models"].items():
        folder = write(tmp_path / name, recorded)
        # some names make llama.cpp look for tokens of the model they belong to
        wishes = plan.Wishes("tiny")
        planned = plan.plan_convert(folder, [FILE_TYPES["F32"]], namer(tmp_path / f"{name}.gguf"), wishes=wishes)
        pipeline.run(planned, threads=2)
        planned.close()
        paths.append(planned.targets[0].path)
    computed = logits_of(paths, IDS, VOCABULARY)
    wrong = {}
    for name, recorded in golden["models"].items():
        values = np.array(computed[name])
        error = np.abs(values[golden["first"] :: golden["every"]] - recorded["logits"]).max() / np.abs(values).max()
        if not error < ROUGH.get(name, NEAR):
            wrong[name] = float(error)
    assert not wrong
    families = {recorded["config"]["architectures"][0] for recorded in golden["models"].values()}
    record_property("compared", f"{len(computed)} checkpoints of {len(families)} families")
    assert len(families) > 65
