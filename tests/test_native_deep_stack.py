"""Texts with long runs are cut up on a stack that is large enough, and to the same tokens."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.vocabulary import BPE_TYPE, SHALLOW
from ggufrun.errors import EngineError
from ggufrun.native import deep_stack
from ggufrun.native.deep_stack import stack_for, with_stack
from tests.attack.models import Model as Changed
from tests.attack.models import with_vocabulary
from tests.test_checkpoint_gguf_vocab import header


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a vocabulary that DeepSeek's expression cuts up, and nothing else."""
    path = tmp_path_factory.mktemp("vocabulary") / "deepseek.gguf"
    with_vocabulary(Changed(dict(header("bpe").metadata)), "bpe-deepseek-v3").write(path)
    return path


def test_the_same_tokens(vocabulary: Path) -> None:
    text = "hi there, 静夜思 0xDEADbeef\n" * 20
    with Model(ModelParams(vocabulary, vocab_only=True)) as model:
        assert model.vocab.kind == BPE_TYPE and len(text) > SHALLOW
        assert model.vocab.tokenize(text, special=False) == model.vocab._tokenize(text.encode(), False)


RUN = """
import sys
from pathlib import Path
from ggufrun.engine.model import Model, ModelParams
with Model(ModelParams(Path(sys.argv[1]), vocab_only=True)) as model:
    for text in ("a" * 200_000, "静" * 100_000, " " * 100_000, "!" * 100_000):
        print(len(model.vocab.tokenize(text, special=False)))
"""


def test_a_run_that_no_usual_stack_would_hold(vocabulary: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, vocabulary], capture_output=True, text=True, check=False)
    # a token for two letters a, and for the bytes of what is not in the small vocabulary
    assert (done.returncode, done.stdout.split()) == (0, ["100000", "300000", "100000", "100000"]), done.stderr


def test_what_a_call_returns_and_raises() -> None:
    def fails() -> None:
        raise ValueError("x")

    before = threading.stack_size()
    assert with_stack(lambda: 7, 1 << 20) == 7
    with pytest.raises(ValueError, match="x"):
        with_stack(fails, 1 << 20)
    assert threading.stack_size() == before


def test_how_much_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stack_for("a" * 1000) == deep_stack.BASE + 1000 * deep_stack.A_CHARACTER
    assert stack_for("words and words " * 100_000) < deep_stack.MOST // 100
    with pytest.raises(EngineError, match="a run of 3000000 letters"):
        stack_for("words " + "a" * 3_000_000)
    monkeypatch.setattr(deep_stack, "MOST", 1 << 62)
    with pytest.raises(EngineError, match="no room for a stack"):
        with_stack(lambda: None, 1 << 60)
