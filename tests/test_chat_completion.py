"""The same flags, the same ids, the same words as ``llama-completion``: shifted contexts, samplers, grammars."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggufrun.cli import app
from ggufrun.cli.terminal import console
from tests.conftest import Oracle
from tests.oracles import chat_oracle, completion_oracle


def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model: Path, name: str, folder: Path
) -> dict[str, Any]:
    """``ggufrun chat`` with the flags of a case, in this process."""
    flags, typed = completion_oracle.flags_of(name, folder), completion_oracle.CASES[name][1]
    console.err.cache_clear()
    console.out.cache_clear()
    arguments = ["-m", str(model), *flags, "-t", "1", "--show-tokens", "-no-cnv", "--no-escape"]
    monkeypatch.setattr(sys, "argv", ["ggufrun", "chat", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join([*typed, ""]).encode())))
    with pytest.raises(SystemExit) as exit:
        app.main()
    out, err = capfd.readouterr()
    assert exit.value.code == 0, err
    fed = [[int(token) for token in line.split()] for line in re.findall(r"^fed: (.*)$", err, re.MULTILINE)]
    # The oracle does not print the BOS before a later turn.
    return {"fed": [fed[0], *(ids[1:] for ids in fed[1:])], "text": out.strip()}


@pytest.mark.parametrize("name", completion_oracle.CASES)
def test_as_llama_completion_wrote(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    demo_gguf: Callable[[str], Path],
    tmp_path: Path,
    name: str,
) -> None:
    golden = chat_oracle.read("completion.json")[name]
    assert run(monkeypatch, capfd, demo_gguf("q8_0"), name, tmp_path) == golden


@pytest.mark.parametrize("name", completion_oracle.CASES)
def test_as_llama_completion_writes_today(
    oracle: Oracle, demo_gguf: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    flags, typed = completion_oracle.flags_of(name, tmp_path), completion_oracle.CASES[name][1]
    answer = completion_oracle.record(oracle.binaries / "llama-completion", demo_gguf("q8_0"), flags, typed)
    assert answer == chat_oracle.read("completion.json")[name]
