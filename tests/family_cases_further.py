"""Tiny checkpoints of further families: GLM with eyes, and others that transformers knows.

The shapes were read off transformers' classes.
"""

from __future__ import annotations

from typing import Any

from tests.families import Case, Shapes, config, dense, per_layer, without
from tests.family_cases_recent import gated, predictor
from tests.family_cases_world import renamed_shapes, routed

VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 48, "intermediate_size": 16}
SEEN: Shapes = {"model.visual.blocks.0.norm1.weight": (16,), "model.visual.downsample.bias": (48,)}


def text_of(model_type: str, **values: Any) -> dict[str, Any]:
    """The text part of a config.json."""
    found = config("", model_type, **values)
    del found["architectures"], found["tie_word_embeddings"]
    return found


def glm_cases() -> dict[str, Case]:
    text = text_of(
        "glm4v_text",
        num_attention_heads=3,
        num_key_value_heads=1,
        attention_bias=True,
        hidden_act="silu",
        partial_rotary_factor=0.5,
        rope_theta=10000.0,
        rope_scaling={"type": "default", "mrope_section": [2, 1, 1]},
        pad_token_id=0,
    )
    sees = {
        "architectures": ["Glm4vForConditionalGeneration"],
        "model_type": "glm4v",
        "text_config": text,
        "tie_word_embeddings": False,
        "vision_config": VISION | {"model_type": "glm4v"},
    }
    small = text | {
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5},
    }
    small_shapes = without(dense(small, bias="q k v"), "gate_proj", "up_proj")
    post = {"post_self_attn_layernorm.weight": (48,), "post_mlp_layernorm.weight": (48,)}
    fused = per_layer(2, "model.layers.", post | {"mlp.gate_up_proj.weight": (160, 48)})
    shapes = without(dense(text, bias="q k v"), "gate_proj", "up_proj") | fused
    moe = text | {
        "model_type": "glm4v_moe_text",
        "num_hidden_layers": 3,
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "use_qk_norm": False,
        "num_nextn_predict_layers": 1,
    }
    sees_moe = {
        "architectures": ["Glm4vMoeForConditionalGeneration"],
        "model_type": "glm4v_moe",
        "text_config": moe,
        "tie_word_embeddings": False,
        "vision_config": VISION | {"model_type": "glm4v_moe"},
    }
    whole = dense(moe | {"num_hidden_layers": 4}, bias="q k v")
    first = {name: shape for name, shape in whole.items() if name.startswith("model.layers.0.mlp.")}
    sparse = without(whole, ".mlp.") | first
    sparse |= routed(range(1, 4), "mlp", "mlp.gate", bias="mlp.gate.e_score_correction_bias")
    for layer in range(1, 4):
        sparse |= gated(f"model.layers.{layer}.mlp.shared_experts.", 24)

    def inside(shapes: Shapes) -> Shapes:
        return renamed_shapes(shapes, "model.", "model.language_model.") | SEEN

    return {
        "glm-4.1v": Case(sees, inside(shapes)),
        "glm-4.6v-flash": Case(sees | {"text_config": small}, inside(small_shapes | fused), "F32", "bf16"),
        "glm-4.5v": Case(sees_moe, inside(sparse | predictor(3))),
    }


CASES: dict[str, Case] = glm_cases()
