"""Names of tensors that were saved through a wrapper around the model, brought back to the model's own.

``torch.compile``, DataParallel and FSDP, activation checkpointing, DeepSpeed and peft put a module around the model or
around each of its layers, and a ``state_dict`` taken from outside carries the wrapper's name in every key below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.tensor import Checkpoint, Tensor
from ggufrun.errors import FormatError, UnsupportedError

ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module")
"""Modules of wrappers around a whole model or single layers; no model has a module of its own with such a name."""

PEFT = "base_model.model"
OUTSIDE = ("module", "_forward_module", PEFT)
"""Modules around a whole model. A name counts as a wrapper's only where every tensor begins with it."""

UNMERGED = (".lora_A.", ".lora_B.", ".lora_embedding_A.", ".lora_embedding_B.", ".modules_to_save.")
"""What peft adds to the names of tensors that are not the base's."""


@dataclass(frozen=True)
class UnwrappedSource:
    """A checkpoint whose tensors have lost the names of wrappers."""

    source: Checkpoint
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The folder."""
        return self.source.path

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the checkpoint."""
        return self.source.files

    @property
    def overrides(self) -> Mapping[str, Any]:
        """Those of the checkpoint."""
        return self.source.overrides

    @property
    def tokenizer(self) -> Path:
        """That of the checkpoint."""
        return self.source.tokenizer

    @property
    def least_tokens(self) -> int:
        """That of the checkpoint."""
        return self.source.least_tokens

    def close(self) -> None:
        """Close the files."""
        self.source.close()


def unwrapped(source: Checkpoint) -> Checkpoint:
    """The checkpoint under the model's own names, with a note; itself where no wrapper has left its name.

    FormatError where two names become one, UnsupportedError for a LoRA adapter that is not merged.
    """
    names, wrappers = plain_names(tuple(source.tensors))
    if not wrappers:
        return source
    unmerged = next((name for name in names.values() if any(part in name for part in UNMERGED)), None)
    if unmerged:
        raise UnsupportedError(
            f"{source.path} holds a LoRA adapter that is not merged into its base ({unmerged})",
            "save what peft's merge_and_unload() returns, or the base and the adapter in folders of their own",
        )
    tensors: dict[str, Tensor] = {}
    for old, new in names.items():
        if new in tensors:
            first = next(name for name in names if names[name] == new)
            raise FormatError(f"{source.path} holds {new} twice, as {first} and as {old}", "remove the stray file")
        tensors[new] = replace(source.tensors[old], name=new)
    if list(names) == sorted(names):
        # the order of a file whose tensors are sorted by name
        tensors = dict(sorted(tensors.items()))
    note = f"the names of the tensors are read without {', '.join(wrappers)}, left there by a wrapper around the model"
    return UnwrappedSource(source, tensors, (*source.notes, note))


def plain_names(names: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """Each name without wrappers, and the wrappers that were found."""
    found = {name: name for name in names}
    wrappers = [part for part in ANYWHERE if any(part in name.split(".") for name in names)]
    if wrappers:
        found = {name: ".".join(part for part in name.split(".") if part not in wrappers) for name in names}
    while outside := next((part for part in OUTSIDE if names and _all_begin(found, f"{part}.")), None):
        wrappers.append(outside)
        found = {old: new.removeprefix(f"{outside}.") for old, new in found.items()}
        if outside == PEFT:
            found = {old: new.replace(".base_layer.", ".") for old, new in found.items()}
    return found, list(dict.fromkeys(wrappers))


def _all_begin(names: Mapping[str, str], start: str) -> bool:
    return all(name.startswith(start) for name in names.values())
