"""Qwen3-Reranker: known by its name or card, and made of the rows of its answers. What llama.cpp's converter makes of
the published one is compared in test_convert_layouts.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized import as_float32
from ggufrun.convert import pipeline
from ggufrun.convert.plan import Wishes, plan_convert
from ggufrun.errors import FormatError
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import no_vocabulary, replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES
from tests.writers.checkpoint import logits_of

YES, NO = 7, 5
QWEN3 = next(name for name, case in CASES.items() if case.config["architectures"] == ["Qwen3ForCausalLM"])


def checkpoint(folder: Path, card: str = "", tied: bool = True) -> Path:
    """A tiny Qwen 3 with the two words in its vocabulary."""
    case = CASES[QWEN3]
    head = {} if tied else {"lm_head.weight": case.shapes["model.embed_tokens.weight"]}
    shapes = {name: shape for name, shape in case.shapes.items() if name != "lm_head.weight"} | head
    write(folder, replace(case, config={**case.config, "tie_word_embeddings": tied}, shapes=shapes))
    tokenizer = {"model": {"type": "BPE", "vocab": {"yes": YES, "no": NO}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if card:
        (folder / "README.md").write_text(card)
    return folder


def converted(folder: Path) -> Path:
    out = folder.with_suffix(".gguf")
    plan = plan_convert(folder, [FILE_TYPES["F32"]], lambda kind: out, wishes=Wishes("tiny"))
    pipeline.run(plan, threads=1)
    plan.close()
    return out


@pytest.fixture(autouse=True)
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("name", "card"), [("Qwen3-Reranker-4B", ""), ("m", "---\n---\n# Qwen3-Reranker-0.6B\n")])
def test_the_rows_of_the_answers(tmp_path: Path, name: str, card: str, tied: bool) -> None:
    folder = checkpoint(tmp_path / name, card, tied)
    path = converted(folder)
    header = read_header(path)
    assert header.get("qwen3.pooling_type") == 4
    assert header.get("qwen3.classifier.output_labels") == ["yes", "no"]
    assert "{query}" in str(header.get("tokenizer.chat_template.rerank"))
    original, source = open_checkpoint(folder), GGUFSource(path)
    head = original.tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    rows = as_float32(head.dtype, head.rows(0, head.n_rows))[[YES, NO]]
    np.testing.assert_array_equal(source.tensors["cls.output.weight"].rows(0, 2), rows)
    assert "output.weight" not in source.tensors and "token_embd.weight" in source.tensors
    source.close()
    original.close()


def test_others_are_none(tmp_path: Path) -> None:
    header = read_header(converted(checkpoint(tmp_path / "Qwen3-4B", "# Qwen3-4B, next to Qwen3-Reranker\n")))
    assert header.get("qwen3.pooling_type") is None
    assert not [info for info in header.tensors if info.name.startswith("cls")]


def test_the_engine_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)
    assert logits_of([converted(checkpoint(tmp_path / "qwen3-reranker"))], [1, 2, 3], 2)


def test_a_tokenizer_without_the_words(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "qwen3-reranker")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match="does not have the words yes and no"):
        converted(folder)
