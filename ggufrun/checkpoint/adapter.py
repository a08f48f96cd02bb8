"""A PEFT LoRA adapter folder: ``adapter_config.json`` and its tensors, sorted into what each does to a base tensor.

Source of names and formulas: peft's ``LoraConfig``, ``tuners/lora`` and ``utils/save_and_load``. Settings that change
what merging means, and that are not implemented, are refused, and so is anything not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.folder import FolderSource
from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.checkpoint.patterns import matches_end
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

HARMLESS = frozenset(
    (
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
        "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config",
        "megatron_config", "megatron_core", "merge_weights", "modules_to_save", "peft_type", "peft_version",
        "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
        "use_dora", "use_rslora",
    )
)  # fmt: skip
"""Settings that are understood here, or that only matter for training. Any other one must be off."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to start training that alter the base weights: such an adapter does not belong to the original base."""


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter folder and a factor on everything it adds."""

    path: Path
    scale: float = 1.0


def parse_request(text: str) -> AdapterRequest:
    """``DIR`` or ``DIR=SCALE``; UsageError for a scale that is no number."""
    if Path(text).exists() or "=" not in text:
        return AdapterRequest(Path(text))
    folder, _, number = text.rpartition("=")
    try:
        scale = float(number)
    except ValueError:
        scale = float("nan")
    if not abs(scale) < float("inf"):
        raise UsageError(f"--lora {text} has no number behind the =", "write DIR or DIR=SCALE, such as DIR=0.5")
    return AdapterRequest(Path(folder), scale)


@dataclass
class Delta:
    """A low-rank change of one weight: ``scale`` times ``b`` times ``a``.

    ``a`` has the shape (r, in) and ``b`` (out, r). ``transposed`` says that the weight is stored as (in, out), as
    embeddings and GPT-2's layers are. ``magnitude`` is DoRA's length of each output row.
    """

    module: str
    a: Tensor | None = None
    b: Tensor | None = None
    b_bias: Tensor | None = None
    magnitude: Tensor | None = None
    transposed: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Adapter:
    """What an adapter does: ``deltas`` by the name of the module, ``whole`` tensors by that of what they replace.

    ``frozen`` names the whole ones below a low-rank change, which training did not touch; peft stores them with an
    embedding because the vocabulary may have grown.
    """

    path: Path
    source: Source
    deltas: Mapping[str, Delta] = field(default_factory=dict)
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder brings a vocabulary of its own."""
        return any((self.path / name).is_file() for name in TOKENIZERS)


class Settings:
    """adapter_config.json, strictly."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "adapter_config.json"
        self.values = read_object(self.path)
        kind = self.values.get("peft_type")
        if kind != "LORA":
            raise UnsupportedError(f"{folder} is a {str(kind)[:40]} adapter", "only LoRA adapters can be merged")
        for key, value in self.values.items():
            if key not in HARMLESS and value not in (None, False, "", 0) and value != [] and value != {}:
                raise UnsupportedError(
                    f"{self.path} says {key[:40]} = {str(value)[:40]}, which this release does not know",
                    "merge it with peft and convert the result",
                )
        start = self.values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
            raise UnsupportedError(
                f"{folder} was trained from a {start[:20]} start, which alters the base weights",
                "convert it with peft (path_initial_model_for_weight_conversion), or merge it there",
            )
        self.fan_in_fan_out = self._flag("fan_in_fan_out")
        self.dora = self._flag("use_dora")
        self.rank = self._number(self.values.get("r"), "r")
        self.alpha = self._number(self.values.get("lora_alpha"), "lora_alpha")
        self._root = self._flag("use_rslora")
        self._ranks, self._alphas = self._pattern("rank_pattern"), self._pattern("alpha_pattern")

    def scale(self, module: str, rank: int) -> float:
        """The factor on a module's change; FormatError if ``rank``, that of its tensors, is not what the file says."""
        said = self._matching(self._ranks, module, self.rank)
        if said != rank:
            raise FormatError(f"{module} has rank {rank}, {self.path} says {said:g}", "the file belongs elsewhere")
        alpha = self._matching(self._alphas, module, self.alpha)
        return alpha / (sqrt(rank) if self._root else rank)

    def _matching(self, patterns: Mapping[str, float], module: str, default: float) -> float:
        return next((value for pattern, value in patterns.items() if matches_end(pattern, module)), default)

    def _pattern(self, key: str) -> dict[str, float]:
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self._bad(key)
        return {pattern: self._number(number, key) for pattern, number in value.items()}

    def _flag(self, key: str) -> bool:
        value = self.values.get(key) or False
        if not isinstance(value, bool):
            raise self._bad(key)
        return value

    def _number(self, value: Any, key: str) -> float:
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise self._bad(key)
        return float(value)

    def _bad(self, key: str) -> FormatError:
        return FormatError(f"{self.path} says {key} = {str(self.values.get(key))[:40]}", "download it again")


