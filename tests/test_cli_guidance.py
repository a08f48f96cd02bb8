"""``--cfg-scale``: what goes together and what does not, and that it reaches the answers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.cli import app
from ggufrun.cli.terminal import console


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    def call(*arguments: str, stdin: str = "") -> tuple[object, str, str]:
        console.err.cache_clear()
        console.out.cache_clear()
        monkeypatch.setattr(sys, "argv", ["ggufrun", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as exit:
            app.main()
        return exit.value.code, *capfd.readouterr()

    return call


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg-negative-prompt", "x"], "add --cfg-scale"),
        (["--cfg-scale", "nan"], "--cfg-scale is nan"),
        (["--cfg-scale", "1e9"], "--cfg-scale is"),
        (["--cfg-scale", "2", "--lookup"], "do not go together"),
        (["--cfg-scale", "2", "--cfg-negative-prompt", "x", "--cfg-negative-prompt-file", "x"], "given twice"),
        (["--cfg-scale", "2", "--cfg-negative-prompt-file", "none.txt"], "no such file"),
    ],
)
def test_what_does_not_go_together(
    run: Callable[..., tuple[object, str, str]], demo_gguf: Callable[[str], Path], flags: list[str], words: str
) -> None:
    code, out, err = run("chat", str(demo_gguf("q8_0")), "hello", *flags)
    assert code in (1, 2) and out == "" and words in err and "Traceback" not in err


def test_it_reaches_the_answer(run: Callable[..., tuple[object, str, str]], demo_gguf: Callable[[str], Path]) -> None:
    model = str(demo_gguf("q8_0"))
    plain = run("complete", model, "-p", "月", "--temp", "0", "-n", "20")
    same = run("complete", model, "-p", "月", "--temp", "0", "-n", "20", "--cfg-scale", "1")
    flags = ["--cfg-scale", "4", "--cfg-negative-prompt"]
    guided = run("complete", model, "-p", "月", "--temp", "0", "-n", "20", *flags, "月落")
    assert plain == same and guided[0] == 0 and guided[1] != plain[1]
    talk = run("chat", model, "-i", "--temp", "0", *flags, "你是诗人", stdin="背一下静夜思\n作者是谁？\n")
    assert talk[0] == 0 and "床前明月光" in talk[1]
