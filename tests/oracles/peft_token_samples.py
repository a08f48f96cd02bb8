"""Writes ``golden/peft-tokens`` with PEFT itself: adapters that change embeddings and outputs.

``python peft_token_samples.py FOLDER`` runs where torch, transformers 5 and peft are installed. The embedding and the
output of a case are computed module by module, from PEFT's own changes, and held against the forward pass of the model
under PEFT: ``merge_and_unload`` adds a low-rank change of one of two tied matrices to both. A case is a base, an
adapter, and the embedding and output, of which the output is missing where they are one.
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BOTH = {"embed_tokens": [3, 1], "lm_head": [2, 3]}
CASES = {
    "saved-embedding": {"modules_to_save": ["embed_tokens"]},
    "saved-head": {"modules_to_save": ["lm_head"]},
    "saved-both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved-alike": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "lora-head": {"target_modules": ["q_proj", "lm_head"]},
    "lora-embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "lora-both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "lora-embedding-alike": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "lora-head-alike": {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True},
    "dora-embedding": {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    "tokens": {"trainable_token_indices": [3, 1]},
    "tokens-alike": {"trainable_token_indices": {"embed_tokens": [3, 1]}, "ensure_weight_tying": True},
    "tokens-both": {"trainable_token_indices": BOTH},
    "tokens-head": {"trainable_token_indices": {"lm_head": [2, 3]}},
    "grown": {},
    "grown-tokens": {"trainable_token_indices": [10, 11, 1]},
    "grown-tokens-both": {"trainable_token_indices": {"embed_tokens": [11, 10], "lm_head": [10, 1]}},
    "grown-saved-embedding": {"modules_to_save": ["embed_tokens"]},
    "grown-saved-both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "grown-lora-embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "grown-lora-head": {"target_modules": ["q_proj", "lm_head"]},
}


def base(tied: bool):
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=10,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def changed(module) -> torch.Tensor:
    """The matrix that a module, wrapped or not, works with."""
    if isinstance(module, ModulesToSaveWrapper):
        return module.modules_to_save["default"].weight
    if isinstance(module, TrainableTokensWrapper):
        return module.token_adapter.get_merged_weights(["default"])
    if not hasattr(module, "lora_A"):
        return module.weight
    weight, delta = module.base_layer.weight, module.get_delta_weight("default")
    if not module.use_dora.get("default"):
        return weight + delta
    length = module.lora_magnitude_vector["default"].weight.reshape(1, -1)
    return (weight + delta) * length / (weight + delta).norm(dim=0, keepdim=True)


def make(folder: Path, name: str, settings: dict, tied: bool) -> None:
    case = folder / f"{'tied' if tied else 'apart'}-{name}"
    case.mkdir(parents=True)
    model = base(tied)
    model.save_pretrained(case)
    if name.startswith("grown"):
        # peft asks the folder how large the vocabulary was
        model = AutoModelForCausalLM.from_pretrained(case)
        torch.manual_seed(9)
        model.resize_token_embeddings(12)
    torch.manual_seed(2)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=5, **{"target_modules": ["q_proj"], **settings})
    tuned = get_peft_model(model, config).eval()
    for value in tuned.parameters():
        if value.requires_grad:
            value.data += torch.randn_like(value) * 0.3
    tuned.save_pretrained(case)
    tokens = torch.arange(model.config.vocab_size)[None]
    with torch.no_grad():
        expected = tuned(tokens).logits
        inner = tuned.base_model.model
        embedding, head = changed(inner.model.embed_tokens).clone(), changed(inner.lm_head).clone()
        again = base(False)
        again.resize_token_embeddings(len(embedding))
        again.load_state_dict(merged_layers(tuned), strict=False)
        again.model.embed_tokens.weight.data, again.lm_head.weight.data = embedding, head
        assert torch.allclose(again(tokens).logits, expected, atol=1e-5), case
    result = {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    if tied and torch.equal(embedding, head):
        del result["lm_head.weight"]
    save_file({key: value.contiguous() for key, value in result.items()}, case / "merged.safetensors")
    for extra in ("README.md", "generation_config.json"):
        (case / extra).unlink(missing_ok=True)
    path = case / "adapter_config.json"
    values = json.loads(path.read_text()) | {"base_model_name_or_path": "base"}
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def merged_layers(tuned) -> dict[str, torch.Tensor]:
    """The other weights that the adapter changes, with their change."""
    found = {}
    for name, module in tuned.base_model.model.model.layers.named_modules():
        if hasattr(module, "lora_A"):
            weight = module.base_layer.weight + module.get_delta_weight("default")
            if module.use_dora.get("default"):
                length = module.lora_magnitude_vector["default"].weight.reshape(-1, 1)
                weight = weight * length / weight.norm(dim=1, keepdim=True)
            found[f"model.layers.{name}.weight"] = weight
    return found


def main(folder: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name, settings in CASES.items():
        for tied in (True, False):
            make(folder, name, settings, tied)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
