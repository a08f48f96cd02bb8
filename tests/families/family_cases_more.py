"""Tiny checkpoints of the other families, as the original tools save them.

The shapes were read off transformers' classes, those of remote code off the published checkpoints.
"""

from __future__ import annotations

from typing import Any

from tests.families.family import VOCABULARY, Case, Shapes, config, dense, per_layer, with_bias, without


def chinese_cases() -> dict[str, Case]:
    packed = {
        "self_attn.W_pack.weight": (48, 16),
        "self_attn.o_proj.weight": (16, 16),
        "mlp.gate_proj.weight": (24, 16),
        "mlp.up_proj.weight": (24, 16),
        "mlp.down_proj.weight": (16, 24),
        "input_layernorm.weight": (16,),
        "post_attention_layernorm.weight": (16,),
    }
    baichuan7 = config(
        "BaiChuanForCausalLM",
        "baichuan",
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=32,
        num_attention_heads=4,
        num_key_value_heads=None,
        hidden_act="silu",
        rms_norm_eps=1e-6,
    )
    baichuan13 = baichuan7 | {
        "architectures": ["BaichuanForCausalLM"],
        "num_hidden_layers": 40,
        "num_attention_heads": 1,
        "model_max_length": 4096,
    }
    del baichuan13["max_position_embeddings"]

    def baichuan(layers: int) -> Shapes:
        ends = {"model.norm.weight": (16,), "lm_head.weight": (VOCABULARY, 16)}
        return {"model.embed_tokens.weight": (VOCABULARY, 16), **per_layer(layers, "model.layers.", packed), **ends}

    chatglm3: dict[str, Any] = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "ffn_hidden_size": 80,
        "hidden_size": 48,
        "kv_channels": 8,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 6,
        "num_layers": 2,
        "original_rope": True,
        "padded_vocab_size": VOCABULARY,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": 512,
        "tie_word_embeddings": False,
    }
    glm_layer = {
        "input_layernorm.weight": (48,),
        "self_attention.query_key_value.weight": (80, 48),
        "self_attention.query_key_value.bias": (80,),
        "self_attention.dense.weight": (48, 48),
        "post_attention_layernorm.weight": (48,),
        "mlp.dense_h_to_4h.weight": (160, 48),
        "mlp.dense_4h_to_h.weight": (48, 80),
    }
    chatglm_shapes = {
        "transformer.embedding.word_embeddings.weight": (VOCABULARY, 48),
        "transformer.rotary_pos_emb.inv_freq": (2,),
        **per_layer(2, "transformer.encoder.layers.", glm_layer),
        "transformer.encoder.final_layernorm.weight": (48,),
        "transformer.output_layer.weight": (VOCABULARY, 48),
    }
    glm = config("GlmForCausalLM", "glm", head_dim=8, rope_theta=10000.0, pad_token_id=0, eos_token_id=[2])
    gate_up = per_layer(2, "model.layers.", {"mlp.gate_up_proj.weight": (160, 48)})
    glm4 = config("Glm4ForCausalLM", "glm4", head_dim=12, partial_rotary_factor=0.5, pad_token_id=0, eos_token_id=[2])
    norms = per_layer(
        2, "model.layers.", {"post_self_attn_layernorm.weight": (48,), "post_mlp_layernorm.weight": (48,)}
    )
    internlm2 = config(
        "InternLM2ForCausalLM",
        "internlm2",
        bias=False,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope_theta=1000000,
        rope_scaling={"type": "dynamic", "factor": 2.0},
    )
    internlm_layer = {
        "attention.wqkv.weight": (80, 48),
        "attention.wo.weight": (48, 48),
        "feed_forward.w1.weight": (80, 48),
        "feed_forward.w3.weight": (80, 48),
        "feed_forward.w2.weight": (48, 80),
        "attention_norm.weight": (48,),
        "ffn_norm.weight": (48,),
    }
    internlm_shapes = {
        "model.tok_embeddings.weight": (VOCABULARY, 48),
        **per_layer(2, "model.layers.", internlm_layer),
        "model.norm.weight": (48,),
        "output.weight": (VOCABULARY, 48),
    }
    internlm3 = config(
        "InternLM3ForCausalLM",
        "internlm3",
        head_dim=16,
        bias=False,
        qkv_bias=False,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope_theta=50000000,
        rope_scaling={"rope_type": "dynamic", "factor": 6.0},
    )
    biased = internlm3 | {"bias": True, "qkv_bias": True, "rope_scaling": {"type": "linear", "factor": 2.0}}
    minicpm = config(
        "MiniCPMForCausalLM",
        "minicpm",
        hidden_act="silu",
        rms_norm_eps=1e-5,
        scale_emb=12,
        scale_depth=1.4,
        dim_model_base=16,
        tie_word_embeddings=None,
    )
    long = {
        "rope_type": "longrope",
        "long_factor": [1.0, 1.5, 2.0, 4.25],
        "short_factor": [1, 1.25, 1.5, 2],
        "original_max_position_embeddings": 256,
    }
    return {
        "baichuan-7b": Case(baichuan7, baichuan(32)),
        # divides the rows of its output by their length when it runs
        "baichuan2-7b": Case(baichuan7 | {"z_loss_weight": 0}, baichuan(32), outtype="f32"),
        "baichuan-13b": Case(baichuan13, baichuan(40), "F16", "f16"),
        "chatglm3": Case(chatglm3, chatglm_shapes, "F16", "f16"),
        "chatglm-rope-ratio": Case(chatglm3 | {"rope_ratio": 500}, chatglm_shapes),
        "glm-transformers": Case(glm, without(dense(glm, bias="q k v"), "gate_proj", "up_proj") | gate_up),
        "glm4-0414": Case(glm4, without(dense(glm4), "gate_proj", "up_proj") | gate_up | norms),
        "internlm2": Case(internlm2, internlm_shapes),
        "internlm2-mha": Case(
            internlm2 | {"num_key_value_heads": 6},
            internlm_shapes | {name: (144, 48) for name in internlm_shapes if name.endswith("wqkv.weight")},
            "F32",
            "f32",
        ),
        "internlm3-8b": Case(internlm3, dense(internlm3)),
        "internlm3-biases": Case(biased, dense(biased, bias="q k v o gate up down"), "F32", "f32"),
        "minicpm": Case(minicpm, dense(minicpm, tied=True)),
        "minicpm-longrope": Case(minicpm | {"rope_scaling": long}, dense(minicpm, tied=True)),
    }


