"""Values of config.json that count only while something else there is on; all others are taken out before any is read.

A file keeps what its class has a key for, whether the model uses it or not: a window beside ``use_sliding_window:
false``, sections of a rotation beside ``use_mrope: false``, a scaling of positions that scales nothing, false for a
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GOVERNED: Mapping[str, tuple[str, ...]] = {
    "use_sliding_window": ("sliding_window", "max_window_layers"),
    "use_mla": ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    "use_cla": ("cla_share_factor",),
    "enable_moe_block": ("num_experts", "top_k_experts", "moe_intermediate_size"),
}
"""A switch, and what is not read where it says false."""

NOTHING_IF_ZERO = ("sliding_window",)
"""Sizes of something that a model goes without where they are zero."""

NUMBERS = (
    "sliding_window",
    "kv_lora_rank",
    "q_lora_rank",
    "n_group",
    "topk_group",
    "num_expert_group",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "n_shared_experts",
    "num_shared_experts",
    "shared_expert_intermediate_size",
    "num_nextn_predict_layers",
    "mtp_num_hidden_layers",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
"""Numbers for which some files say false."""

POSITIONS = ("rope_scaling", "rope_parameters")
NO_SCALING = (None, False, "", "none", "None")


def in_force(values: Mapping[str, Any], sections: bool = True) -> dict[str, Any]:
    """``values`` with null for everything that a switch has turned off. Without ``sections``, those of a rotation by
    time, height and width are taken out: of text the three are one and the same.
    """
    found = dict(values)
    for switch, keys in GOVERNED.items():
        if found.get(switch) is False:
            found |= dict.fromkeys((key for key in keys if key in found), None)
    found |= {key: None for key in NUMBERS if found.get(key) is False}
    found |= {key: None for key in NOTHING_IF_ZERO if type(found.get(key)) is int and found[key] == 0}
    for key in POSITIONS:
        if key in found:
            found[key] = _positions(found[key], not sections or found.get("use_mrope") is False)
    return found


def _positions(section: Any, plain: bool) -> Any:
    """A description of positions, without sections of the rotation if it is ``plain``; null where it says nothing."""
    if section is False or section == {}:
        return None
    if not isinstance(section, dict):
        return section
    found = {key: value for key, value in section.items() if not (plain and key == "mrope_section")}
    for key in ("rope_type", "type"):
        if key in found and (found[key] in NO_SCALING or (plain and found[key] == "mrope")):
            found[key] = "default"
    return found
