"""Merging adapters of experts: what PEFT's ``merge_and_unload`` gives, whichever way the base keeps its experts.

``golden/peft-experts`` was written by ``python tests/oracles/peft_expert_samples.py tests/golden/peft-experts`` with
PEFT 0.21.2, transformers 5.24, torch 2.13; the cases ``peft-*`` by ``... old`` with the releases that they are
named after.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.adapters.model_names import APART, BaseNames, canonical
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized import as_float32
from ggufrun.errors import FormatError, UnsupportedError
from tests.conftest import Oracle
from tests.support.safetensors_files import load_floats
from tests.test_checkpoint_adapters_merge import Arrays, assert_merged, values

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
    oracle.run(oracle.python, Path(__file__).parent / "oracles" / "peft_expert_samples.py", tmp_path)
    for case in CASES:
        if not case.startswith("peft-"):
            assert_case(tmp_path / case)


def together(tensors: Arrays, turned: bool) -> Arrays:
    """The same with the experts of each layer in one tensor, (experts, rows, columns) or the other way round."""
    names = BaseNames(tensors)
    found = dict(tensors)
    modules = {match["module"] for name in tensors if (match := APART.fullmatch(canonical(name)))}
    for module in modules:
        for parameter in ("gate_up_proj", "down_proj"):
            experts = names.experts(module, parameter)
            whole = np.stack([np.concatenate([tensors[half] for half in halves]) for halves in experts])
            found[f"model.{module}.{parameter}"] = np.ascontiguousarray(whole.swapaxes(1, 2)) if turned else whole
            for name in {name for halves in experts for name in halves}:
                del found[name]
    assert len(found) < len(tensors)
    return found


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("case", ["qwen3-moe", "mixtral", "glm-4.5", "deepseek-v3", "peft-0.18.1-qwen2-moe"])
def test_a_base_that_keeps_experts_together(tmp_path: Path, case: str, turned: bool) -> None:
    """As transformers 5 has them in memory, or the other way round, as Qwen3-VL's mixtures are published."""
    base, changed = load_floats(GOLDEN / case / "model.safetensors"), load_floats(GOLDEN / case / "merged.safetensors")
    shutil.copytree(GOLDEN / case, tmp_path / case)
    save_file(together(base, turned), tmp_path / case / "model.safetensors")
    source = open_checkpoint(tmp_path / case, [AdapterRequest(GOLDEN / case)])
    assert_merged(values(source), together(base | changed, turned))
    source.close()


def test_one_expert_at_a_time(tmp_path: Path) -> None:
    """Of a change, no more is computed at once than of the expert that is read."""
    source = open_checkpoint(GOLDEN / "llama-4", [AdapterRequest(GOLDEN / "llama-4")])
    tensor = source.tensors["model.layers.0.feed_forward.experts.gate_up_proj"]
    whole = tensor.rows(0, tensor.n_rows)
    for start, stop in ((0, 3), (5, 11), (8, 8), (7, 24), (16, 24), (23, 24)):
        np.testing.assert_allclose(tensor.rows(start, stop), whole[start:stop], rtol=1e-6)
    source.close()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"target_parameters": ["experts.down_proj"]}, FormatError, "changes 2 parameters of .*have down_proj"),
        ({"rank_pattern": {}}, FormatError, r"experts\.gate_up_proj has rank 4, .* says 2"),
        ({"target_parameters": [3]}, FormatError, "target_parameters"),
    ],
)
def test_settings_of_other_parameters(
    tmp_path: Path, change: dict[str, object], error: type[FormatError], words: str
) -> None:
    shutil.copytree(GOLDEN / "qwen3-moe", tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=words):
        open_checkpoint(tmp_path / "a", [AdapterRequest(tmp_path / "a")])


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("experts.lora_A", (5, 6), r"has 3 experts, its change .* matrices of 5 rows"),
        ("experts.lora_A", (6, 7), r"down_proj is \(8, 7\) in .*, \(8, 6\) in the base"),
        ("experts.base_layer.lora_B", (12, 9), r"matrices of 12 rows and 9 columns"),
        ("experts.lora_B", (8, 6, 1), "is not two matrices"),
        ("experts.base_layer.base_layer.lora_A", (2, 8), "only half of the change"),
    ],
)
def test_matrices_of_another_model(tmp_path: Path, name: str, shape: tuple[int, ...], words: str) -> None:
    shutil.copytree(GOLDEN / "qwen3-moe", tmp_path / "a")
    tensors = load_floats(tmp_path / "a" / "adapter_model.safetensors")
    tensors[f"base_model.model.model.layers.0.mlp.{name}.weight"] = np.ones(shape, np.float32)
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises((FormatError, UnsupportedError), match=words):
        open_checkpoint(tmp_path / "a", [AdapterRequest(tmp_path / "a")])
