"""A value whose switch is off is not read: what it governs changes neither tensors nor metadata, in any family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufrun.checkpoint.gguf.file import Header
from ggufrun.convert import arch
from ggufrun.convert.arch.shared.switches import in_force
from ggufrun.convert.config import Config
from ggufrun.convert.plan import plan_convert
from ggufrun.errors import FormatError, UnsupportedError
from tests.families.family import Case, no_vocabulary, replace_vocabulary, write
from tests.families.family_cases import CASES

OFF: dict[str, dict[str, Any]] = {
    "a window of zero": {"use_sliding_window": False, "sliding_window": 0, "max_window_layers": -1},
    "a window that is not a number": {"use_sliding_window": False, "sliding_window": "4k", "max_window_layers": {}},
    "a window of zero without a switch": {"sliding_window": 0},
    "sections of a rotation": {"use_mrope": False, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
    "a scaling of nothing": {"rope_scaling": {}},
    "a scaling that is off": {"rope_scaling": False},
    "a scaling without a name": {"rope_scaling": {"type": None, "factor": None}},
    "no scaling by name": {"rope_scaling": {"rope_type": "none", "factor": "x"}},
}
"""What config.json may hold beside a switch that is off, or under a name that means nothing."""


@pytest.fixture(autouse=True)
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)


def header(folder: Path, case: Case) -> Header:
    plan = plan_convert(write(folder, case), (), lambda kind: folder / "m.gguf")
    plan.close()
    return plan.targets[0].header


def speaks_of(case: Case, more: Mapping[str, Any]) -> bool:
    """Has the checkpoint itself a window, or a description of its positions, where ``more`` has one?"""
    config = Config(Path("config.json"), case.config)
    values = arch.find(config).complete(config, case.shapes).values
    text = case.config.get("thinker_config", case.config).get("text_config", {})
    told = {**case.config, **text}
    positions = "rope_scaling" in more and bool(told.get("rope_scaling") or told.get("rope_parameters"))
    return positions or ("sliding_window" in more and bool(values.get("sliding_window")))


def with_values(case: Case, more: Mapping[str, Any]) -> Case:
    """The case with ``more`` in its config.json, in that of the text where there is one."""
    config = dict(case.config)
    if "thinker_config" in config:
        thinker = dict(config["thinker_config"])
        thinker["text_config"] = {**thinker["text_config"], **more}
        return replace(case, config={**config, "thinker_config": thinker})
    if "text_config" in config:
        return replace(case, config={**config, "text_config": {**config["text_config"], **more}})
    return replace(case, config={**config, **more})


@pytest.mark.parametrize("why", OFF)
def test_what_is_off_is_not_read(tmp_path: Path, why: str) -> None:
    cases = {name: case for name, case in CASES.items() if not speaks_of(case, OFF[why])}
    assert len(cases) > 40
    for name, case in cases.items():
        plain = header(tmp_path / "plain" / name, case)
        assert header(tmp_path / "beside" / name, with_values(case, OFF[why])) == plain, name


@pytest.mark.parametrize("kind", ["mrope", "default"])
def test_sections_of_a_rotation_in_a_model_of_text_alone(tmp_path: Path, kind: str) -> None:
    """As the text of a Qwen2-VL has them that was taken out of it: time, height and width of text are the same."""
    more = {"rope_scaling": {"type": kind, "mrope_section": [1, 1, 2]}}
    for name in ("qwen2", "llama-dynamic", "olmo2"):
        case = replace(CASES[name], config={**CASES[name].config, "rope_scaling": None})
        plain = header(tmp_path / "plain" / name, case)
        assert header(tmp_path / "beside" / name, with_values(case, more)) == plain


def test_a_switch_that_is_on(tmp_path: Path) -> None:
    """The values count again, and are judged."""
    case = with_values(CASES["qwen2-moe"], {"use_sliding_window": True, "sliding_window": "4k"})
    with pytest.raises(FormatError, match="sliding_window"):
        header(tmp_path / "m", case)


def test_false_for_a_number() -> None:
    values = in_force({"n_group": False, "topk_group": False, "norm_topk_prob": False, "n_shared_experts": 0})
    assert values == {"n_group": None, "topk_group": None, "norm_topk_prob": False, "n_shared_experts": 0}


def test_what_only_layers_of_mamba_need(tmp_path: Path) -> None:
    """A Granite 4 that attends in every layer keeps the settings of Mamba that its class has."""
    case = CASES["granite-4-micro"]
    leftover = {"mamba_conv_bias": False, "mamba_proj_bias": True, "mamba_d_head": 3}
    plain, beside = (
        header(tmp_path / "plain" / "m", case),
        header(tmp_path / "beside" / "m", with_values(case, leftover)),
    )
    assert plain == beside


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("deepseek-v3", "n_shared_experts"),
        ("deepseek-moe", "n_shared_experts"),
        ("ling-lite", "num_shared_experts"),
        ("glm-4.5-air", "n_shared_experts"),
        ("kimi-linear", "num_shared_experts"),
    ],
)
def test_no_shared_experts_where_the_engine_wants_some(tmp_path: Path, name: str, key: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{key} = 0, and llama.cpp computes models of this kind with shared"):
        header(tmp_path / "m", with_values(CASES[name], {key: 0}))


def test_what_the_engine_has_no_place_for(tmp_path: Path) -> None:
    """The error says whose limit it is: no later release of ggufrun could help."""
    for name, more, said in (
        ("qwen3-moe-yarn", {"norm_topk_prob": False}, "computes models of this kind with True only"),
        ("olmo2", {"sliding_window": 128}, "computes models of this kind without it only"),
    ):
        with pytest.raises(UnsupportedError, match=said) as caught:
            header(tmp_path / name, with_values(CASES[name], more))
        assert "no place" in caught.value.todo and "newer" not in caught.value.todo
