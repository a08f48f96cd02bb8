"""Tiny checkpoints of the families of 2025 and later: experts, layers that predict further tokens, latent attention.

The shapes were read off transformers' classes, those of the layers that transformers leaves out off the published
checkpoints.
"""

from __future__ import annotations

from tests.families.family import LLAMA3, VOCABULARY, YARN, Case, Shapes, config, dense, experts, per_layer, without

NAMES = ("gate_proj", "down_proj", "up_proj")


def gated(prefix: str, inner: int, width: int = 48) -> Shapes:
    """The three matrices of a gated layer."""
    return {
        f"{prefix}gate_proj.weight": (inner, width),
        f"{prefix}up_proj.weight": (inner, width),
        f"{prefix}down_proj.weight": (width, inner),
    }


def predictor(layer: int, *, own_ends: bool = True) -> Shapes:
    """What a layer that predicts a further token has beyond the others."""
    stem = f"model.layers.{layer}."
    ends: Shapes = {
        f"{stem}embed_tokens.weight": (VOCABULARY, 48),
        f"{stem}shared_head.head.weight": (VOCABULARY, 48),
    }
    return {
        f"{stem}eh_proj.weight": (48, 96),
        f"{stem}enorm.weight": (48,),
        f"{stem}hnorm.weight": (48,),
        f"{stem}shared_head.norm.weight": (48,),
        **(ends if own_ends else {}),
    }


