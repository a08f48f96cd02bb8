"""Tiny checkpoints of more families with experts, windows, eyes or short convolutions, as the original tools save them.

The shapes were read off transformers' classes, those of remote code off llama.cpp's converter.
"""

from __future__ import annotations

from tests.families.family import LLAMA3, VOCABULARY, YARN, Case, Shapes, config, dense, experts, per_layer, without
from tests.families.family_cases_recent import NAMES, gated, predictor

QWEN2_VISION = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 48, "model_type": "qwen2_vl"}
SEEING: Shapes = {"visual.blocks.0.norm1.weight": (16,), "visual.merger.ln_q.weight": (16,)}


def renamed_shapes(shapes: Shapes, old: str, new: str) -> Shapes:
    return {name.replace(old, new, 1): shape for name, shape in shapes.items()}


def routed(layers: range, prefix: str, gate: str, *, bias: str = "") -> Shapes:
    """Four experts of 24 in every layer, and what chooses among them."""
    found = experts(layers, f"{prefix}.experts", 4, NAMES, 24, 48)
    for layer in layers:
        found[f"model.layers.{layer}.{gate}.weight"] = (4, 48)
        if bias:
            found[f"model.layers.{layer}.{bias}"] = (4,)
    return found


def seeing_cases() -> dict[str, Case]:
    sections = {"type": "mrope", "mrope_section": [1, 1, 2]}
    two = config(
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl",
        rope_scaling=sections,
        rope_theta=1000000.0,
        tie_word_embeddings=True,
        vision_config=QWEN2_VISION,
        use_sliding_window=False,
        sliding_window=32768,
        max_window_layers=2,
        rms_norm_eps=1e-6,
    )
    text = config("", "qwen2_5_vl_text", rope_scaling=sections, rope_theta=1000000.0, rms_norm_eps=1e-6)
    del text["architectures"]
    half = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 48},
    }
    three_text = config(
        "",
        "qwen3_vl_text",
        num_hidden_layers=4,
        head_dim=16,
        rope_theta=5000000,
        rope_scaling={"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]},
        tie_word_embeddings=True,
    )
    del three_text["architectures"]
    vision = {"depth": 4, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 48, "deepstack_visual_indexes": [1, 2]}
    three = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "text_config": three_text,
        "vision_config": vision | {"model_type": "qwen3_vl"},
    }
    moe_text = {key: value for key, value in three_text.items() if key != "tie_word_embeddings"} | {
        "model_type": "qwen3_vl_moe_text",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
    }
    three_moe = {
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "model_type": "qwen3_vl_moe",
        "tie_word_embeddings": False,
        "text_config": moe_text,
        "vision_config": {key: value for key, value in vision.items() if key != "deepstack_visual_indexes"}
        | {"model_type": "qwen3_vl_moe"},
    }
    norms = per_layer(4, "model.layers.", {"self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,)})
    packed = {"mlp.gate.weight": (4, 48), "mlp.experts.gate_up_proj": (4, 48, 40), "mlp.experts.down_proj": (4, 20, 48)}
    moe = without(dense(moe_text), ".mlp.") | norms | per_layer(4, "model.layers.", packed)
    new = {"model.visual.blocks.0.norm1.weight": (16,), "model.visual.patch_embed.proj.bias": (16,)}

    def inside(shapes: Shapes) -> Shapes:
        return renamed_shapes(shapes, "model.", "model.language_model.") | new

    return {
        "qwen2-vl": Case(two, dense(two, tied=True, bias="q k v") | SEEING),
        "qwen2.5-vl": Case(half, inside(dense(text, bias="q k v")), "F32", "f16"),
        "qwen3-vl": Case(three, inside(dense(three_text, tied=True) | norms)),
        "qwen3-vl-moe": Case(three_moe, inside(moe)),
    }


def expert_cases() -> dict[str, Case]:
    m2 = config(
        "MiniMaxM2ForCausalLM",
        "minimax_m2",
        head_dim=16,
        rotary_dim=8,
        rope_theta=5000000,
        intermediate_size=24,
        num_local_experts=4,
        num_experts_per_tok=2,
        scoring_func="sigmoid",
        use_qk_norm=True,
        qk_norm_type="per_layer",
        shared_intermediate_size=0,
        attn_type_list=[1, 1],
        use_routing_bias=True,
    )
    m2_shapes = without(dense(m2), ".mlp.") | experts(
        range(2), "block_sparse_moe.experts", 4, ("w1", "w2", "w3"), 24, 48
    )
    m2_shapes |= per_layer(
        2,
        "model.layers.",
        {
            "self_attn.q_norm.weight": (96,),
            "self_attn.k_norm.weight": (32,),
            "block_sparse_moe.gate.weight": (4, 48),
            "block_sparse_moe.e_score_correction_bias": (4,),
        },
    )
    ernie = config(
        "Ernie4_5_MoeForCausalLM",
        "ernie4_5_moe",
        intermediate_size=96,
        num_hidden_layers=3,
        tie_word_embeddings=True,
        rope_theta=500000.0,
        moe_intermediate_size=24,
        moe_k=2,
        moe_num_experts=4,
        moe_num_shared_experts=2,
        moe_layer_start_index=1,
        moe_layer_end_index=2,
        moe_layer_interval=1,
        pad_token_id=0,
    )
    ernie_shapes = {
        name: shape
        for name, shape in dense(ernie, tied=True).items()
        if ".mlp." not in name or name.startswith("model.layers.0.")
    } | routed(range(1, 3), "mlp", "mlp.gate")
    for layer in (1, 2):
        ernie_shapes[f"model.layers.{layer}.mlp.moe_statics.e_score_correction_bias"] = (1, 4)
        ernie_shapes |= gated(f"model.layers.{layer}.mlp.shared_experts.", 48)
    ling = config(
        "BailingMoeForCausalLM",
        "bailing_moe",
        hidden_act="silu",
        rms_norm_eps=1e-6,
        rope_theta=600000,
        first_k_dense_replace=0,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        num_shared_experts=2,
        norm_topk_prob=True,
        norm_head=False,
        use_bias=False,
        use_qkv_bias=False,
    )
    attention = {
        "attention.query_key_value.weight": (80, 48),
        "attention.dense.weight": (48, 48),
        "input_layernorm.weight": (48,),
        "post_attention_layernorm.weight": (48,),
    }
    ends = {
        "model.word_embeddings.weight": (VOCABULARY, 48),
        "model.norm.weight": (48,),
        "lm_head.weight": (VOCABULARY, 48),
    }
    ling_shapes = ends | per_layer(2, "model.layers.", attention) | routed(range(2), "mlp", "mlp.gate")
    ling2 = ling | {
        "architectures": ["BailingMoeV2ForCausalLM"],
        "model_type": "bailing_moe",
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "partial_rotary_factor": 0.5,
        "num_shared_experts": 1,
        "routed_scaling_factor": 2.5,
        "score_function": "sigmoid",
        "n_group": 2,
        "topk_group": 1,
        "use_qk_norm": True,
        "num_nextn_predict_layers": 1,
    }
    norms = {"attention.query_layernorm.weight": (8,), "attention.key_layernorm.weight": (8,)}
    ling2_shapes = ends | per_layer(4, "model.layers.", attention | norms) | gated("model.layers.0.mlp.", 80)
    ling2_shapes |= routed(range(1, 4), "mlp", "mlp.gate", bias="mlp.gate.expert_bias")
    for layer in range(2):
        ling_shapes |= gated(f"model.layers.{layer}.mlp.shared_experts.", 48)
    for layer in range(1, 4):
        ling2_shapes |= gated(f"model.layers.{layer}.mlp.shared_experts.", 24)
    ahead = without(predictor(3, own_ends=False), "shared_head") | {"model.layers.3.final_layernorm.weight": (48,)}
    without_ahead = {name: shape for name, shape in ling2_shapes.items() if ".layers.3." not in name}
    olmoe = config("OlmoeForCausalLM", "olmoe", intermediate_size=24, num_experts=4, num_experts_per_tok=2)
    olmoe |= {"norm_topk_prob": False, "pad_token_id": 1, "num_key_value_heads": 6}
    olmoe_shapes = without(dense(olmoe), ".mlp.") | routed(range(2), "mlp", "mlp.gate")
    olmoe_shapes |= per_layer(2, "model.layers.", {"self_attn.q_norm.weight": (48,), "self_attn.k_norm.weight": (48,)})
    granite = config(
        "GraniteMoeForCausalLM",
        "granitemoe",
        intermediate_size=24,
        num_local_experts=4,
        num_experts_per_tok=2,
        attention_multiplier=0.5,
        # so that the layers say more than the embedding
        embedding_multiplier=0.125,
        logits_scaling=2.0,
        residual_multiplier=4.0,
        tie_word_embeddings=True,
    )
    parallel = {
        "block_sparse_moe.input_linear.weight": (4, 48, 48),
        "block_sparse_moe.output_linear.weight": (4, 48, 24),
        "block_sparse_moe.router.layer.weight": (4, 48),
    }
    shared = {"shared_mlp.input_linear.weight": (80, 48), "shared_mlp.output_linear.weight": (48, 40)}
    granite_shapes = without(dense(granite, tied=True), ".mlp.") | per_layer(2, "model.layers.", parallel)
    granite_shared = granite | {
        "architectures": ["GraniteMoeSharedForCausalLM"],
        "model_type": "granitemoeshared",
        "shared_intermediate_size": 40,
    }
    return {
        "minimax-m2": Case(m2, m2_shapes),
        "ernie-4.5-moe": Case(ernie, ernie_shapes),
        "ernie-4.5-moe-ahead": Case(
            ernie,
            ernie_shapes | {"model.mtp_block.0.mlp.up_proj.weight": (8, 48), "model.mtp_emb_norm.0.weight": (48,)},
        ),
        "ling-lite": Case(ling, ling_shapes),
        "ling-lite-normed-output": Case(ling | {"norm_head": True}, ling_shapes),
        "ling-mini-2": Case(ling2, ling2_shapes | ahead),
        "ling-flash-2": Case(ling2 | {"num_nextn_predict_layers": 0}, without_ahead, "F32", "bf16"),
        "olmoe": Case(olmoe, olmoe_shapes),
        "granite-moe": Case(granite, granite_shapes),
        "granite-moe-shared": Case(
            granite_shared, granite_shapes | per_layer(2, "model.layers.", shared), "F32", "f16"
        ),
    }


def window_cases() -> dict[str, Case]:
    olmo3 = config(
        "Olmo3ForCausalLM",
        "olmo3",
        num_hidden_layers=4,
        sliding_window=64,
        rope_theta=500000,
        rope_scaling=YARN | {"rope_type": "yarn", "attention_factor": 1.1386294361, "beta_slow": 1.0},
        pad_token_id=1,
    )
    olmo3_more = {
        "self_attn.q_norm.weight": (48,),
        "self_attn.k_norm.weight": (16,),
        "post_feedforward_layernorm.weight": (48,),
    }
    olmo3_shapes = without(dense(olmo3), "input_layernorm") | per_layer(4, "model.layers.", olmo3_more)
    plain = {key: value for key, value in olmo3.items() if key != "rope_scaling"}
    cohere2 = config(
        "Cohere2ForCausalLM",
        "cohere2",
        num_hidden_layers=4,
        layer_norm_eps=1e-5,
        logit_scale=0.25,
        rope_theta=50000.0,
        rotary_pct=1.0,
        sliding_window=64,
        sliding_window_pattern=4,
        tie_word_embeddings=True,
        head_dim=8,
    )
    exaone = config(
        "Exaone4ForCausalLM",
        "exaone4",
        rope_theta=1000000,
        rope_scaling=LLAMA3,
        sliding_window=None,
        tie_word_embeddings=True,
    ) | {"sliding_window": None, "layer_types": ["full_attention"] * 2}
    exaone_more = {
        "self_attn.q_norm.weight": (8,),
        "self_attn.k_norm.weight": (8,),
        "post_feedforward_layernorm.weight": (48,),
    }
    large = exaone | {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 64,
        "sliding_window": 64,
        "layer_types": ["full_attention" if layer % 4 == 3 else "sliding_attention" for layer in range(64)],
        "tie_word_embeddings": False,
    }
    large_more = {**exaone_more, "post_feedforward_layernorm.weight": (16,)}
    return {
        "olmo3": Case(olmo3, olmo3_shapes),
        "olmo3-plain": Case(plain, olmo3_shapes, "F32", "bf16"),
        "command-r7b": Case(cohere2, without(dense(cohere2, tied=True), "post_attention_layernorm")),
        "exaone-4-1.2b": Case(
            exaone,
            without(dense(exaone, tied=True), "input_layernorm") | per_layer(2, "model.layers.", exaone_more),
        ),
        "exaone-4-32b": Case(
            large, without(dense(large), "input_layernorm") | per_layer(64, "model.layers.", large_more)
        ),
    }


def convolution_cases() -> dict[str, Case]:
    lfm2 = config(
        "Lfm2ForCausalLM",
        "lfm2",
        intermediate_size=None,
        block_ff_dim=120,
        block_multiple_of=16,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=True,
        num_hidden_layers=3,
        norm_eps=1e-5,
        rope_theta=1000000.0,
        conv_bias=False,
        conv_L_cache=3,
        full_attn_idxs=[2],
        tie_embedding=True,
        tie_word_embeddings=None,
    )
    attention = {
        "self_attn.q_proj.weight": (48, 48),
        "self_attn.k_proj.weight": (16, 48),
        "self_attn.v_proj.weight": (16, 48),
        "self_attn.out_proj.weight": (48, 48),
        "self_attn.q_layernorm.weight": (8,),
        "self_attn.k_layernorm.weight": (8,),
    }
    convolution = {
        "conv.conv.weight": (48, 1, 3),
        "conv.in_proj.weight": (144, 48),
        "conv.out_proj.weight": (48, 48),
    }

    def inner(size: int) -> Shapes:
        stem = "feed_forward."
        return {f"{stem}w1.weight": (size, 48), f"{stem}w3.weight": (size, 48), f"{stem}w2.weight": (48, size)}

    def shapes(attends: tuple[int, ...], layers: int, size: int) -> Shapes:
        found: Shapes = {"model.embed_tokens.weight": (VOCABULARY, 48), "model.embedding_norm.weight": (48,)}
        for layer in range(layers):
            table = (attention if layer in attends else convolution) | inner(size)
            table |= {"operator_norm.weight": (48,), "ffn_norm.weight": (48,)}
            found |= {f"model.layers.{layer}.{name}": shape for name, shape in table.items()}
        return found

    moe = config(
        "Lfm2MoeForCausalLM",
        "lfm2_moe",
        num_hidden_layers=3,
        norm_eps=1e-5,
        rope_theta=1000000.0,
        conv_bias=False,
        conv_L_cache=3,
        layer_types=["conv", "full_attention", "conv"],
        moe_intermediate_size=24,
        num_dense_layers=1,
        num_experts=4,
        num_experts_per_tok=2,
        use_expert_bias=True,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        tie_word_embeddings=True,
    )
    whole = shapes((1,), 3, 80)
    first = {name: shape for name, shape in whole.items() if ".feed_forward." not in name or ".layers.0." in name}
    first |= experts(range(1, 3), "feed_forward.experts", 4, ("w1", "w2", "w3"), 24, 48)
    for layer in (1, 2):
        stem = f"model.layers.{layer}.feed_forward."
        first |= {f"{stem}gate.weight": (4, 48), f"{stem}expert_bias": (4,)}
    return {
        "lfm2": Case(lfm2, shapes((2,), 3, 80)),
        "lfm2-whole-size": Case(
            lfm2 | {"block_auto_adjust_ff_dim": False, "block_ff_dim": 80, "full_attn_idxs": [0, 2]},
            shapes((0, 2), 3, 80),
            "F32",
            "bf16",
        ),
        "lfm2-moe": Case(moe, first),
    }


def ternary_cases() -> dict[str, Case]:
    bitnet = config(
        "BitnetForCausalLM", "llama", tie_word_embeddings=True, rope_theta=10000.0, weight_bits=1, input_bits=8
    )
    norms = {"self_attn.inner_attn_ln.weight": (48,), "mlp.ffn_layernorm.weight": (80,)}
    shapes = dense(bitnet, tied=True) | per_layer(2, "model.layers.", norms)
    return {"bitnet-large": Case(bitnet, shapes, dtype="F16")}


CASES: dict[str, Case] = ternary_cases() | seeing_cases() | expert_cases() | window_cases() | convolution_cases()
