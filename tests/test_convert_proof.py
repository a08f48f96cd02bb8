"""The proof of a vocabulary: what agrees passes, and every kind of mistake is found, with both lists of ids shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from sentencepiece import SentencePieceProcessor

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import Kind, Value
from ggufrun.convert.config import Config
from ggufrun.convert.vocab import gemma4, readers
from ggufrun.convert.vocab.probe import probe
from ggufrun.convert.vocab.proof import Proof, prove
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import EngineError, UnsupportedError
from tests.support.checkpoints import DEMO
from tests.support.vocabularies import (
    DIGITS,
    MERGES,
    PUBLISHED,
    SIZE,
    added,
    byte_level,
    rank_table,
    steps,
    tokenizer_json,
    write_folder,
)

TOKENS = "tokenizer.ggml.tokens"


def read(
    folder: Path, function: readers.VocabFunction = readers.add_vocabulary, name: str | None = None, **config: Any
) -> tuple[dict[str, Value], Original]:
    """The metadata and the original tokenizer of a folder."""
    writer = gguf.GGUFWriter(None, "llama")
    original = function(folder, Config(folder / "config.json", config), writer, name)
    return {key: file.encode(v.value, v.type, v.sub_type) for key, v in writer.kv_data[0].items()}, original


def proof_of(folder: Path, *arguments: Any, **config: Any) -> Proof:
    return prove(*read(folder, *arguments, **config))


def text_of(metadata: dict[str, Value], key: str) -> Any:
    return file.Header(metadata, ()).get(key)


def test_the_probe_is_some_thousand_strings_of_every_sort() -> None:
    texts = probe()
    assert 2000 < len(texts) == len(set(texts)) < 6000
    assert {"\n\n\n", "🚀", "床前明月光，疑是地上霜。", ""} <= set(texts)
    joined = "".join(texts)
    assert all(char in joined for char in "\t\r\u3000\u200d龘اสन한Пßé∑0１")
    json.dumps(texts).encode()


def test_the_embedded_model(tmp_path: Path) -> None:
    proof = proof_of(DEMO, vocab_size=2048)
    assert proof.name == "tokenizer.model" and not proof.loss and not proof.differing
    assert proof.strings > len(probe())


@pytest.mark.parametrize("rules", PUBLISHED)
def test_published_splitting_rules(tmp_path: Path, rules: str) -> None:
    whole = rules in ("llama-3", "tekken")
    tokens = added("<|end|>", "<|x|>") + added("<tool>", special=False, first=SIZE + 2)
    files = {"tokenizer.json": tokenizer_json(PUBLISHED[rules], tokens, ignore_merges=whole)}
    proof = proof_of(write_folder(tmp_path / "m", {}, files), readers.bpe_vocabulary)
    rough = rules in ("gpt-4o", "tekken", "kimi-k2", "youtu")
    assert bool(proof.differing) == bool(proof.approximate) == rough


@pytest.mark.parametrize(("rules", "wrong"), [("starcoder", "gpt-2"), ("gpt-2", "llama-bpe"), ("llama-3", "qwen2")])
def test_the_wrong_name_is_found(tmp_path: Path, rules: str, wrong: str) -> None:
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": tokenizer_json(PUBLISHED[rules])})
    with pytest.raises(UnsupportedError, match=r"cuts .* into \[[\d, ]+\], tokenizer.json into \[[\d, ]+\]") as caught:
        proof_of(folder, readers.bpe_vocabulary, wrong)
    assert "--no-verify" in caught.value.todo


def test_an_added_token_changes_nothing(tmp_path: Path) -> None:
    """As a fine-tune does it, with a text that the probe holds."""
    tokens = added("<|pad|>", "你好，世界！", special=False, normalized=True)
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": tokenizer_json(PUBLISHED["qwen2"], tokens)})
    metadata, original = read(folder)
    assert text_of(metadata, "tokenizer.ggml.pre") == "qwen2"
    assert prove(metadata, original).strings > 2000


Change = Callable[[dict[str, Value]], None]


def swap(key: str, left: int, right: int) -> Change:
    def change(metadata: dict[str, Value]) -> None:
        found = text_of(metadata, key)
        found[left], found[right] = found[right], found[left]
        kind = Kind.STRING if isinstance(found[0], str) else Kind.FLOAT32
        metadata[key] = file.encode(found, Kind.ARRAY, kind)

    return change


@pytest.mark.parametrize(
    "change",
    [
        swap(TOKENS, SIZE - 20, SIZE - 21),
        swap("tokenizer.ggml.merges", 0, len(MERGES) - 1),
        swap(TOKENS, SIZE, SIZE + 1),
        lambda metadata: metadata.update({"tokenizer.ggml.pre": file.encode("starcoder", Kind.STRING)}),
        lambda metadata: metadata.update(
            {"tokenizer.ggml.token_type": file.encode([1] * (SIZE + 2), Kind.ARRAY, Kind.INT32)}
        ),
    ],
    ids=["two tokens", "two merges", "two special tokens", "splitting", "no special tokens"],
)
def test_mistakes_are_found(tmp_path: Path, change: Change) -> None:
    files = {"tokenizer.json": tokenizer_json(PUBLISHED["gpt-2"], added("<|a|>", "<|b|>"))}
    metadata, original = read(write_folder(tmp_path / "m", {}, files))
    prove(metadata, original)
    change(metadata)
    with pytest.raises(UnsupportedError, match="cuts"):
        prove(metadata, original)


def test_mistakes_in_scores_are_found() -> None:
    metadata, original = read(DEMO, vocab_size=2048)
    swap("tokenizer.ggml.scores", 300, 1000)(metadata)
    with pytest.raises(UnsupportedError, match="cuts"):
        prove(metadata, original)


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    metadata, original = read(DEMO, vocab_size=2048)
    metadata["tokenizer.ggml.model"] = file.encode("gpt2", Kind.STRING)
    with pytest.raises(EngineError, match="merges"):
        prove(metadata, original)


def test_text_that_the_original_normalizes(tmp_path: Path) -> None:
    """Qwen 2 composes characters first; llama.cpp does not, and a composed text is cut up alike."""
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": tokenizer_json(PUBLISHED["qwen2"], nfc=True)})
    metadata, original = read(folder)
    assert "NFC" in prove(metadata, original).loss
    with pytest.raises(UnsupportedError):
        prove(metadata, replace(original, normalize=None))


def test_qwen_tiktoken(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {}, {"qwen.tiktoken": rank_table()})
    assert proof_of(folder, readers.qwen_vocabulary, vocab_size=SIZE + 208).name == "qwen.tiktoken"


@pytest.mark.parametrize(("scaled", "reserved"), [(False, "<|reserved_special_token_3|>"), (True, "<|end_header_id|>")])
def test_llama_3_as_meta_ships_it(tmp_path: Path, scaled: bool, reserved: str) -> None:
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.model": rank_table()})
    config = {"vocab_size": SIZE + 256, "rope_scaling": {"rope_type": "llama3"} if scaled else None}
    metadata, original = read(folder, readers.llama_vocabulary, None, **config)
    prove(metadata, original)
    tokens = text_of(metadata, TOKENS)
    assert len(tokens) == SIZE + 256
    # ids that Meta's code gives, counted from the first special token
    assert [tokens.index(text) - SIZE for text in ("<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>")] == [
        0,
        6,
        9,
    ]
    assert tokens.index("<|end_header_id|>") - SIZE == 7
    assert ("<|eom_id|>" in tokens) == scaled
    assert text_of(metadata, "tokenizer.ggml.bos_token_id") == SIZE
    assert text_of(metadata, "tokenizer.ggml.pre") == "llama-bpe"
    assert reserved in tokens


def sentencepiece_as_json(**changes: Any) -> dict[str, Any]:
    """The embedded SentencePiece model as transformers writes it to a tokenizer.json."""
    model = SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
    pieces = [model.IdToPiece(number) for number in range(model.GetPieceSize())]
    ids = {piece: number for number, piece in enumerate(pieces)}
    merges = []
    for piece in pieces[259:]:
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += sorted(
            (ids[left], ids[right], left, right, ids[piece]) for left, right in cuts if {left, right} <= ids.keys()
        )
    merges.sort(key=lambda merge: -model.GetScore(merge[4]))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "added_tokens": added("<unk>", "<s>", "</s>", first=0),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": ids,
            "merges": [[left, right] for _, _, left, right, _ in merges],
        },
    } | changes  # fmt: skip


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [
        ({}, None),
        ({"normalizer": None, "pre_tokenizer": METASPACE}, None),
        ({"normalizer": None, "pre_tokenizer": METASPACE | {"prepend_scheme": "never"}}, False),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}, False),
    ],
    ids=["Llama 2", "Mistral 0.3", "no space in front", "Gemma"],
)
def test_sentencepiece_given_only_as_json(tmp_path: Path, changes: dict[str, Any], prefix: bool | None) -> None:
    """Scores follow the merges, so the original model's own order comes out again."""
    files = {"tokenizer.json": sentencepiece_as_json(**changes)}
    metadata, original = read(write_folder(tmp_path / "m", {}, files), readers.llama_vocabulary)
    assert prove(metadata, original).name == "tokenizer.json"
    assert text_of(metadata, "tokenizer.ggml.model") == "llama"
    assert text_of(metadata, "tokenizer.ggml.add_space_prefix") is prefix
    model = SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
    scores = text_of(metadata, "tokenizer.ggml.scores")
    made = [number for number in range(259, model.GetPieceSize()) if len(model.IdToPiece(number)) > 1]
    assert sorted(made, key=lambda n: -scores[n]) == sorted(made, key=lambda n: -model.GetScore(n))


