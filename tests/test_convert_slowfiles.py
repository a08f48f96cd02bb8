"""``vocab.json`` and ``merges.txt``: proved like a tokenizer.json, and refused where how to split text is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufrun.convert.vocab import readers
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError
from tests.support.vocabularies import PUBLISHED, slow_files, tokenizer_json, write_folder
from tests.test_convert_proof import proof_of, read, text_of

QWEN2 = {"tokenizer_class": "Qwen2TokenizerFast"}


@pytest.mark.parametrize(
    ("settings", "config", "name"),
    [
        ({"tokenizer_class": "GPT2Tokenizer"}, {}, "gpt-2"),
        ({"tokenizer_class": "CodeGenTokenizer"}, {}, "gpt-2"),
        (QWEN2, {}, "qwen2"),
        ({}, {"architectures": ["GPT2LMHeadModel"]}, "gpt-2"),
        ({}, {"architectures": ["Qwen2ForCausalLM"]}, "qwen2"),
    ],
)
def test_the_class_says_how_text_is_split(
    tmp_path: Path, settings: dict[str, Any], config: dict[str, Any], name: str
) -> None:
    files = {**slow_files("<|endoftext|>"), "tokenizer_config.json": settings}
    path = write_folder(tmp_path / "m", config, files)
    assert text_of(read(path)[0], "tokenizer.ggml.pre") == name
    proof = proof_of(path)
    assert proof.name == "vocab.json" and not proof.differing


def test_tokenizer_json_comes_first(tmp_path: Path) -> None:
    files = {**slow_files(), "tokenizer.json": tokenizer_json(PUBLISHED["gpt-2"])}
    assert read(write_folder(tmp_path / "m", {}, files))[1].name == "tokenizer.json"


@pytest.mark.parametrize(
    ("settings", "changes", "error", "words"),
    [
        ({"tokenizer_class": "PhobertTokenizer"}, {}, UnsupportedError, "PhobertTokenizer is not known"),
        ({}, {}, UnsupportedError, "config.json is not known"),
        (QWEN2, {"merges.txt": "#version: 0.2\na b\na b c\n"}, FormatError, "line 3"),
        (QWEN2, {"merges.txt": "zzz yyy\n"}, FormatError, "not all tokens"),
        (QWEN2, {"merges.txt": b"\xff\xfe"}, FormatError, "UTF-8"),
        (QWEN2, {"vocab.json": "[1]"}, FormatError, "not a JSON object"),
        (QWEN2, {"vocab.json": {"a": "b"}}, FormatError, "'a' the id b"),
        (QWEN2, {"vocab.json": {"<|endoftext|>": "b"}}, FormatError, "make no sense|the id b"),
        (QWEN2, {"vocab.json": "{" * 3_000_000}, FormatError, "more values"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, settings: dict[str, Any], changes: dict[str, Any], error: type[GgufrunError], words: str
) -> None:
    files = slow_files("<|endoftext|>") | {"tokenizer_config.json": settings} | changes
    with pytest.raises(error, match=words):
        read(write_folder(tmp_path / "m", {}, files), readers.bpe_vocabulary)
