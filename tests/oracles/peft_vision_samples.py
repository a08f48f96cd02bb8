"""Writes ``golden/peft-vision`` with PEFT itself: adapters of models that also see, and the text parts they make.

``python peft_vision_samples.py FOLDER`` runs where torch, transformers 5 and peft are installed. A case is a base as
``save_pretrained`` writes it, an adapter of all its linear layers and of a convolution, and those tensors of the merged
text part that differ from the base's.
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

TEXT = {
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 320,
    "max_position_embeddings": 64,
}
ROPE = {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [1, 1, 2]}
EYES = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 16, "patch_size": 2}
CASES = {
    "qwen2.5-vl": lambda: hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            text_config={**TEXT, "rope_parameters": ROPE},
            vision_config={**EYES, "fullatt_block_indexes": [0]},
            tie_word_embeddings=False,
        )
    ),
    "qwen3-vl": lambda: hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(
            text_config={**TEXT, "num_hidden_layers": 2, "head_dim": 8, "rope_parameters": ROPE},
            vision_config={**EYES, "num_position_embeddings": 4, "deepstack_visual_indexes": [0]},
            tie_word_embeddings=False,
        )
    ),
    "gemma-3": lambda: hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            text_config={**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention"]},
            vision_config={
                "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 4, "patch_size": 2,
            },
            mm_tokens_per_image=4,
            image_token_index=5,
            boi_token_index=6,
            eoi_token_index=7,
        )
    ),
}  # fmt: skip
CONVOLUTION = "patch_embed"
"""In the name of what cuts a picture up."""


def saved(model) -> dict[str, torch.Tensor]:
    """What ``save_pretrained`` writes."""
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        return load_file(Path(place) / "model.safetensors")


def base(name: str):
    torch.manual_seed(1)
    model = CASES[name]()
    for value in model.parameters():
        value.data = torch.randn_like(value) * 0.3
    return model


def main(folder: Path) -> None:
    for name in CASES:
        case = folder / name
        case.mkdir(parents=True)
        model = base(name)
        model.save_pretrained(case)
        linear = {key.rpartition(".")[2] for key, module in model.named_modules() if type(module) is torch.nn.Linear}
        modules = dict(model.named_modules())
        targets = [key for key in modules if key.rpartition(".")[2] in linear - {"lm_head"} or CONVOLUTION in key]
        targets = sorted(key for key in targets if not list(modules[key].children()))
        torch.manual_seed(2)
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=targets))
        for key, value in tuned.named_parameters():
            if "lora_" in key:
                value.data += torch.randn_like(value) * 0.2
        tuned.save_pretrained(case)
        for extra in ("README.md", "generation_config.json"):
            (case / extra).unlink(missing_ok=True)
        path = case / "adapter_config.json"
        values = json.loads(path.read_text()) | {"base_model_name_or_path": "base", "target_modules": targets}
        path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
        before = saved(base(name))
        merged = saved(PeftModel.from_pretrained(base(name), case).merge_and_unload())
        changed = {key: value for key, value in merged.items() if not torch.equal(value, before[key])}
        text = {key: value for key, value in changed.items() if "visual" not in key and "vision" not in key}
        assert len(text) in (7, 14) and len(changed) > len(text) + 2, (name, list(changed))
        save_file(text, case / "merged.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
