"""A PEFT LoRA adapter folder: its tensors, sorted into what each does to a tensor of the base.

Source of names and formulas: peft's ``tuners/lora``, ``tuners/trainable_tokens`` and ``utils/save_and_load``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ggufrun.checkpoint.adapters.config import AGAIN, MERGE_WITH_PEFT, Settings
from ggufrun.checkpoint.folder import FolderSource
from ggufrun.checkpoint.safetensors import SAFETENSORS
from ggufrun.checkpoint.tensor import Source, Tensor
from ggufrun.checkpoint.torchfile import TORCH
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError, UsageError

PREFIX = "base_model.model."
FLOATS = ("F32", "F16", "BF16", "F64")
TOKENIZERS = (
    "tokenizer.model",
    "tokenizer.json",
    "qwen.tiktoken",
    "hy.tiktoken",
    "tiktoken.model",
    "tekken.json",
    "vocab.json",
)
"""Files of which each is a vocabulary."""


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter folder and a factor on everything it adds."""

    path: Path
    scale: float = 1.0


def split_request(text: str) -> tuple[str, float]:
    """``ADAPTER`` or ``ADAPTER=SCALE`` as name and factor; UsageError for a scale that is not a number."""
    if Path(text).exists() or "=" not in text:
        return text, 1.0
    name, _, number = text.rpartition("=")
    try:
        scale = float(number)
    except ValueError:
        scale = float("nan")
    if not abs(scale) < float("inf"):
        raise UsageError(f"--lora {text} has no number after the =", "write DIR or DIR=SCALE, such as DIR=0.5")
    return name, scale


@dataclass(frozen=True)
class Delta:
    """A low-rank change of one weight: the scale of ``settings`` times ``b`` times ``a``.

    ``a`` has the shape (r, in) and ``b`` (out, r); of a parameter that holds several experts, (experts * r, in) and
    (out, r * experts). ``depth`` tells several parameters of one module apart: the last one wrapped has 0.
    ``transposed`` says that the weight is stored as (in, out), as embeddings and GPT-2's layers are. ``magnitude`` is
    DoRA's length of each output row.
    """

    module: str
    a: Tensor
    b: Tensor
    b_bias: Tensor | None = None
    magnitude: Tensor | None = None
    transposed: bool = False
    depth: int = 0


@dataclass(frozen=True)
class TokenRows:
    """New rows of an embedding (or output matrix): row ``k`` of ``rows`` is that of token ``tokens[k]``."""

    module: str
    tokens: tuple[int, ...]
    rows: Tensor


