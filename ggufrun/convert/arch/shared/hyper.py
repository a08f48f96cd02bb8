"""Hyper-parameters that many families share: config.json's keys on one side, those of a GGUF on the other.

Source of key alternatives and order: ``TextModel.set_gguf_parameters`` in llama.cpp's ``conversion/base.py``.
"""

from __future__ import annotations

import gguf

from ggufrun.convert.arch.shared.layout import n_blocks
from ggufrun.convert.arch.shared.rope import rope_metadata
from ggufrun.convert.config import Config
from ggufrun.errors import FormatError, UnsupportedError

CONTEXT = ("max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length")
INNER = ("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
GATING = (
    "score_function",
    "scoring_func",
    "score_func",
    "moe_router_activation",
    "moe_router_activation_func",
    "expert_selection_fn",
)
MAX_EXPERTS = 1024
"""``LLAMA_MAX_EXPERTS``."""

GATES = {"sigmoid": gguf.ExpertGatingFuncType.SIGMOID, "softmax": gguf.ExpertGatingFuncType.SOFTMAX}


def base_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """What almost every family writes, each key only where config.json has one of its names, the file type last."""
    writer.add_block_count(n_blocks(config))
    for keys, add in (
        (CONTEXT, writer.add_context_length),
        (("hidden_size", "n_embd", "dim"), writer.add_embedding_length),
        (INNER, writer.add_feed_forward_length),
        (("num_attention_heads", "n_head", "n_heads"), writer.add_head_count),
        (("num_key_value_heads", "n_kv_heads"), writer.add_head_count_kv),
    ):
        if key := config.first(*keys):
            add(config.integer(key))
    if config.values.get("is_causal") is False:
        writer.add_causal_attention(False)
    rope_metadata(config, writer)
    if key := config.any_of("rms_norm_eps", "norm_eps"):
        writer.add_layer_norm_rms_eps(config.number(key))
    if key := config.any_of("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        writer.add_layer_norm_eps(config.number(key))
    _experts(config, writer)
    if config.has("head_dim"):
        writer.add_key_length(config.integer("head_dim"))
        writer.add_value_length(config.integer("head_dim"))
    file_type(writer)


def _experts(config: Config, writer: gguf.GGUFWriter) -> None:
    for keys, add in (
        (EXPERTS, writer.add_expert_count),
        (EXPERTS_USED, writer.add_expert_used_count),
        (("n_group",), writer.add_expert_group_count),
        (("topk_group",), writer.add_expert_group_used_count),
    ):
        if key := config.first(*keys):
            add(config.integer(key, low=0))
    if config.has("n_group") and config.integer("n_group", low=0) > 1:
        config.integer("topk_group", low=0)
    if key := config.first(*GATING):
        gate = str(config.values[key])
        if gate not in GATES:
            raise UnsupportedError(f"{config.path} chooses experts by {gate!r}", f"known are {', '.join(GATES)}")
        writer.add_expert_gating_func(GATES[gate])


def check_written(config: Config, writer: gguf.GGUFWriter) -> None:
    """Refuse what llama.cpp could not load, would end its process for, or would never come to an end with."""
    if gguf.Keys.LLM.CONTEXT_LENGTH.format(arch=writer.arch) not in writer.kv_data[0]:
        raise FormatError(f"{config.path} does not say how long a text may be", "complete max_position_embeddings")
    rotated = writer.kv_data[0].get(gguf.Keys.Rope.DIMENSION_COUNT.format(arch=writer.arch))
    if rotated and not rotated.value:
        raise FormatError(f"{config.path} rotates nothing of a head", "correct partial_rotary_factor")
    _check_experts(config, writer)


def _check_experts(config: Config, writer: gguf.GGUFWriter) -> None:
    keys = gguf.Keys.LLM
    counts = (keys.EXPERT_COUNT, keys.EXPERT_USED_COUNT, keys.EXPERT_GROUP_COUNT, keys.EXPERT_GROUP_USED_COUNT)
    entries = (writer.kv_data[0].get(key.format(arch=writer.arch)) for key in counts)
    experts, used, groups, groups_used = (entry.value if entry else 0 for entry in entries)
    sound = not used and not groups
    if experts:
        sound = 0 < used <= experts <= MAX_EXPERTS and groups < experts
    if experts and groups > 1:
        sound = sound and experts % groups == 0 and 0 < groups_used < groups
    if not sound:
        of_groups = f" in {groups} groups, of which {groups_used} count" if groups > 1 else ""
        raise FormatError(f"{config.path} chooses {used} of {experts} experts{of_groups}", "correct the file")


def file_type(writer: gguf.GGUFWriter) -> None:
    """The place of the file type among the keys; its value is put in for every target."""
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
