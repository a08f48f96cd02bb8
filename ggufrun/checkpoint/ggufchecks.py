"""Hyper-parameters that would make llama.cpp abort the process, refused before it sees them.

llama.cpp throws for most of what it cannot use, and that becomes an error. For these it has assertions
(``llama_model_base::load_hparams`` of the pinned release and the families in ``src/models``) or divides by them, and a
process that aborts explains nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggufrun.checkpoint.gguffile import Header
from ggufrun.checkpoint.ggufheader import AGAIN
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

DEEPSTACK = ("qwen3vl", "qwen3vlmoe")
"""Architectures that add what is seen once more in their first layers."""

NO_MODELS = {
    "adapter": ("a LoRA adapter", "give it with --lora, beside its model"),
    "imatrix": ("an importance matrix", "pass it with --imatrix, beside a model"),
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
        raise FormatError(f"{path.name} says {key} = {value}, which makes no sense beside the rest", AGAIN)

    if header.tensors:
        # without the key llama.cpp throws, for it may not know the architecture either
        layers = max(numbers("block_count", 1))
        if not 0 < layers <= MAX_LAYERS:
            refuse("block_count", layers)
        if max(numbers("nextn_predict_layers", 0)) > layers:
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
