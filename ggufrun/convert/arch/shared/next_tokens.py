"""Layers after the last, which predict further tokens ("next-n", "multi-token prediction"), kept in some GGUFs.

Source of the names: ``NEXTN_*`` in llama.cpp's ``gguf-py/gguf/constants.py``; the published package has them for some
families only.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.layout import AHEAD, n_layers
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed

LAYER = re.compile(r"\blayers\.(\d{1,9})\.")
OWN = re.compile(
    r"model\.layers\.(\d{1,9})\.(eh_proj|enorm|hnorm|embed_tokens|shared_head\.head|shared_head\.norm)\.weight"
)


def layers_ahead(config: Config, names: Collection[str] | None, key: str = "num_nextn_predict_layers") -> int:
    """As many layers after the last as ``key`` says, where the checkpoint has any: fine-tuned ones often do not."""
    said = config.integer(key, low=0, high=16) if config.has(key) else 0
    if names is None or not said:
        return said
    numbers = (int(match[1]) for match in map(LAYER.search, names) if match)
    return said if any(number >= n_layers(config) for number in numbers) else 0


def placed(config: Config, tensor: Tensor) -> Tensor:
    """What such a layer has beyond the others, under its GGUF name; any other tensor as it is."""
    match = OWN.fullmatch(tensor.name)
    if match is None or int(match[1]) < n_layers(config):
        return tensor
    return renamed(tensor, f"blk.{match[1]}.nextn.{match[2].replace('.', '_')}.weight")


def ahead_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """The number of layers after the last: as config.json says it, unless they are not there."""
    if config.integer(AHEAD, low=0) or config.values.get("num_nextn_predict_layers") == 0:
        writer.add_nextn_predict_layers(config.integer(AHEAD, low=0))
