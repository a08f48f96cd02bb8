"""The examples of docs/python.md run, in their order, in one process, and print what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.checkpoints import ROOT
from tests.support.poems import POEMS

PRINTED = [
    *POEMS["静夜思"].splitlines(),
    *POEMS["登鹳雀楼"].splitlines(),
    "['line']",
    "明月",
    "明月",
    *POEMS["登鹳雀楼"].splitlines(),
    *POEMS["登鹳雀楼"].splitlines(),
    "['user', 'assistant']",
    "[('tang-poet-F16.gguf', 'F16', ",
    "tang-poet-Q8_0.gguf 8.52",
    "llama",
    "2",
]
"""The lines, or how they begin."""


def test_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.M | re.S)
    assert len(blocks) >= 5
    (tmp_path / "models").symlink_to(ROOT / "models")
    make = "import ggufrun\nggufrun.convert('models/tang-poet', 'q4_k_m', 'build/demo')\n"
    (tmp_path / "build" / "demo").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", make + "\n".join(blocks)],
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, PRINTED, strict=True)] == PRINTED
