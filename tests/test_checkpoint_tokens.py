"""Adapters that change embeddings and outputs: what the model computes under PEFT is what the merged one has.

``golden/peft-tokens`` was written by ``python tests/oracles/peft_token_samples.py tests/golden/peft-tokens`` with
PEFT 0.21.2, transformers 5.24, torch 2.13, which held every case against PEFT's own logits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.convert.config import read_config
from ggufrun.errors import FormatError, UsageError
from tests.conftest import Oracle
from tests.test_checkpoint_adapters_merge import Arrays, assert_merged, values

GOLDEN = Path(__file__).parent / "golden" / "peft-tokens"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
LOST = {"apart-grown-lora-embedding", "apart-grown-lora-head"}
"""Of these PEFT does not save the new rows of the matrix that the adapter does not change."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def assert_case(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(folder, adapter)
    theirs = load_file(folder / "merged.safetensors")
    grown = len(theirs[EMBEDDING]) > 10
    if grown:
        (adapter / "tokenizer.model").touch()
    if folder.name in LOST:
        with pytest.raises(FormatError, match=r"has 10 rows, .* 12; the adapter enlarges only one of them"):
            open_checkpoint(folder, [AdapterRequest(adapter)])
        return
    source = open_checkpoint(folder, [AdapterRequest(adapter)])
    ours = {name: array for name, array in values(source).items() if name in (EMBEDDING, HEAD)}
    untied = "tied-" in folder.name and HEAD in theirs
    expected = {**({"vocab_size": 12} if grown else {}), **({"tie_word_embeddings": False} if untied else {})}
    assert source.overrides == expected
    source.close()
    assert_merged(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_equals_what_peft_computes(tmp_path: Path, case: str) -> None:
    assert_case(GOLDEN / case, tmp_path)


def test_the_cases_differ_where_they_should() -> None:
    """Whether the two become one is told by the cases, not by their names."""
    alike = {
        "grown",
        "grown-tokens",
        "tokens",
        "tokens-alike",
        "saved-alike",
        "lora-embedding-alike",
        "lora-head-alike",
    }
    for case in CASES:
        kind, _, name = case.partition("-")
        found = load_file(GOLDEN / case / "merged.safetensors")
        assert (HEAD in found) == (kind == "apart" or name not in alike), case
        base = load_file(GOLDEN / case / "model.safetensors")
        changed = found[EMBEDDING].shape != base[EMBEDDING].shape or (found[EMBEDDING] != base[EMBEDDING]).any()
        assert changed or "head" in name, case


def test_equals_what_peft_computes_here(oracle: Oracle, tmp_path: Path) -> None:
    oracle.run(oracle.python, Path(__file__).parent / "oracles" / "peft_token_samples.py", tmp_path / "samples")
    for case in CASES:
        (tmp_path / case).mkdir()
        assert_case(tmp_path / "samples" / case, tmp_path / case)


def as_vision(folder: Path, tensors: Arrays) -> None:
    """The base with its text part where a model that sees has it."""
    config = json.loads((folder / "config.json").read_text())
    text = {key: config.pop(key) for key in ("vocab_size", "tie_word_embeddings", "hidden_size")}
    (folder / "config.json").write_text(json.dumps({**config, "text_config": text}))
    renamed = {name.replace("model.", "model.language_model.", 1): array for name, array in tensors.items()}
    save_file(renamed | {"model.visual.proj.weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")


@pytest.mark.parametrize("case", ["tied-lora-head", "tied-grown-tokens-both", "tied-tokens"])
def test_the_text_part_of_a_model_that_sees(tmp_path: Path, case: str) -> None:
    """An adapter of the text alone finds its tensors there, and what changes is told where config.json has it."""
    shutil.copytree(GOLDEN / case, tmp_path / case)
    (tmp_path / case / "tokenizer.model").touch()
    as_vision(tmp_path / case, load_file(GOLDEN / case / "model.safetensors"))
    source = open_checkpoint(tmp_path / case, [AdapterRequest(tmp_path / case)])
    found = {name.replace("language_model.", ""): array for name, array in values(source).items()}
    theirs = load_file(GOLDEN / case / "merged.safetensors")
    assert_merged({name: found[name] for name in theirs}, theirs)
    assert (HEAD in found) == (HEAD in theirs)
    config = read_config(tmp_path / case, source.overrides).section("text_config")
    assert config is not None
    assert config.values["vocab_size"] == len(theirs[EMBEDDING])
    assert config.values["tie_word_embeddings"] == (HEAD not in theirs)
    source.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainable_token_indices": [3]}, r"is \(2, 8\).*lists 1 tokens"),
        ({"trainable_token_indices": [3, -1]}, "does not say which tokens"),
        ({"trainable_token_indices": {"elsewhere": [3, 1]}}, "does not say which tokens"),
        ({"trainable_token_indices": [3, 1 << 30]}, r"row for token 1073741824, the base 10 tokens"),
        ({"trainable_token_indices": None}, "does not say which tokens"),
    ],
)
def test_rows_that_cannot_be_placed(tmp_path: Path, change: dict[str, object], words: str) -> None:
    shutil.copytree(GOLDEN / "apart-tokens", tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match=words):
        open_checkpoint(tmp_path / "a", [AdapterRequest(tmp_path / "a")])


def test_rows_have_no_scale(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"replaces values of the base, such as model\.embed_tokens"):
        open_checkpoint(GOLDEN / "tied-tokens", [AdapterRequest(GOLDEN / "tied-tokens", 0.5)])
