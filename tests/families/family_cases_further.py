"""Tiny checkpoints of further families: GLM with eyes, and others that transformers knows.

The shapes were read off transformers' classes.
"""

from __future__ import annotations

from typing import Any

from tests.families.family import VOCABULARY, Case, Shapes, config, dense, experts, per_layer, without
from tests.families.family_cases_recent import NAMES, gated, predictor
from tests.families.family_cases_world import renamed_shapes, routed

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


def nemotron_cases() -> dict[str, Case]:
    mini = config(
        "NemotronForCausalLM",
        "nemotron",
        hidden_act="relu2",
        norm_eps=1e-5,
        rope_theta=10000,
        partial_rotary_factor=0.5,
    )
    biased = mini | {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    }

    def shapes(bias: str = "") -> Shapes:
        found = without(dense(mini, bias=bias), "gate_proj")
        norms = {"input_layernorm.bias": (48,), "post_attention_layernorm.bias": (48,)}
        return found | per_layer(2, "model.layers.", norms) | {"model.norm.bias": (48,)}

    return {
        "nemotron-mini": Case(mini, shapes()),
        "nemotron-biases": Case(biased, shapes("q k v o up down"), "F16", "f16"),
    }


def falcon_cases() -> dict[str, Case]:
    small = config(
        "FalconH1ForCausalLM",
        "falcon_h1",
        head_dim=16,
        hidden_act="silu",
        rope_theta=100000000000.0,
        mamba_d_ssm=64,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=16,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_chunk_size=16,
        mamba_conv_bias=True,
        mamba_proj_bias=False,
        mamba_rms_norm=False,
        mamba_norm_before_gate=False,
        lm_head_multiplier=0.078125,
        embedding_multiplier=5.656854249492381,
        mlp_multipliers=[0.8838834764831844, 0.5859375],
        key_multiplier=0.390625,
        attention_out_multiplier=0.9375,
        attention_in_multiplier=1.25,
        ssm_multipliers=[0.3535533905932738, 0.25, 0.1767766952966369, 0.5, 0.3535533905932738],
        ssm_in_multiplier=1.25,
        ssm_out_multiplier=0.23570226039551587,
    )
    normed = small | {"mamba_rms_norm": True, "mamba_n_groups": 2}

    def shapes(groups: int) -> Shapes:
        mixed = 64 + 2 * groups * 16
        mamba = {
            "mamba.A_log": (8,),
            "mamba.D": (8,),
            "mamba.dt_bias": (8,),
            "mamba.in_proj.weight": (64 + mixed + 8, 48),
            "mamba.conv1d.weight": (mixed, 1, 4),
            "mamba.conv1d.bias": (mixed,),
            "mamba.out_proj.weight": (48, 64),
        }
        found = renamed_parts(dense(small), (".mlp.", ".feed_forward."), ("post_attention_", "pre_ff_"))
        found["model.final_layernorm.weight"] = found.pop("model.norm.weight")
        return found | per_layer(2, "model.layers.", mamba)

    norms = per_layer(2, "model.layers.", {"mamba.norm.weight": (64,)})
    return {
        "falcon-h1": Case(small, shapes(1)),
        "falcon-h1-7b": Case(normed, shapes(2) | norms, "F32", "bf16"),
    }


def renamed_parts(shapes: Shapes, *pairs: tuple[str, str]) -> Shapes:
    for old, new in pairs:
        shapes = renamed_shapes(shapes, old, new)
    return shapes


