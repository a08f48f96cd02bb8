"""llama.cpp's server: where it is, and whether it belongs to the engine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import NotFoundError

PACKAGE = "ggufrun_server"
NAME = "llama-server"
TODO = "`make server` in a clone of the repository builds it, or install the wheel ggufrun-server next to the engine's"


@dataclass(frozen=True)
class Tried:
    """What a trial of the server showed: its version as it tells it, or what is wrong."""

    path: str
    version: str = ""
    error: str = ""


def executable() -> Path:
    """The installed server. Raises NotFoundError."""
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / NAME
        if os.access(path, os.X_OK):
            return path
    raise NotFoundError("llama.cpp's server is not installed", TODO)


def try_out() -> Tried | None:
    """Start it for its version, which loads the engine's libraries; None where it is not installed."""
    try:
        path = executable()
    except NotFoundError:
        return None
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tried(str(path), error=str(error))
    said = (done.stderr + done.stdout).strip().splitlines()
    if done.returncode != 0:
        return Tried(str(path), error=said[-1] if said else f"it ended with status {done.returncode}")
    version = next((line for line in said if line.startswith("version")), said[0] if said else "")
    return Tried(str(path), version.removeprefix("version:").strip())
