"""Hyper-parameters that would make llama.cpp abort the process, refused before it sees them.

llama.cpp throws for most of what it cannot use, and that becomes an error. For these it has assertions
(``llama_model_base::load_hparams`` of the pinned release and the families in ``src/models``) or divides by them, and a
process that aborts explains nothing.
"""

from __future__ import annotations

import re
from math import inf, isnan
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.gguf.file import Header, Kind
from ggufrun.checkpoint.gguf.header import AGAIN
from ggufrun.checkpoint.gguf.uses import INDEXER, check_layers, check_types, layers_of
from ggufrun.checkpoint.gguf.vocab import check_vocabulary
from ggufrun.errors import FormatError

MAX_LAYERS, MAX_EXPERTS = 512, 1024
"""``LLAMA_MAX_LAYERS`` and ``LLAMA_MAX_EXPERTS``."""

WITHOUT_HEADS = ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7")
"""Architectures without attention, whose files say 0 heads: ``llm_arch_is_recurrent``."""

SCALINGS = ("none", "linear", "yarn", "longrope")
"""What ``rope.scaling.type`` may be."""


MAMBA2 = (
    "mamba2", "falcon-h1", "granitehybrid", "nemotron_h", "nemotron_h_moe", "plamo2", "qwen3next", "qwen35",
    "qwen35moe",
)  # fmt: skip
DIVISORS: dict[str, tuple[str, ...]] = {
    "full_attention_interval": (),
    "shortconv.l_cache": (),
    "interleave_moe_layer_step": ("ernie4_5-moe",),
    "ssm.group_count": MAMBA2,
    "ssm.time_step_rank": MAMBA2,
}
"""What is divided by, or counted down from, and in which architectures (none named: in all that have the key)."""

HYBRID = (
    "bailingmoe3", "deepseek4", "falcon-h1", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2",
    "lfm2moe", "minimax-01", "nemotron_h", "nemotron_h_moe", "plamo2", "qwen35", "qwen35moe", "qwen3next", "qwen4exp",
)  # fmt: skip
"""Architectures that also have layers without attention, whose heads a list says are 0: ``llm_arch_is_hybrid``."""

USED: tuple[tuple[str, frozenset[str], tuple[str, ...]], ...] = (
    ("attention.head_count", frozenset({"attn_q.weight", "attn_qkv.weight", "attn_q_b.weight"}), HYBRID),
    ("attention.head_count_kv", frozenset({"attn_k.weight", "attn_kv_b.weight", "attn_k_b.weight"}), HYBRID),
    ("expert_used_count", frozenset({"ffn_down_exps.weight"}), ()),
)
"""Lists of a number a layer, the tensors with which a layer has one, and architectures that keep to other rules."""

DEEPSTACK = ("qwen3vl", "qwen3vlmoe")
"""Architectures that add what is seen once more in their first layers."""

MOST: dict[str, int] = {
    "embedding_length": 1 << 20,
    "feed_forward_length": 1 << 24,
    "expert_feed_forward_length": 1 << 24,
    "attention.head_count": 1 << 14,
    "attention.head_count_kv": 1 << 14,
    "attention.key_length": 1 << 14,
    "attention.value_length": 1 << 14,
    "attention.key_length_swa": 1 << 14,
    "attention.value_length_swa": 1 << 14,
    "attention.sliding_window": 1 << 30,
    "context_length": (1 << 31) - 1,
    "rope.dimension_sections": 1 << 14,
    "kda.head_dim": 1 << 14,
    "wkv.head_size": 1 << 14,
    "token_shift_count": 1 << 8,
    "ssm.conv_kernel": 1 << 10,
    "ssm.inner_size": 1 << 18,
    "ssm.state_size": 1 << 14,
    "ssm.group_count": 1 << 14,
    "ssm.time_step_rank": 1 << 18,
    "vocab_size": 1 << 24,
}
"""Sizes beyond those of any model, with which llama.cpp would compute the memory that it takes."""

POSITIVE = re.compile(r"rope\.freq_base(_swa)?")
NOT_NEGATIVE = re.compile(r".*(norm(_rms)?|group_norm)_epsilon|rope\.scaling\.(factor|attn_factor)|rope\.scale_linear")
"""Numbers whose logarithm or root is taken, or that divide: above zero, or not below it. Neither is infinite."""

ROTATED = (
    ("rope.dimension_count", "attention.key_length"),
    ("rope.dimension_count_swa", "attention.key_length_swa"),
)
"""How many values of a head are rotated by position, and of how many."""

