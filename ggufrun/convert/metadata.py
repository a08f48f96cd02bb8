"""The ``general.*`` keys: name, size, licence, languages, as the model card and the folder's name tell.

The ``gguf`` package's ``Metadata`` does the guessing, as in llama.cpp's own converter.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import gguf
import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.errors import FormatError


def add_general(
    folder: Path,
    writer: gguf.GGUFWriter,
    tensors: Iterable[Tensor],
    name: str | None,
    kind: str = gguf.GGUFType.MODEL,
) -> None:
    """Write them, in the order of llama.cpp's converter. ``kind`` is a model or an adapter."""
    for tensor in tensors:
        # only counted: the type and size given here end up nowhere
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), 4 * tensor.n_values)
    total, shared, expert, n_expert = writer.get_total_parameter_count()
    path = folder.resolve()
    try:
        found = gguf.Metadata.load(None, path, name, total)
        generation = gguf.Metadata.load_generation_config(path)
        if hub_name := _hub_name(path):
            _name_after(found, hub_name, path, name, total)
    except Exception as error:
        # yaml, json and the package's own heuristics raise whatever they like on a damaged model card
        raise FormatError(
            f"the model card or a config file of {folder} makes no sense: {str(error)[:100]}",
            "correct or remove README.md",
        ) from error
    if found.sampling_penalty_repeat is None and generation:
        # the name that transformers uses; the package knows it only from a later release on
        found.sampling_penalty_repeat = generation.get("repetition_penalty")
    if found.name is None:
        found.name = hub_name or path.name
    if found.size_label is None and total > 0:
        found.size_label = gguf.size_label(total, shared, expert, n_expert)
    writer.add_type(kind)
    if kind == gguf.GGUFType.ADAPTER:
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    found.set_gguf_meta_model(writer)


def _hub_name(path: Path) -> str | None:
    """The model's name if ``path`` is in the cache of the hub's client, where folders are called by commits."""
    repo = path.parent.parent.name
    return repo.rpartition("--")[2] if path.parent.name == "snapshots" and repo.startswith("models--") else None


def _name_after(found: gguf.Metadata, folder_name: str, path: Path, name: str | None, total: int) -> None:
    """Guess again what ``Metadata`` guesses from a folder's name, as if the folder had that name."""
    card, config = gguf.Metadata.load_model_card(path), gguf.Metadata.load_hf_parameters(path)
    guess = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, config, Path(folder_name), total)
    for field in ("name", "organization", "basename", "finetune", "version", "size_label"):
        setattr(found, field, getattr(guess, field))
    if name is not None:
        found.name = name
