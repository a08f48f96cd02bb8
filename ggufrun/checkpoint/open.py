"""A path on disk becomes a Source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ggufrun.checkpoint import meta, quantized
from ggufrun.checkpoint.adapters import merge
from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.folder import open_folder
from ggufrun.checkpoint.safetensors import OTHER_SAFETENSORS, SAFETENSORS
from ggufrun.checkpoint.tensor import Checkpoint
from ggufrun.checkpoint.torchfile import GPTQ_TORCH, TORCH
from ggufrun.checkpoint.wrappers import unwrapped
from ggufrun.errors import NotFoundError, UnsupportedError


def open_checkpoint(
    path: Path, adapters: Sequence[AdapterRequest] = (), is_text: merge.IsText = lambda name: True
) -> Checkpoint:
    """Open a checkpoint folder, with ``adapters`` merged into it in their order.

    What the adapters change of tensors for whose names ``is_text`` is false is left out.

    Raises NotFoundError or UnsupportedError with what to do instead.
    """
    if not path.exists():
        raise NotFoundError(f"no such folder: {path}", "check the path")
    if not path.is_dir():
        hint = "use `ggufrun quantize` for a GGUF" if path.suffix == ".gguf" else "name the folder that holds it"
        raise UnsupportedError(f"{path} is a file, not a checkpoint folder", hint)
    source = _open_weights(path)
    if source is None and (path / "adapter_config.json").is_file():
        hint = f"merge it into its base: ggufrun convert BASE --lora {path}"
        raise NotFoundError(f"{path} is a LoRA adapter, not a whole model", hint)
    if source is None:
        raise NotFoundError(
            f"{path} holds no model*.safetensors, pytorch_model*.bin or consolidated.*.pth",
            "name the folder that holds config.json and the weights",
        )
    try:
        return merge.merged(quantized.dequantized(unwrapped(source)), adapters, is_text)
    except BaseException:
        source.close()
        raise


def _open_weights(path: Path) -> Checkpoint | None:
    """The weights of the first kind that the folder has; None if there are none."""
    for kind in (SAFETENSORS, TORCH):
        source = open_folder(path, kind)
        if source is not None:
            return source
    by_meta = meta.open_folder(path)
    return by_meta or open_folder(path, OTHER_SAFETENSORS) or open_folder(path, GPTQ_TORCH)