def google_cases() -> dict[str, Case]:
    act = "gelu_pytorch_tanh"
    gemma = config("GemmaForCausalLM", "gemma", head_dim=16, hidden_activation=act, tie_word_embeddings=True)
    gemma2 = config(
        "Gemma2ForCausalLM",
        "gemma2",
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=128,
        tie_word_embeddings=True,
    )
    more = per_layer(
        2, "model.layers.", {"pre_feedforward_layernorm.weight": (48,), "post_feedforward_layernorm.weight": (48,)}
    )
    gemma3 = config(
        "Gemma3ForCausalLM",
        "gemma3_text",
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=128,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        rope_local_base_freq=20000.0,
        tie_word_embeddings=True,
    )
    norms = per_layer(2, "model.layers.", {"self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,)})
    gemma3_shapes = dense(gemma3, tied=True) | more | norms
    text = {key: value for key, value in gemma3.items() if key not in ("architectures", "rope_scaling")}
    images = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 28,
            "patch_size": 14,
        },
    }
    image_shapes: Shapes = {f"language_model.{name}": shape for name, shape in gemma3_shapes.items()}
    image_shapes |= {
        "multi_modal_projector.mm_input_projection_weight": (16, 48),
        "multi_modal_projector.mm_soft_emb_norm.weight": (16,),
        "vision_tower.vision_model.embeddings.patch_embedding.bias": (16,),
    }
    return {
        "gemma": Case(gemma, dense(gemma, tied=True)),
        "gemma-f16": Case(gemma, dense(gemma, tied=True), "F16", "f16"),
        "gemma2": Case(gemma2, dense(gemma2, tied=True) | more, "F32", "bf16"),
        "gemma3": Case(gemma3, gemma3_shapes),
        "gemma3-images": Case(images, image_shapes),
    }


