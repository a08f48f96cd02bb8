"""Models that transformers does not know as others that compute the same and that it does know.

Tensors are torch's; nothing here uses ggufrun, whose conversion is what the results are compared with.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Tensors = dict[str, Any]
Checkpoint = tuple[Config, Tensors]


def renamed(tensors: Tensors, *pairs: tuple[str, str]) -> Tensors:
    """With other names, of which the parts are replaced one after the other."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name] = tensor
    return found


def split_attention(tensors: Tensors, ending: str, keys: int) -> Tensors:
    """With queries, keys and values apart that lie one below the other, ``keys`` rows of the latter two each."""
    found = {}
    for name, tensor in tensors.items():
        stem, fused, kind = name.partition(f"{ending}.")
        if not fused:
            found[name] = tensor
            continue
        cuts = (0, tensor.shape[0] - 2 * keys, tensor.shape[0] - keys, tensor.shape[0])
        for part, start, stop in zip("qkv", cuts, cuts[1:], strict=False):
            found[f"{stem}self_attn.{part}_proj.{kind}"] = tensor[start:stop].clone()
    return found


def head_of(config: Config) -> int:
    return int(config["hidden_size"] // config["num_attention_heads"])


def bailing(config: Config, tensors: Tensors) -> Tensors:
    """Ling's names as most families have them."""
    keys = head_of(config) * config["num_key_value_heads"]
    return renamed(
        split_attention(tensors, "attention.query_key_value", keys),
        ("word_embeddings", "embed_tokens"),
        ("attention.dense", "self_attn.o_proj"),
        ("attention.query_layernorm", "self_attn.q_norm"),
        ("attention.key_layernorm", "self_attn.k_norm"),
        ("gate.expert_bias", "gate.e_score_correction_bias"),
    )


def with_half_gate(tensors: Tensors) -> Tensors:
    """Shared experts as a Qwen 2 MoE has them, behind a gate: one that is always half open, so twice as strong."""
    found = {}
    for name, tensor in renamed(tensors, ("shared_experts", "shared_expert")).items():
        found[name] = tensor * 2 if name.endswith("shared_expert.down_proj.weight") else tensor
        if name.endswith("mlp.gate.weight"):
            found[name.replace("gate", "shared_expert_gate")] = tensor[:1] * 0
    return found


def ling(config: Config, tensors: Tensors) -> Checkpoint:
    changes = {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": config["moe_intermediate_size"] * config["num_shared_experts"],
        "decoder_sparse_step": 1,
        "qkv_bias": False,
    }
    if config.get("norm_head"):
        output = tensors["lm_head.weight"]
        tensors = {**tensors, "lm_head.weight": output / (output.norm(dim=0, keepdim=True) + 1e-7)}
    return config | changes, with_half_gate(bailing(config, tensors))


def ling2(config: Config, tensors: Tensors) -> Checkpoint:
    changes = {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "n_routed_experts": config["num_experts"],
        "n_shared_experts": config["num_shared_experts"],
        "head_dim": head_of(config),
        "attention_bias": False,
    }
    return config | changes, bailing(config, tensors)


def kimi_vl(config: Config, tensors: Tensors) -> Checkpoint:
    prefix = "language_model."
    text = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {**config["text_config"], "architectures": ["DeepseekV3ForCausalLM"]}, text


def hunyuan_vl(config: Config, tensors: Tensors) -> Checkpoint:
    """A text's positions are the same in all sections."""
    text = {name: tensor for name, tensor in tensors.items() if not name.startswith("vit.")}
    scaling = {"type": "dynamic", **{key: config["text_config"]["rope_scaling"][key] for key in ("alpha", "factor")}}
    changes = {
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "model_type": "hunyuan_v1_dense",
        "rope_scaling": scaling,
        "tie_word_embeddings": True,
    }
    return {**config["text_config"], **changes}, text


def omni(config: Config, tensors: Tensors) -> Checkpoint:
    """What Qwen-Omni thinks with: a Qwen 2, or a Qwen 3 with experts."""
    text = config["thinker_config"]["text_config"]
    found = {name.removeprefix("thinker."): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in found.items() if name.startswith(("model.", "lm_head."))}
    names = ("Qwen3MoeForCausalLM", "qwen3_moe") if "num_experts" in text else ("Qwen2ForCausalLM", "qwen2")
    changes = {"architectures": [names[0]], "model_type": names[1], "rope_scaling": None}
    return {**text, **changes}, kept


def gemma(config: Config, tensors: Tensors) -> Checkpoint:
    """The text part of Gemma 3n and 4."""
    prefix = "model.language_model."
    text = {f"model.{name[len(prefix) :]}": tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    architecture = config["architectures"][0].replace("ConditionalGeneration", "CausalLM")
    return {**config["text_config"], "architectures": [architecture]}, text


def llama(config: Config, tensors: Tensors) -> Checkpoint:
    return config | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, tensors


def pangu(config: Config, tensors: Tensors) -> Checkpoint:
    return llama({**config, "attention_bias": True}, tensors)


def baichuan(config: Config, tensors: Tensors) -> Checkpoint:
    if "z_loss_weight" in config:
        output = tensors["lm_head.weight"]
        tensors = {**tensors, "lm_head.weight": output / output.norm(dim=1, keepdim=True)}
    return llama(config, split_attention(tensors, "self_attn.W_pack", config["hidden_size"]))


def internlm2(config: Config, tensors: Tensors) -> Checkpoint:
    """Every key-value head has its queries in front of it."""
    found, head, groups = {}, head_of(config), config["num_key_value_heads"]
    for name, tensor in tensors.items():
        stem, fused, kind = name.partition("attention.wqkv.")
        if not fused:
            found[name] = tensor
            continue
        grouped = tensor.reshape(groups, -1, head, tensor.shape[-1])
        for part, piece in zip("qkv", (grouped[:, :-2], grouped[:, -2], grouped[:, -1]), strict=True):
            found[f"{stem}self_attn.{part}_proj.{kind}"] = piece.reshape(-1, tensor.shape[-1])
    pairs = (
        ("model.tok_embeddings", "model.embed_tokens"),
        ("attention.wo", "self_attn.o_proj"),
        ("attention_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("feed_forward.w1", "mlp.gate_proj"),
        ("feed_forward.w2", "mlp.down_proj"),
        ("feed_forward.w3", "mlp.up_proj"),
        ("output.", "lm_head."),
    )
    return llama(config, renamed(found, *pairs))


def minicpm(config: Config, tensors: Tensors) -> Checkpoint:
    """As a Granite, which has the same scales under other names."""
    changes = {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "tie_word_embeddings": True,
        "embedding_multiplier": config["scale_emb"],
        "residual_multiplier": config["scale_depth"] / config["num_hidden_layers"] ** 0.5,
        "logits_scaling": config["hidden_size"] / config["dim_model_base"],
        "attention_multiplier": head_of(config) ** -0.5,
    }
    return config | changes, tensors


def qwen1(config: Config, tensors: Tensors) -> Checkpoint:
    """The second of the two inner matrices is the gate."""
    changes = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_key_value_heads": config["num_attention_heads"],
        "intermediate_size": config["intermediate_size"] // 2,
        "max_position_embeddings": config["seq_length"],
        "rms_norm_eps": config["layer_norm_epsilon"],
        "rope_theta": config["rotary_emb_base"],
    }
    pairs = (
        ("transformer.wte", "model.embed_tokens"),
        ("transformer.h.", "model.layers."),
        ("transformer.ln_f", "model.norm"),
        ("attn.c_proj", "self_attn.o_proj"),
        ("ln_1", "input_layernorm"),
        ("ln_2", "post_attention_layernorm"),
        ("mlp.w1", "mlp.up_proj"),
        ("mlp.w2", "mlp.gate_proj"),
        ("mlp.c_proj", "mlp.down_proj"),
    )
    return config | changes, renamed(split_attention(tensors, "attn.c_attn", config["hidden_size"]), *pairs)


def deepseek(config: Config, tensors: Tensors) -> Checkpoint:
    changes = {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "num_experts": config["n_routed_experts"],
        "shared_expert_intermediate_size": config["moe_intermediate_size"] * config["n_shared_experts"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(range(config["first_k_dense_replace"])),
        "qkv_bias": False,
    }
    return config | changes, with_half_gate(tensors)


def chatglm(config: Config, tensors: Tensors) -> Checkpoint:
    changes = {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "num_key_value_heads": config["multi_query_group_num"],
        "num_hidden_layers": config["num_layers"],
        "head_dim": config["kv_channels"],
        "intermediate_size": config["ffn_hidden_size"],
        "rms_norm_eps": config["layernorm_epsilon"],
        "vocab_size": config["padded_vocab_size"],
        "max_position_embeddings": config["seq_length"],
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0 * config.get("rope_ratio", 1),
        "pad_token_id": 0,
    }
    pairs = (
        ("transformer.embedding.word_embeddings", "model.embed_tokens"),
        ("transformer.encoder.layers.", "model.layers."),
        ("transformer.encoder.final_layernorm", "model.norm"),
        ("transformer.output_layer", "lm_head"),
        ("self_attention.dense", "self_attn.o_proj"),
        ("mlp.dense_h_to_4h", "mlp.gate_up_proj"),
        ("mlp.dense_4h_to_h", "mlp.down_proj"),
    )
    kept = {name: tensor for name, tensor in tensors.items() if "inv_freq" not in name}
    keys = config["kv_channels"] * config["multi_query_group_num"]
    return config | changes, renamed(split_attention(kept, "self_attention.query_key_value", keys), *pairs)


def as_llama_cpp() -> None:
    """Let Gemma 3n cut its gates off as llama.cpp does: it divides the spread by one less than their number, which is
    nothing in a model of thousands and much in one of some hundred."""
    torch = importlib.import_module("torch")
    gemma = importlib.import_module("transformers.models.gemma3n.modeling_gemma3n")

    def cut(self: Any, gates: Any) -> Any:
        above = torch.distributions.Normal(0, 1).icdf(torch.tensor(self.activation_sparsity))
        spread = torch.std(gates, dim=-1, keepdim=True, unbiased=True)
        return torch.relu(gates - (gates.mean(dim=-1, keepdim=True) + spread * above))

    gemma.Gemma3nTextMLP._gaussian_topk = cut


AS_ANOTHER: dict[str, Callable[[Config, Tensors], Checkpoint]] = {
    "BailingMoeForCausalLM": ling,
    "BailingMoeV2ForCausalLM": ling2,
    "HunYuanVLForConditionalGeneration": hunyuan_vl,
    "KimiVLForConditionalGeneration": kimi_vl,
    "Qwen2_5OmniModel": omni,
    "Qwen3OmniMoeForConditionalGeneration": omni,
    "Gemma3nForConditionalGeneration": gemma,
    "Gemma4ForConditionalGeneration": gemma,
    "BaiChuanForCausalLM": baichuan,
    "PanguEmbeddedForCausalLM": pangu,
    "InternLM2ForCausalLM": internlm2,
    "MiniCPMForCausalLM": minicpm,
    "QWenLMHeadModel": qwen1,
    "DeepseekForCausalLM": deepseek,
    "ChatGLMModel": chatglm,
}


def translated(folder: str) -> str:
    """The folder, or that of the same model as transformers knows it, which is made beside it."""
    config = json.loads((Path(folder) / "config.json").read_text())
    architecture = config["architectures"][0]
    if architecture not in AS_ANOTHER:
        return folder
    safetensors = importlib.import_module("safetensors.torch")
    config, tensors = AS_ANOTHER[architecture](config, safetensors.load_file(Path(folder) / "model.safetensors"))
    other = Path(f"{folder}-translated")
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.save_file(contiguous, other / "model.safetensors", {"format": "pt"})
    return str(other)
