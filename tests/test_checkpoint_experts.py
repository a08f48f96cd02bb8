"""Merging adapters of experts: what PEFT's ``merge_and_unload`` gives, whichever way the base keeps its experts.

``golden/peft-experts`` was written by ``python tests/peft_expert_samples.py tests/golden/peft-experts`` with PEFT
0.21.2, transformers 5.24, torch 2.13; the cases ``peft-*`` by ``... old`` with the releases that they are called after.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggufrun.checkpoint.adapter import AdapterRequest
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized import as_float32
from tests.conftest import Oracle
from tests.safetensors_files import load_floats
from tests.test_checkpoint_lora import assert_merged, values

GOLDEN = Path(__file__).parent / "golden" / "peft-experts"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def assert_case(folder: Path) -> None:
    plain = open_checkpoint(folder)
    before = {name: tensor for name, tensor in plain.tensors.items() if tensor.dtype != "MXFP4"}
    source = open_checkpoint(folder, [AdapterRequest(folder)])
    ours, theirs = values(source), load_floats(folder / "merged.safetensors")
    assert theirs.keys() <= ours.keys() == plain.tensors.keys()
    assert_merged({name: ours[name] for name in theirs}, theirs)
    for name in before.keys() - theirs.keys():
        tensor = before[name]
        rows = as_float32(tensor.dtype, tensor.rows(0, tensor.n_rows)).reshape(tensor.shape)
        np.testing.assert_array_equal(ours[name], rows, err_msg=name)
    source.close()
    plain.close()


@pytest.mark.parametrize("case", CASES)
def test_equals_pefts_merge(case: str) -> None:
    assert_case(GOLDEN / case)


@pytest.mark.parametrize("case", CASES)
def test_experts_are_changed(case: str) -> None:
    """The comparison would notice: experts are among what peft changed, by more than rounding."""
    theirs = load_floats(GOLDEN / case / "merged.safetensors")
    assert any("experts" in name or "_linear" in name for name in theirs)
    if "mxfp4" not in case:
        base = load_floats(GOLDEN / case / "model.safetensors")
        for name, array in theirs.items():
            assert np.abs(array - base[name]).max() > 0.01, name


def test_equals_pefts_merge_made_here(oracle: Oracle, tmp_path: Path) -> None:
    oracle.run(oracle.python, Path(__file__).parent / "peft_expert_samples.py", tmp_path)
    for case in CASES:
        if not case.startswith("peft-"):
            assert_case(tmp_path / case)