def other_cases() -> dict[str, Case]:
    stablelm = config("StableLmForCausalLM", "stablelm", partial_rotary_factor=0.25, use_qkv_bias=True)
    layer_norms = {
        name.replace(".weight", ".bias"): (48,)
        for name in dense(stablelm)
        if name.endswith("layernorm.weight") or name == "model.norm.weight"
    }
    stablelm_shapes = dense(stablelm, bias="q k v") | layer_norms
    epoch = config(
        "StableLMEpochForCausalLM",
        "stablelm_epoch",
        num_key_value_heads=6,
        norm_eps=1e-5,
        rope_pct=0.25,
        rope_theta=10000,
        use_qkv_bias=False,
    )
    zephyr = stablelm | {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": False}
    head_norms = {f"self_attn.q_layernorm.norms.{head}.weight": (8,) for head in range(6)}
    head_norms |= {f"self_attn.k_layernorm.norms.{head}.weight": (8,) for head in range(2)}
    zephyr_shapes = without(dense(zephyr) | layer_norms, "post_attention")
    falcon7: dict[str, Any] = {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_hidden_layers": 2,
        "num_kv_heads": 1,
        "multi_query": True,
        "new_decoder_architecture": False,
        "parallel_attn": True,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
    }
    falcon40 = falcon7 | {"new_decoder_architecture": True, "num_kv_heads": 2}
    rw = {
        "architectures": ["RWForCausalLM"],
        "model_type": "RefinedWeb",
        "hidden_size": 48,
        "n_head": 6,
        "n_head_kv": 2,
        "n_layer": 2,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
        "new_decoder_architecture": True,
    }

    def falcon(groups: int, norms: tuple[str, ...]) -> Shapes:
        layer = {
            "self_attention.query_key_value.weight": ((6 + 2 * groups) * 8, 48),
            "self_attention.dense.weight": (48, 48),
            "mlp.dense_h_to_4h.weight": (192, 48),
            "mlp.dense_4h_to_h.weight": (48, 192),
        }
        return {
            "transformer.word_embeddings.weight": (VOCABULARY, 48),
            **per_layer(2, "transformer.h.", layer | with_bias({f"{name}.weight": (48,) for name in norms})),
            **with_bias({"transformer.ln_f.weight": (48,)}),
        }

    gpt2: dict[str, Any] = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_ctx": 64,
        "n_embd": 48,
        "n_head": 6,
        "n_layer": 2,
        "n_positions": 64,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
    }
    gpt2_layer = {
        "ln_1.weight": (48,),
        "ln_1.bias": (48,),
        "attn.c_attn.weight": (48, 144),
        "attn.c_attn.bias": (144,),
        "attn.c_proj.weight": (48, 48),
        "attn.c_proj.bias": (48,),
        "ln_2.weight": (48,),
        "ln_2.bias": (48,),
        "mlp.c_fc.weight": (48, 192),
        "mlp.c_fc.bias": (192,),
        "mlp.c_proj.weight": (192, 48),
        "mlp.c_proj.bias": (48,),
    }
    gpt2_shapes = {
        "transformer.wte.weight": (VOCABULARY, 48),
        "transformer.wpe.weight": (64, 48),
        **per_layer(2, "transformer.h.", gpt2_layer),
        **with_bias({"transformer.ln_f.weight": (48,)}),
    }
    neox = config("GPTNeoXForCausalLM", "gpt_neox", num_key_value_heads=None, rotary_pct=0.25, rotary_emb_base=10000)
    neox_layer = {
        "input_layernorm.weight": (48,),
        "post_attention_layernorm.weight": (48,),
        "attention.query_key_value.weight": (144, 48),
        "attention.dense.weight": (48, 48),
        "mlp.dense_h_to_4h.weight": (80, 48),
        "mlp.dense_4h_to_h.weight": (48, 80),
    }
    neox_shapes = {
        "gpt_neox.embed_in.weight": (VOCABULARY, 48),
        **per_layer(2, "gpt_neox.layers.", with_bias(neox_layer)),
        **with_bias({"gpt_neox.final_layer_norm.weight": (48,)}),
        "embed_out.weight": (VOCABULARY, 48),
    }
    starcoder = config(
        "Starcoder2ForCausalLM", "starcoder2", tie_word_embeddings=True, rope_theta=100000.0, sliding_window=128
    )
    starcoder_shapes = {
        name.replace("mlp.up_proj", "mlp.c_fc").replace("mlp.down_proj", "mlp.c_proj"): shape
        for name, shape in without(dense(starcoder, tied=True, bias="q k v o up down"), "gate_proj").items()
    } | layer_norms
    olmo2 = config("Olmo2ForCausalLM", "olmo2", rms_norm_eps=1e-6, rope_theta=500000.0)
    olmo_shapes = without(dense(olmo2), "input_layernorm") | per_layer(
        2,
        "model.layers.",
        {
            "self_attn.q_norm.weight": (48,),
            "self_attn.k_norm.weight": (16,),
            "post_feedforward_layernorm.weight": (48,),
        },
    )
    granite = config(
        "GraniteForCausalLM",
        "granite",
        tie_word_embeddings=True,
        attention_multiplier=0.015625,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        logits_scaling=8.0,
    )
    cohere = config("CohereForCausalLM", "cohere", tie_word_embeddings=True, model_max_length=131072, rope_theta=8e6)
    plus = cohere | {"num_hidden_layers": 64, "use_qk_norm": True, "hidden_size": 16, "num_attention_heads": 2}
    plus |= {"num_key_value_heads": 1, "intermediate_size": 16}
    plus_norms = {"self_attn.q_norm.weight": (2, 8), "self_attn.k_norm.weight": (1, 8)}
    return {
        "stablelm-2": Case(stablelm, stablelm_shapes),
        "stablelm-epoch": Case(epoch, dense(epoch) | layer_norms),
        "stablelm-12b": Case(zephyr, zephyr_shapes | per_layer(2, "model.layers.", head_norms), "F16", "f32"),
        "falcon-7b": Case(falcon7, falcon(1, ("input_layernorm",))),
        "falcon-40b": Case(falcon40, falcon(2, ("ln_attn", "ln_mlp")), "F16", "bf16"),
        "falcon-rw": Case(rw, falcon(2, ("ln_attn", "ln_mlp"))),
        "gpt2": Case(gpt2, gpt2_shapes, "F32", "f16"),
        "gpt-neox": Case(neox, neox_shapes, "F16", "f16"),
        "starcoder2": Case(starcoder, starcoder_shapes),
        "olmo2": Case(olmo2, olmo_shapes),
        "granite": Case(granite, dense(granite, tied=True)),
        "granite-head-dim": Case(granite | {"head_dim": 16}, dense(granite, tied=True)),
        "command-r": Case(cohere, without(dense(cohere, tied=True), "post_attention")),
        "command-r-plus": Case(
            plus, without(dense(plus, tied=True), "post_attention") | per_layer(64, "model.layers.", plus_norms)
        ),
    }


