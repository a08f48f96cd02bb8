"""Tiny checkpoints of every family: a config.json and the names and shapes of its tensors, as the original tools save
them. The shapes were read off transformers' classes, those of remote code off the published checkpoints.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import encode, safetensors_bytes

Shapes = dict[str, tuple[int, ...]]

VOCABULARY = 320


@dataclass(frozen=True)
class Case:
    """One checkpoint. ``dtype`` is that of its file, ``outtype`` that of the GGUF that is compared."""

    config: dict[str, Any]
    shapes: Shapes
    dtype: str = "BF16"
    outtype: str = "f16"


def write(folder: Path, case: Case) -> Path:
    """The checkpoint in ``folder``: weights in a seeded random order of values, norms around one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config))
    random = np.random.default_rng(zlib.crc32(folder.name.encode()))
    stored = {}
    for name, shape in case.shapes.items():
        values = (random.standard_normal(shape) * 0.02 + ("norm" in name)).astype(np.float32)
        stored[name] = (case.dtype, encode(case.dtype, values))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


def config(architecture: str, model_type: str, **values: Any) -> dict[str, Any]:
    """A config.json under the keys that most families share; None leaves one out."""
    common = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        **values,
    }
    return {key: value for key, value in common.items() if value is not None}


def dense(found: Mapping[str, Any], *, tied: bool = False, bias: str = "", head: int | None = None) -> Shapes:
    """Llama's names. ``bias`` lists the projections that have one: of q, k, v, o, gate, up, down."""
    width, inner, heads = found["hidden_size"], found["intermediate_size"], found["num_attention_heads"]
    head = head or found.get("head_dim") or width // heads
    keys, queries = head * found.get("num_key_value_heads", heads), head * heads
    shapes: Shapes = {"model.embed_tokens.weight": (found["vocab_size"], width)}
    projections = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    for layer in range(found["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in projections.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if name.partition(".")[2].removesuffix("_proj") in bias.split():
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not tied:
        shapes["lm_head.weight"] = (found["vocab_size"], width)
    return shapes


def without(shapes: Shapes, *parts: str) -> Shapes:
    """The tensors whose names hold none of ``parts``."""
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in parts)}


def per_layer(layers: int, prefix: str, table: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The same tensors in every layer."""
    return {f"{prefix}{layer}.{name}": shape for layer in range(layers) for name, shape in table.items()}


def with_bias(table: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Every weight with a bias."""
    return {**table, **{name.replace(".weight", ".bias"): shape[:1] for name, shape in table.items()}}


def experts(layers: range, prefix: str, count: int, names: tuple[str, str, str], inner: int, width: int) -> Shapes:
    """Gate, down and up of every expert, in an order in which checkpoints have them."""
    gate, down, up = names
    shapes: Shapes = {}
    for layer in layers:
        # 10 before 2, as sorted names have it
        for number in sorted(range(count), key=str):
            stem = f"model.layers.{layer}.{prefix}.{number}."
            shapes |= {
                f"{stem}{down}.weight": (width, inner),
                f"{stem}{gate}.weight": (inner, width),
                f"{stem}{up}.weight": (inner, width),
            }
    return shapes


LINEAR = {"type": "linear", "factor": 4.0}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 24.0}
YARN5 = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.75, "rope_theta": 50000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def llama_cases() -> dict[str, Case]:
    tied = config("LlamaForCausalLM", "llama", tie_word_embeddings=True, rope_scaling=LINEAR)
    biased = config("LlamaForCausalLM", "llama", attention_bias=True, mlp_bias=True, rope_scaling=YARN)
    odd = config("LlamaForCausalLM", "llama", num_attention_heads=3, num_key_value_heads=1, head_dim=10)
    llama3 = config("LlamaForCausalLM", "llama", rope_scaling=LLAMA3, rope_theta=500000.0)
    dynamic = config("LlamaForCausalLM", "llama", rope_scaling={"type": "dynamic", "factor": 2.0})
    new = config("LlamaForCausalLM", "llama", rope_parameters=YARN5, num_key_value_heads=None)
    mistral = config("MistralForCausalLM", "mistral", sliding_window=256, rope_theta=1000000.0)
    mixtral = config("MixtralForCausalLM", "mixtral", num_local_experts=11, num_experts_per_tok=2)
    smollm3 = config("SmolLM3ForCausalLM", "smollm3", num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0])
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
    return {
        "deepseek-moe": Case(v1, without(dense(v1), "layers.1.mlp") | moe),
        "deepseek-v2": Case(v2, v2_shapes | per_layer(2, "model.layers.", latent | low_rank)),
        "deepseek-v2-lite": Case(lite, lite_shapes, "F16", "bf16"),
    }


def other_cases() -> dict[str, Case]:
    stablelm = config("StableLmForCausalLM", "stablelm", partial_rotary_factor=0.25, use_qkv_bias=True)
    layer_norms = {
        name.replace(".weight", ".bias"): (48,)
        for name in dense(stablelm)
        if name.endswith("layernorm.weight") or name == "model.norm.weight"
    }
    stablelm_shapes = dense(stablelm, bias="q k v") | layer_norms
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
        head_dim=16,
    )
    cohere = config("CohereForCausalLM", "cohere", tie_word_embeddings=True, model_max_length=131072, rope_theta=8e6)
    plus = cohere | {"num_hidden_layers": 64, "use_qk_norm": True, "hidden_size": 16, "num_attention_heads": 2}
    plus |= {"num_key_value_heads": 1, "intermediate_size": 16}
    plus_norms = {"self_attn.q_norm.weight": (2, 8), "self_attn.k_norm.weight": (1, 8)}
    return {
        "stablelm-2": Case(stablelm, stablelm_shapes),
        "stablelm-12b": Case(zephyr, zephyr_shapes | per_layer(2, "model.layers.", head_norms), "F16", "f32"),
        "falcon-7b": Case(falcon7, falcon(1, ("input_layernorm",))),
        "falcon-40b": Case(falcon40, falcon(2, ("ln_attn", "ln_mlp")), "F16", "bf16"),
        "falcon-rw": Case(rw, falcon(2, ("ln_attn", "ln_mlp"))),
        "gpt2": Case(gpt2, gpt2_shapes, "F32", "f16"),
        "gpt-neox": Case(neox, neox_shapes, "F16", "f16"),
        "starcoder2": Case(starcoder, starcoder_shapes),
        "olmo2": Case(olmo2, olmo_shapes),
        "granite": Case(granite, dense(granite, tied=True, head=8)),
        "command-r": Case(cohere, without(dense(cohere, tied=True), "post_attention")),
        "command-r-plus": Case(
            plus, without(dense(plus, tied=True), "post_attention") | per_layer(64, "model.layers.", plus_norms)
        ),
    }


CASES: dict[str, Case] = {
    **llama_cases(),
    **qwen_cases(),
    **chinese_cases(),
    **google_cases(),
    **phi_cases(),
    **deepseek_cases(),
    **other_cases(),
}
