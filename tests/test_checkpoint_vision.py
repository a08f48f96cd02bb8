"""Adapters of models that also see: their text part is merged as PEFT merges it, the rest is left out and named.

``golden/peft-vision`` was written by ``python tests/oracles/peft_vision_samples.py tests/golden/peft-vision`` with
PEFT 0.21.2, transformers 5.24, torch 2.13. The adapters change eyes too, one of their weights a convolution's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.adapters.merge import MergedSource
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.convert import pipeline
from ggufrun.convert.adapter import plan_adapter
from ggufrun.convert.arch.shared.text import is_text
from ggufrun.convert.plan import plan_convert
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.families.family import replace_vocabulary, some_vocabulary
from tests.test_checkpoint_adapters_merge import assert_merged, values

GOLDEN = Path(__file__).parent / "golden" / "peft-vision"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())

TEXTS = ("model.language_model.", "language_model.model.", "model.")
"""Where releases of transformers have the text part: today's, that of 2024, and one of text alone."""


def of_text(name: str) -> bool:
    return is_text(name) and "lm_head" not in name


def moved(name: str, place: str) -> str:
    """The name of a tensor with the text part in another place."""
    for text in TEXTS:
        if of_text(name) and name.startswith(text):
            return place + name.removeprefix(text)
    return name


def copy(case: str, folder: Path, base: str = "", adapter: str = "") -> Path:
    """The golden case, with the text part of base and adapter under other names."""
    shutil.copytree(GOLDEN / case, folder)
    if base:
        tensors = load_file(folder / "model.safetensors")
        save_file({moved(name, base): array for name, array in tensors.items()}, folder / "model.safetensors")
    if adapter:
        prefix = "base_model.model."
        tensors = load_file(folder / "adapter_model.safetensors")
        renamed = {prefix + moved(name.removeprefix(prefix), adapter): array for name, array in tensors.items()}
        save_file(renamed, folder / "adapter_model.safetensors")
    return folder


def assert_case(folder: Path, golden: Path) -> None:
    source = open_checkpoint(folder, [AdapterRequest(folder)], is_text)
    assert isinstance(source, MergedSource)
    ours = {moved(name, "model."): array for name, array in values(source).items()}
    theirs = {moved(name, "model."): array for name, array in load_file(golden / "merged.safetensors").items()}
    before = {moved(name, "model."): array for name, array in load_file(golden / "model.safetensors").items()}
    assert ours.keys() == before.keys() and len(theirs) in (7, 14)
    assert_merged({name: ours[name] for name in theirs}, theirs)
    for name in before.keys() - theirs.keys():
        np.testing.assert_array_equal(ours[name], before[name])
    assert len(source.left_out) > 4 and not any(map(is_text, source.left_out))
    source.close()


@pytest.mark.parametrize("base", ["", *TEXTS])
@pytest.mark.parametrize("adapter", ["", *TEXTS])
@pytest.mark.parametrize("case", CASES)
def test_text_part_equals_pefts_merge(tmp_path: Path, case: str, adapter: str, base: str) -> None:
    assert_case(copy(case, tmp_path / case, base, adapter), GOLDEN / case)


def test_text_part_equals_pefts_merge_made_here(oracle: Oracle, tmp_path: Path) -> None:
    oracle.run(oracle.python, Path(__file__).parent / "oracles" / "peft_vision_samples.py", tmp_path)
    for case in CASES:
        assert_case(tmp_path / case, tmp_path / case)


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)
    request = AdapterRequest(GOLDEN / case)
    merged = plan_convert(GOLDEN / case, [FILE_TYPES["F32"]], lambda kind: tmp_path / "out.gguf", adapters=[request])
    added = plan_adapter(GOLDEN / case, request, tmp_path / "adapter.gguf")
    for plan, words in ((merged, "not in the text part"), (added, "llama.cpp adds nothing at run time")):
        (note,) = [note for note in plan.notes if "left out" in note]
        assert words in note and plan.left_out[0] in note and f"and {len(plan.left_out) - 2} more" in note
        pipeline.run(plan, threads=1)
        plan.close()
    assert merged.left_out == added.left_out