def gemma_cases() -> dict[str, Case]:
    """As many layers as it takes to have one of each kind that uses the keys of another."""
    layers = 25
    text = config(
        "Gemma3nForCausalLM",
        "gemma3n_text",
        hidden_size=32,
        intermediate_size=[640] * layers,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=128,
        num_kv_shared_layers=5,
        vocab_size_per_layer_input=VOCABULARY - 10,
        final_logit_softcapping=30.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    inner = text | {"intermediate_size": 640}
    own = {
        "pre_feedforward_layernorm.weight": (32,),
        "post_feedforward_layernorm.weight": (32,),
        "self_attn.q_norm.weight": (16,),
        "self_attn.k_norm.weight": (16,),
        "per_layer_input_gate.weight": (256, 32),
        "per_layer_projection.weight": (32, 256),
        "post_per_layer_input_norm.weight": (32,),
        "altup.correct_output_scale": (32,),
        "altup.correction_coefs.weight": (4, 4),
        "altup.prediction_coefs.weight": (16, 4),
        "altup.modality_router.weight": (4, 32),
        "altup.router_norm.weight": (32,),
        "laurel.linear_left.weight": (64, 32),
        "laurel.linear_right.weight": (32, 64),
        "laurel.post_laurel_norm.weight": (32,),
    }
    shapes = dense(inner, tied=True) | per_layer(layers, "model.layers.", own)
    shapes |= {
        "model.embed_tokens_per_layer.weight": (VOCABULARY - 10, 256 * layers),
        "model.per_layer_model_projection.weight": (256 * layers, 32),
        "model.per_layer_projection_norm.weight": (256,),
    }
    for number in range(3):
        shapes |= {
            f"model.altup_projections.{number}.weight": (32, 32),
            f"model.altup_unembed_projections.{number}.weight": (32, 32),
        }
    sees = {
        "architectures": ["Gemma3nForConditionalGeneration"],
        "model_type": "gemma3n",
        "text_config": {key: value for key, value in inner.items() if key != "architectures"},
        "tie_word_embeddings": True,
    }
    parts = {"model.vision_tower.bias": (16,), "model.audio_tower.bias": (16,), "model.embed_audio.bias": (16,)}
    return {
        "gemma-3n-text": Case(text, shapes),
        "gemma-3n-e2b": Case(sees, renamed_shapes(shapes, "model.", "model.language_model.") | parts, "F32", "bf16"),
    }


def gemma4_cases() -> dict[str, Case]:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    small = config(
        "Gemma4ForCausalLM",
        "gemma4_text",
        num_hidden_layers=6,
        num_attention_heads=4,
        head_dim=16,
        global_head_dim=32,
        layer_types=kinds,
        hidden_activation="gelu_pytorch_tanh",
        sliding_window=128,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCABULARY,
        num_kv_shared_layers=3,
        use_double_wide_mlp=True,
        final_logit_softcapping=30.0,
        rms_norm_eps=1e-6,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        },
        tie_word_embeddings=True,
    )
    sparse = small | {
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "use_double_wide_mlp": False,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "use_bidirectional_attention": "vision",
    }
    no_experts = {"num_experts": None, "top_k_experts": None, "moe_intermediate_size": None}
    plain = sparse | {"enable_moe_block": False} | no_experts

    def shapes(found: dict[str, Any]) -> Shapes:
        ends: Shapes = {"model.embed_tokens.weight": (VOCABULARY, 48), "model.norm.weight": (48,)}
        each, first_shared = found["hidden_size_per_layer_input"], 6 - found["num_kv_shared_layers"]
        if each:
            ends |= {
                "model.embed_tokens_per_layer.weight": (VOCABULARY, 6 * each),
                "model.per_layer_model_projection.weight": (6 * each, 48),
                "model.per_layer_projection_norm.weight": (each,),
            }
        for number, kind in enumerate(kinds):
            full, shared = kind == "full_attention", number >= first_shared
            stem, head = f"model.layers.{number}.", 32 if full else 16
            keys = head * (1 if full and found.get("num_global_key_value_heads") else 2)
            inner = 160 if shared and found["use_double_wide_mlp"] else 80
            ends |= {
                f"{stem}self_attn.q_proj.weight": (4 * head, 48),
                f"{stem}self_attn.q_norm.weight": (head,),
                f"{stem}self_attn.o_proj.weight": (48, 4 * head),
                **gated(f"{stem}mlp.", inner),
                f"{stem}layer_scalar": (1,),
            }
            if not shared:
                ends |= {f"{stem}self_attn.k_proj.weight": (keys, 48), f"{stem}self_attn.k_norm.weight": (head,)}
            if not shared and not (full and found.get("attention_k_eq_v")):
                ends |= {f"{stem}self_attn.v_proj.weight": (keys, 48)}
            norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
            ends |= {f"{stem}{norm}_layernorm.weight": (48,) for norm in norms}
            if each:
                ends |= {
                    f"{stem}per_layer_input_gate.weight": (each, 48),
                    f"{stem}per_layer_projection.weight": (48, each),
                    f"{stem}post_per_layer_input_norm.weight": (48,),
                }
            if found.get("enable_moe_block"):
                ends |= {
                    f"{stem}router.proj.weight": (4, 48),
                    f"{stem}router.scale": (48,),
                    f"{stem}router.per_expert_scale": (4,),
                    f"{stem}experts.gate_up_proj": (4, 48, 48),
                    f"{stem}experts.down_proj": (4, 48, 24),
                    f"{stem}pre_feedforward_layernorm_2.weight": (48,),
                    f"{stem}post_feedforward_layernorm_1.weight": (48,),
                    f"{stem}post_feedforward_layernorm_2.weight": (48,),
                }
        return ends

    def seeing(text: dict[str, Any]) -> dict[str, Any]:
        return {
            "architectures": ["Gemma4ForConditionalGeneration"],
            "model_type": "gemma4",
            "text_config": {key: value for key, value in text.items() if key != "architectures"},
            "tie_word_embeddings": True,
        }

    parts = {"model.vision_tower.bias": (16,), "model.audio_tower.bias": (16,), "model.embed_vision.bias": (16,)}
    moe = renamed_shapes(shapes(sparse), "model.", "model.language_model.") | parts
    return {
        "gemma-4-e2b-text": Case(small, shapes(small)),
        "gemma-4-26b-a4b": Case(seeing(sparse), moe),
        "gemma-4-31b-text": Case(plain, shapes(plain), "F32", "bf16"),
    }


