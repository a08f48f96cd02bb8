"""Stores of other programs, laid out as these programs lay them out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def ollama(folder: Path, name: str, gguf: bytes, **more: str) -> Path:
    """``HOST/NAMESPACE/NAME/TAG`` under ``manifests`` with the layers that ``ollama pull`` writes; the GGUF's blob."""
    blobs = folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)

    def layer(kind: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / f"sha256-{digest}").write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    config = {"model_format": "gguf", "model_family": "llama", "file_type": "Q4_K_M", "architecture": "amd64"}
    layers = [layer("application/vnd.ollama.image.model", gguf)]
    layers += [layer(f"application/vnd.ollama.image.{kind}", text.encode()) for kind, text in more.items()]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer("application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
        "layers": layers,
    }
    path = folder / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return blobs / f"sha256-{hashlib.sha256(gguf).hexdigest()}"


def hub_cache(folder: Path, repo: str, files: dict[str, bytes]) -> Path:
    """A repository in the cache of ``huggingface_hub``, its content in ``blobs``; the snapshot."""
    base = folder / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / COMMIT
    for part in (base / "blobs", base / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        (base / "blobs" / digest).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    return snapshot
