"""``adapter_config.json`` of a PEFT LoRA adapter, read strictly.

Every setting is either understood, or only matters while training, or must be off: an adapter whose merge would mean
something else is refused with the reason. Source: peft's ``LoraConfig`` (0.21) and ms-swift's additions to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.checkpoint.patterns import matches_end
from ggufrun.errors import FormatError, UnsupportedError

HARMLESS = frozenset(
    (
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
        "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_dtype",
        "lora_ga_config", "lorap_emb_lr", "lorap_lr_ratio", "megatron_config", "megatron_core", "merge_weights",
        "model_key_mapping", "modules_to_save", "monteclora_config", "peft_type", "peft_version", "qalora_group_size",
        "r", "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters", "task_type",
        "trainable_token_indices", "use_dora", "use_rslora", "velora_config",
    )
)  # fmt: skip
"""Settings that are understood here, or that only matter for training. Any other one must be off."""

NOT_MERGEABLE = {
    "alora_invocation_tokens": "acts only on what follows its invocation tokens (aLoRA)",
    "arrow_config": "chooses between several adapters for every token (Arrow)",
    "use_qalora": "pools what goes into its matrices (QA-LoRA)",
}
"""Settings by which an adapter is not a change of weights; peft does not merge these either."""

MERGED_BY_PEFT = {
    "kasa_config": "truncates the base weights before it changes them (KaSA)",
    "layer_replication": "repeats layers of the base",
    "use_bdlora": "keeps its matrices in blocks (BD-LoRA)",
}
"""Settings by which it is another change than a low-rank matrix that is added."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to start training that alter the base weights: such an adapter does not belong to the original base."""

MERGE_WITH_PEFT = "merge it with peft and convert the result"
AGAIN = "download it again"


class Settings:
    """adapter_config.json, strictly."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "adapter_config.json"
        self.values = read_object(self.path)
        self._refuse_other_kinds(folder)
        self.fan_in_fan_out = self._flag("fan_in_fan_out")
        self.dora = self._flag("use_dora")
        self.rank = self._number(self.values.get("r"), "r")
        self.alpha = self._number(self.values.get("lora_alpha"), "lora_alpha")
        self.saved_modules = self._names("modules_to_save")
        self.parameters = self._names("target_parameters")
        self._root = self._flag("use_rslora")
        self._ranks, self._alphas = self._pattern("rank_pattern"), self._pattern("alpha_pattern")

    def _refuse_other_kinds(self, folder: Path) -> None:
        kind = self.values.get("peft_type")
        if kind != "LORA":
            raise UnsupportedError(
                f"{folder} is an adapter of the kind {str(kind)[:40]}", "only LoRA adapters can be merged"
            )
        for key, value in self.values.items():
            if key in HARMLESS or value in (None, False, "", 0) or value == [] or value == {}:
                continue
            if key in NOT_MERGEABLE:
                raise UnsupportedError(f"{folder} {NOT_MERGEABLE[key]}, which no merge can express", "use it with peft")
            if key in MERGED_BY_PEFT:
                raise UnsupportedError(f"{folder} {MERGED_BY_PEFT[key]}", MERGE_WITH_PEFT)
            raise UnsupportedError(
                f"{self.path} says {key[:40]} = {str(value)[:40]}, which this release does not know", MERGE_WITH_PEFT
            )
        start = self.values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
            raise UnsupportedError(
                f"{folder} was trained from a {start[:20]} start, which alters the base weights",
                "convert it with peft (path_initial_model_for_weight_conversion), or merge it there",
            )

    @property
    def version(self) -> tuple[int, ...]:
        """Of the peft that wrote it, such as (0, 21, 2); () for one before 0.18, which did not say."""
        text = self.values.get("peft_version")
        numbers = text.split("+")[0].split("@")[0].split(".") if isinstance(text, str) else []
        found: list[int] = []
        for number in numbers[:3]:
            digits = number[: len(number) - len(number.lstrip("0123456789"))]
            found.append(int(digits[:6]) if digits else 0)
        return tuple(found)

    def scale(self, name: str, rank: int) -> float:
        """The factor on the change of a module, or of a parameter; FormatError if its rank is not what the file says.

        ``rank`` is that of the tensors.
        """
        said = self._matching(self._ranks, name, self.rank)
        if said != rank:
            raise FormatError(
                f"{name} has rank {rank}, {self.path} says {said:g}", "the file belongs to another adapter"
            )
        alpha = self._matching(self._alphas, name, self.alpha)
        return alpha / (sqrt(rank) if self._root else rank)

    def saves(self, module: str) -> bool:
        """Whether ``modules_to_save`` names the module: whether it was trained as a whole, apart from the base's."""
        return ends_with_any(module, self.saved_modules)

    def token_numbers(self, module: str) -> list[int]:
        """The tokens whose rows of an embedding ``trainable_token_indices`` replaces, in the order of the rows."""
        found = self.values.get("trainable_token_indices")
        if isinstance(found, dict):
            found = next((numbers for key, numbers in found.items() if ends_with_any(module, [key])), None)
        if not isinstance(found, list) or not all(type(number) is int and 0 <= number < 1 << 31 for number in found):
            raise FormatError(f"{self.path} does not say which tokens' rows of {module} it changes", AGAIN)
        return found

    def _matching(self, patterns: Mapping[str, float], name: str, default: float) -> float:
        return next((value for pattern, value in patterns.items() if matches_end(pattern, name)), default)

    def _pattern(self, key: str) -> dict[str, float]:
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self._bad(key)
        return {pattern: self._number(number, key) for pattern, number in value.items()}

    def _names(self, key: str) -> list[str]:
        value = self.values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise self._bad(key)
        return value

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
        return FormatError(f"{self.path} says {key} = {str(self.values.get(key))[:40]}", AGAIN)


def ends_with_any(name: str, ends: Sequence[str]) -> bool:
    """Whether ``name`` is one of ``ends``, or ends with one after a dot: peft's rule for names that are no patterns."""
    return any(name == end or name.endswith(f".{end}") for end in ends)
