"""Rules of a tokenizer.json that never come to an end: tried out in a process of its own, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufrun.convert.plan import Wishes, plan_convert
from ggufrun.convert.vocab import trial
from ggufrun.convert.vocab.trial import needs_trial
from ggufrun.errors import UnsupportedError
from ggufrun.quantize.types import FILE_TYPES
from tests.fuzz import bpe_llama
from tests.support.vocabularies import PUBLISHED, byte_level, split, steps, tokenizer_json

QWEN2 = tokenizer_json(PUBLISHED["qwen2"])
EXPRESSION = next(step["pattern"]["Regex"] for step in QWEN2["pre_tokenizer"]["pretokenizers"] if "pattern" in step)


def with_split(regex: str) -> dict[str, Any]:
    return {**QWEN2, "pre_tokenizer": steps(split(regex), byte_level(regex=False))}


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rules_need_none(name: str) -> None:
    assert not needs_trial(tokenizer_json(PUBLISHED[name]))


@pytest.mark.parametrize(
    "tokenizer",
    [
        with_split("a?" * 1000),
        with_split("(a+)+b"),
        {**QWEN2, "normalizer": replacing({"String": "a"}, "b" * 1001)},
        {**QWEN2, "normalizer": {"type": "Sequence", "normalizers": [replacing({"Regex": "(a|a)*b"}, "b")]}},
        {**QWEN2, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {**QWEN2, "decoder": replacing({"Regex": "x*"}, "")},
    ],
)
def test_others_do(tokenizer: dict[str, Any]) -> None:
    assert needs_trial(tokenizer)


def convert(folder: Path, tokenizer: dict[str, Any]) -> None:
    bpe_llama(folder, {"tokenizer.json": tokenizer})
    wishes = Wishes(pretokenizer="qwen2")
    plan_convert(folder, [FILE_TYPES["F16"]], lambda kind: folder / "out.gguf", wishes=wishes).close()


def test_rules_that_never_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression that takes minutes to compile."""
    monkeypatch.setattr(trial, "SECONDS", 1)
    with pytest.raises(UnsupportedError, match=r"tokenizer.json has rules .* takes too long.*; use the tokenizer"):
        convert(tmp_path, with_split("a?" * 20_000))


def test_rules_that_want_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "BYTES", 1 << 30)
    monkeypatch.setattr(trial, "SECONDS", 2)
    with pytest.raises(UnsupportedError, match=r"takes too long|too much memory|ends the process"):
        convert(tmp_path, {**QWEN2, "normalizer": replacing({"Regex": ""}, "b" * 3_000_000)})


def test_strange_rules_that_end_are_followed(tmp_path: Path) -> None:
    """One more way to write a published expression."""
    strange = with_split(f"(?:{EXPRESSION})")
    assert needs_trial(strange)
    convert(tmp_path, strange)
