"""What every part of the setup uses: its error, running a program quietly, one line of talk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

PACKAGE = "llama-cpp-python"


class SetupError(Exception):
    """Something the user can act on; the message is the one line that is printed."""


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run quietly, in a plain locale so that messages can be read."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"error: {error}")


def say(text: str) -> None:
    """One line of talk."""
    print(text, file=sys.stderr, flush=True)
