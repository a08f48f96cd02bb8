"""Installing the wheel into the virtual environment that runs this, and trying it."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.setup.common import SetupError, run, say

PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


BACKEND_NOTE = "engine-backend"
"""A file in the virtual environment: what its engine was built for, so that a later `make setup` does not undo it."""


def install(wheel: Path, key: str, environment: Path, libraries: tuple[str, ...] = ()) -> None:
    """Install ``wheel`` into the virtual environment and note its key there, unless that very build is installed.

    ``libraries`` are packages whose libraries the engine uses.
    """
    note = environment / "engine-key"
    if note.is_file() and note.read_text(encoding="utf-8") == key and works():
        return
    note.unlink(missing_ok=True)
    if libraries:
        say(f"engine: installing {' and '.join(name.partition('=')[0] for name in libraries)}")
        if (done := run([*PIP, *libraries])).returncode != 0:
            raise SetupError(f"the libraries it needs could not be installed: {done.stderr.strip()[-500:]}")
    # Its own dependencies come with the project's; here only the wheel counts, whatever version stands there.
    done = run([*PIP, "--no-deps", "--force-reinstall", str(wheel)])
    if done.returncode != 0:
        raise SetupError(f"the engine's wheel could not be installed: {done.stderr.strip()[-500:]}")
    note.write_text(key, encoding="utf-8")


LOAD = """
import ctypes, importlib.util, pathlib, sys
folder = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
names = {"darwin": "libllama.dylib"}
library = ctypes.CDLL(str(folder / names.get(sys.platform, "libllama.so")))
library.llama_backend_init()
"""
"""Loads the engine's library; needs none of the Python packages that its bindings import."""


def works() -> bool:
    """Whether the installed engine loads here; tried in a process of its own, which an illegal instruction may end."""
    return run([sys.executable, "-c", LOAD]).returncode == 0
