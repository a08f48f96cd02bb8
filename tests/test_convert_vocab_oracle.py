"""Vocabularies against llama.cpp's own converter: every ``tokenizer.*`` key, its order, type and values.

Its answers are recorded as digests in ``golden/vocab.json``. The converter knows released byte-level tokenizers by a
hash only; for ours, ``LAUNCHER`` tells it the name of the splitting. Deliberate differences are in the module
docstrings of ``convert/spm.py``, ``bpe.py`` and ``special.py``; none of them shows here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggufrun.convert import arch
from ggufrun.convert.config import Config
from tests.conftest import Oracle
from tests.support.vocabularies import (
    DIGITS,
    PUBLISHED,
    SIZE,
    added,
    byte_level,
    rank_table,
    slow_files,
    steps,
    tokenizer_json,
    write_folder,
)
from tests.test_convert_proof import sentencepiece_as_json

GOLDEN = Path(__file__).parent / "golden" / "vocab.json"

LAUNCHER = """
import base64, runpy, sys
from pathlib import Path
folder, out, name, convert = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
sys.path.insert(0, str(Path(convert).parent))
sys.argv = [convert, str(folder), "--vocab-only", "--outfile", out]
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: name
table = folder / "qwen.tiktoken"
if table.exists():
    # what the model's own code makes of the table
    import transformers
    ranks = {base64.b64decode(a): int(b) for a, b in map(bytes.split, table.read_bytes().splitlines())}
    extra = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)]
    class Tokenizer:
        mergeable_ranks, special_tokens = ranks, {text: len(ranks) + i for i, text in enumerate(extra)}
        get_vocab = lambda self: {**self.mergeable_ranks, **self.special_tokens}
    transformers.AutoTokenizer.from_pretrained = lambda *args, **kwargs: Tokenizer()
table = folder / "hy.tiktoken"
if table.exists():
    import json, transformers
    from conversion import hunyuan
    hy = {base64.b64decode(a): int(b) for a, b in map(bytes.split, table.read_bytes().splitlines())}
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    names = ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"]
    names += [f"<|extra_{i}|>" for i in range(size - len(hy) - len(names))]
    class Tokenizer:
        mergeable_ranks, special_tokens = hy, {text: len(hy) + i for i, text in enumerate(names)}
        vocab_size = size
    transformers.AutoTokenizer.from_pretrained = lambda *args, **kwargs: Tokenizer()
    # the release writes the one number that the published tokenizer has
    beginning = names[1] if "Dense" in (folder / "config.json").read_text() else names[2]
    write = conversion.base.gguf.GGUFWriter.add_bos_token_id
    conversion.base.gguf.GGUFWriter.add_bos_token_id = lambda self, number: write(
        self, len(hy) + names.index(beginning) if number in (127958, 127959) else number
    )
table = folder / "tiktoken.model"
if table.exists():
    import json, transformers
    kimi = {base64.b64decode(a): int(b) for a, b in map(bytes.split, table.read_bytes().splitlines())}
    named = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    numbers = range(len(kimi), len(kimi) + 256)
    class Tokenizer:
        special_tokens = {named.get(str(i), {}).get("content", f"<|reserved_token_{i}|>"): i for i in numbers}
        eos_id = len(kimi) + 1
        class model:
            _mergeable_ranks = kimi
    transformers.AutoTokenizer.from_pretrained = lambda *args, **kwargs: Tokenizer()
runpy.run_path(convert, run_name="__main__")
"""

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
    "intermediate_size": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}

LLAMA3_ADDED = added("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")
GLM_ADDED = added(
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>",
)  # fmt: skip
CHATML = added("<|endoftext|>", "<|im_start|>", "<|im_end|>") + added(
    "<tool>", "    ", special=False, first=SIZE + 3, normalized=True
)


def with_bos(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's post-processor."""
    bos, text = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, bos, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [SIZE], "tokens": ["<|begin_of_text|>"]}
        },
    }
    return {**tokenizer, "post_processor": {"type": "Sequence", "processors": [byte_level(), template]}}


