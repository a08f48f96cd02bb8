"""Tiny checkpoints of families with latent attention, other than those beside DeepSeek's first ones.

The shapes were read off transformers' classes.
"""

from __future__ import annotations

from tests.families.family import VOCABULARY, Case, Shapes, config, dense, experts, per_layer, without
from tests.families.family_cases_llama import CASES as ALL
from tests.families.family_cases_recent import NAMES, gated, predictor

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


def indexed_cases() -> dict[str, Case]:
    deepseek = config(
        "DeepseekV32ForCausalLM",
        "deepseek_v32",
        num_key_value_heads=6,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        moe_intermediate_size=24,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        routed_scaling_factor=2.5,
        n_group=4,
        topk_group=2,
        topk_method="noaux_tc",
        norm_topk_prob=True,
        scoring_func="sigmoid",
        index_topk=2048,
        index_head_dim=64,
        index_n_heads=8,
        num_nextn_predict_layers=1,
        rope_scaling={
            "type": "yarn",
            "factor": 4,
            "original_max_position_embeddings": 128,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    )
    glm = deepseek | {
        "architectures": ["GlmMoeDsaForCausalLM"],
        "model_type": "glm_moe_dsa",
        "num_hidden_layers": 4,
        "index_topk": 8,
        "n_group": 1,
        "topk_group": 1,
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "indexer_types": ["full", "full", "shared", "full"],
    }
    del glm["rope_scaling"]
    indexer = {
        "self_attn.indexer.wq_b.weight": (512, 24),
        "self_attn.indexer.wk.weight": (64, 48),
        "self_attn.indexer.k_norm.weight": (64,),
        "self_attn.indexer.k_norm.bias": (64,),
        "self_attn.indexer.weights_proj.weight": (8, 48),
    }
    latent = {
        "self_attn.q_a_proj.weight": (24, 48),
        "self_attn.q_a_layernorm.weight": (24,),
        "self_attn.q_b_proj.weight": (6 * 20, 24),
        "self_attn.kv_a_proj_with_mqa.weight": (24, 48),
        "self_attn.kv_a_layernorm.weight": (16,),
        "self_attn.kv_b_proj.weight": (6 * 22, 16),
        "self_attn.o_proj.weight": (48, 60),
        "input_layernorm.weight": (48,),
        "post_attention_layernorm.weight": (48,),
    }

    def shapes(layers: int) -> Shapes:
        found = {
            "model.embed_tokens.weight": (VOCABULARY, 48),
            **per_layer(layers, "model.layers.", latent | indexer),
            **gated("model.layers.0.mlp.", 80),
            **experts(range(1, layers), "mlp.experts", 8, NAMES, 24, 48),
            "model.norm.weight": (48,),
            "lm_head.weight": (VOCABULARY, 48),
        }
        for layer in range(1, layers):
            stem = f"model.layers.{layer}.mlp."
            found |= {f"{stem}gate.weight": (8, 48), f"{stem}gate.e_score_correction_bias": (8,)}
            found |= gated(f"{stem}shared_experts.", 24)
        return found

    return {
        "deepseek-v3.2": Case(deepseek, shapes(3) | predictor(2)),
        "deepseek-v3.2-few": Case(
            deepseek | {"index_topk": 8, "num_nextn_predict_layers": 0}, shapes(2), "F32", "bf16"
        ),
        "glm-5": Case(glm, without(shapes(5), "layers.2.self_attn.indexer") | predictor(4)),
    }


def kimi_cases() -> dict[str, Case]:
    """Text parts that are a DeepSeek V3: of Kimi-VL, which has as many layers as DeepSeek V2 Lite, and of Kimi K2.5."""
    lite, large = ALL["deepseek-v2-lite"], ALL["deepseek-v3"]
    text = {key: value for key, value in lite.config.items() if key != "architectures"} | {
        "model_type": "deepseek_v3",
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "topk_group": 1,
        "rope_theta": 800000.0,
    }
    vl = {
        "architectures": ["KimiVLForConditionalGeneration"],
        "model_type": "kimi_vl",
        "text_config": text,
        "vision_config": {"model_type": "moonvit", "hidden_size": 16},
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    more = vl | {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "text_config": {key: value for key, value in large.config.items() if key != "architectures"},
        "vision_config": {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2},
    }
    seeing = {"vision_tower.patch_embed.proj.bias": (16,), "multi_modal_projector.linear_1.weight": (48, 16)}

    def inside(shapes: Shapes) -> Shapes:
        return {f"language_model.{name}": shape for name, shape in shapes.items()} | seeing

    bias = {"model.layers.26.mlp.gate.e_score_correction_bias": (4,)}
    return {"kimi-vl": Case(vl, inside(lite.shapes | bias)), "kimi-k2.5": Case(more, inside(large.shapes))}


def kimi_linear_cases() -> dict[str, Case]:
    small = config(
        "KimiLinearForCausalLM",
        "kimi_linear",
        num_hidden_layers=4,
        num_key_value_heads=6,
        max_position_embeddings=None,
        model_max_length=4096,
        head_dim=8,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        kv_lora_rank=16,
        q_lora_rank=None,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        mla_use_nope=True,
        linear_attn_config={
            "full_attn_layers": [4],
            "kda_layers": [1, 2, 3],
            "head_dim": 16,
            "num_heads": 6,
            "short_conv_kernel_size": 4,
        },
        first_k_dense_replace=1,
        moe_intermediate_size=24,
        moe_layer_freq=1,
        moe_renormalize=True,
        moe_router_activation_func="sigmoid",
        num_experts=4,
        num_experts_per_token=2,
        num_expert_group=1,
        topk_group=1,
        num_shared_experts=1,
        routed_scaling_factor=2.446,
        use_grouped_topk=True,
        pad_token_id=0,
    )
    recurrent: Shapes = {
        "A_log": (1, 1, 6, 1),
        "dt_bias": (96,),
        "f_a_proj.weight": (16, 48),
        "f_b_proj.weight": (96, 16),
        "g_a_proj.weight": (16, 48),
        "g_b_proj.weight": (96, 16),
        "b_proj.weight": (6, 48),
        "o_norm.weight": (16,),
        "o_proj.weight": (48, 96),
        **{f"{part}_proj.weight": (96, 48) for part in "qkv"},
        **{f"{part}_conv1d.weight": (96, 1, 4) for part in "qkv"},
    }
    latent: Shapes = {
        "q_proj.weight": (6 * 20, 48),
        "kv_a_proj_with_mqa.weight": (24, 48),
        "kv_a_layernorm.weight": (16,),
        "kv_b_proj.weight": (6 * 22, 16),
        "o_proj.weight": (48, 60),
    }
    shapes = without(dense(small), "self_attn", "layers.1.mlp", "layers.2.mlp", "layers.3.mlp")
    for layer in range(4):
        stem = f"model.layers.{layer}."
        attention = latent if layer == 3 else recurrent
        shapes |= {f"{stem}self_attn.{name}": shape for name, shape in attention.items()}
    for layer in range(1, 4):
        stem = f"model.layers.{layer}.block_sparse_moe."
        shapes |= {f"{stem}gate.weight": (4, 48), f"{stem}gate.e_score_correction_bias": (4,)}
        shapes |= gated(f"{stem}shared_experts.", 24)
    shapes |= experts(range(1, 4), "block_sparse_moe.experts", 4, ("w1", "w2", "w3"), 24, 48)
    return {"kimi-linear": Case(small, shapes)}


def youtu_cases() -> dict[str, Case]:
    small = config(
        "YoutuForCausalLM",
        "youtu",
        num_key_value_heads=6,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        rope_theta=500000,
        rope_interleave=True,
        tie_word_embeddings=True,
    )
    latent = {
        "self_attn.q_a_proj.weight": (24, 48),
        "self_attn.q_a_layernorm.weight": (24,),
        "self_attn.q_b_proj.weight": (6 * 20, 24),
        "self_attn.kv_a_proj_with_mqa.weight": (24, 48),
        "self_attn.kv_a_layernorm.weight": (16,),
        "self_attn.kv_b_proj.weight": (6 * 22, 16),
        "self_attn.o_proj.weight": (48, 60),
    }
    shapes = without(dense(small, tied=True), "self_attn") | per_layer(2, "model.layers.", latent)
    return {"youtu-2b": Case(small, shapes)}


CASES: dict[str, Case] = youtu_cases() | kimi_linear_cases() | minicpm_cases() | indexed_cases() | kimi_cases()
