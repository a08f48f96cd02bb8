"""Tiny checkpoints of Llama, Mistral, Qwen, Phi and DeepSeek, as the original tools save them.

The shapes were read off transformers' classes, those of remote code off the published checkpoints.
"""

from __future__ import annotations

from tests.families.family import (
    LINEAR,
    LLAMA3,
    VOCABULARY,
    YARN,
    YARN5,
    Case,
    Shapes,
    config,
    dense,
    experts,
    per_layer,
    with_bias,
    without,
)


def llama_cases() -> dict[str, Case]:
    tied = config("LlamaForCausalLM", "llama", tie_word_embeddings=True, rope_scaling=LINEAR)
    biased = config("LlamaForCausalLM", "llama", attention_bias=True, mlp_bias=True, rope_scaling=YARN)
    odd = config("LlamaForCausalLM", "llama", num_attention_heads=3, num_key_value_heads=1, head_dim=10)
    llama3 = config("LlamaForCausalLM", "llama", rope_scaling=LLAMA3, rope_theta=500000.0)
    dynamic = config("LlamaForCausalLM", "llama", rope_scaling={"type": "dynamic", "factor": 2.0})
    new = config("LlamaForCausalLM", "llama", rope_parameters=YARN5, num_key_value_heads=None)
    mistral = config("MistralForCausalLM", "mistral", sliding_window=256, rope_theta=1000000.0)
    mixtral = config("MixtralForCausalLM", "mixtral", num_local_experts=11, num_experts_per_tok=2)
    smollm3 = config("SmolLM3ForCausalLM", "smollm3", num_hidden_layers=4, pad_token_id=0)
    moe = without(dense(mixtral), ".mlp.")
    moe |= experts(range(2), "block_sparse_moe.experts", 11, ("w1", "w2", "w3"), 80, 48)
    moe |= {f"model.layers.{layer}.block_sparse_moe.gate.weight": (11, 48) for layer in range(2)}
    return {
        "llama-tied-linear": Case(tied, dense(tied, tied=True)),
        "llama-biases-yarn": Case(biased, dense(biased, bias="q k v o gate up down"), "F32", "bf16"),
        "llama-odd-heads": Case(odd, dense(odd), "F16", "f32"),
        "llama3-rope-freqs": Case(llama3, dense(llama3)),
        "llama-dynamic": Case(dynamic, dense(dynamic)),
        "llama-yarn-transformers5": Case(new, dense(new)),
        "mistral-window": Case(mistral, dense(mistral)),
        "mixtral-11-experts": Case(mixtral, moe, "BF16", "bf16"),
        "smollm3": Case(smollm3, dense(smollm3, tied=True) | {"lm_head.weight": (VOCABULARY, 48)}),
        "smollm3-tied": Case(smollm3 | {"tie_word_embeddings": True}, dense(smollm3, tied=True)),
    }


