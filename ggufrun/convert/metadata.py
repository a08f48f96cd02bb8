"""The ``general.*`` keys: name, size, licence, languages, as the model card and the folder's name tell.

The ``gguf`` package's ``Metadata`` does the guessing, as in llama.cpp's own converter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.modelcard import read_model_card
from ggufrun.errors import FormatError

SAMPLING: dict[str, str] = {
    "sampling_sequence": "sequence",
    "sampling_top_k": "top_k",
    "sampling_top_p": "top_p",
    "sampling_min_p": "min_p",
    "sampling_xtc_probability": "xtc_probability",
    "sampling_xtc_threshold": "xtc_threshold",
    "sampling_temp": "temperature",
    "sampling_penalty_last_n": "penalty_last_n",
    "sampling_penalty_repeat": "penalty_repeat",
    "sampling_mirostat": "mirostat",
    "sampling_mirostat_tau": "mirostat_tau",
    "sampling_mirostat_eta": "mirostat_eta",
}
"""Fields of the package's ``Metadata``, and the keys of generation_config.json that they are taken from."""


PHI3 = "phi3"
PHI3_TOKENS = frozenset((b"<unk>", b"<s>", b"</s>", b"<|endoftext|>"))
"""Tokens without which llama.cpp cannot load a model that it takes for a Phi-3 by its name."""


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
    card, config, generation = read_model_card(path), _config(path), _generation(path)
    try:
        found = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, config, path, total)
        for field, key in SAMPLING.items():
            if key in generation:
                setattr(found, field, generation[key])
        if hub_name := _hub_name(path):
            _name_after(found, hub_name, card, config, total)
    except Exception as error:
        # the package's own heuristics raise whatever they like on a damaged model card
        raise FormatError(
            f"the model card or a config file of {folder} makes no sense: {str(error)[:100]}",
            "correct or remove README.md",
        ) from error
    if name is not None:
        found.name = name
    if found.sampling_penalty_repeat is None:
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


def rename_if_misread(writer: gguf.GGUFWriter) -> tuple[str, ...]:
    """Give a model another spelling of its name where llama.cpp would take it for one of another family, and treat the
    special tokens as that family's: it looks for these names, and ends with an error where their tokens are missing.

    Returns a note if it does.
    """
    keys = writer.kv_data[0]
    entry = keys.get(gguf.Keys.General.NAME)
    if entry is None:
        return ()
    name, tokens = str(entry.value), keys.get(gguf.Keys.Tokenizer.LIST)
    own = writer.arch == PHI3 and tokens is not None and {_bytes(token) for token in tokens.value} >= PHI3_TOKENS
    spelled = name if own else re.sub("(?i)(phi)-?3", r"\1 3", name)
    spelled = re.sub("(?i)(modern)-(bert)", r"\1 \2", spelled)
    if spelled == name:
        return ()
    entry.value = spelled
    return (
        f"the name in the GGUF is {spelled!r}: llama.cpp would treat the special tokens of a model called {name!r} "
        "as another family's",
    )


def _bytes(token: bytes | str) -> bytes:
    return token.encode() if isinstance(token, str) else token


def _hub_name(path: Path) -> str | None:
    """The model's name if ``path`` is in the cache of the hub's client, where folders are called by commits."""
    repo = path.parent.parent.name
    return repo.rpartition("--")[2] if path.parent.name == "snapshots" and repo.startswith("models--") else None


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_object(path) if path.is_file() else {}


def _generation(folder: Path) -> dict[str, Any]:
    """generation_config.json; empty where there is none, or none that is sound, as not every published one is."""
    path = folder / "generation_config.json"
    try:
        return read_object(path) if path.is_file() else {}
    except FormatError:
        return {}


def _name_after(found: gguf.Metadata, folder_name: str, card: Any, config: Any, total: int) -> None:
    """Guess again what ``Metadata`` guesses from a folder's name, as if the folder had that name."""
    guess = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, config, Path(folder_name), total)
    for field in ("name", "organization", "basename", "finetune", "version", "size_label"):
        setattr(found, field, getattr(guess, field))
