"""Models that Ollama, LM Studio, the hub's client and llama.cpp keep on this machine; and the current folder.

Only files are read; none of these programs has to be installed. Where they keep their models:
https://docs.ollama.com/faq, https://lmstudio.ai/docs/app/basics/import-model,
https://huggingface.co/docs/huggingface_hub/guides/manage-cache and llama.cpp's ``LLAMA_CACHE``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufrun import jsontext
from ggufrun.errors import GgufrunError
from ggufrun.hub.scan import LocalModel, scan
from ggufrun.regularfile import read_bytes, read_text

VARIABLE = "GGUFRUN_STORES"
"""The stores to look into, by key with commas between them; ``none`` for none of them. Default: all."""

MAX_JSON = 1 << 20
"""Bytes of a manifest, of a model's configuration or of a settings file."""

MAX_MANIFESTS = 4096

GGUF_LAYER = "application/vnd.ollama.image.model"
ADAPTER_LAYER = "application/vnd.ollama.image.adapter"

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_TYPE = re.compile(r"[A-Z0-9_]{1,16}")


@dataclass(frozen=True)
class Store:
    """A place where models are. ``folders`` gives its folders, whether they exist or not; ``models`` reads one."""

    key: str
    label: str
    folders: Callable[[], list[Path]]
    models: Callable[[Path], list[LocalModel]]


def models_in_stores() -> Iterator[LocalModel]:
    """The models of all stores, in the order of ``STORES``; a folder that cannot be read has none."""
    asked = os.environ.get(VARIABLE)
    keys = None if asked is None else {key.strip().lower() for key in asked.split(",")}
    for store in STORES:
        if keys is not None and store.key not in keys:
            continue
        for folder in dict.fromkeys(store.folders()):
            try:
                found = store.models(folder) if folder.is_dir() else []
            except (OSError, GgufrunError):
                found = []
            for model in sorted(found, key=lambda model: model.name.lower()):
                yield replace(model, store=store.key)


def label(key: str) -> str:
    """What people call a store."""
    return next((store.label for store in STORES if store.key == key), key)


# --- the current folder -----------------------------------------------------------------------------------------------


def _here() -> list[Path]:
    return [Path()]


def _near(folder: Path) -> list[LocalModel]:
    """GGUF files in the folder itself and in the folders directly below it; a home folder is deep."""
    return [model for model in scan(folder, max_depth=1) if model.is_gguf]


# --- Ollama -----------------------------------------------------------------------------------------------------------


def _ollama() -> list[Path]:
    if named := os.environ.get("OLLAMA_MODELS"):
        return [Path(named).expanduser()]
    # the user's, and that of the service which the installer for Linux sets up
    return [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]


def _from_manifests(folder: Path) -> list[LocalModel]:
    """``manifests/HOST/NAMESPACE/NAME/TAG`` names the blobs that a model consists of, by their SHA-256."""
    found = []
    for count, path in enumerate(sorted((folder / "manifests").glob("*/*/*/*"))):
        if count >= MAX_MANIFESTS:
            break
        host, namespace, name, tag = path.parts[-4:]
        parts = [name] if namespace == "library" else [namespace, name]
        whole = [*([] if host == "registry.ollama.ai" else [host]), *parts]
        if path.is_file() and (blob := _weights(folder, _json(path))):
            kind = _kind(folder, _json(path))
            gone = () if blob.is_file() else (blob.name,)
            found.append(LocalModel(f"{'/'.join(whole)}:{tag}", blob, True, kind, (blob,), gone))
    return found


def _weights(folder: Path, manifest: dict[str, Any]) -> Path | None:
    """The blob that is the GGUF; None for a model that has none, or that is not that GGUF alone."""
    listed = manifest.get("layers")
    layers = [layer for layer in listed if isinstance(layer, dict)] if isinstance(listed, list) else []
    if any(layer.get("mediaType") == ADAPTER_LAYER for layer in layers):
        # the base without its adapter would be another model
        return None
    weights = [layer for layer in layers if layer.get("mediaType") == GGUF_LAYER]
    return _blob(folder, weights[0]) if len(weights) == 1 else None