def newer_cases() -> dict[str, Case]:
    small = config("MistralForCausalLM", "mistral", head_dim=16, rope_theta=1e9, rms_norm_eps=1e-5)
    text = {key: value for key, value in small.items() if key != "architectures"}
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    images = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "text_config": text,
        "vision_config": vision,
    }
    eyes: Shapes = {
        "multi_modal_projector.linear_1.weight": (48, 16),
        "multi_modal_projector.patch_merger.merging_layer.weight": (16, 64),
        "vision_tower.patch_conv.weight": (16, 3, 14, 14),
    }
    distant = {
        "rope_type": "yarn",
        "type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    ministral = config(
        "Ministral3ForCausalLM", "ministral3", head_dim=16, rms_norm_eps=1e-5, rope_parameters=distant, rope_theta=None
    )
    seed = config("SeedOssForCausalLM", "seed_oss", head_dim=16, attention_bias=True, rope_theta=1e7)
    ernie = config("Ernie4_5ForCausalLM", "ernie4_5", head_dim=16, tie_word_embeddings=True, use_bias=False)
    fused = ernie | {"architectures": ["Ernie4_5_ForCausalLM"], "rope_theta": 500000, "rms_norm_eps": 1e-5}
    fused_shapes = without(dense(fused, tied=True), "self_attn.q", "self_attn.k", "self_attn.v", "gate_proj", "up_proj")
    fused_shapes |= per_layer(
        2, "model.layers.", {"self_attn.qkv_proj.weight": (160, 48), "mlp.up_gate_proj.weight": (160, 48)}
    )
    return {
        "mistral-small-3": Case(
            images, {f"language_model.{name}": shape for name, shape in dense(small).items()} | eyes
        ),
        "mistral-small-3-new-names": Case(
            images,
            {name.replace("model.", "model.language_model."): shape for name, shape in dense(small).items()}
            | {f"model.{name}": shape for name, shape in eyes.items()},
        ),
        "ministral-3": Case(ministral, dense(ministral)),
        "seed-oss": Case(seed, dense(seed, bias="q k v"), "F16", "bf16"),
        "ernie-4.5": Case(ernie, dense(ernie, tied=True)),
        "ernie-4.5-fused": Case(
            fused, {name.replace("model.", "ernie."): shape for name, shape in fused_shapes.items()}
        ),
    }


