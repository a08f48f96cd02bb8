"""A path on disk becomes a Source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ggufrun.checkpoint import lora, meta, quantized
from ggufrun.checkpoint.adapter import AdapterRequest
from ggufrun.checkpoint.folder import open_folder
from ggufrun.checkpoint.safetensors import SAFETENSORS
from ggufrun.checkpoint.tensor import Checkpoint
from ggufrun.checkpoint.torchfile import TORCH
from ggufrun.checkpoint.wrappers import unwrapped
from ggufrun.errors import NotFoundError, UnsupportedError


def open_checkpoint(path: Path, adapters: Sequence[AdapterRequest] = ()) -> Checkpoint:
    """Open a checkpoint folder, with ``adapters`` merged into it in their order.

    Raises NotFoundError or UnsupportedError with what to do instead.
    """
    if not path.exists():
        raise NotFoundError(f"no such folder: {path}", "check the path")
    if not path.is_dir():
        hint = "use `ggufrun quantize` for a GGUF" if path.suffix == ".gguf" else "name the folder that holds it"
        raise UnsupportedError(f"{path} is a file, not a checkpoint folder", hint)
    source: Checkpoint | None = open_folder(path, SAFETENSORS) or open_folder(path, TORCH) or meta.open_folder(path)
    if source is None and (path / "adapter_config.json").is_file():
        hint = f"merge it into its base: ggufrun convert BASE --lora {path}"
        raise NotFoundError(f"{path} is a LoRA adapter, not a whole model", hint)
    if source is None:
        raise NotFoundError(
            f"{path} holds no model*.safetensors, pytorch_model*.bin or consolidated.*.pth",
            "name the folder that holds config.json and the weights",
        )
    try:
        return lora.merged(quantized.dequantized(unwrapped(source)), adapters)
    except BaseException:
        source.close()
        raise