SECTIONED = (
    "paddleocr", "qwen2vl", "qwen35", "qwen35moe", "qwen3tts", "qwen3vl", "qwen3vlmoe", "qwen4exp",
)  # fmt: skip
"""Architectures whose positions have several parts, each of which rotates a share of a head's values."""

NO_MODELS = {
    "adapter": ("a LoRA adapter", "give it with --lora, next to its model"),
    "imatrix": ("an importance matrix", "pass it with --imatrix, with a model"),
    "mmproj": ("the part of a model that sees or hears", "name the GGUF with the rest; ggufrun reads text only"),
}
"""Other things that a GGUF may hold, by its ``general.type``; and what to do with them."""


def kind_of(header: Header) -> str:
    """``model``, or one of `NO_MODELS`, or whatever else the file calls itself."""
    # files that see or hear had no type of their own at first
    return "mmproj" if header.architecture == "clip" else str(header.get("general.type", "model"))


def check_is_model(path: Path, header: Header) -> None:
    """FormatError for a GGUF of a known kind that is no model."""
    if kind_of(header) in NO_MODELS:
        what, todo = NO_MODELS[kind_of(header)]
        raise FormatError(f"{path.name} is {what}, not a model", todo)


def check_model(path: Path, header: Header) -> None:
    """FormatError for a file that llama.cpp cannot live with: no model's, or one that would end the process, never end,
    or take memory without bound. What llama.cpp refuses by itself is left to it.
    """
    check_hyperparameters(path, header)
    check_types(path, header.tensors)
    check_layers(path, header.architecture, header.tensors)
    _check_lists(path, header)
    check_vocabulary(path, header)


def _check_lists(path: Path, header: Header) -> None:
    """No list says 0 for a layer that has the tensors for more: llama.cpp divides by what it says."""
    arch, layers = header.architecture, layers_of(header.tensors)

    def found(key: str) -> list[Any]:
        value = header.get(f"{arch}.{key}")
        return value if isinstance(value, list) else []

    for key, names, others in USED:
        counts = found(key)
        for number, count in enumerate(counts):
            # values that belong to no layer have to be those that it expects of the first layer
            first = key == "expert_used_count" and number == 0 and any(counts)
            has = first or names & layers.get(number, set())
            if count == 0 and has and arch not in others:
                raise FormatError(f"{path.name} says {key} = 0 for layer {number}, which has some", AGAIN)
    if arch == "glm-dsa" and layers:
        full = found("attention.indexer.types")
        if not full and header.get(f"{arch}.context_length", 0) < GLM_5_2_CONTEXT:
            full = [True] * (max(layers) + 1 - _count(header, "nextn_predict_layers"))
        lacking = [number for number, one in enumerate(full) if one and INDEXER[0] not in layers.get(number, set())]
        # others use what the first has found
        if lacking or (full and not full[0]):
            layer = (lacking or [0])[0]
            raise FormatError(f"{path.name} has no blk.{layer}.{INDEXER[0]}, which this layer needs", AGAIN)


def _check_positions(path: Path, header: Header) -> None:
    """MPT weighs distances or has learned positions. llama.cpp looks learned ones up wherever there are any, and takes
    a model that says it weighs distances for one without a longest text.
    """
    bias = header.get("mpt.attention.max_alibi_bias", 0.0)
    if header.architecture == "mpt" and bias and any(one.name == LEARNED_POSITIONS for one in header.tensors):
        raise FormatError(f"{path.name} has {LEARNED_POSITIONS} and says attention.max_alibi_bias = {bias}", AGAIN)


LEARNED_POSITIONS = "position_embd.weight"

GLM_5_2_CONTEXT = 1 << 20
"""Tokens from which on llama.cpp takes a GLM-DSA for one whose layers do not all have an indexer."""


def _count(header: Header, key: str) -> int:
    value = header.get(f"{header.architecture}.{key}", 0)
    return value if isinstance(value, int) else 0


def _check_floats(path: Path, header: Header) -> None:
    """No number of the architecture is NaN, and those that a root or a logarithm is taken of are where they may be."""
    prefix = f"{header.architecture}."
    for key, value in header.metadata.items():
        if not key.startswith(prefix) or value.kind is Kind.STRING:
            continue
        name = key.removeprefix(prefix)
        found = value.decode()
        for number in found if isinstance(found, list) else [found]:
            if not isinstance(number, float):
                break
            positive, not_negative = POSITIVE.fullmatch(name), NOT_NEGATIVE.fullmatch(name)
            wrong = (positive and not 0 < number < inf) or (not_negative and not 0 <= number < inf)
            if isnan(number) or wrong:
                raise FormatError(f"{path.name} says {name} = {number}, which makes no sense", AGAIN)