def gpt_oss_cases() -> dict[str, Case]:
    distant = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    oss = config(
        "GptOssForCausalLM",
        "gpt_oss",
        hidden_size=64,
        intermediate_size=96,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        experts_per_token=2,
        sliding_window=8,
        attention_bias=True,
        swiglu_limit=7.0,
        layer_types=["sliding_attention", "full_attention"],
        rope_theta=150000,
        rms_norm_eps=1e-5,
        rope_scaling=distant | {"original_max_position_embeddings": 16},
        initial_context_length=16,
    )
    shared = without(dense(oss, bias="q k v o"), "mlp") | per_layer(
        2,
        "model.layers.",
        {
            "self_attn.sinks": (6,),
            "mlp.router.weight": (4, 64),
            "mlp.router.bias": (4,),
            "mlp.experts.gate_up_proj_bias": (4, 192),
            "mlp.experts.down_proj_bias": (4, 64),
        },
    )
    floats = per_layer(
        2,
        "model.layers.",
        {"mlp.experts.gate_up_proj": (4, 64, 192), "mlp.experts.down_proj": (4, 96, 64)},
    )
    blocks = per_layer(
        2,
        "model.layers.",
        {
            "mlp.experts.gate_up_proj_blocks": (4, 192, 2, 16),
            "mlp.experts.gate_up_proj_scales": (4, 192, 2),
            "mlp.experts.down_proj_blocks": (4, 64, 3, 16),
            "mlp.experts.down_proj_scales": (4, 64, 3),
        },
    )
    packed = oss | {
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
        }
    }
    return {
        "gpt-oss": Case(packed, dict(sorted((shared | blocks).items())), outtype="bf16"),
        "gpt-oss-floats": Case(oss, shared | floats),
    }


CASES: dict[str, Case] = {**newer_cases(), **gpt_oss_cases(), **chinese_cases(), **google_cases(), **other_cases()}
