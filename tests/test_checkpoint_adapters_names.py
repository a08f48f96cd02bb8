"""Names of the running model find the tensors of the files: every parameter of the text that transformers calls
otherwise than the published checkpoints do, in the tiny checkpoints of all families that it knows.

``golden/parameter-names.json`` holds transformers' names, beside the command that printed them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggufrun.checkpoint.adapters.model_names import BaseNames, canonical
from ggufrun.convert.arch.shared.text import is_text
from tests.conftest import Oracle
from tests.families.family import write
from tests.families.family_cases import CASES

GOLDEN = Path(__file__).parent / "golden" / "parameter-names.json"
COMMAND = "$ORACLE_PYTHON tests/oracles/parameter_names.py FOLDER..."

NOT_THERE = {
    # one matrix of three convolutions
    "kimi-linear": ("conv1d.weight", "forget_gate.dt_bias", "forget_gate.A_log"),
    # values that are not trained
    "ernie-4.5-moe": ("e_score_correction_bias",),
    "ernie-4.5-moe-ahead": ("e_score_correction_bias",),
    "ernie-4.5-moe-none-shared": ("e_score_correction_bias",),
    # biases that config.json promises and the tiny checkpoint lacks
    "glm4-0414": ("q_proj.bias", "k_proj.bias", "v_proj.bias"),
    "qwen3-tied-biases": ("o_proj.bias",),
    # in blocks, under names of their own
    "gpt-oss": ("gate_up_proj", "down_proj"),
}
"""Ends of names without a tensor of the same meaning."""

TURNED = ("qwen3-vl-moe",)
"""Published the other way round than the running model has experts."""


def recorded() -> dict[str, list[tuple[str, list[int]]]]:
    found: dict[str, list[tuple[str, list[int]]]] = json.loads(GOLDEN.read_text())["names"]
    return found


def check(case: str, parameters: list[tuple[str, list[int]]]) -> int:
    shapes = CASES[case].shapes
    names = BaseNames(shapes)
    count = 0
    for name, shape in parameters:
        if not is_text(name) or name.endswith(NOT_THERE.get(case, ())):
            continue
        file_name, (module, _, parameter) = names.find(name), name.rpartition(".")
        if file_name is not None:
            expected = [shape[0], shape[2], shape[1]] if case in TURNED and len(shape) == 3 else shape
            assert list(shapes[file_name]) == expected, (case, name, file_name)
        elif canonical(name) == "lm_head.weight":
            assert not any(canonical(known) == "lm_head.weight" for known in shapes)
        else:
            experts = names.experts(module, parameter)
            rows = [sum(shapes[half][0] for half in halves) for halves in experts]
            assert len(experts) == shape[0] and set(rows) == {shape[1]}, (case, name)
            assert {shapes[half][1] for halves in experts for half in halves} == {shape[2]}, (case, name)
        count += 1
    return count


def test_names_of_transformers() -> None:
    counts = [check(case, parameters) for case, parameters in recorded().items()]
    assert len(counts) > 70 and sum(counts) > 120


def test_names_of_transformers_here(oracle: Oracle, tmp_path: Path, record: Path | None) -> None:
    folders = [write(tmp_path / name, case) for name, case in CASES.items()]
    printed = oracle.run(oracle.python, Path(__file__).parent / "oracles" / "parameter_names.py", *folders)
    # warnings follow
    fresh = json.JSONDecoder().raw_decode(printed)[0]
    for case, parameters in fresh.items():
        check(case, parameters)
    if record is not None:
        lines = ",\n".join(f" {json.dumps(case)}: {json.dumps(found)}" for case, found in fresh.items())
        GOLDEN.write_text(f'{{"command": {json.dumps(COMMAND)},\n"names": {{\n{lines}\n}}}}\n')


@pytest.mark.parametrize(
    ("running", "file"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("thinker.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
        ("lm_head.weight", "embed_out.weight"),
        ("model.layers.0.mlp.gate.weight", "model.layers.0.block_sparse_moe.gate.weight"),
        ("model.layers.0.block_sparse_moe.router.weight", "model.layers.0.block_sparse_moe.router.layer.weight"),
    ],
)
def test_forms_of_a_name(running: str, file: str) -> None:
    other = "talker." + file
    assert BaseNames([other, file]).find(running) == file
    assert BaseNames([other]).find(running) is None


def test_two_tensors_of_one_form_are_found_by_their_own_names() -> None:
    names = BaseNames(["model.norm.weight", "norm.weight"])
    assert names.find("norm.weight") == "norm.weight" and names.find("model.norm.weight") == "model.norm.weight"
    assert names.find("language_model.norm.weight") is None


def test_experts_that_are_not_all_there() -> None:
    parts = [f"model.layers.0.mlp.experts.{n}.{part}_proj.weight" for n in (0, 1, 2) for part in ("gate", "up", "down")]
    module = "model.layers.0.mlp.experts"
    assert BaseNames(parts).experts(module, "gate_up_proj")[2] == [parts[6], parts[7]]
    assert BaseNames(parts).experts(module, "elsewhere") == []
    for lost in (0, 3, 4):
        assert BaseNames(parts[:lost] + parts[lost + 1 :]).experts(module, "gate_up_proj") == []
