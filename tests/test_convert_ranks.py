"""Tables of ranks: the ids are those of tiktoken and mistral-common, as rank_samples.py recorded them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from ggufrun.convert.vocab import glm, kimi, readers
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import FormatError, UnsupportedError
from tests.oracles.rank_samples import N_SPECIAL, TEXTS, tekken
from tests.support.vocabularies import PUBLISHED, SIZE, TEKKEN, rank_table, tokenizer_json, write_folder
from tests.test_convert_proof import proof_of, read, text_of

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "ranks.json").read_text())

N_TABLE = len(rank_table().splitlines())

GLM = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>")
GLM_SETTINGS = {
    "added_tokens_decoder": {
        str(number): {"content": text, "special": True}
        for number, text in enumerate(GLM, len(rank_table().splitlines()))
    }
}


def glm_folder(folder: Path, settings: dict[str, Any] | None = None) -> Path:
    files = {"tokenizer.model": rank_table(), "tokenizer_config.json": settings or GLM_SETTINGS}
    return write_folder(folder, {}, files)


KIMI_SETTINGS = {
    "added_tokens_decoder": {
        str(N_TABLE + number): {"content": text, "special": True}
        for number, text in ((0, "[BOS]"), (1, "[EOS]"), (2, "<|im_end|>"), (3, "<|im_user|>"), (254, "[UNK]"))
    },
    "chat_template": "C",
}


def kimi_folder(folder: Path, settings: dict[str, Any] | None = None, **config: Any) -> Path:
    files = {"tiktoken.model": rank_table(), "tokenizer_config.json": settings or KIMI_SETTINGS}
    return write_folder(folder, {"bos_token_id": N_TABLE, "eos_token_id": N_TABLE + 2} | config, files)


def tekken_folder(folder: Path, **changes: Any) -> Path:
    content = tekken(rank_table(), TEKKEN) | changes
    return write_folder(
        folder, {}, {"tekken.json": {key: value for key, value in content.items() if value is not None}}
    )


MADE: dict[str, Callable[[Path], tuple[Any, Original]]] = {
    "qwen": lambda path: read(
        write_folder(path, {}, {"qwen.tiktoken": rank_table()}), readers.qwen_vocabulary, vocab_size=SIZE + 220
    ),
    "llama3": lambda path: read(glm_folder(path), glm.chatglm_vocabulary, padded_vocab_size=N_TABLE + 20),
    "kimi": lambda path: read(kimi_folder(path), kimi.deepseek_vocabulary, vocab_size=N_TABLE + 256),
    "tekken": lambda path: read(tekken_folder(path)),
}


@pytest.mark.parametrize("name", MADE)
def test_the_ids_of_the_original_packages(tmp_path: Path, name: str) -> None:
    _, original = MADE[name](tmp_path / "m")
    texts = [original.normalize(text) if original.normalize else text for text in TEXTS]
    found = original.encode(texts, False)
    same = [text for text, mine, theirs in zip(TEXTS, found, GOLDEN[name], strict=True) if mine == theirs]
    # Qwen's own code composes characters before tiktoken sees them
    assert [text for text in TEXTS if text not in same] == ([TEXTS[8]] if name == "qwen" else [])


def test_glm4_as_its_own_code_reads_it(tmp_path: Path) -> None:
    folder = glm_folder(tmp_path / "m")
    metadata, _ = read(folder, glm.chatglm_vocabulary, padded_vocab_size=N_TABLE + 20)
    tokens = text_of(metadata, "tokenizer.ggml.tokens")
    assert tokens[N_TABLE : N_TABLE + len(GLM)] == list(GLM)
    assert tokens[-1] == f"[PAD{N_TABLE + 19}]"
    assert text_of(metadata, "tokenizer.ggml.pre") == "chatglm-bpe"
    ids = {kind: text_of(metadata, f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "unknown")}
    assert ids == {"eos": N_TABLE, "eot": N_TABLE + 7, "unknown": N_TABLE}
    proof = proof_of(folder, glm.chatglm_vocabulary, padded_vocab_size=N_TABLE + 20)
    assert proof.name == "tokenizer.model" and not proof.loss and not proof.differing


def test_kimi_as_its_own_code_reads_it(tmp_path: Path) -> None:
    folder = kimi_folder(tmp_path / "m")
    metadata, _ = read(folder, kimi.deepseek_vocabulary, vocab_size=N_TABLE + 300)
    tokens, types = (text_of(metadata, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    named = {N_TABLE: "[BOS]", N_TABLE + 2: "<|im_end|>", N_TABLE + 254: "[UNK]"}
    assert {number: tokens[number] for number in named} == named
    assert tokens[N_TABLE + 255] == f"<|reserved_token_{N_TABLE + 255}|>"
    assert tokens[N_TABLE + 256] == f"[PAD{N_TABLE + 256}]"
    assert types[N_TABLE - 1 : N_TABLE + 1] == [gguf.TokenType.NORMAL, gguf.TokenType.CONTROL]
    assert text_of(metadata, "tokenizer.ggml.pre") == "kimi-k2"
    proof = proof_of(folder, kimi.deepseek_vocabulary, vocab_size=N_TABLE + 300)
    # this vocabulary joins what Kimi's keeps apart, so llama.cpp's rough splitting shows more than it would there
    assert proof.name == "tiktoken.model" and 0 < proof.differing < proof.strings / 4
    assert proof.approximate == "combining marks and capitals within words"


def test_kimi_with_a_tokenizer_json(tmp_path: Path) -> None:
    files = {"tiktoken.model": rank_table(), "tokenizer.json": tokenizer_json(PUBLISHED["kimi-k2"])}
    metadata, original = read(write_folder(tmp_path / "m", {}, files), kimi.deepseek_vocabulary)
    assert original.name == "tokenizer.json" and text_of(metadata, "tokenizer.ggml.pre") == "kimi-k2"


def test_a_special_token_of_kimi_in_the_middle_of_the_table(tmp_path: Path) -> None:
    settings = {"added_tokens_decoder": {"17": {"content": "[BOS]", "special": True}}}
    with pytest.raises(FormatError, match=r"\[BOS\].*does not follow"):
        read(kimi_folder(tmp_path / "m", settings), kimi.deepseek_vocabulary, vocab_size=N_TABLE + 256)


def test_mistrals_own_format(tmp_path: Path) -> None:
    folder = tekken_folder(tmp_path / "m")
    metadata, _ = read(folder)
    tokens = text_of(metadata, "tokenizer.ggml.tokens")
    assert tokens[:N_SPECIAL] == GOLDEN["tekken special"]
    assert len(tokens) == N_TABLE - 3 + N_SPECIAL
    types = text_of(metadata, "tokenizer.ggml.token_type")
    assert types == [gguf.TokenType.CONTROL] * N_SPECIAL + [gguf.TokenType.NORMAL] * (N_TABLE - 3)
    ids = {kind: text_of(metadata, f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos", "unknown", "padding")}
    assert ids == {"bos": 1, "eos": 2, "unknown": 0, "padding": 5}
    proof = proof_of(folder)
    assert proof.name == "tekken.json"
    # llama.cpp only imitates the rule
    assert proof.differing and proof.approximate


def test_tokenizer_json_comes_before_tekken(tmp_path: Path) -> None:
    files = {"tekken.json": tekken(rank_table(), TEKKEN), "tokenizer.json": tokenizer_json(PUBLISHED["gpt-2"])}
    assert read(write_folder(tmp_path / "m", {}, files))[1].name == "tokenizer.json"


def test_an_old_tekken_does_not_name_its_special_tokens(tmp_path: Path) -> None:
    content = tekken(rank_table(), TEKKEN, special=False)
    config = {**content["config"], "default_num_special_tokens": 22}  # type: ignore[dict-item]
    folder = write_folder(tmp_path / "m", {}, {"tekken.json": content | {"config": config}})
    tokens = text_of(read(folder)[0], "tokenizer.ggml.tokens")
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "[INST]"]
    assert tokens[17:22] == ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>"]


CONFIG: Any = tekken(rank_table(), TEKKEN)["config"]
VOCAB: Any = tekken(rank_table(), TEKKEN)["vocab"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": None}, "config"),
        ({"config": {**CONFIG, "default_vocab_size": 1 << 40}}, "sizes"),
        ({"config": {**CONFIG, "default_vocab_size": 5000}}, "fewer"),
        ({"config": {**CONFIG, "pattern": 3}}, "3"),
        ({"vocab": VOCAB[1:]}, "out of order"),
        ({"vocab": [VOCAB[0] | {"token_bytes": "§"}, *VOCAB[1:]]}, "makes no sense"),
        ({"vocab": "x" * 5000}, "makes no sense"),
        ({"special_tokens": [{"rank": 0, "token_str": "a"}, {"rank": 1, "token_str": "a"}]}, "twice"),
        ({"special_tokens": [{"rank": 1, "token_str": "a"}]}, "out of order"),
        ({"special_tokens": [{"rank": number, "token_str": str(number)} for number in range(11)]}, "special"),
    ],
)
def test_a_damaged_tekken(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=words):
        read(tekken_folder(tmp_path / "m", **changes))


def test_special_tokens_that_leave_a_gap(tmp_path: Path) -> None:
    decoder = {str(N_TABLE + 1): {"content": "<|endoftext|>", "special": True}}
    with pytest.raises(FormatError, match=f"do not follow the {N_TABLE}"):
        read(
            glm_folder(tmp_path / "m", {"added_tokens_decoder": decoder}),
            glm.chatglm_vocabulary,
            vocab_size=SIZE + 99,
        )