LLAMA3 = with_bos(tokenizer_json(PUBLISHED["llama-3"], LLAMA3_ADDED, ignore_merges=True))
GLM4 = {
    "tokenizer.json": tokenizer_json(PUBLISHED["llama-3"], GLM_ADDED, ignore_merges=True),
    "tokenizer_config.json": FAST | {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
GEMMA4 = sentencepiece_as_json(
    normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    added_tokens=[
        *added("<unk>", "<s>", "</s>", first=0),
        *added("<|turn>", "<|tool_call>", first=2048),
        *added("<tool>", special=False, first=2050),
    ],
)
SPM_ADDED = {"2048": {"content": "<|u|>"}, "2049": {"content": "<eot>", "special": True}, "2050": {"content": "▁▁xq"}}
HUNYUAN_ADDED = added("<|startoftext|>", "<|eos|>", "<|extra_0|>", "<|pad|>")
RANKS = len(rank_table().splitlines())
DIGITS_GPT2 = steps(DIGITS, byte_level())

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    # name: architecture, changes to config.json, files, the name of the splitting ("" with a tokenizer.model)
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_ctx": 128, "n_embd": 64, "n_layer": 1, "n_head": 4, "layer_norm_epsilon": 1e-5, "vocab_size": SIZE + 9},
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["gpt-2"], CHATML, pairs=False),
            "tokenizer_config.json": FAST
            | {"bos_token": "<|endoftext|>", "unk_token": {"__type": "AddedToken", "content": "<tool>"}},
        },
        "gpt-2",
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        {"vocab_size": SIZE + 9, "eos_token_id": SIZE + 2},
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["qwen2"], CHATML, nfc=True) | {"post_processor": byte_level()},
            "tokenizer_config.json": FAST
            | {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": "C"},
            "generation_config.json": {"eos_token_id": [SIZE + 2, SIZE]},
        },
        "qwen2",
    ),
    "llama3": (
        "LlamaForCausalLM",
        {"vocab_size": SIZE + 4, "bos_token_id": SIZE, "eos_token_id": [SIZE + 1, SIZE + 2, SIZE + 3]},
        {
            "tokenizer.json": LLAMA3,
            "tokenizer_config.json": FAST
            | {
                "bos_token": "<|begin_of_text|>",
                "eos_token": "<|eot_id|>",
                "add_bos_token": False,
                "chat_template": [{"name": "default", "template": "A"}, {"name": "tool use", "template": "B"}],
            },
        },
        "llama-bpe",
    ),
    "template-jinja": (
        "LlamaForCausalLM",
        {"vocab_size": SIZE + 4},
        {
            "tokenizer.json": LLAMA3,
            "tokenizer_config.json": FAST | {"bos_token": "<|begin_of_text|>"},
            "chat_template.jinja": "X",
            "additional_chat_templates/rag.jinja": "R",
        },
        "llama-bpe",
    ),
    "template-json": (
        "SmolLM3ForCausalLM",
        {"vocab_size": SIZE + 4},
        {
            "tokenizer.json": LLAMA3,
            "tokenizer_config.json": FAST | {"eos_token": "<|eot_id|>"},
            "chat_template.json": {"chat_template": "Z"},
        },
        "llama-bpe",
    ),
    "glm4": ("Glm4ForCausalLM", {"vocab_size": SIZE + 10, "pad_token_id": SIZE, "eos_token_id": [SIZE]}, GLM4, "glm4"),
    "command-r": (
        "CohereForCausalLM",
        {"vocab_size": SIZE + 1, "logit_scale": 1.0},
        {
            "tokenizer.json": tokenizer_json(DIGITS_GPT2, added("<PAD>"), nfc=True),
            "tokenizer_config.json": FAST | {"pad_token": "<PAD>", "add_eos_token": False},
        },
        "command-r",
    ),
    "granite": (
        "GraniteForCausalLM",
        {
            "vocab_size": 49152, "attention_multiplier": 1.0, "embedding_multiplier": 1.0, "logits_scaling": 1.0,
            "residual_multiplier": 1.0,
        },
        {
            "tokenizer.json": tokenizer_json(DIGITS_GPT2, added("<fim_prefix>", "<|end_of_text|>")),
            "tokenizer_config.json": FAST | {"bos_token": "<|end_of_text|>", "add_bos_token": True},
        },
        "refact",
    ),
    "qwen1": (
        "QWenLMHeadModel",
        {"vocab_size": SIZE + 220, "seq_length": 128, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000},
        {"qwen.tiktoken": rank_table()},
        "qwen2",
    ),
    "gpt2-slow": (
        "GPT2LMHeadModel",
        {"n_ctx": 128, "n_embd": 64, "n_layer": 1, "n_head": 4, "layer_norm_epsilon": 1e-5, "vocab_size": SIZE + 9}
        | {"bos_token_id": SIZE, "eos_token_id": SIZE},
        {**slow_files("<|endoftext|>"), "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}},
        "gpt-2",
    ),
    "qwen2-slow": (
        "Qwen2ForCausalLM",
        {"vocab_size": SIZE + 9, "eos_token_id": SIZE + 2},
        {
            **slow_files(),
            "tokenizer_config.json": {
                "tokenizer_class": "Qwen2Tokenizer",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "chat_template": "C",
                "added_tokens_decoder": {str(token["id"]): token for token in CHATML[:3]},
            },
        },
        "qwen2",
    ),
    "llama": (
        "LlamaForCausalLM",
        {"vocab_size": 2060, "pad_token_id": 0},
        {
            "tokenizer_config.json": {
                "add_prefix_space": False, "add_eos_token": False, "added_tokens_decoder": SPM_ADDED,
            },
            "added_tokens.json": {"<pad>": 2051},
        },
        "",
    ),
    "code-llama": (
        "LlamaForCausalLM",
        {"vocab_size": 32016},
        {"tokenizer_config.json": NAMED | {"chat_template": "C"}, "added_tokens.json": {"▁<EOT>": 32010}},
        "",
    ),
    "gemma": ("GemmaForCausalLM", {"vocab_size": 2060}, {"tokenizer_config.json": NAMED | {"add_bos_token": True}}, ""),
    "gemma2": (
        "Gemma2ForCausalLM",
        {"vocab_size": 2060, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 1.0, "sliding_window": 16},
        {"tokenizer_config.json": NAMED | {"add_bos_token": True}},
        "",
    ),
    "gemma3n": (
        "Gemma3nForCausalLM",
        {"model_type": "gemma3n_text", "vocab_size": 2060, "vocab_size_per_layer_input": 2052},
        {"tokenizer_config.json": NAMED | {"add_bos_token": True}},
        "",
    ),
    "gemma4": (
        "Gemma4ForCausalLM",
        {"model_type": "gemma4_text", "vocab_size": 2051, "layer_types": ["full_attention"], "num_kv_shared_layers": 0},
        {
            "tokenizer.json": GEMMA4,
            "tokenizer_config.json": FAST
            | NAMED
            | {"unk_token": "<unk>", "extra_special_tokens": {"sot_token": "<|turn>", "stc_token": "<|tool_call>"}},
            "chat_template.jinja": "X",
        },
        "gemma4",
    ),
    "pangu": (
        "PanguEmbeddedForCausalLM",
        {"vocab_size": 2060, "bias": True},
        {"tokenizer_config.json": NAMED | {"add_prefix_space": False, "chat_template": "C"}},
        "",
    ),
    "nemotron": (
        "NemotronForCausalLM",
        {"vocab_size": 2060, "norm_eps": 1e-5, "partial_rotary_factor": 0.5, "pad_token_id": 5},
        {"tokenizer_config.json": NAMED | {"chat_template": "C"}},
        "",
    ),
    "phi3": (
        "Phi3ForCausalLM",
        {"vocab_size": 2064, "original_max_position_embeddings": 128},
        {
            "tokenizer_config.json": NAMED
            | {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {"2048": {"content": "<|x|>"}}},
            "tokenizer.json": {"model": {"type": "BPE"}, "added_tokens": added("<|end|>", first=2049)},
            "added_tokens.json": {"<pad>": 2052},
        },
        "",
    ),
    "internlm2": (
        "InternLM2ForCausalLM",
        {"vocab_size": 2048, "bias": False},
        {
            "tokenizer_config.json": NAMED
            | {"added_tokens_decoder": {"2040": {"content": "<|im_end|>", "special": True}}},
        },
        "",
    ),
    "internlm3": (
        "InternLM3ForCausalLM",
        {"vocab_size": 2060, "pad_token_id": 2},
        {
            "tokenizer_config.json": NAMED
            | {
                "add_prefix_space": False,
                "add_bos_token": True,
                "chat_template": "C",
                "added_tokens_decoder": {
                    "2": {"content": "</s>", "special": True},
                    "2048": {"content": "<|im_end|>", "special": True},
                    "2049": {"content": "<|plugin|>", "special": True},
                },
            },
        },
        "",
    ),
    "internlm3-base": ("InternLM3ForCausalLM", {"vocab_size": 2048}, {"tokenizer_config.json": NAMED}, ""),
    "minicpm3": (
        "MiniCPM3ForCausalLM",
        {"vocab_size": 2060}
        | {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
        {
            "tokenizer_config.json": NAMED
            | {
                "chat_template": "C",
                "added_tokens_decoder": {
                    "2048": {"content": "<|im_start|>", "special": True},
                    "2049": {"content": "<|im_end|>", "special": True},
                    "2050": {"content": "<|fim_prefix|>", "special": True},
                },
            },
        },
        "",
    ),
    "glm-4.5": (
        "Glm4MoeForCausalLM",
        {"vocab_size": SIZE + 10, "pad_token_id": SIZE, "eos_token_id": [SIZE, SIZE + 8, SIZE + 9]},
        GLM4,
        "glm4",
    ),
    "glm-4.7-flash": (
        "Glm4MoeLiteForCausalLM",
        {"vocab_size": SIZE + 10, "pad_token_id": SIZE, "eos_token_id": [SIZE, SIZE + 8, SIZE + 9]}
        | {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 8},
        GLM4,
        "glm4",
    ),
    "kimi-k2": (
        "DeepseekV3ForCausalLM",
        {"vocab_size": RANKS + 300, "bos_token_id": RANKS, "eos_token_id": RANKS + 2, "pad_token_id": RANKS + 255}
        | {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 8},
        {
            "tiktoken.model": rank_table(),
            "tokenizer_config.json": {
                "bos_token": "[BOS]",
                "eos_token": "[EOS]",
                "chat_template": "C",
                "added_tokens_decoder": {
                    str(RANKS + number): {"content": text, "special": True}
                    for number, text in ((0, "[BOS]"), (1, "[EOS]"), (2, "<|im_end|>"), (255, "[PAD]"))
                },
            },
            "generation_config.json": {"eos_token_id": RANKS + 2},
        },
        "kimi-k2",
    ),
    "kimi-linear": (
        "KimiLinearForCausalLM",
        {"vocab_size": RANKS + 256, "bos_token_id": RANKS, "eos_token_id": RANKS + 2, "pad_token_id": RANKS + 255}
        | {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 8}
        | {"linear_attn_config": {"full_attn_layers": [1]}, "kv_lora_rank": 8, "num_shared_experts": 1}
        | {"first_k_dense_replace": 1, "routed_scaling_factor": 1.0},
        {
            "tiktoken.model": rank_table(),
            "tokenizer_config.json": {
                "bos_token": "[BOS]",
                "eos_token": {"content": "[EOS]"},
                "added_tokens_decoder": {
                    str(RANKS + number): {"content": text, "special": True}
                    for number, text in ((0, "[BOS]"), (1, "[EOS]"), (2, "<|im_end|>"))
                },
            },
        },
        "kimi-k2",
    ),
    "hunyuan-dense": (
        "HunYuanDenseV1ForCausalLM",
        {"vocab_size": SIZE + 8, "bos_token_id": SIZE, "eos_token_id": SIZE + 1, "eod_token_id": SIZE + 2}
        | {"pad_token_id": -1},
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["deepseek-v3"], HUNYUAN_ADDED),
            "tokenizer_config.json": FAST | {"eos_token": "<|eos|>", "chat_template": "C"},
            "generation_config.json": {"eos_token_id": [SIZE + 1, SIZE + 2]},
        },
        "hunyuan-dense",
    ),
    "hunyuan-7b-ranks": (
        "HunYuanDenseV1ForCausalLM",
        {"vocab_size": RANKS + 9, "hidden_size": 4096, "eod_token_id": RANKS, "eos_token_id": RANKS + 3},
        {"hy.tiktoken": rank_table(), "tokenizer_config.json": {"chat_template": "C"}},
        "hunyuan",
    ),
    "hunyuan-a13b": (
        "HunYuanMoEV1ForCausalLM",
        {"vocab_size": RANKS + 20, "bos_token_id": 1, "eos_token_id": RANKS + 3, "pad_token_id": RANKS + 4}
        | {"moe_intermediate_size": [64], "moe_topk": [1], "num_shared_expert": [1], "num_experts": 2},
        {"hy.tiktoken": rank_table(), "tokenizer_config.json": {"chat_template": "C"}},
        "hunyuan",
    ),
    "qwen3-omni": (
        "Qwen3OmniMoeForConditionalGeneration",
        {"vocab_size": SIZE + 9, "moe_intermediate_size": 8, "num_experts": 2},
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["qwen2"], CHATML, nfc=True),
            "tokenizer_config.json": FAST
            | {"eos_token": "<|endoftext|>", "added_tokens_decoder": {str(token["id"]): token for token in CHATML[:3]}},
        },
        "qwen2",
    ),
    "qwen3.5": (
        "Qwen3_5ForCausalLM",
        {"vocab_size": SIZE + 9, "eos_token_id": SIZE + 2, "mtp_num_hidden_layers": 1}
        | {f"linear_{key}": 4 for key in ("conv_kernel_dim", "key_head_dim", "value_head_dim")}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 2},
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["qwen35"], CHATML, nfc=True) | {"post_processor": byte_level()},
            "tokenizer_config.json": FAST | {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
            "chat_template.jinja": "X",
        },
        "qwen35",
    ),
    "llama-4": (
        "Llama4ForCausalLM",
        {"vocab_size": SIZE + 4, "bos_token_id": SIZE, "eos_token_id": [SIZE + 1, SIZE + 2, SIZE + 3]}
        | {"intermediate_size_mlp": 64, "interleave_moe_layer_step": 1},
        {
            "tokenizer.json": with_bos(tokenizer_json(PUBLISHED["gpt-4o"], LLAMA3_ADDED)),
            "tokenizer_config.json": FAST | {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        },
        "llama4",
    ),
    "lfm2": (
        "Lfm2ForCausalLM",
        {"vocab_size": SIZE + 4, "bos_token_id": SIZE, "eos_token_id": SIZE + 2, "layer_types": ["conv"]}
        | {"block_auto_adjust_ff_dim": False, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 8}
        | {"conv_L_cache": 3, "norm_eps": 1e-5},
        {
            "tokenizer.json": LLAMA3,
            "tokenizer_config.json": FAST | {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        },
        "lfm2",
    ),
    "minimax-m2": (
        "MiniMaxM2ForCausalLM",
        {"vocab_size": SIZE + 4, "bos_token_id": SIZE, "eos_token_id": SIZE + 2, "rotary_dim": 8},
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["gpt-4o"], LLAMA3_ADDED) | {"post_processor": byte_level()},
            "tokenizer_config.json": FAST | {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
            "chat_template.jinja": "X",
        },
        "minimax-m2",
    ),
    "exaone4": (
        "Exaone4ForCausalLM",
        {"vocab_size": SIZE + 9, "eos_token_id": SIZE + 2, "sliding_window": None},
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["gpt-2"], CHATML),
            "tokenizer_config.json": FAST | {"eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"},
        },
        "exaone4",
    ),
    "cohere2": (
        "Cohere2ForCausalLM",
        {"vocab_size": SIZE + 1, "logit_scale": 1.0, "sliding_window": 16, "rotary_pct": 1.0},
        {
            "tokenizer.json": tokenizer_json(DIGITS_GPT2, added("<PAD>"), nfc=True),
            "tokenizer_config.json": FAST | {"pad_token": "<PAD>", "add_eos_token": False},
        },
        "command-r",
    ),
    "baichuan": ("BaichuanForCausalLM", {"vocab_size": 2060}, {"tokenizer_config.json": {"add_bos_token": False}}, ""),
}  # fmt: skip


