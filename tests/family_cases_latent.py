"""Tiny checkpoints of families with latent attention, other than those beside DeepSeek's first ones.

The shapes were read off transformers' classes.
"""

from __future__ import annotations

from tests.families import VOCABULARY, Case, Shapes, config, dense, per_layer, without

LONG = {
    "type": "longrope",
    "long_factor": [1.0, 1.5, 2.0, 4.25],
    "short_factor": [1, 1.25, 1.5, 2],
    "original_max_position_embeddings": 512,
}


def minicpm_cases() -> dict[str, Case]:
    three = config(
        "MiniCPM3ForCausalLM",
        "minicpm3",
        num_key_value_heads=6,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        scale_emb=12,
        scale_depth=1.4,
        dim_model_base=256,
        tie_word_embeddings=None,
    )
    latent = {
        "self_attn.q_a_proj.weight": (24, 48),
        "self_attn.q_a_layernorm.weight": (24,),
        "self_attn.q_b_proj.weight": (6 * 20, 24),
        "self_attn.kv_a_proj_with_mqa.weight": (24, 48),
        "self_attn.kv_a_layernorm.weight": (16,),
        "self_attn.kv_b_proj.weight": (6 * 20, 16),
    }
    tied: Shapes = without(dense(three, tied=True), "q_proj", "k_proj", "v_proj") | per_layer(
        2, "model.layers.", latent
    )
    return {
        "minicpm3-4b": Case(three | {"rope_scaling": LONG}, tied),
        "minicpm3-untied": Case(
            three | {"tie_word_embeddings": False, "v_head_dim": 8},
            tied | {"lm_head.weight": (VOCABULARY, 48)},
            "F32",
            "bf16",
        ),
    }


CASES: dict[str, Case] = minicpm_cases()
