"""Values that a GGUF has a place for, and that llama.cpp's converter takes for granted or no published model has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.families.family import Case, Shapes, without
from tests.families.family_cases_llama import CASES as LLAMA
from tests.families.family_cases_more import CASES as MORE
from tests.families.family_cases_recent import CASES as RECENT
from tests.families.family_cases_world import CASES as WORLD

WIDE = 112


def changed(case: Case, shapes: Shapes | None = None, **values: Any) -> Case:
    return replace(case, config={**case.config, **values}, shapes=case.shapes if shapes is None else shapes)


def widened(shapes: Shapes, old: int) -> Shapes:
    """With layers of another size inside."""
    return {
        name: tuple(WIDE if size == old else size for size in shape) if ".mlp." in name else shape
        for name, shape in shapes.items()
    }


def phi_wide() -> Case:
    grouped = {
        name: (16, *shape[1:]) if ".k_proj." in name or ".v_proj." in name else shape
        for name, shape in LLAMA["phi2"].shapes.items()
    }
    return changed(LLAMA["phi2"], widened(grouped, 192), intermediate_size=WIDE, num_key_value_heads=2)


CASES: dict[str, Case] = {
    "phi2-wide": phi_wide(),
    "gpt2-wide": changed(MORE["gpt2"], widened(MORE["gpt2"].shapes, 192), n_inner=WIDE),
    "falcon-wide": changed(MORE["falcon-7b"], widened(MORE["falcon-7b"].shapes, 192), ffn_hidden_size=WIDE),
    "glm-4.5-groups": changed(RECENT["glm-4.5-no-predictor"], n_group=2, topk_group=1),
    "ernie-4.5-moe-none-shared": changed(
        WORLD["ernie-4.5-moe"],
        without(WORLD["ernie-4.5-moe"].shapes, "shared_experts"),
        moe_num_shared_experts=0,
    ),
}