def hunyuan_cases() -> dict[str, Case]:
    text = text_of(
        "hunyuan_vl_text",
        head_dim=16,
        use_qk_norm=True,
        attention_bias=False,
        hidden_act="silu",
        max_position_embeddings=32768,
        rope_theta=10000.0,
        rope_scaling={"type": "xdrope", "alpha": 1000.0, "factor": 1.0, "xdrope_section": [2, 2, 2, 2]},
        num_experts=1,
    )
    sees = {
        "architectures": ["HunYuanVLForConditionalGeneration"],
        "model_type": "hunyuan_vl",
        "text_config": text,
        "tie_word_embeddings": True,
        "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    }
    norms = {"self_attn.query_layernorm.weight": (16,), "self_attn.key_layernorm.weight": (16,)}
    shapes = dense(text, tied=True) | per_layer(2, "model.layers.", norms)
    return {"hunyuan-ocr": Case(sees, shapes | {"vit.embeddings.position_embedding.weight": (5, 16)})}


def pangu_cases() -> dict[str, Case]:
    small = config(
        "PanguEmbeddedForCausalLM",
        "PanguEmbedded",
        bias=True,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope_theta=4000000.0,
    )
    tied = small | {"tie_word_embeddings": True}
    return {
        "pangu-7b": Case(small, dense(small, bias="q k v o")),
        "pangu-1b": Case(tied, dense(tied, tied=True, bias="q k v o"), "F32", "bf16"),
    }


def omni_cases() -> dict[str, Case]:
    sections = {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]}
    two = text_of("qwen2_5_omni_text", rope_theta=1000000.0, rope_scaling=sections, rms_norm_eps=1e-6)
    three = text_of(
        "qwen3_omni_moe_text",
        head_dim=16,
        rope_theta=1000000,
        rope_scaling={**sections, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        decoder_sparse_step=1,
        norm_topk_prob=True,
        mlp_only_layers=[],
    )

    def omni(architecture: str, model_type: str, text: dict[str, Any]) -> dict[str, Any]:
        thinker = {"model_type": f"{model_type}_thinker", "text_config": text | {"tie_word_embeddings": False}}
        return {"architectures": [architecture], "model_type": model_type, "thinker_config": thinker}

    def inside(shapes: Shapes) -> Shapes:
        parts = (
            "thinker.visual.blocks.0.norm1.weight",
            "thinker.audio_tower.bias",
            "talker.x.bias",
            "token2wav.y.bias",
        )
        return {f"thinker.{name}": shape for name, shape in shapes.items()} | dict.fromkeys(parts, (16,))

    norms = per_layer(2, "model.layers.", {"self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,)})
    sparse = without(dense(three), ".mlp.") | norms | per_layer(2, "model.layers.", {"mlp.gate.weight": (4, 48)})
    sparse |= experts(range(2), "mlp.experts", 4, NAMES, 20, 48)
    return {
        "qwen2.5-omni": Case(omni("Qwen2_5OmniModel", "qwen2_5_omni", two), inside(dense(two, bias="q k v"))),
        "qwen3-omni": Case(omni("Qwen3OmniMoeForConditionalGeneration", "qwen3_omni_moe", three), inside(sparse)),
    }


CASES: dict[str, Case] = (
    omni_cases()
    | pangu_cases()
    | hunyuan_cases()
    | gemma_cases()
    | gemma4_cases()
    | glm_cases()
    | nemotron_cases()
    | falcon_cases()
)
