"""Writes ``golden/peft-experts`` with PEFT itself: tiny mixtures of experts, adapters of their experts, merged models.

``python peft_expert_samples.py FOLDER`` runs where torch, transformers 5 and peft are installed; the tests read what it
wrote. With ``old`` after it, it writes a few cases under the name of the release: peft before 0.19.1, to be put first
on PYTHONPATH, had the matrices of experts the other way round. A case is a base as ``save_pretrained`` writes it, an
adapter, and those tensors of the merged model that differ from the base's.
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 10,
    "max_position_embeddings": 32,
}
HEAD = {**SIZES, "head_dim": 4}
MOE = {"moe_intermediate_size": 6, "num_experts": 3, "num_experts_per_tok": 2}
SHARED = {**MOE, "shared_expert_intermediate_size": 5}
ROUTED = {"moe_intermediate_size": 6, "num_experts_per_tok": 2, "n_routed_experts": 4, "first_k_dense_replace": 0}
LATENT = {"kv_lora_rank": 4, "q_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "layer_types": ["full_attention"],
}
MLP = ["gate_proj", "up_proj", "down_proj"]
PARAMETERS = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
LINEAR = {"target_modules": MLP}
ALL = {"target_modules": "all-linear"}

CASES = {
    "qwen3-moe": ("Qwen3MoeForCausalLM", hf.Qwen3MoeConfig, {**HEAD, **MOE}, LINEAR),
    "qwen3-moe-all": ("Qwen3MoeForCausalLM", hf.Qwen3MoeConfig, {**HEAD, **MOE}, ALL),
    "qwen3-moe-square": (
        "Qwen3MoeForCausalLM",
        hf.Qwen3MoeConfig,
        {**HEAD, **MOE, "moe_intermediate_size": 4},
        {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"], "use_rslora": True},
    ),
    "qwen3-moe-half": ("Qwen3MoeForCausalLM", hf.Qwen3MoeConfig, {**HEAD, **MOE}, LINEAR),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        hf.Qwen2MoeConfig,
        {**SIZES, **SHARED},
        {
            **PARAMETERS,
            "rank_pattern": {r".*experts\.down_proj": 3},
            "alpha_pattern": {"gate_up_proj": 5},
        },
    ),
    "mixtral": (
        "MixtralForCausalLM",
        hf.MixtralConfig,
        {**HEAD, "num_local_experts": 3},
        {"target_modules": ["w1", "w2", "w3", "gate", "v_proj"]},
    ),
    "glm-4.5": (
        "Glm4MoeForCausalLM",
        hf.Glm4MoeConfig,
        {**HEAD, **ROUTED, "num_hidden_layers": 2, "first_k_dense_replace": 1},
        LINEAR,
    ),
    "deepseek-v2": ("DeepseekV2ForCausalLM", hf.DeepseekV2Config, {**SIZES, **ROUTED, **LATENT}, LINEAR),
    "deepseek-v3": (
        "DeepseekV3ForCausalLM",
        hf.DeepseekV3Config,
        {**SIZES, **ROUTED, **LATENT, "n_group": 2, "topk_group": 1},
        ALL,
    ),
    "llama-4": (
        "Llama4ForCausalLM",
        hf.Llama4TextConfig,
        {**HEAD, "intermediate_size_mlp": 10, "num_local_experts": 3, "interleave_moe_layer_step": 1},
        PARAMETERS,
    ),
    "llama-4-down": (
        "Llama4ForCausalLM",
        hf.Llama4TextConfig,
        {**HEAD, "intermediate_size": 8, "intermediate_size_mlp": 10, "num_local_experts": 3},
        {"target_modules": [], "target_parameters": ["feed_forward.experts.down_proj"]},
    ),
    "gpt-oss": ("GptOssForCausalLM", hf.GptOssConfig, {**HEAD, "num_local_experts": 3}, PARAMETERS),
    "gpt-oss-square": (
        "GptOssForCausalLM",
        hf.GptOssConfig,
        {**HEAD, "intermediate_size": 8, "num_local_experts": 3},
        PARAMETERS,
    ),
    "gpt-oss-mxfp4": (
        "GptOssForCausalLM",
        hf.GptOssConfig,
        {**HEAD, "hidden_size": 32, "intermediate_size": 32, "num_local_experts": 2},
        PARAMETERS,
    ),
    "qwen3-next": ("Qwen3NextForCausalLM", hf.Qwen3NextConfig, {**HEAD, **SHARED, **DELTA}, LINEAR),
    "qwen3.5-moe": ("Qwen3_5MoeForCausalLM", hf.Qwen3_5MoeTextConfig, {**HEAD, **SHARED, **DELTA}, PARAMETERS),
    "granite-moe": ("GraniteMoeForCausalLM", hf.GraniteMoeConfig, {**SIZES, "num_local_experts": 3}, PARAMETERS),
    "lfm2-moe": (
        "Lfm2MoeForCausalLM",
        hf.Lfm2MoeConfig,
        {**SIZES, **MOE, "num_dense_layers": 0, "layer_types": ["full_attention"]},
        PARAMETERS,
    ),
    "hunyuan-moe": (
        "HunYuanMoEV1ForCausalLM",
        hf.HunYuanMoEV1Config,
        {**HEAD, "num_experts": 3, "moe_topk": 2},
        LINEAR,
    ),
    "minimax-m2": ("MiniMaxM2ForCausalLM", hf.MiniMaxM2Config, {**HEAD, "num_local_experts": 3}, PARAMETERS),
}
OLD = ("qwen3-moe-square", "gpt-oss-square", "qwen2-moe", "llama-4-down")
PREFIX = f"peft-{peft.__version__}-"


def mxfp4(model, folder: Path) -> None:
    """Round the experts to MXFP4, and write them as gpt-oss is published."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for name, value in list(tensors.items()):
        if value.dim() != 3:
            continue
        experts, inner, outer = value.shape
        codes = torch.randint(0, 16, (experts, outer, inner))
        scales = torch.randint(120, 126, (experts, outer, inner // 32), dtype=torch.uint8)
        whole = torch.ldexp(values[codes].reshape(experts, outer, -1, 32), scales[..., None].int() - 127)
        model.get_parameter(name).data = whole.reshape(experts, outer, inner).transpose(1, 2).contiguous()
        pairs = codes.reshape(experts, outer, inner // 32, 16, 2).to(torch.uint8)
        del tensors[name]
        tensors[f"{name}_blocks"] = (pairs[..., 0] | pairs[..., 1] << 4).contiguous()
        tensors[f"{name}_scales"] = scales
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    values = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    path.write_text(json.dumps(values, indent=1) + "\n")


def randomize(model) -> None:
    """As training would: nothing keeps its first value."""
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data += torch.randn_like(value) * 0.2


def saved(model) -> dict[str, torch.Tensor]:
    """What ``save_pretrained`` writes."""
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        return load_file(Path(place) / "model.safetensors")


def base(name: str):
    class_name, config, values, _ = CASES[name.removeprefix(PREFIX)]
    torch.manual_seed(1)
    model = getattr(hf, class_name)(config(**values, tie_word_embeddings=False))
    for value in model.parameters():
        # some classes start experts with zeros, or with whatever the memory holds
        value.data = torch.randn_like(value) * 0.3
    return model.to(torch.bfloat16) if name.endswith("half") else model


def make(folder: Path, name: str) -> None:
    settings = CASES[name.removeprefix(PREFIX)][3]
    case = folder / name
    case.mkdir(parents=True, exist_ok=True)
    model = base(name)
    model.save_pretrained(case)
    torch.manual_seed(3)
    if name.endswith("mxfp4"):
        mxfp4(model, case)
        state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(2)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=7, **settings))
    randomize(tuned)
    tuned.save_pretrained(case)
    for extra in ("README.md", "generation_config.json"):
        (case / extra).unlink(missing_ok=True)
    fresh = base(name).float()
    if name.endswith("mxfp4"):
        fresh.load_state_dict(state)
    before = saved(fresh)
    # an old release may not load what it wrote into a new transformers
    tuned = tuned if name.startswith(PREFIX) else PeftModel.from_pretrained(fresh, case)
    merged = saved(tuned.merge_and_unload())
    changed = {key: value for key, value in merged.items() if not torch.equal(value, before[key])}
    save_file(changed, case / "merged.safetensors")
    path = case / "adapter_config.json"
    values = json.loads(path.read_text()) | {"base_model_name_or_path": "base"}
    lists = {key: sorted(value) for key, value in values.items() if isinstance(value, list)}
    path.write_text(json.dumps(values | lists, indent=1, sort_keys=True) + "\n")


def apart(folder: Path) -> None:
    """An adapter of transformers 4, where each expert was a module of its own; peft reads it today, too."""
    case = folder / "mixtral-apart"
    case.mkdir(parents=True, exist_ok=True)
    model = base("mixtral")
    model.save_pretrained(case)
    (case / "generation_config.json").unlink(missing_ok=True)
    torch.manual_seed(4)
    shapes = {"w1": (12, 8), "w2": (8, 12), "w3": (12, 8)}
    tensors = {}
    for expert in range(3):
        for part, (outer, inner) in shapes.items():
            stem = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{part}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, inner) * 0.2
            tensors[f"{stem}.lora_B.weight"] = torch.randn(outer, 2) * 0.2
    save_file(tensors, case / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 5, "peft_version": "0.15.0"}
    settings |= {"target_modules": ["w1", "w2", "w3"], "base_model_name_or_path": "base"}
    (case / "adapter_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    before = saved(base("mixtral"))
    merged = saved(PeftModel.from_pretrained(base("mixtral"), case).merge_and_unload())
    changed = {key: value for key, value in merged.items() if not torch.equal(value, before[key])}
    save_file(changed, case / "merged.safetensors")


def main(folder: Path, old: bool) -> None:
    for name in [PREFIX + name for name in OLD] if old else CASES:
        make(folder, name)
    if not old:
        apart(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "old" in sys.argv[2:])