def config_of(name: str) -> dict[str, Any]:
    return SHAPE | CASES[name][1] | {"architectures": [CASES[name][0]]}


def make(folder: Path, name: str) -> Path:
    return write_folder(folder / name, config_of(name), CASES[name][2], spm=not CASES[name][3])


def plain(value: Any) -> Any:
    """A value as JSON has it, floats as float32."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return str(np.float32(value)) if isinstance(value, float) else value


def digest(keys: Mapping[str, Any]) -> str:
    found = [(key, plain(value)) for key, value in keys.items()]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def ours(folder: Path, name: str) -> dict[str, Any]:
    family = arch.families()[CASES[name][0]]
    writer = gguf.GGUFWriter(None, family.gguf_arch)
    family.vocab(folder, Config(folder / "config.json", config_of(name)), writer, None)
    return {key: entry.value for key, entry in writer.kv_data[0].items() if key.startswith("tokenizer.")}


@pytest.mark.parametrize("name", CASES)
def test_recorded_vocabularies(tmp_path: Path, name: str) -> None:
    assert digest(ours(make(tmp_path, name), name)) == json.loads(GOLDEN.read_text())["sha256"][name]


@pytest.mark.parametrize("name", CASES)
def test_fresh_vocabularies(oracle: Oracle, tmp_path: Path, record: Path | None, name: str) -> None:
    folder, out = make(tmp_path, name), tmp_path / "theirs.gguf"
    oracle.run(oracle.python, "-c", LAUNCHER, folder, out, CASES[name][3] or "none", oracle.convert)
    theirs = {
        key: field.contents() for key, field in gguf.GGUFReader(out).fields.items() if key.startswith("tokenizer.")
    }
    if record is not None:
        answers = json.loads(GOLDEN.read_text())["sha256"] if GOLDEN.exists() else {}
        answers[name] = digest(theirs)
        GOLDEN.write_text(json.dumps({"launcher": LAUNCHER, "sha256": answers}, indent=2) + "\n")
    found = {key: plain(value) for key, value in ours(folder, name).items()}
    assert found == {key: plain(value) for key, value in theirs.items()}
    assert digest(found) == digest(theirs)
