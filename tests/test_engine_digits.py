"""Long runs of digits in the vocabulary of SuperBPE, which llama.cpp takes the square of their length for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.file import Kind
from ggufrun.engine import vocabulary
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.vocabulary import split_digits
from ggufrun.errors import EngineError
from tests.attack.models import base, with_vocabulary

MERGES = [f"{left} {right}" for left in "1234" for right in "1234"] + ["12 1", "21 2", "34 3", "43 4"]
"""Of two and of three digits, so that it shows where a run is cut."""


def opened(path: Path, pretokenizer: str) -> Model:
    model = with_vocabulary(base("qwen2", "F16"), "bpe")
    tokens = model.metadata["tokenizer.ggml.tokens"].decode()
    tokens[256 : 256 + len(MERGES)] = [merge.replace(" ", "") for merge in MERGES]
    model.set("tokenizer.ggml.tokens", tokens, Kind.ARRAY, Kind.STRING)
    model.set("tokenizer.ggml.merges", MERGES, Kind.ARRAY, Kind.STRING)
    model.set("tokenizer.ggml.pre", pretokenizer, Kind.STRING)
    model.write(path)
    return Model(ModelParams(path, vocab_only=True))


def test_cut_or_whole_the_tokens_are_the_same(tmp_path: Path) -> None:
    dice = random.Random(5)
    with opened(tmp_path / "model.gguf", "superbpe") as model:
        for _ in range(12):
            parts = ["".join(dice.choices("1234", k=dice.choice((3, 10, 999, 1000, 1001, 2500)))) for _ in range(3)]
            text = dice.choice(("", "a", "静", "٣", "½")).join(parts) + dice.choice(("", " ", "x", "٣", "½"))
            whole = model.vocab._tokenize(text.encode(), False)
            assert model.vocab.tokenize(text, special=False) == whole


def test_others_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "split_digits", lambda text: pytest.fail("cut"))
    with opened(tmp_path / "model.gguf", "gpt-2") as model:
        assert model.vocab.tokenize("12" * 5000, special=False)


def test_blanks_without_end(tmp_path: Path) -> None:
    text = "a" + " " * (vocabulary.MAX_BLANKS - 1) + "b"
    vocabulary.check_blanks(text, "jais-2")
    vocabulary.check_blanks(text.replace("b", " "), "qwen2")
    with (
        opened(tmp_path / "model.gguf", "jais-2") as model,
        pytest.raises(EngineError, match="the text has 100000 blanks in a row"),
    ):
        model.vocab.tokenize(text.replace("b", " "), special=False)


def test_where_it_is_cut() -> None:
    assert split_digits("") == [""] and split_digits("7" * 999) == ["7" * 999]
    for size in (1000, 1998, 3001, 300_000):
        parts = split_digits("a" + "7" * size + "b")
        assert "".join(parts) == "a" + "7" * size + "b" and max(map(len, parts)) <= 1000
        assert {len(part) for part in parts[1:-1]} <= {999} and len(parts[-1]) == 1000