def test_gemma4_follows_the_merges(tmp_path: Path) -> None:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    turns = [*added("<unk>", "<s>", "</s>", first=0), *added("<|turn>", "<turn|>", "<|tool_call>", first=2048)]
    files = {"tokenizer.json": sentencepiece_as_json(normalizer=space, added_tokens=turns)}
    folder = write_folder(tmp_path / "m", {}, files)
    metadata, original = read(folder, gemma4.gemma4_vocabulary)
    proof = prove(metadata, original)
    assert proof.name == "tokenizer.json" and not proof.loss and not proof.differing
    types = text_of(metadata, "tokenizer.ggml.token_type")
    assert types[2048:] == [gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED]


def test_a_gemma4_with_a_space_in_front(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": sentencepiece_as_json()})
    with pytest.raises(UnsupportedError, match="otherwise than Gemma 4's"):
        read(folder, gemma4.gemma4_vocabulary)


def test_rules_that_sentencepiece_cannot_follow(tmp_path: Path) -> None:
    files = {"tokenizer.json": sentencepiece_as_json(normalizer={"type": "Lowercase"})}
    with pytest.raises(UnsupportedError, match="Lowercase"):
        read(write_folder(tmp_path / "m", {}, files))


def test_individual_digits_are_a_rule_of_their_own(tmp_path: Path) -> None:
    """And the shortest way to a splitting that llama.cpp does not have is to turn one flag."""
    whole = steps({**DIGITS, "individual_digits": False}, byte_level())
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": tokenizer_json(whole)})
    with pytest.raises(UnsupportedError, match="Digits, then ByteLevel regex") as caught:
        read(folder)
    assert "--pretokenizer" in caught.value.todo
    assert len(MERGES) > 500