def qwen_cases() -> dict[str, Case]:
    qwen1 = config(
        "QWenLMHeadModel",
        "qwen",
        num_key_value_heads=None,
        kv_channels=8,
        intermediate_size=160,
        layer_norm_epsilon=1e-6,
        rotary_emb_base=10000,
        no_bias=True,
        seq_length=256,
        use_dynamic_ntk=True,
        use_logn_attn=True,
    )
    fused = {
        "ln_1.weight": (48,),
        "attn.c_attn.weight": (144, 48),
        "attn.c_attn.bias": (144,),
        "attn.c_proj.weight": (48, 48),
        "ln_2.weight": (48,),
        "mlp.w1.weight": (80, 48),
        "mlp.w2.weight": (80, 48),
        "mlp.c_proj.weight": (48, 80),
    }
    qwen1_shapes = {
        "transformer.wte.weight": (VOCABULARY, 48),
        **per_layer(2, "transformer.h.", fused),
        "transformer.ln_f.weight": (48,),
        "lm_head.weight": (VOCABULARY, 48),
    }
    qwen2 = config("Qwen2ForCausalLM", "qwen2", rms_norm_eps=1e-6, rope_theta=1e6, use_sliding_window=False)
    tied = qwen2 | {"tie_word_embeddings": True, "rope_scaling": YARN, "sliding_window": 128}
    moe = config(
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
    )
    common = without(dense(moe, bias="q k v"), ".mlp.") | {
        f"model.layers.{layer}.mlp.gate.weight": (4, 48) for layer in range(2)
    }
    shared = {
        "mlp.shared_expert.gate_proj.weight": (40, 48),
        "mlp.shared_expert.up_proj.weight": (40, 48),
        "mlp.shared_expert.down_proj.weight": (48, 40),
        "mlp.shared_expert_gate.weight": (1, 48),
    }
    names = ("gate_proj", "down_proj", "up_proj")
    apart = experts(range(2), "mlp.experts", 4, names, 24, 48)
    together = per_layer(
        2, "model.layers.", {"mlp.experts.gate_up_proj": (4, 48, 48), "mlp.experts.down_proj": (4, 48, 24)}
    )
    qwen3 = config("Qwen3ForCausalLM", "qwen3", head_dim=16, rope_theta=1e6, max_window_layers=2)
    norms = per_layer(2, "model.layers.", {"self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,)})
    qwen3_moe = config(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        norm_topk_prob=True,
        rope_scaling=YARN,
    )
    moe3 = without(dense(qwen3_moe), ".mlp.") | norms
    moe3 |= {f"model.layers.{layer}.mlp.gate.weight": (4, 48) for layer in range(2)} | apart
    return {
        "qwen1": Case(qwen1, qwen1_shapes),
        "qwen2": Case(qwen2, dense(qwen2, bias="q k v")),
        "qwen2-tied-yarn": Case(tied, dense(tied, tied=True, bias="q k v"), "F16", "f16"),
        "qwen2-moe": Case(moe, common | apart | per_layer(2, "model.layers.", shared)),
        "qwen2-moe-together": Case(moe, common | together | per_layer(2, "model.layers.", shared), "F32", "bf16"),
        "qwen3": Case(qwen3, dense(qwen3) | norms),
        "qwen3-tied-biases": Case(
            qwen3 | {"tie_word_embeddings": True, "attention_bias": True},
            dense(qwen3, tied=True, bias="q k v") | norms,
        ),
        "qwen3-moe-yarn": Case(qwen3_moe, moe3),
    }


def phi_cases() -> dict[str, Case]:
    phi2 = config("PhiForCausalLM", "phi", num_key_value_heads=None, intermediate_size=192, partial_rotary_factor=0.5)
    biased = {
        "self_attn.q_proj.weight": (48, 48),
        "self_attn.k_proj.weight": (48, 48),
        "self_attn.v_proj.weight": (48, 48),
        "self_attn.dense.weight": (48, 48),
        "mlp.fc1.weight": (192, 48),
        "mlp.fc2.weight": (48, 192),
        "input_layernorm.weight": (48,),
    }
    phi2_shapes = {
        "model.embed_tokens.weight": (VOCABULARY, 48),
        **per_layer(2, "model.layers.", with_bias(biased)),
        **with_bias({"model.final_layernorm.weight": (48,), "lm_head.weight": (VOCABULARY, 48)}),
    }
    phi3 = config("Phi3ForCausalLM", "phi3", sliding_window=256, pad_token_id=0)
    fused = {
        "self_attn.qkv_proj.weight": (80, 48),
        "self_attn.o_proj.weight": (48, 48),
        "mlp.gate_up_proj.weight": (160, 48),
        "mlp.down_proj.weight": (48, 80),
        "input_layernorm.weight": (48,),
        "post_attention_layernorm.weight": (48,),
    }
    phi3_shapes = {
        "model.embed_tokens.weight": (VOCABULARY, 48),
        **per_layer(2, "model.layers.", fused),
        "model.norm.weight": (48,),
        "lm_head.weight": (VOCABULARY, 48),
    }
    factors = {"long_factor": [1.0, 1.5, 2.0, 4.25], "short_factor": [1.0, 1.25, 1.5, 2.0]}
    long = phi3 | {"original_max_position_embeddings": 128, "rope_scaling": {"type": "su", **factors}}
    long |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0}
    phi4 = phi3 | {
        "original_max_position_embeddings": 128,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", "long_factor": [1.0, 3.5, 7.0], "short_factor": [1.0, 1.0, 1.5]},
        "tie_word_embeddings": True,
        "sliding_window": None,
    }
    return {
        "phi2": Case(phi2, phi2_shapes),
        "phi3": Case(phi3, phi3_shapes),
        "phi3-su": Case(long, phi3_shapes),
        "phi4-mini-longrope": Case(phi4, without(phi3_shapes, "lm_head"), "F16", "bf16"),
    }


def deepseek_cases() -> dict[str, Case]:
    v1 = config(
        "DeepseekForCausalLM",
        "deepseek",
        num_key_value_heads=6,
        first_k_dense_replace=1,
        moe_intermediate_size=24,
        moe_layer_freq=1,
        n_routed_experts=4,
        n_shared_experts=2,
        num_experts_per_tok=2,
        norm_topk_prob=False,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        scoring_func="softmax",
    )
    names = ("gate_proj", "down_proj", "up_proj")
    mixture = {
        "mlp.gate.weight": (4, 48),
        "mlp.shared_experts.gate_proj.weight": (48, 48),
        "mlp.shared_experts.up_proj.weight": (48, 48),
        "mlp.shared_experts.down_proj.weight": (48, 48),
    }
    moe: Shapes = {f"model.layers.1.{name}": shape for name, shape in mixture.items()}
    moe |= experts(range(1, 2), "mlp.experts", 4, names, 24, 48)
    v2 = config(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        num_key_value_heads=6,
        first_k_dense_replace=1,
        kv_lora_rank=20,
        q_lora_rank=12,
        qk_nope_head_dim=10,
        qk_rope_head_dim=4,
        v_head_dim=6,
        moe_intermediate_size=24,
        n_routed_experts=4,
        n_shared_experts=2,
        num_experts_per_tok=2,
        routed_scaling_factor=16.0,
        n_group=2,
        topk_group=1,
        topk_method="group_limited_greedy",
        norm_topk_prob=False,
        scoring_func="softmax",
        rope_scaling={
            "type": "yarn",
            "factor": 4,
            "original_max_position_embeddings": 128,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
        },
    )
    latent = {
        "self_attn.kv_a_proj_with_mqa.weight": (24, 48),
        "self_attn.kv_a_layernorm.weight": (20,),
        "self_attn.kv_b_proj.weight": (96, 20),
        "self_attn.o_proj.weight": (48, 36),
    }
    low_rank = {
        "self_attn.q_a_proj.weight": (12, 48),
        "self_attn.q_a_layernorm.weight": (12,),
        "self_attn.q_b_proj.weight": (84, 12),
    }
    v2_shapes = without(dense(v2), "self_attn", "layers.1.mlp") | moe
    lite = v2 | {
        "num_hidden_layers": 27,
        "q_lora_rank": None,
        "n_group": 1,
        "first_k_dense_replace": 26,
        "topk_method": "greedy",
    }
    lite_shapes = without(dense(lite), "self_attn", "layers.26.mlp")
    lite_shapes |= {name.replace("layers.1.", "layers.26."): shape for name, shape in moe.items()}
    lite_shapes |= per_layer(27, "model.layers.", latent | {"self_attn.q_proj.weight": (84, 48)})
    v3 = v2 | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "n_routed_experts": 8,
        "n_group": 4,
        "topk_group": 2,
        "num_nextn_predict_layers": 1,
    }
    v3_shapes = without(v2_shapes, "mlp.experts") | per_layer(2, "model.layers.", latent | low_rank)
    v3_shapes |= {"model.layers.1.mlp.gate.weight": (8, 48), "model.layers.1.mlp.gate.e_score_correction_bias": (8,)}
    v3_shapes |= experts(range(1, 2), "mlp.experts", 8, names, 24, 48)
    # the layer that guesses a second token has those of an ordinary one, and some of its own
    second = {name: shape for name, shape in v3_shapes.items() if name.startswith("model.layers.1.")}
    second = {name.replace("layers.1.", "layers.2."): shape for name, shape in second.items()}
    second |= {"model.layers.2.eh_proj.weight": (48, 96), "model.layers.2.enorm.weight": (48,)}
    return {
        "deepseek-v3": Case(v3, v3_shapes),
        "deepseek-r1": Case(v3, v3_shapes | second),
        "deepseek-moe": Case(v1, without(dense(v1), "layers.1.mlp") | moe),
        "deepseek-v2-no-groups": Case(
            v2 | {"n_group": 1, "topk_method": "greedy"},
            v2_shapes | per_layer(2, "model.layers.", latent | low_rank),
        ),
        "deepseek-v2": Case(v2, v2_shapes | per_layer(2, "model.layers.", latent | low_rank)),
        "deepseek-v2-lite": Case(lite, lite_shapes, "F16", "bf16"),
    }


CASES: dict[str, Case] = {**llama_cases(), **qwen_cases(), **phi_cases(), **deepseek_cases()}
