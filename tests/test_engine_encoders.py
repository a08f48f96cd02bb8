"""Models that do not continue text are told of in one line, where llama.cpp would end the process by an assertion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ggufrun
from ggufrun.checkpoint.gguf.file import Kind
from ggufrun.engine.model import Model, ModelParams
from ggufrun.errors import UnsupportedError
from tests.attack.encoders import ENCODERS
from tests.attack.models import base, with_vocabulary


@pytest.mark.parametrize("architecture", ENCODERS)
def test_encoders(tmp_path: Path, architecture: str) -> None:
    """All of them load: it is not for a broken file that they are refused."""
    with_vocabulary(base(architecture, "F16"), "sentencepiece").write(tmp_path / "model.gguf")
    with pytest.raises(UnsupportedError, match=rf"\({architecture}\) does not continue text"):
        Model(ModelParams(tmp_path / "model.gguf"))


def test_a_decoder_whose_tokens_see_what_follows(tmp_path: Path) -> None:
    for causal in (True, False):
        model = with_vocabulary(base("qwen3", "F16"), "bpe")
        model.set("qwen3.attention.causal", causal, Kind.BOOL)
        model.write(tmp_path / "model.gguf")
        if causal:
            Model(ModelParams(tmp_path / "model.gguf")).close()
        else:
            with pytest.raises(UnsupportedError, match="does not continue text"):
                Model(ModelParams(tmp_path / "model.gguf"))


@pytest.mark.parametrize(("pooling", "word"), [(3, "vectors"), (4, "scores")])
def test_a_decoder_that_makes_something_of_texts(tmp_path: Path, pooling: int, word: str) -> None:
    """It can be measured and calibrated as any other, and has nothing to say."""
    model = with_vocabulary(base("qwen3", "F16"), "bpe")
    model.set("qwen3.pooling_type", pooling, Kind.UINT32)
    path = tmp_path / "model.gguf"
    model.write(path)
    with Model(ModelParams(path)) as opened, pytest.raises(UnsupportedError, match=f"makes {word} of texts"):
        opened.check_talks()
    for command in (["complete", str(path), "-p", "x", "-n", "1"], ["chat", str(path), "x", "-n", "1"]):
        result = subprocess.run(
            [sys.executable, "-m", "ggufrun", *command], capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert f"makes {word} of texts, and does not continue them" in result.stderr
    with pytest.raises(UnsupportedError, match=f"makes {word} of texts"):
        ggufrun.load(path)
