"""Commands in a pipe: with -i a line that is one is carried out, not sent to the model."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.cli import app
from ggufrun.cli.terminal import console
from tests.support.poems import POEMS

POEM = POEMS["静夜思"]
Talk = Callable[..., tuple[int, str, str]]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], demo_gguf: Callable[[str], Path]) -> Talk:
    """Status, stdout and stderr of a conversation whose lines come through a pipe."""

    def call(*lines: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        console.err.cache_clear()
        console.out.cache_clear()
        data = "".join(f"{line}\n" for line in lines).encode()
        arguments = ["ggufrun", "chat", str(demo_gguf("q8_0")), "-i", "--temp", "0", "-t", "1", *flags]
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as exit:
            app.main()
        out, err = capfd.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, out, err

    return call


def questions(path: Path) -> list[str]:
    return [turn["user"] for turn in json.loads(path.read_bytes())["turns"]]


def test_commands_are_carried_out(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    status, out, err = talk("作者是谁？", "/clear", "背一下静夜思", "/stats", flags=("--session", str(file)))
    assert status == 0 and out.endswith(POEM + "\n") and questions(file) == ["背一下静夜思"]
    assert "the conversation starts" in err and "tokens" in err


def test_answers_of_commands_are_on_stdout(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    (tmp_path / "question.txt").write_text("背一下静夜思")
    lines = (f"/read {tmp_path / 'question.txt'}", "/undo", "hello", "/edit 背一下静夜思", "/regen", "/exit", "春")
    status, out, _ = talk(*lines, flags=("--session", str(file), "-n", "30"))
    assert status == 0 and out.count(POEM) == 3 and questions(file) == ["背一下静夜思"]


def test_what_only_looks_like_one_is_a_message(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    lines = ("/etc/hosts", "/clearly not", "//clear", "/ clear")
    assert talk(*lines, flags=("--session", str(file), "-n", "1"))[0] == 0
    assert questions(file) == ["/etc/hosts", "/clearly not", "/clear", "/ clear"]


def test_commands_that_need_a_terminal_say_so(talk: Talk) -> None:
    status, out, err = talk("背一下静夜思", "/edit", "/copy", "/model other")
    assert (status, out) == (0, POEM + "\n")
    assert [line for line in err.splitlines() if "needs a terminal" in line] == [
        f"/{name} needs a terminal" for name in ("edit", "copy", "model")
    ]


def test_as_in_llama_cpp_every_line_is_a_message(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    flags = ("--session", str(file), "-n", "1", "--compat", "--in-prefix", "", "--in-suffix", "")
    assert talk("/clear", "//x", flags=flags)[0] == 0
    assert questions(file)[-2:] == ["/clear", "//x"]