def glm_cases() -> dict[str, Case]:
    air = config(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        head_dim=16,
        attention_bias=True,
        partial_rotary_factor=0.5,
        rope_theta=1000000,
        moe_intermediate_size=24,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.5,
        num_hidden_layers=3,
        num_nextn_predict_layers=1,
    )

    def sparse(layers: range, gate: str = "mlp.gate") -> Shapes:
        found = experts(layers, "mlp.experts", 4, NAMES, 24, 48)
        for layer in layers:
            stem = f"model.layers.{layer}."
            found |= {f"{stem}{gate}.weight": (4, 48), f"{stem}{gate}.e_score_correction_bias": (4,)}
            found |= gated(f"{stem}mlp.shared_experts.", 24)
        return found

    def shapes(layers: int) -> Shapes:
        whole = dense({**air, "num_hidden_layers": layers}, bias="q k v")
        first = {name: shape for name, shape in whole.items() if name.startswith("model.layers.0.mlp.")}
        return without(whole, ".mlp.") | first | sparse(range(1, layers))

    norms = {"self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,)}
    lite = config(
        "Glm4MoeLiteForCausalLM",
        "glm4_moe_lite",
        num_key_value_heads=6,
        num_hidden_layers=3,
        num_nextn_predict_layers=1,
        rope_theta=1000000,
        moe_intermediate_size=24,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        topk_method="noaux_tc",
        norm_topk_prob=True,
        routed_scaling_factor=1.8,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
    )
    latent: Shapes = {
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

    def lite_shapes(layers: int) -> Shapes:
        ends = {"model.norm.weight": (48,), "lm_head.weight": (VOCABULARY, 48)}
        first = gated("model.layers.0.mlp.", 80)
        return {
            "model.embed_tokens.weight": (VOCABULARY, 48),
            **per_layer(layers, "model.layers.", latent),
            **first,
            **sparse(range(1, layers)),
            **ends,
        }

    return {
        "glm-4.5-air": Case(air, shapes(4) | predictor(3)),
        "glm-4.6": Case(
            air | {"use_qk_norm": True, "num_nextn_predict_layers": 0},
            shapes(3) | per_layer(3, "model.layers.", norms),
            "F32",
            "bf16",
        ),
        "glm-4.5-no-predictor": Case(air, shapes(3)),
        "glm-4.7-flash": Case(lite, lite_shapes(4) | predictor(3)),
        "glm-4.7-flash-yarn": Case(lite | {"rope_scaling": YARN}, lite_shapes(3), "F16", "f16"),
    }


def hunyuan_cases() -> dict[str, Case]:
    stretched = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1}
    small = config(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        head_dim=16,
        use_qk_norm=True,
        attention_bias=False,
        max_position_embeddings=262144,
        rope_theta=10000.0,
        rope_scaling=stretched,
        tie_word_embeddings=True,
    )
    norms = per_layer(
        2, "model.layers.", {"self_attn.query_layernorm.weight": (16,), "self_attn.key_layernorm.weight": (16,)}
    )
    plain = {key: value for key, value in small.items() if key != "rope_scaling"} | {"tie_word_embeddings": False}
    moe = config(
        "HunYuanMoEV1ForCausalLM",
        "hunyuan_v1_moe",
        num_attention_heads=2,
        num_key_value_heads=1,
        hidden_size=256,
        intermediate_size=24,
        moe_intermediate_size=[24, 24],
        moe_topk=[2, 2],
        num_experts=4,
        num_shared_expert=[1, 1],
        moe_layer_num_skipped=0,
        use_qk_norm=True,
        max_position_embeddings=32768,
        rope_theta=10000.0,
        rope_scaling=stretched,
        tie_word_embeddings=True,
    )
    moe_norms = per_layer(
        2, "model.layers.", {"self_attn.query_layernorm.weight": (128,), "self_attn.key_layernorm.weight": (128,)}
    )
    sparse = without(dense(moe, tied=True), ".mlp.") | moe_norms
    for layer in range(2):
        sparse |= {f"model.layers.{layer}.mlp.gate.wg.weight": (4, 256)}
        sparse |= gated(f"model.layers.{layer}.mlp.shared_mlp.", 24, 256)
    sparse |= experts(range(2), "mlp.experts", 4, NAMES, 24, 256)
    return {
        "hunyuan-1.8b": Case(small, dense(small, tied=True) | norms),
        "hunyuan-plain": Case(plain, dense(plain) | norms, "F16", "f16"),
        "hunyuan-a13b": Case(moe, sparse),
        "hunyuan-a13b-head-dim": Case(
            moe | {"head_dim": 128, "max_position_embeddings": 262144, "tie_word_embeddings": False},
            sparse | {"lm_head.weight": (VOCABULARY, 256)},
            "F32",
            "bf16",
        ),
    }


def llama4_cases() -> dict[str, Case]:
    # the published files scale without a transition
    scaling = LLAMA3 | {"factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
    text = config(
        "",
        "llama4_text",
        num_hidden_layers=4,
        head_dim=16,
        intermediate_size=24,
        intermediate_size_mlp=80,
        num_experts_per_tok=1,
        num_local_experts=4,
        interleave_moe_layer_step=2,
        use_qk_norm=True,
        rope_theta=500000.0,
        rope_scaling=scaling,
        attention_chunk_size=8192,
        attn_temperature_tuning=True,
        floor_scale=8192,
        attn_scale=0.1,
        no_rope_layers=[1, 1, 1, 0],
        pad_token_id=0,
    )
    del text["architectures"]
    sees = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": text,
        "vision_config": {"model_type": "llama4_vision_model", "hidden_size": 16, "num_hidden_layers": 1},
    }
    alone = text | {"architectures": ["Llama4ForCausalLM"], "interleave_moe_layer_step": 1}
    del alone["rope_scaling"]

    def shapes(prefix: str, sparse: tuple[int, ...]) -> Shapes:
        whole = dense({**text, "intermediate_size": 80})
        found = {f"{prefix}{name}": shape for name, shape in without(whole, ".mlp.").items()}
        for layer in range(4):
            stem = f"{prefix}model.layers.{layer}.feed_forward."
            if layer not in sparse:
                found |= gated(stem, 80)
                continue
            found |= {
                f"{stem}router.weight": (4, 48),
                f"{stem}experts.gate_up_proj": (4, 48, 48),
                f"{stem}experts.down_proj": (4, 24, 48),
                **gated(f"{stem}shared_expert.", 24),
            }
        return found

    seeing = {"vision_model.class_embedding": (16,), "multi_modal_projector.linear_1.weight": (48, 16)}
    return {
        "llama-4-maverick": Case(sees, shapes("language_model.", (1, 3)) | seeing),
        "llama-4-text": Case(alone, shapes("", (0, 1, 2, 3)), "F32", "bf16"),
    }


CASES: dict[str, Case] = glm_cases() | hunyuan_cases() | llama4_cases()