def _kind(folder: Path, manifest: dict[str, Any]) -> str:
    config = manifest.get("config")
    blob = _blob(folder, config) if isinstance(config, dict) else None
    kind = _json(blob).get("file_type") if blob is not None and blob.is_file() else None
    return kind if isinstance(kind, str) and _TYPE.fullmatch(kind) else ""


def _blob(folder: Path, layer: dict[str, Any]) -> Path | None:
    found = _DIGEST.fullmatch(str(layer.get("digest")))
    return folder / "blobs" / f"sha256-{found[1]}" if found else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = jsontext.parse(read_bytes(path, MAX_JSON))
    except (OSError, ValueError, GgufrunError):
        return {}
    return value if isinstance(value, dict) else {}


# --- LM Studio, llama.cpp ---------------------------------------------------------------------------------------------


def _lm_studio() -> list[Path]:
    """Where its settings say; else ``models`` in its home, which a file may point to."""
    pointer = Path.home() / ".lmstudio-home-pointer"
    homes = [Path.home() / ".lmstudio", Path.home() / ".cache" / "lm-studio"]
    with contextlib.suppress(OSError, GgufrunError):
        homes[:0] = [Path(read_text(pointer, 4096).strip())] if pointer.is_file() else []
    chosen = [_json(home / "settings.json").get("downloadsFolder") for home in homes]
    return [*(Path(one) for one in chosen if isinstance(one, str) and one), *(home / "models" for home in homes)]


def _llama_cpp() -> list[Path]:
    if named := os.environ.get("LLAMA_CACHE"):
        return [Path(named).expanduser()]
    if sys.platform == "darwin":
        return [Path.home() / "Library" / "Caches" / "llama.cpp"]
    return [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama.cpp"]


# --- the hub's client -------------------------------------------------------------------------------------------------


def _hub_cache() -> list[Path]:
    """As ``huggingface_hub`` finds its cache; importing it would take longer than the listing."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(name):
            return [Path(os.path.expandvars(value)).expanduser()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return [Path(os.path.expandvars(os.environ.get("HF_HOME") or cache)).expanduser() / "hub"]


def _from_snapshots(folder: Path) -> list[LocalModel]:
    """``models--ORG--NAME/snapshots/COMMIT``: of each repository the newest branch's, or the youngest."""
    found = []
    for base in sorted(folder.glob("models--*--*")):
        repo = base.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = _snapshot(base)
        for model in scan(snapshot) if snapshot else []:
            is_top = not model.is_gguf and model.path == snapshot
            gone = tuple(path.name for path in model.files if not path.exists())
            name = repo if is_top else f"{repo}/{model.name}"
            found.append(replace(model, name=name, missing=tuple(dict.fromkeys((*model.missing, *gone)))))
    return found


def _snapshot(base: Path) -> Path | None:
    main = base / "refs" / "main"
    try:
        commit = read_text(main, 4096).strip() if main.is_file() else ""
    except (OSError, GgufrunError):
        commit = ""
    if re.fullmatch("[0-9a-f]{40}", commit) and (base / "snapshots" / commit).is_dir():
        return base / "snapshots" / commit
    others = [path for path in (base / "snapshots").glob("*") if path.is_dir()]
    return max(others, key=lambda path: path.stat().st_mtime, default=None)


STORES = (
    Store("here", "the current folder", _here, _near),
    Store("lm-studio", "LM Studio", _lm_studio, scan),
    Store("ollama", "Ollama", _ollama, _from_manifests),
    Store("hub", "the hub's cache", _hub_cache, _from_snapshots),
    Store("llama.cpp", "llama.cpp's cache", _llama_cpp, scan),
)
