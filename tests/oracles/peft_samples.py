"""Writes ``golden/peft`` with PEFT itself: tiny bases, adapters, and what ``merge_and_unload`` makes of them.

``python peft_samples.py FOLDER`` runs where torch, transformers and peft are installed; the tests read what it wrote.
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

ATTENTION = ["q_proj", "v_proj"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "plain": {"r": 4, "lora_alpha": 10, "target_modules": LINEAR},
    "bin": {"r": 2, "lora_alpha": 3, "target_modules": ATTENTION},
    "rslora": {"r": 4, "lora_alpha": 10, "target_modules": LINEAR, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": LINEAR,
        "rank_pattern": {r"layers\.0\.self_attn\.(q|k)_proj": 2, "^model.layers.1.*gate_proj": 3, "o_proj": 1},
        "alpha_pattern": {r".*\.1\..*_proj": 5, "q_proj": 6, "roj": 7},
    },
    "saved": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ATTENTION,
        "modules_to_save": ["embed_tokens", "lm_head", "input_layernorm", "norm"],
    },
    "embedding": {"r": 3, "lora_alpha": 8, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "dora": {"r": 4, "lora_alpha": 8, "target_modules": [*LINEAR, "embed_tokens"], "use_dora": True},
    "bias": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "bias": "all"},
    "lora-only-bias": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "bias": "lora_only"},
    "lora-bias": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "lora_bias": True},
    "fan": {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "fan-dora": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["c_attn", "c_proj"],
        "fan_in_fan_out": True,
        "use_dora": True,
    },
    "grown": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]},
    "half": {"r": 4, "lora_alpha": 8, "target_modules": LINEAR},
    "velora": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "velora_config": {"num_groups": 2}},
    "monteclora": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "monteclora_config": {}},
    "mica": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "init_lora_weights": "mica"},
    "eva": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "eva_config": {}, "init_lora_weights": "gaussian"},
}


def base(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    if name.startswith("fan"):
        return GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=12, n_positions=8))
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=10,
        attention_bias="bias" in name,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config)


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)


def randomize(model: torch.nn.Module) -> None:
    """As training would: nothing keeps its first value."""
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.data += torch.randn_like(value) * (0.5 if "magnitude" in name else 0.2)


def main(folder: Path) -> None:
    for name, settings in CASES.items():
        case = folder / name
        case.mkdir(parents=True, exist_ok=True)
        model = base(name)
        if name == "half":
            model = model.to(torch.bfloat16)
        save(model.state_dict(), case / "base.safetensors")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(case)
        if name == "grown":
            model.resize_token_embeddings(14)
        torch.manual_seed(2)
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        randomize(tuned)
        if name == "half":
            for key, value in tuned.named_parameters():
                if "lora_" in key:
                    value.data = value.data.to(torch.float16)
        tuned.save_pretrained(case, safe_serialization=name != "bin")
        (case / "README.md").unlink(missing_ok=True)
        # merged in single precision from what the files hold
        fresh = base(name)
        if name == "half":
            fresh = fresh.to(torch.bfloat16)
        fresh = fresh.float()
        if name == "grown":
            fresh.resize_token_embeddings(14)
        merged = PeftModel.from_pretrained(fresh, case).merge_and_unload()
        save(merged.state_dict(), case / "merged.safetensors")
    # a second adapter, trained on the result of the first
    case = folder / "plain" / "second"
    first = PeftModel.from_pretrained(base("plain"), folder / "plain").merge_and_unload()
    tuned = get_peft_model(first, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=7, target_modules=ATTENTION))
    randomize(tuned)
    tuned.save_pretrained(case)
    (case / "README.md").unlink(missing_ok=True)
    save(tuned.merge_and_unload().state_dict(), case / "merged.safetensors")
    for path in folder.rglob("adapter_config.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"base_model_name_or_path": "base"}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
