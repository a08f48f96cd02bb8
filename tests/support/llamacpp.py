"""llama.cpp's own tools, run so that nothing of what they print is lost (`wholelog.c` says why it would be)."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


@cache
def environment() -> dict[str, str]:
    """The variables that a tool is run with."""
    if sys.platform != "linux":
        return {}
    folder = tempfile.TemporaryDirectory(prefix="ggufrun-wholelog-")
    atexit.register(folder.cleanup)
    library = Path(folder.name) / "wholelog.so"
    source = Path(__file__).with_name("wholelog.c")
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def run(*command: object, typed: bytes = b"") -> tuple[str, str]:
    """What a tool prints, on stdout and on stderr, given ``typed`` on stdin.

    UTF-8 that is cut up is left out of the first and marked in the second. CalledProcessError where the tool fails.
    """
    done = subprocess.run(
        [str(part) for part in command],
        input=typed,
        capture_output=True,
        check=True,
        env={**os.environ, **environment()},
        timeout=600,
    )
    return done.stdout.decode("utf-8", "ignore"), done.stderr.decode("utf-8", "replace")
