"""What the benchmarks work on: random checkpoints, and the GGUF files made of them. Made once, kept in a folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.bench.measuring import ROOT, run

DEMO = ROOT / "models" / "tang-poet"
VOCABULARY = 55296


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes; ``tied`` embeddings serve as the output too. The vocabulary is Chinese-LLaMA-2's."""

    width: int
    inner: int
    layers: int
    heads: int
    tied: bool = False


SHAPES = {"llama-1.3b": Shape(4096, 11008, 4, 32), "llama-142m": Shape(768, 2560, 12, 12, tied=True)}
"""Chinese-LLaMA-2-1.3B's (1.26 G parameters, 2.35 GiB of bf16), and a small one of its family (142 M, 270 MiB)."""


GGUFS = (
    ("llama-1.3b", "f16", "f16.gguf"),
    ("llama-1.3b", "q4_k_m", "q4_k_m.gguf"),
    ("llama-142m", "f16", "142m-f16.gguf"),
    ("llama-142m", "q4_k_m", "142m-q4_k_m.gguf"),
)
"""Checkpoint, type and name of the files that the comparisons run."""


def make_checkpoint(folder: Path, shape: Shape) -> None:
    """A random bf16 checkpoint of a shape."""
    if (folder / "done").exists():
        return
    print(f"making {folder}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, shape.width),
        "model.norm.weight": (shape.width,),
    }
    if not shape.tied:
        shapes["lm_head.weight"] = (VOCABULARY, shape.width)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (shape.width,),
            prefix + "post_attention_layernorm.weight": (shape.width,),
            prefix + "mlp.gate_proj.weight": (shape.inner, shape.width),
            prefix + "mlp.up_proj.weight": (shape.inner, shape.width),
            prefix + "mlp.down_proj.weight": (shape.width, shape.inner),
        } | {f"{prefix}self_attn.{which}_proj.weight": (shape.width, shape.width) for which in "qkvo"}
    _write_safetensors(folder / "model.safetensors", shapes)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "max_position_embeddings": 4096,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config))
    # the real vocabulary of that size is not ours to ship; the rest of the ids are padding, as a converter makes it
    shutil.copy(DEMO / "tokenizer.model", folder)
    (folder / "done").touch()


def make_adapter(folder: Path, shape: Shape, rank: int = 64) -> None:
    """A random LoRA adapter for every matrix of the layers, of the rank that Chinese-Alpaca-2's adapters have."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {f"self_attn.{which}_proj": (shape.width, shape.width) for which in "qkvo"} | {
        "mlp.gate_proj": (shape.inner, shape.width),
        "mlp.up_proj": (shape.inner, shape.width),
        "mlp.down_proj": (shape.width, shape.inner),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(shape.layers):
        for name, (n_out, n_in) in sizes.items():
            stem = f"base_model.model.model.layers.{layer}.{name}."
            shapes |= {f"{stem}lora_A.weight": (rank, n_in), f"{stem}lora_B.weight": (n_out, rank)}
    _write_safetensors(folder / "adapter_model.safetensors", shapes)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "fan_in_fan_out": False}
    config["target_modules"] = [name.partition(".")[2] for name in sizes]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "done").touch()


def _write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Random bf16 tensors: norms around one, everything else around nothing."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dims in sorted(shapes.items()):
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dims in sorted(shapes.items()):
            left = int(np.prod(dims))
            while left:
                count = min(left, 1 << 22)
                values = random.standard_normal(count, dtype=np.float32) * np.float32(0.02)
                values += np.float32("norm" in name)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= count


def make_files(folder: Path) -> None:
    """Everything that is not there yet, below ``folder``."""
    for name, shape in SHAPES.items():
        make_checkpoint(folder / name, shape)
    make_adapter(folder / "lora-1.3b", SHAPES["llama-1.3b"])
    for name, kind, target in GGUFS:
        if not (folder / target).exists():
            ggufrun = [sys.executable, "-m", "ggufrun", "convert", str(folder / name), "--force"]
            run([[*ggufrun, "-t", kind, "-o", str(folder / target)]])
    poems = (ROOT / "models" / "training" / "poems.txt").read_text(encoding="utf-8").split()
    lines = ["：".join(poems[start : start + 6]) for start in range(0, 192, 6)]
    (folder / "questions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
