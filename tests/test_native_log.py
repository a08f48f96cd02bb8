"""llama.cpp's log: kept for the call that it belongs to, whoever else listens."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ggufrun.engine.model import Model, ModelParams
from ggufrun.errors import EngineError
from ggufrun.native import log
from ggufrun.native.bindings import bindings
from ggufrun.native.structures import LogCallback


@pytest.fixture(autouse=True)
def _fresh() -> None:
    log.forget_log()


def test_the_first_error_is_the_reason() -> None:
    log.write(log.WARN, "llama_x: careful\n")
    log.write(log.ERROR, "llama_x: the disk is full\n")
    log.write(log.ERROR, "llama_y: that failed\n")
    assert log.reason("unknown") == "the disk is full"
    assert log.warnings() == ["llama_x: careful"]
    log.forget_log()
    assert log.reason("unknown") == "unknown" and not log.warnings()


def test_a_continued_line_belongs_to_the_one_before() -> None:
    log.write(log.ERROR, "f_x: first ")
    log.write(log.CONTINUED, "and last\n")
    log.write(2, "only information ")
    log.write(log.CONTINUED, "and more of it\n")
    assert log.errors() == ["f_x: first and last"] == log.last_errors()


def test_threads_do_not_hear_one_another() -> None:
    heard = {}

    def work() -> None:
        log.write(log.ERROR, "f_x: of the other thread\n")
        heard["other"] = log.reason("none")

    log.write(log.ERROR, "f_x: of this thread\n")
    with log.captured_log() as pieces:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert (heard["other"], log.reason("none"), pieces) == ("of the other thread", "of this thread", [])
    # what belongs to the end of the process may come from any thread
    assert log.last_errors() == ["f_x: of this thread", "f_x: of the other thread"]


def test_captures_within_captures() -> None:
    with log.captured_log() as outer:
        log.write(2, "one\n")
        with log.captured_log() as inner:
            log.write(2, "two\n")
        log.write(2, "three\n")
    log.write(2, "four\n")
    assert (outer, inner) == (["one\n", "two\n", "three\n"], ["two\n"])


def test_somebody_elses_listener_does_not_take_a_reason_away(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF, but no more")
    stolen: list[str] = []
    thief = LogCallback(lambda level, text, data: stolen.append(text.decode()))
    bindings().llama_log_set(thief, None)
    with pytest.raises(EngineError, match=r"cannot be loaded: (?!llama\.cpp gave no reason)"):
        Model(ModelParams(bad))
    assert not stolen


PACKAGE = """
import pathlib, sys
from ggufrun.engine.model import Model, ModelParams
from ggufrun.errors import EngineError
from ggufrun.native.library import llama
llama()
import llama_cpp
try:
    Model(ModelParams(pathlib.Path(sys.argv[1])))
except EngineError as error:
    print(error.what)
"""


def test_the_package_imported_by_others_does_not_either(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF, but no more")
    done = subprocess.run([sys.executable, "-c", PACKAGE, bad], capture_output=True, text=True, check=True)
    assert "gave no reason" not in done.stdout and "cannot be loaded" in done.stdout and not done.stderr
