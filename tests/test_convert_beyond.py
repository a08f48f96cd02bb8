"""Added tokens past the last row of the embedding, as real checkpoints have them, and config.json files left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.app import app
from ggufrun.convert.plan import plan_convert
from ggufrun.errors import FormatError
from tests.support.checkpoints import encode, llama_config, llama_tensors, safetensors_bytes, write_llama
from tests.support.vocabularies import PUBLISHED, SIZE, added, rank_table, tokenizer_json, write_folder
from tests.test_convert_proof import sentencepiece_as_json

PIECES = 2048
"""Of the small SentencePiece model."""

IMAGE = "<image_soft_token>"

LAID_OUT: dict[str, tuple[str, int, dict[str, Any]]] = {
    # Gemma 3: tokenizer.model beside added_tokens.json, and tokenizer_config.json too
    "tokenizer.model and added_tokens.json": ("spm", PIECES, {"added_tokens.json": {IMAGE: PIECES}}),
    "tokenizer.model and tokenizer_config.json": (
        "spm",
        PIECES,
        {"tokenizer_config.json": {"added_tokens_decoder": {str(PIECES): {"content": IMAGE, "special": True}}}},
    ),
    # and with tokenizer.json alone
    "tokenizer.json like SentencePiece": (
        "json",
        PIECES,
        {
            "tokenizer.json": sentencepiece_as_json(
                added_tokens=[*added("<unk>", "<s>", "</s>", first=0), *added(IMAGE, first=PIECES)]
            )
        },
    ),
    # fine-tunes that add [PAD] and never resize
    "tokenizer.json": (
        "json",
        SIZE + 1,
        {"tokenizer.json": tokenizer_json(PUBLISHED["qwen2"], added("<|x|>", IMAGE))},
    ),
    "tokenizer.json with the token in the vocabulary, too": (
        "json",
        SIZE + 1,
        {
            "tokenizer.json": {
                **(whole := tokenizer_json(PUBLISHED["qwen2"], added("<|x|>", IMAGE))),
                "model": {**whole["model"], "vocab": {**whole["model"]["vocab"], "<|x|>": SIZE, IMAGE: SIZE + 1}},
            }
        },
    ),
    "tokenizer.json and tokenizer_config.json": (
        "json",
        SIZE,
        {
            "tokenizer.json": tokenizer_json(PUBLISHED["qwen2"]),
            "tokenizer_config.json": {"added_tokens_decoder": {str(SIZE + 5): {"content": IMAGE, "special": True}}},
        },
    ),
}


def checkpoint(folder: Path, name: str, **config: Any) -> Path:
    kind, size, files = LAID_OUT[name]
    write_llama(
        folder, tokenizer=False, vocab_size=size, hidden_size=64, num_hidden_layers=1, intermediate_size=64, **config
    )
    parts = write_folder(folder.parent / f"{folder.name}-files", {}, files, spm=kind == "spm")
    shutil.copytree(parts, folder, dirs_exist_ok=True, ignore=lambda *_: ["config.json"])
    return folder


@pytest.mark.parametrize("name", LAID_OUT)
def test_tokens_past_the_embedding_are_left_out_with_a_warning(tmp_path: Path, name: str) -> None:
    _, size, _ = LAID_OUT[name]
    folder, out = checkpoint(tmp_path / "m", name, pad_token_id=size + 1), tmp_path / "m.gguf"
    done = CliRunner().invoke(app, ["convert", str(folder), "-o", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    assert f"warning: left out of the vocabulary: {IMAGE} (" in done.stderr
    assert f"as the embedding ends at {size - 1}" in done.stderr
    assert IMAGE in json.loads(done.stdout)[0]["notes"][0]
    header = read_header(out)
    tokens = header.get("tokenizer.ggml.tokens")
    assert isinstance(tokens, list) and len(tokens) == size and IMAGE not in tokens
    # an id that points past the end would be replaced by one that llama.cpp makes up
    assert header.get("tokenizer.ggml.padding_token_id") is None


def test_a_table_of_ranks_whose_special_tokens_do_not_all_fit(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_llama(folder, tokenizer=False, vocab_size=SIZE + 7, hidden_size=64, num_hidden_layers=1)
    (folder / "tokenizer.model").write_bytes(rank_table())
    plan = plan_convert(folder, (), lambda kind: tmp_path / "m.gguf")
    plan.close()
    assert "<|end_header_id|> " in plan.notes[0] and "and 245 more" in plan.notes[0]


def test_a_vocabulary_that_does_not_fit_is_another_model_s(tmp_path: Path) -> None:
    """Not added tokens, but ones of the vocabulary proper."""
    folder = checkpoint(tmp_path / "m", "tokenizer.json")
    write_llama(folder, tokenizer=False, vocab_size=SIZE - 1, hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    with pytest.raises(FormatError, match=f"the vocabulary ends at {SIZE - 2}"):
        plan_convert(folder, (), lambda kind: tmp_path / "m.gguf")


@pytest.mark.parametrize("rows", [PIECES + 3, PIECES])
def test_the_rows_of_the_embedding_count(tmp_path: Path, rows: int) -> None:
    """An embedding that was enlarged, or cut, beside the config.json from before: transformers writes both as one."""
    write_llama(tmp_path / "m", vocab_size=rows, hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    said = llama_config(vocab_size=PIECES + 1, hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    (tmp_path / "m" / "config.json").write_text(json.dumps(said))
    plan = plan_convert(tmp_path / "m", (), lambda kind: tmp_path / "m.gguf")
    plan.close()
    assert plan.notes == (
        f"the vocabulary has the {rows} tokens of the embedding, not the {PIECES + 1} of config.json",
    )
    header = plan.targets[0].header
    assert header.get("llama.vocab_size") == rows and len(header.get("tokenizer.ggml.tokens") or ()) == rows


def test_an_output_of_another_size_than_the_embedding(tmp_path: Path) -> None:
    config = llama_config(vocab_size=PIECES, hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    write_llama(tmp_path / "m", **config)
    weights = llama_tensors(config)
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1]
    stored = {name: ("BF16", encode("BF16", values)) for name, values in weights.items()}
    (tmp_path / "m" / "model.safetensors").write_bytes(safetensors_bytes(stored))
    with pytest.raises(FormatError, match=r"output\.weight has the shape"):
        plan_convert(tmp_path / "m", (), lambda kind: tmp_path / "m.gguf")