def open_adapter(request: AdapterRequest) -> tuple[Adapter, Settings]:
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
        raise NotFoundError(f"{folder} has no adapter_model.safetensors or adapter_model.bin", "download it again")
    try:
        deltas, whole = _sorted(settings, source.tensors)
        for delta in deltas.values():
            delta.scale *= request.scale
        if request.scale != 1 and whole:
            raise UsageError(
                f"{folder} holds whole tensors such as {next(iter(whole))}, which cannot be scaled",
                "merge it without a scale",
            )
        frozen = frozenset(name for name in whole if f"{PREFIX}{_inside(name)}" in source.tensors)
        return Adapter(folder, source, deltas, whole, frozen), settings
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


def _inside(name: str) -> str:
    """Where peft keeps a weight below its own."""
    module, _, part = name.rpartition(".")
    return f"{module}.base_layer.{part}"


WRAPPERS = (".base_layer", ".modules_to_save")
"""Where peft keeps a whole module inside its own."""


def _sorted(settings: Settings, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Delta], dict[str, Tensor]]:
    deltas: dict[str, Delta] = {}
    whole: dict[str, Tensor] = {}
    folder = settings.path.parent
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX) or tensor.dtype not in FLOATS or not tensor.n_values:
            raise UnsupportedError(
                f"{folder} holds {name[:80]}, which is no tensor of an adapter", "merge it with peft"
            )
        if name.endswith(".rotary_emb.inv_freq"):
            # a table that adapters of 2023 carry
            continue
        inner = name.removeprefix(PREFIX)
        ending = next((ending for ending in ROLES if inner.endswith(ending)), None)
        if ending is not None:
            module = inner.removesuffix(ending)
            delta = deltas.setdefault(module, Delta(module, transposed=settings.fan_in_fan_out))
            if getattr(delta, ROLES[ending]) is not None:
                raise FormatError(f"{folder} holds {name[:80]} in two forms", "download it again")
            setattr(delta, ROLES[ending], tensor)
            if "lora_embedding" in ending:
                delta.transposed = True
            continue
        module, _, part = inner.rpartition(".")
        for wrapper in WRAPPERS:
            module = module.removesuffix(wrapper)
        if part not in ("weight", "bias") or "lora_" in inner or f"{module}.{part}" in whole:
            raise UnsupportedError(
                f"{folder} holds {name[:80]}, which this release does not know", "merge it with peft"
            )
        whole[f"{module}.{part}"] = tensor
    for delta in deltas.values():
        _complete(settings, delta)
    if not deltas and not whole:
        raise FormatError(f"{folder} holds no tensors", "download it again")
    return deltas, whole


def _complete(settings: Settings, delta: Delta) -> None:
    a, b = delta.a, delta.b
    if a is None or b is None:
        raise FormatError(f"{settings.path.parent} holds only half of {delta.module}", "download it again")
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise UnsupportedError(f"{delta.module} is a convolution or has experts", "merge it with peft")
    if a.shape[0] != b.shape[1]:
        raise FormatError(f"{delta.module} has ranks {a.shape[0]} and {b.shape[1]}", "download it again")
    if settings.dora != (delta.magnitude is not None):
        raise FormatError(f"{settings.path} and the tensors of {delta.module} disagree about DoRA", "download it again")
    delta.scale = settings.scale(delta.module, a.shape[0])


def check_names(folder: Path, names: Sequence[str], known: Mapping[str, Tensor]) -> None:
    """Refuse an adapter that changes what the base does not have."""
    lost = [name for name in names if name not in known]
    if lost:
        hint = "untie its embeddings first" if lost[0] == "lm_head.weight" else "it was trained for another model"
        raise FormatError(f"the base has no {lost[0]}, which {folder} changes ({len(lost)} such)", hint)
