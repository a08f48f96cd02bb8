"""A path on disk becomes a Source."""

from __future__ import annotations

from pathlib import Path

from ggufrun.checkpoint import safetensors
from ggufrun.checkpoint.tensor import Source
from ggufrun.errors import NotFoundError, UnsupportedError


def open_checkpoint(path: Path) -> Source:
    """Open a checkpoint folder. Raises NotFoundError or UnsupportedError with what to do instead."""
    if not path.exists():
        raise NotFoundError(f"no such folder: {path}", "check the path")
    if not path.is_dir():
        hint = "use `ggufrun quantize` for a GGUF" if path.suffix == ".gguf" else "name the folder that holds it"
        raise UnsupportedError(f"{path} is a file, not a checkpoint folder", hint)
    source = safetensors.open_folder(path)
    if source is not None:
        return source
    if any(path.glob("pytorch_model*.bin")) or any(path.glob("consolidated*.pth")):
        raise UnsupportedError(
            f"{path} holds PyTorch files, which this release does not read", "save it as safetensors"
        )
    raise NotFoundError(f"{path} holds no model*.safetensors", "name the folder that holds config.json and the weights")
