"""Models that do not continue text are told of in one line, where llama.cpp would end the process by an assertion."""

from __future__ import annotations

from pathlib import Path

import pytest

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
