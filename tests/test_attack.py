"""The attack on the engine, for a few seconds; and what its checks must let through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.checks import check_model
from ggufrun.checkpoint.gguf.file import Header, Kind, TensorInfo, Value, encode
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from tests.attack.found import FOUND

GOLDEN = Path(__file__).parent / "golden" / "families"


def attack(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.attack", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_what_was_found_stays_mended() -> None:
    done = attack("--found")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("ok: ") == len(FOUND)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_some_cases_and_that_the_judge_can_say_no() -> None:
    done = attack("--seed", "7", "--cases", "40", "--jobs", "1", "--seconds", "1000")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.startswith("attack: 40 cases") and "refused" in done.stdout and "ran" in done.stdout


def value(found: object) -> Value:
    """A value as a golden file has it, of the type that GGUFs give it."""
    if isinstance(found, list):
        return encode(found, Kind.ARRAY)
    kind = {bool: Kind.BOOL, int: Kind.UINT32, float: Kind.FLOAT32, str: Kind.STRING}[type(found)]
    return encode(found, kind)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_files_of_every_family_are_let_through(path: Path) -> None:
    """As llama.cpp's own converter writes them."""
    for name, case in json.loads(path.read_text()).get("cases", {}).items():
        metadata = {key: value(found) for key, found in case["metadata"].items()}
        tensors = tuple(
            TensorInfo(tensor, tuple(map(int, shape.split("x"))), TensorType[kind], 0)
            for tensor, (kind, shape, _) in case["tensors"].items()
        )
        assert tensors and metadata
        check_model(Path(name), Header(metadata, tensors))
