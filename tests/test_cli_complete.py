"""Plain continuation: what goes in, what comes out, and nothing else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.chat.formats.prompt import AffixPrompt
from ggufrun.cli import app
from ggufrun.cli.terminal import console
from tests.conftest import Oracle
from tests.support import llamacpp
from tests.support.checkpoints import ROOT
from tests.support.poems import POEMS

POEM = POEMS["静夜思"] + "\n"
END = "[end of text]"
START, REST = POEM[:5], POEM[5:]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(demo_gguf: Callable[[str], Path]) -> str:
    return str(demo_gguf("q8_0"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``ggufrun complete ...`` in this process: status, stdout, stderr."""

    def call(*args: str, stdin: bytes = b"") -> tuple[int, str, str]:
        console.err.cache_clear()
        console.out.cache_clear()
        monkeypatch.setattr(sys, "argv", ["ggufrun", "complete", *args, "-t", "1"])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit:
            app.main()
        assert isinstance(exit.value.code, int)
        return (exit.value.code, *capfd.readouterr())

    return call


def test_a_text_goes_on(run: Run, model: str, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(START + "\n", encoding="utf-8")
    greedy = ("--temp", "0")
    assert run(model, "-p", START, *greedy) == (0, REST, "")
    assert run("-m", model, "-f", str(prompt), *greedy) == (0, REST, "")
    assert run(model, *greedy, stdin=prompt.read_bytes()) == (0, REST, "")
    assert run(model, "-p", START, "--echo", *greedy) == (0, POEM, "")
    # What -p says is the whole text: a script's own stdin is left alone.
    assert run(model, "-p", START, *greedy, stdin=b"other text") == (0, REST, "")
    assert run(model, "-p", START, "-r", "举头", *greedy) == (0, "，疑是地上霜。\n", "")
    assert run(model, "-p", START, "-n", "1", *greedy)[1].strip() in REST
    assert run(model, "-p", START, "-n", "0", *greedy) == (0, "", "")


def test_guessing_ahead_changes_nothing(run: Run, model: str, demo_gguf: Callable[[str], Path]) -> None:
    greedy, small = ("--temp", "0", "-c", "512"), str(demo_gguf("q4_k_m"))
    for guesser in (("--lookup",), ("-md", small), ("-md", small, "--draft-max", "4")):
        assert run(model, "-p", START, *guesser, *greedy) == (0, REST, "")
    status, out, err = run(model, "-p", START, "--lookup", "-md", small, *greedy)
    assert (status, out) == (2, "") and "give one of them" in err
    status, out, err = run(model, "-p", START, "-md", "missing.gguf", *greedy)
    assert (status, out) == (1, "") and "missing.gguf" in err and err.count("\n") == 1


def test_without_a_limit_the_context_is_the_limit(run: Run, model: str) -> None:
    status, out, _ = run(model, "-p", START, "--ignore-eos", "-c", "256", "--temp", "0")
    assert status == 0 and out.startswith(REST.rstrip()) and len(out) < 256 * 8


def test_every_space_counts(demo_gguf: Callable[[str], Path]) -> None:
    from ggufrun.chat.formats.plain import PlainPrompt

    assert issubclass(PlainPrompt, AffixPrompt) and not PlainPrompt.strip_space and not PlainPrompt.keep_stop


def test_mistakes_are_one_line(run: Run, model: str) -> None:
    for args, stdin, status, words in (
        ((model,), b"", 2, "empty"),
        ((), b"text", 2, "no model"),
        ((model, "-p", "a", "-f", "b"), b"", 2, "give one of them"),
        (("-m", model, model, "-p", "a"), b"", 2, "twice"),
        ((model, "-p", "春" * 600, "-c", "256"), b"", 1, "the context has 256"),
        (("missing.gguf", "-p", "a"), b"", 1, "no such file"),
    ):
        found, out, err = run(*args, stdin=stdin)
        assert (found, out) == (status, "") and words in err and err.count("\n") == 1


def test_flags_of_a_conversation_are_refused(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0 and "--top-k" in out and "--style" not in out and "--once" not in out
    assert run("m.gguf", "--style", "alpaca")[0] == 2


def test_a_pipe_in_the_plainest_of_locales(model: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ggufrun", "complete", model, "--temp", "0", "-t", "1"],
        input=START.encode(),
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": ""},
        check=True,
    )
    assert (done.stdout.decode(), done.stderr) == (REST, b"")


def test_fresh_answers(oracle: Oracle, run: Run, model: str) -> None:
    """llama.cpp's own program continues in the same words."""
    for text in ("春眠", "The", "<s>白日依山尽", "李白 "):
        flags = ["-m", model, "-no-cnv", "-p", text, "--temp", "0", "-n", "40", "-t", "1", "--no-display-prompt"]
        command = [str(oracle.binaries / "llama-completion"), *flags, "--no-warmup", "--simple-io"]
        said = llamacpp.run(*command)[0]
        ours = run(model, "-p", text, "--temp", "0", "-n", "40")[1]
        assert ours.strip() == said.replace(END, "").strip()
