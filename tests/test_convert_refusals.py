"""What a GGUF could not express is refused: a file that loads and talks nonsense would be worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufrun.convert import plan
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError
from tests.families.family import Case, config, dense, no_vocabulary, replace_vocabulary, write
from tests.families.family_cases import CASES


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
        "says shared_expert_intermediate_size = null",
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
    "all groups of experts in GLM-4.5": ("glm-4.5-air", {"n_group": 2, "topk_group": 2}, FormatError, "2 groups"),
    "another kind of latent attention": ("glm-4.7-flash", {"rope_interleave": False}, UnsupportedError, "interleave"),
    "layers ahead beyond number": ("glm-4.5-air", {"num_nextn_predict_layers": 1 << 20}, FormatError, "from 0 to 16"),
    "a layer ahead that is not all there": ("glm-4.5-air", {"num_nextn_predict_layers": 2}, NotFoundError, "blk.4"),
    "a layer more than config.json says": (
        "glm-4.5-air",
        {"num_nextn_predict_layers": 0},
        UnsupportedError,
        "no place",
    ),
    "an alpha that is none": (
        "hunyuan-1.8b",
        {"rope_scaling": {"type": "dynamic", "alpha": -1.0}},
        FormatError,
        "alpha",
    ),
    "dynamic positions without alpha": (
        "hunyuan-1.8b",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        FormatError,
        "lacks alpha",
    ),
    "alpha chosen for another length": (
        "hunyuan-1.8b",
        {"max_position_embeddings": 4096},
        UnsupportedError,
        "context of 4096 tokens",
    ),
    "another base that is stretched": ("hunyuan-1.8b", {"rope_theta": 5e5}, UnsupportedError, "another base"),
    "experts that differ by layer": ("hunyuan-a13b", {"moe_topk": [2, 1]}, UnsupportedError, "moe_topk"),
    "a number of experts that is a text": ("hunyuan-a13b", {"moe_topk": ["x", "x"]}, FormatError, "moe_topk"),
    "no number of experts at all": ("hunyuan-a13b", {"moe_topk": []}, UnsupportedError, "moe_topk"),
    "experts of another size": ("hunyuan-a13b", {"moe_intermediate_size": [8, 8]}, UnsupportedError, "another size"),
    "linear values of another size": ("qwen3.5-text", {"linear_value_head_dim": 8}, UnsupportedError, "one size"),
    "linear values that do not divide": ("qwen3.5-text", {"linear_num_key_heads": 3}, UnsupportedError, "one size"),
    "kinds of layers that are missing": (
        "qwen3.5-text",
        {"layer_types": ["full_attention"]},
        FormatError,
        "layer_types",
    ),
    "kinds of layers that are a number": ("qwen3-next-80b", {"layer_types": 4}, FormatError, "layer_types"),
    "other kinds of layers": (
        "qwen3.5-text",
        {"layer_types": ["linear_attention"] * 4},
        UnsupportedError,
        "no place",
    ),
    "an interval of nothing": (
        "qwen3-next-80b",
        {"full_attention_interval": 0},
        FormatError,
        "full_attention_interval",
    ),
    "sections that are a text": (
        "qwen3.5-text",
        {"rope_parameters": {"rope_theta": 1e6, "mrope_section": "x"}},
        FormatError,
        "mrope_section",
    ),
    "negative sections": (
        "qwen3.5-text",
        {"rope_parameters": {"rope_theta": 1e6, "mrope_section": [-1, 1, 1]}},
        FormatError,
        "sections",
    ),
    "no sections where they must be": ("qwen2-vl", {"rope_scaling": {"type": "mrope"}}, FormatError, "mrope_section"),
    "seen in all layers": (
        "qwen3-vl",
        {"vision_config": {"deepstack_visual_indexes": [0, 1, 2, 3]}},
        UnsupportedError,
        "4",
    ),
    "seen in a number of layers": ("qwen3-vl", {"vision_config": {"deepstack_visual_indexes": 3}}, FormatError, "= 3"),
    "chunks of another length": ("llama-4-text", {"attention_chunk_size": 4096}, UnsupportedError, "attention_chunk"),
    "rotation in other layers of Llama 4": (
        "llama-4-text",
        {"no_rope_layers": [1, 1, 1, 1]},
        UnsupportedError,
        "fourth",
    ),
    "norms where 128 experts have none": ("llama-4-text", {"num_local_experts": 128}, UnsupportedError, "use_qk_norm"),
    "an interval of experts of nothing": ("llama-4-text", {"interleave_moe_layer_step": 0}, FormatError, "interleave"),
    "experts chosen by softmax in MiniMax": (
        "minimax-m2",
        {"scoring_func": "softmax"},
        UnsupportedError,
        "scoring_func",
    ),
    "more of a head rotated than there is": ("minimax-m2", {"rotary_dim": 32}, FormatError, "rotary_dim"),
    "experts in every second layer": ("ernie-4.5-moe", {"moe_layer_interval": 2}, UnsupportedError, "interval"),
    "experts that end early": ("ernie-4.5-moe", {"moe_layer_end_index": 1}, UnsupportedError, "end_index"),
    "a normed output": ("ling-flash-2", {"norm_head": True}, UnsupportedError, "norm_head"),
    "dense layers in Ling 1": ("ling-lite", {"first_k_dense_replace": 1}, UnsupportedError, "first_k_dense"),
    "several shared experts in Ling 2": ("ling-flash-2", {"num_shared_experts": 2}, UnsupportedError, "shared"),
    "a window in no layer": ("olmo3", {"layer_types": ["full_attention"] * 4}, UnsupportedError, "no layer"),
    "clipped queries": ("olmoe", {"clip_qkv": 8.0}, UnsupportedError, "clip_qkv"),
    "grouped heads in OLMoE": ("olmoe", {"num_key_value_heads": 3}, UnsupportedError, "fewer heads"),
    "another pattern in Command-R7B": ("command-r7b", {"sliding_window_pattern": 2}, UnsupportedError, "three of four"),
    "a window in a small EXAONE": ("exaone-4-1.2b", {"sliding_window": 64}, UnsupportedError, "64 layers"),
    "a convolution with a bias": ("lfm2", {"conv_bias": True}, UnsupportedError, "conv_bias"),
    "a multiple of nothing": ("lfm2", {"block_multiple_of": 0}, FormatError, "block_multiple_of"),
    "a size beyond number": ("lfm2", {"block_ffn_dim_multiplier": 1e300}, FormatError, "intermediate_size"),
    "LFM2's layers of unknown kinds": ("lfm2-moe", {"layer_types": ["conv", "x", "conv"]}, FormatError, "layer_types"),
    "Mamba's heads that do not fill its width": (
        "granite-4-h-small",
        {"mamba_n_heads": 10},
        FormatError,
        "do not fill",
    ),
    "another expansion of Mamba": ("granite-4-h-small", {"mamba_expand": 4}, UnsupportedError, "mamba_expand"),
    "positions of another kind next to Mamba": (
        "granite-4-h-small",
        {"position_embedding_type": "alibi"},
        UnsupportedError,
        "position_embedding_type",
    ),
    "two sizes without experts": ("granite-4-h-micro", {"intermediate_size": 48}, UnsupportedError, "one size"),
    "Granite's layers of unknown kinds": (
        "granite-4-micro",
        {"layer_types": ["attention"]},
        FormatError,
        "layer_types",
    ),
    "other scales than MiniCPM 3's": ("minicpm3-4b", {"scale_depth": 1.0}, UnsupportedError, "scale_depth"),
    "MiniCPM 3 without a base for its logits": (
        "minicpm3-4b",
        {"dim_model_base": None},
        UnsupportedError,
        "dim_model_base = 48",
    ),
    "wide values in MiniCPM 3": ("minicpm3-4b", {"v_head_dim": 16}, UnsupportedError, "another size"),
    "MiniCPM 3 trained on less than it says": (
        "minicpm3-4b",
        {"max_position_embeddings": 1024},
        UnsupportedError,
        "shorter context",
    ),
    "Llama 3's scaling in InternLM 3": (
        "internlm3-8b",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        UnsupportedError,
        "llama3",
    ),
    "a small head of an indexer": ("deepseek-v3.2", {"index_head_dim": 32}, UnsupportedError, "multiple of 64"),
    "a first layer without an indexer": (
        "glm-5",
        {"indexer_types": ["shared", "full", "shared", "full"]},
        FormatError,
        "indexer_types",
    ),
    "indexers of unknown kinds": (
        "glm-5",
        {"indexer_types": None, "index_topk_pattern": 7},
        FormatError,
        "indexer_types",
    ),
    "another activation in Nemotron": ("nemotron-mini", {"hidden_act": "silu"}, UnsupportedError, "hidden_act"),
    "heads of another size in Nemotron": ("nemotron-mini", {"head_dim": 16}, UnsupportedError, "another size"),
    "Nemotron stretched by YaRN": (
        "nemotron-mini",
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        UnsupportedError,
        "yarn",
    ),
    "a norm before Mamba's gate": (
        "falcon-h1-7b",
        {"mamba_norm_before_gate": True},
        UnsupportedError,
        "behind the gate",
    ),
    "a multiplier beyond all bounds": ("falcon-h1", {"lm_head_multiplier": 1e300}, FormatError, "beyond all bounds"),
    "several numbers for one multiplier": ("falcon-h1", {"key_multiplier": [1.0]}, FormatError, "key_multiplier"),
    "keys shared out of the middle": (
        "gemma-4-e2b-text",
        {"num_kv_shared_layers": 2, "use_double_wide_mlp": False},
        UnsupportedError,
        "last two",
    ),
    "odd heads in Gemma 4": ("gemma-4-e2b-text", {"global_head_dim": 31}, FormatError, "odd size"),
    "no expert chosen": ("deepseek-v3.2", {"num_experts_per_tok": 0}, FormatError, "chooses 0 of 8 experts"),
    "more experts chosen than there are": ("qwen3-moe-yarn", {"num_experts_per_tok": 9}, FormatError, "chooses 9 of"),
    "all groups of experts count": (
        "deepseek-v3",
        {"topk_group": 4},
        FormatError,
        "8 experts in 4 groups, of which 4 count",
    ),
    "groups of several sizes": ("deepseek-v3", {"n_group": 3}, FormatError, "in 3 groups"),
    "nothing rotated": (
        "glm-4.1v",
        {"text_config": CASES["glm-4.1v"].config["text_config"] | {"partial_rotary_factor": 1e-9}},
        FormatError,
        "rotates nothing",
    ),
    "no length of a text": ("pangu-7b", {"max_position_embeddings": None}, FormatError, "how long a text may be"),
    "too few multipliers": ("falcon-h1", {"ssm_multipliers": [1.0]}, FormatError, "not 5 ssm_multipliers"),
    "a tied output with a multiplier": ("falcon-h1", {"tie_word_embeddings": True}, UnsupportedError, "ties"),
    "two streams in Gemma 3n": ("gemma-3n-text", {"altup_num_inputs": 2}, UnsupportedError, "altup_num_inputs"),
    "fewer shared layers in Gemma 3n": (
        "gemma-3n-text",
        {"num_kv_shared_layers": 3},
        UnsupportedError,
        "num_kv_shared_layers",
    ),
    "nothing cut off in Gemma 3n": (
        "gemma-3n-text",
        {"activation_sparsity_pattern": [0.0] * 25},
        UnsupportedError,
        "activation_sparsity_pattern",
    ),
    "layers of several sizes in Gemma 3n": (
        "gemma-3n-text",
        {"intermediate_size": [640] * 24 + [320]},
        UnsupportedError,
        "several sizes",
    ),
    "a Gemma 4 without a window": (
        "gemma-4-e2b-text",
        {"layer_types": ["full_attention"] * 6},
        FormatError,
        "layer_types of one kind",
    ),
    "a Gemma 4 without keys": ("gemma-4-e2b-text", {"num_kv_shared_layers": 6}, FormatError, "keys of its own"),
    "a Gemma 4 that looks ahead": (
        "gemma-4-31b-text",
        {"use_bidirectional_attention": "all"},
        UnsupportedError,
        "use_bidirectional_attention",
    ),
    "HunyuanOCR that is not stretched": (
        "hunyuan-ocr",
        {
            "text_config": CASES["hunyuan-ocr"].config["text_config"]
            | {"rope_scaling": {"type": "linear", "factor": 2.0}}
        },
        UnsupportedError,
        "only xdrope",
    ),
    "Kimi Linear with positions": ("kimi-linear", {"mla_use_nope": False}, UnsupportedError, "mla_use_nope"),
    "Kimi Linear with a layer of no kind": (
        "kimi-linear",
        {"linear_attn_config": CASES["kimi-linear"].config["linear_attn_config"] | {"kda_layers": [1, 2]}},
        FormatError,
        "does not describe its layers",
    ),
    "Kimi Linear with other heads": (
        "kimi-linear",
        {"linear_attn_config": CASES["kimi-linear"].config["linear_attn_config"] | {"num_heads": 3}},
        UnsupportedError,
        "other heads",
    ),
    "Pangu without biases": ("pangu-7b", {"bias": False}, UnsupportedError, "bias"),
    "Youtu with whole queries": ("youtu-2b", {"num_hidden_layers": 27}, UnsupportedError, "low-rank query"),
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