def check_hyperparameters(path: Path, header: Header) -> None:
    """FormatError for a header that is no model's, or would abort llama.cpp."""
    check_is_model(path, header)
    arch = header.architecture
    if not arch:
        kind = header.get("general.type")
        if kind in (None, "model"):
            raise FormatError(f"{path.name} names no architecture", AGAIN)
        raise FormatError(f"{path.name} holds no model, it is of the type {str(kind)[:60]}", "name the GGUF of a model")

    def numbers(key: str, default: int) -> list[int]:
        """A whole number, or one a layer."""
        value: Any = header.get(f"{arch}.{key}", default)
        found = value if isinstance(value, list) else [value]
        if not found or any(type(item) is not int or item < 0 for item in found):
            raise FormatError(f"{path.name} says {key} = {str(value)[:60]}", AGAIN)
        return found

    def refuse(key: str, value: object) -> None:
        raise FormatError(f"{path.name} says {key} = {value}, which makes no sense with the rest", AGAIN)

    _check_floats(path, header)
    for key, most in MOST.items():
        if (found := max(numbers(key, 0))) > most:
            refuse(key, found)
    heads = [count for count in numbers("attention.head_count", 0) if count]
    width = max(numbers("embedding_length", 0)) // min(heads) if heads else 0
    for key, whole in ROTATED:
        # of heads that only a window has, as many values are rotated as of the others, unless a key says it
        implied = f"{arch}.{whole}" in header.metadata and whole != "attention.key_length"
        if not heads or not (implied or f"{arch}.{key}" in header.metadata):
            continue
        others = max(numbers("attention.key_length", width))
        size = max(numbers(whole, others))
        for rotated in numbers(key, max(numbers("rope.dimension_count", others))):
            # in pairs; and of none llama.cpp never comes to an end
            if rotated % 2 or rotated > size or not rotated:
                refuse(key, rotated)
    if arch in SECTIONED and not any(numbers("rope.dimension_sections", 0)[:3]):
        refuse("rope.dimension_sections", numbers("rope.dimension_sections", 0))
    _check_positions(path, header)
    sections = numbers("rope.dimension_sections", 0)
    # one number counts for each of the four
    if heads and sum(sections) * (4 if len(sections) == 1 else 1) > max(numbers("attention.key_length", width)):
        refuse("rope.dimension_sections", sections)
    if header.tensors:
        # without the key llama.cpp throws, for it may not know the architecture either
        layers = max(numbers("block_count", 1))
        if not 0 < layers <= MAX_LAYERS:
            refuse("block_count", layers)
        # llama.cpp asks for no more of these than layers, and divides by how many others there are
        if max(numbers("nextn_predict_layers", 0)) >= layers:
            refuse("nextn_predict_layers", numbers("nextn_predict_layers", 0)[0])
    experts, used = max(numbers("expert_count", 0)), max(numbers("expert_used_count", 0))
    groups, groups_used = max(numbers("expert_group_count", 0)), max(numbers("expert_group_used_count", 0))
    if experts > MAX_EXPERTS:
        refuse("expert_count", experts)
    if used > experts or (experts and not used):
        refuse("expert_used_count", used)
    if groups and (groups >= experts or experts % groups or (groups > 1 and not 0 < groups_used < groups)):
        refuse("expert_group_count", groups)
    for key in ("embedding_length", "attention.head_count"):
        none = f"{arch}.{key}" in header.metadata and max(numbers(key, 1)) == 0
        if none and not (key == "attention.head_count" and arch in WITHOUT_HEADS):
            refuse(key, 0)
    for key, archs in DIVISORS.items():
        if (not archs or arch in archs) and f"{arch}.{key}" in header.metadata and 0 in numbers(key, 1):
            refuse(key, 0)
    pattern = header.get(f"{arch}.attention.sliding_window_pattern")
    window = arch == "olmo2" and max(numbers("attention.sliding_window", 0))
    if window and isinstance(pattern, list) and not any(pattern):
        # a window is taken for one that some layer has
        refuse("attention.sliding_window_pattern", "no layer")
    if arch in DEEPSTACK and max(numbers("n_deepstack_layers", 0)) >= max(numbers("block_count", 1)):
        # the last layer computes fewer tokens than are to be added
        refuse("n_deepstack_layers", max(numbers("n_deepstack_layers", 0)))
    scaling = header.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in SCALINGS:
        refuse("rope.scaling.type", scaling)