@dataclass(frozen=True)
class Adapter:
    """What an adapter does: ``deltas`` and ``tokens`` by module, ``whole`` tensors by the name of what they replace.

    ``frozen`` names the whole ones that training did not touch: peft stores them below a change of an embedding,
    because the vocabulary may have grown. ``originals`` are what a whole one was trained from, where it is stored.
    """

    path: Path
    source: Source
    settings: Settings
    factor: float = 1.0
    deltas: Mapping[str, tuple[Delta, ...]] = field(default_factory=dict)
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    originals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder brings a vocabulary of its own."""
        return any((self.path / name).is_file() for name in TOKENIZERS)

    def scale(self, name: str, rank: int) -> float:
        """The factor on the change of a module or parameter ``name``, whose matrices have ``rank``; FormatError."""
        return self.settings.scale(name, rank) * self.factor


def changed_twice(adapter: Path, tensor: str, one: str, other: str) -> FormatError:
    """The error for an adapter that changes ``tensor`` of the base under two names: which of them counts is unknown."""
    return FormatError(
        f"{adapter} changes {tensor[:120]} twice, as {one[:120]} and as {other[:120]}",
        "keep the change that was trained, and leave the other out",
    )


def open_adapter(request: AdapterRequest) -> Adapter:
    """Open an adapter folder; its ``source`` is to be closed."""
    folder = request.path
    if not folder.is_dir():
        raise NotFoundError(f"no such adapter folder: {folder}", "check the path")
    settings = Settings(folder)
    source: Source
    if (folder / "adapter_model.safetensors").is_file():
        source = FolderSource(folder, [folder / "adapter_model.safetensors"], SAFETENSORS)
    elif (folder / "adapter_model.bin").is_file():
        source = FolderSource(folder, [folder / "adapter_model.bin"], TORCH)
    else:
        raise NotFoundError(f"{folder} has no adapter_model.safetensors or adapter_model.bin", AGAIN)
    try:
        adapter = _Sorter(folder, settings).sorted(source, request.scale)
        fixed = next(iter([*adapter.whole, *adapter.tokens]), None)
        if request.scale != 1 and fixed is not None:
            raise UsageError(
                f"{folder} replaces values of the base, such as {fixed}, which cannot be scaled",
                "merge it without a scale",
            )
        return adapter
    except BaseException:
        source.close()
        raise


ROLES = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "b_bias",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
"""Endings of the tensors that make up a low-rank change."""

TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"

TRAINING_ONLY = re.compile(r".*(\.rotary_emb\.inv_freq|\.lora_velora_embed|\.lora_monteclora_sampler\..*)")
"""Names of what adapters carry without a meaning here: a table of 2023, what VeLoRA compresses gradients with, and what
MonteCLoRA draws noise from while it trains."""

FORMS = ("", ".modules_to_save", ".token_adapter.base_layer", ".base_layer")
"""What a whole module may lie in, within its own: the first one there counts. The last two are the base's own."""
FROZEN_FORMS = FORMS[2:]
ORIGINAL = ".original_module"
TOGETHER = {"", ".modules_to_save"}
"""Forms that peft stores side by side, with the same values."""

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What compiling and sharding put into names."""


class _Sorter:
    """The tensors of one adapter by what they do."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._parts: dict[str, dict[str, Tensor]] = {}
        self._embeddings: set[str] = set()
        self._tokens: dict[str, TokenRows] = {}
        self._forms: dict[str, dict[str, Tensor]] = {}

    def sorted(self, source: Source, factor: float) -> Adapter:
        spelled: dict[str, str] = {}
        for name, tensor in source.tensors.items():
            clean = name
            for wrapper in WRAPPERS:
                clean = clean.replace(wrapper, "")
            if clean in spelled:
                raise changed_twice(self._folder, clean.removeprefix(PREFIX), spelled[clean], name)
            spelled[clean] = name
            if not clean.startswith(PREFIX) or tensor.dtype not in FLOATS or not tensor.n_values:
                raise UnsupportedError(
                    f"{self._folder} holds {name[:80]}, which is not a tensor of a LoRA adapter", MERGE_WITH_PEFT
                )
            if not TRAINING_ONLY.fullmatch(clean):
                self._add(clean.removeprefix(PREFIX), tensor)
        deltas: dict[str, list[Delta]] = {}
        for key, parts in self._parts.items():
            delta = self._delta(key, parts)
            deltas.setdefault(delta.module, []).append(delta)
        whole, frozen, originals = self._whole()
        if not deltas and not whole and not self._tokens:
            raise FormatError(f"{self._folder} holds no tensors", AGAIN)
        return Adapter(
            self._folder,
            source,
            self._settings,
            factor,
            {module: tuple(sorted(found, key=lambda delta: delta.depth)) for module, found in deltas.items()},
            self._tokens,
            whole,
            frozen,
            originals,
        )

    def _add(self, name: str, tensor: Tensor) -> None:
        ending = next((ending for ending in ROLES if name.endswith(ending)), None)
        if ending is not None:
            module = name.removesuffix(ending)
            parts = self._parts.setdefault(module, {})
            if ROLES[ending] in parts:
                raise FormatError(f"{self._folder} holds {tensor.name[:80]} in two forms", AGAIN)
            parts[ROLES[ending]] = tensor
            if "lora_embedding" in ending:
                self._embeddings.add(module)
        elif name.endswith(TOKEN_ROWS):
            module = name.removesuffix(TOKEN_ROWS)
            numbers = self._settings.token_numbers(module)
            if len(tensor.shape) != 2 or tensor.shape[0] != len(numbers):
                raise FormatError(
                    f"{tensor.name[:80]} is {tensor.shape}, {self._settings.path} lists {len(numbers)} tokens", AGAIN
                )
            self._tokens[module] = TokenRows(module, tuple(numbers), tensor)
        else:
            module, _, part = name.rpartition(".")
            if part not in ("weight", "bias") or "lora_" in name:
                raise UnsupportedError(
                    f"{self._folder} holds {tensor.name[:80]}, which this release does not know", MERGE_WITH_PEFT
                )
            form = next((form for form in (*FORMS[1:], ORIGINAL) if module.endswith(form)), "")
            self._forms.setdefault(f"{module.removesuffix(form)}.{part}", {})[form] = tensor

    def _delta(self, key: str, parts: Mapping[str, Tensor]) -> Delta:
        module = key
        while module.endswith(".base_layer"):
            module = module.removesuffix(".base_layer")
        a, b, magnitude = parts.get("a"), parts.get("b"), parts.get("magnitude")
        if a is None or b is None:
            raise FormatError(f"{self._folder} holds only half of the change of {module}", AGAIN)
        if self._settings.dora != (magnitude is not None):
            raise FormatError(f"{self._settings.path} and the tensors of {module} disagree about DoRA", AGAIN)
        embedding = key in self._embeddings
        depth = (len(key) - len(module)) // len(".base_layer")
        transposed = embedding or self._settings.fan_in_fan_out
        return Delta(module, a, b, parts.get("b_bias"), magnitude, transposed, depth)

    def _whole(self) -> tuple[dict[str, Tensor], frozenset[str], dict[str, Tensor]]:
        whole: dict[str, Tensor] = {}
        frozen: set[str] = set()
        originals: dict[str, Tensor] = {}
        for name, forms in self._forms.items():
            original = forms.pop(ORIGINAL, None)
            if original is not None:
                originals[name] = original
            if not forms:
                continue
            if len(forms) > 1 and set(forms) != TOGETHER:
                raise FormatError(f"{self._folder} holds {name[:80]} in two forms", AGAIN)
            form = next(form for form in FORMS if form in forms)
            whole[name] = forms[form]
            if form in FROZEN_FORMS:
                frozen.add(name)
        return whole, frozenset(frozen), originals
