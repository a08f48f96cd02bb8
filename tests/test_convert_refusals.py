"""What a GGUF could not express is refused: a file that loads and talks nonsense would be worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufrun.convert import plan
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError
from tests.families import Case, config, dense, no_vocabulary, replace_vocabulary, write
from tests.family_cases import CASES


@pytest.fixture(autouse=True)
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)


REFUSED: dict[str, tuple[str, dict[str, Any], type[GgufrunError], str]] = {
    "positions scaled in a way that is not told": (
        "gemma",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        UnsupportedError,
        "linear",
    ),
    "long factors without a family": (
        "qwen2",
        {"rope_scaling": {"type": "longrope", "long_factor": [1.0]}},
        UnsupportedError,
        "longrope",
    ),
    "llama3 scaling elsewhere": (
        "qwen2",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        UnsupportedError,
        "llama3",
    ),
    "sections of rotation": (
        "llama-dynamic",
        {"rope_scaling": {"type": "default", "mrope_section": [1, 1]}},
        UnsupportedError,
        "sections",
    ),
    "too few long factors": (
        "minicpm-longrope",
        {"hidden_size": 96},
        FormatError,
        "8 are needed",
    ),
    "longrope without factors": (
        "phi3",
        {"rope_scaling": {"type": "longrope"}},
        FormatError,
        "no factors",
    ),
    "a factor that is a text": (
        "phi3-su",
        {"rope_scaling": {"type": "su", "long_factor": ["x"]}},
        FormatError,
        "list of numbers",
    ),
    "a window in some layers": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
        UnsupportedError,
        "64 tokens",
    ),
    "layers without experts": (
        "qwen3-moe-yarn",
        {"mlp_only_layers": [1]},
        UnsupportedError,
        "without experts",
    ),
    "other weights of experts": (
        "qwen3-moe-yarn",
        {"norm_topk_prob": False},
        UnsupportedError,
        "norm_topk_prob",
    ),
    "an output tied where the engine knows none": (
        "olmo2",
        {"tie_word_embeddings": True},
        UnsupportedError,
        "ties the output",
    ),
    "a Baichuan of no known size": (
        "baichuan-7b",
        {"num_hidden_layers": 31},
        UnsupportedError,
        "num_hidden_layers",
    ),
    "another scale of attention": (
        "gemma2",
        {"query_pre_attn_scalar": 144},
        UnsupportedError,
        "query_pre_attn_scalar",
    ),
    "another pattern of windows": (
        "gemma3",
        {"layer_types": ["full_attention", "full_attention"]},
        UnsupportedError,
        "other layers",
    ),
    "an output of its own in Gemma": (
        "gemma",
        {"tie_word_embeddings": False},
        UnsupportedError,
        "tie_word_embeddings",
    ),
    "rotation left out elsewhere": (
        "smollm3",
        {"no_rope_layers": [1, 1, 0, 1]},
        UnsupportedError,
        "every fourth",
    ),
    "a whole query where a low-rank one is expected": (
        "deepseek-v2-lite",
        {"num_hidden_layers": 28},
        UnsupportedError,
        "query matrix",
    ),
    "groups of experts by another rule": (
        "deepseek-v2",
        {"topk_method": "greedy"},
        UnsupportedError,
        "topk_method",
    ),
    "another rotation in DeepSeek V3": (
        "deepseek-v3",
        {"rope_interleave": False},
        UnsupportedError,
        "rope_interleave",
    ),
    "experts of DeepSeek V3 chosen otherwise": (
        "deepseek-v3",
        {"topk_method": "greedy"},
        UnsupportedError,
        "topk_method",
    ),
    "norms of heads in a short Command-R": (
        "command-r",
        {"use_qk_norm": True},
        UnsupportedError,
        "64 layers",
    ),
    "ALiBi": (
        "falcon-7b",
        {"alibi": True},
        UnsupportedError,
        "alibi",
    ),
    "another width inside": (
        "gpt2",
        {"n_inner": 100},
        UnsupportedError,
        "n_inner",
    ),
    "another width inside Phi-2": (
        "phi2",
        {"intermediate_size": 100},
        UnsupportedError,
        "intermediate_size",
    ),
    "another activation": (
        "starcoder2",
        {"hidden_act": "relu"},
        UnsupportedError,
        "hidden_act",
    ),
    "experts chosen in an unknown way": (
        "deepseek-moe",
        {"scoring_func": "softmax2"},
        UnsupportedError,
        "softmax2",
    ),
    "heads that do not divide": (
        "internlm2",
        {"num_key_value_heads": 4},
        FormatError,
        "do not divide",
    ),
    "a fused matrix of other heads": (
        "internlm2",
        {"num_key_value_heads": 3},
        FormatError,
        "rows",
    ),
    "fewer experts than config.json says": (
        "mixtral-11-experts",
        {"num_local_experts": 12},
        NotFoundError,
        "33 of 36",
    ),
    "more experts than config.json says": (
        "mixtral-11-experts",
        {"num_local_experts": 10},
        GgufrunError,
        "expert",
    ),
    "a base of rotation that is none": (
        "llama3-rope-freqs",
        {"rope_theta": -1.0},
        FormatError,
        "rope_theta",
    ),
    "a scaling by nothing": (
        "llama-tied-linear",
        {"rope_scaling": {"type": "linear", "factor": 0}},
        FormatError,
        "factor",
    ),
    "layers beyond number": (
        "qwen3",
        {"num_hidden_layers": 1 << 20},
        FormatError,
        "1024",
    ),
    "experts without a size": (
        "qwen2-moe",
        {"shared_expert_intermediate_size": None},
        FormatError,
        "lacks shared",
    ),
    "a gate that is a list": (
        "deepseek-moe",
        {"scoring_func": ["x"]},
        UnsupportedError,
        "chooses experts",
    ),
    "positions that are a number": (
        "gemma3",
        {"rope_scaling": 3},
        FormatError,
        "rope_scaling",
    ),
    "a scale of nothing": (
        "minicpm",
        {"dim_model_base": 0},
        FormatError,
        "dim_model_base",
    ),
    "another width": (
        "chatglm3",
        {"ffn_hidden_size": 96},
        FormatError,
        "ffn_up",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_gguf_cannot_express_is_refused(tmp_path: Path, why: str) -> None:
    name, changes, error, words = REFUSED[why]
    case = CASES[name]
    folder = write(tmp_path / name, replace(case, config={**case.config, **changes}))
    with pytest.raises(error, match=words):
        plan.plan_convert(folder, (), lambda kind: tmp_path / "out.gguf").close()


def test_a_tensor_that_the_family_does_not_have(tmp_path: Path) -> None:
    values = config("LlamaForCausalLM", "llama")
    norms = {f"model.layers.{layer}.self_attn.q_norm.weight": (8,) for layer in range(2)}
    folder = write(tmp_path / "llama", Case(values, dense(values) | norms))
    with pytest.raises(UnsupportedError, match=r"no place in a llama GGUF for model\.layers\.0\.self_attn\.q_norm"):
        plan.plan_convert(folder, (), lambda kind: tmp_path / "out.gguf")
