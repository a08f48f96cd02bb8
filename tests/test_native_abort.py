"""Crashes of the engine's: one line, status 1, and what was said is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.native import abort

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")


def test_a_file_that_shrinks_while_it_is_mapped(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    """As when a download starts over in the place of the model."""
    model, session = tmp_path / "model.gguf", tmp_path / "session.json"
    shutil.copy(demo_gguf("f16"), model)
    child = subprocess.Popen(
        [sys.executable, "-m", "ggufrun", "chat", model, "-i", "-n", "4", "-c", "256", "--session", session],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("你好\n")
    child.stdin.flush()
    # the answer is written, and kept, before the next line is read
    child.stdout.readline()
    while not session.exists():
        assert child.poll() is None
    os.truncate(model, 4096)
    _, said = child.communicate("再见\n", timeout=60)
    assert child.returncode == 1
    lines = said.splitlines()
    assert lines[-1].startswith("ggufrun: the model's file became shorter while it was in use")
    assert f"--session {session}" in lines[-1] and "Traceback" not in said
    kept = json.loads(session.read_text())
    assert "你好" in json.dumps(kept, ensure_ascii=False)


CRASH = """
import ctypes, sys
from ggufrun.cli.terminal.abort import guarded
with guarded(lambda: "the words are kept"):
    getattr(ctypes.CDLL(None), "raise")(int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", abort.CRASHES)
def test_other_crashes(number: signal.Signals) -> None:
    if abort._runtime() is None:
        pytest.skip("another C++ library")
    done = subprocess.run([sys.executable, "-c", CRASH, str(int(number))], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.endswith("; the words are kept\n")
    assert number is signal.SIGBUS or f"the engine crashed ({number.name})" in done.stderr


def test_a_broken_invariant_is_an_error(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    """llama.cpp asserts that there are no more layers than it has room for; checks of ours are left out here."""
    from ggufrun.checkpoint.gguf.file import Header, Kind, encode, serialize
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.engine.model import Model, ModelParams
    from ggufrun.errors import EngineError

    if abort._runtime() is None:
        pytest.skip("another C++ library")
    good = demo_gguf("f16")
    header, path = read_header(good), tmp_path / "layers.gguf"
    many = Header(dict(header.metadata) | {"llama.block_count": encode(4000, Kind.UINT32)}, header.tensors)
    path.write_bytes(serialize(many) + good.read_bytes()[header.data_start :])
    with pytest.raises(EngineError, match=r"cannot be loaded: .*: src/llama-model\.cpp:\d+: GGML_ASSERT") as failure:
        Model(ModelParams(path))
    assert "damaged" in str(failure.value) and str(Path.home()) not in str(failure.value)
    # and the engine is as it was
    Model(ModelParams(good)).close()
