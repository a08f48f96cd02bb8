"""Tokenizer files that are damaged, contradict themselves or are meant to harm: one clean error, little memory.

``python -m tests.test_convert_vocab_hostile N`` mutates N times instead of the few hundred of a test run.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from sentencepiece import SentencePieceTrainer

from ggufrun.checkpoint.gguf import file as gguffile
from ggufrun.convert.config import Config
from ggufrun.convert.vocab import readers
from ggufrun.convert.vocab.proof import prove
from ggufrun.convert.vocab.tokenizer_files import MAX_BYTES, TokenizerFiles
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError
from tests.support.checkpoints import DEMO
from tests.support.vocabularies import PUBLISHED, SIZE, added, byte_level, rank_table, tokenizer_json, write_folder

GPT2 = PUBLISHED["gpt-2"]
Json = dict[str, Any]


def read(folder: Path, **config: Any) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(None, "llama")
    readers.add_vocabulary(folder, Config(folder / "config.json", config), writer)
    return writer


def model(**changes: Any) -> Json:
    tokenizer = tokenizer_json(GPT2)
    return {**tokenizer, "model": {**tokenizer["model"], **changes}}


WHOLE = tokenizer_json(GPT2)
VOCAB = WHOLE["model"]["vocab"]
BAD: dict[str, Any] = {
    "empty": "",
    "cut short": json.dumps(WHOLE)[:5000],
    "a list": [],
    "no model": {"version": "1.0"},
    "nested": "[" * 100_000,
    "many brackets": '{"model": {}, "x": [' + "[]," * 3_000_000 + "[]]}",
    "not UTF-8": b'{"model": "\xff"}',
    "lone surrogate": json.dumps(model(vocab={**VOCAB, "\ud800": SIZE})),
    "vocab a list": model(vocab=[]),
    "no merges": model(merges=None),
    "id negative": model(vocab={**VOCAB, "zz": -1}),
    "id huge": model(vocab={**VOCAB, "zz": 1 << 40}),
    "id a fraction": model(vocab={**VOCAB, "zz": 1.5}),
    "id true": model(vocab={**VOCAB, "zz": True}),
    "id twice": model(vocab={**VOCAB, "zz": 3}),
    "merge of strangers": model(merges=[["zzz", "yyy"]]),
    "merge of three": model(merges=[["a", "b", "c"]]),
    "merge a number": model(merges=[7]),
    "merge of nothing": model(merges=[["", "a"]]),
    "merge without space": model(merges=["ab"]),
    "unigram": model(type="Unigram"),
    "dropout": model(dropout=0.5),
    "suffixes": model(end_of_word_suffix="</w>"),
    "added a number": {**WHOLE, "added_tokens": 3},
    "added empty": {**WHOLE, "added_tokens": [{"id": SIZE, "content": ""}]},
    "added id text": {**WHOLE, "added_tokens": [{"id": "1", "content": "x"}]},
    "added id beyond": {**WHOLE, "added_tokens": added("<|x|>", first=SIZE + 50)},
    "added twice": {**WHOLE, "added_tokens": added("<|x|>") + added("<|x|>", first=SIZE + 1)},
    "added in another's place": {**WHOLE, "added_tokens": added("<|x|>", first=5)},
    "splitting unknown": {**WHOLE, "pre_tokenizer": {"type": "Magic"}},
    "splitting a number": {**WHOLE, "pre_tokenizer": 5},
    "splitting without type": {**WHOLE, "pre_tokenizer": {}},
    "splitting endless": {**WHOLE, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [GPT2] * 1000}},
    "slow expression": {
        **WHOLE,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated", "invert": False},
    },
    "lower case": {**WHOLE, "normalizer": {"type": "Lowercase"}},
    "decoder with an expression": {
        **WHOLE,
        "decoder": {"type": "Replace", "pattern": {"Regex": "(x+)+y"}, "content": ""},
        "added_tokens": added("<|x|>"),
    },
    "post-processor a list": {**WHOLE, "post_processor": [3]},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tokenizer_json(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": BAD[name]})
    with pytest.raises(GgufrunError) as caught:
        read(folder, vocab_size=SIZE + 10)
    assert len(str(caught.value)) < 1000 and caught.value.todo


def test_padding_in_the_file_is_not_followed(tmp_path: Path) -> None:
    padding = {
        "strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "a",
    }  # fmt: skip
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": {**WHOLE, "padding": padding}})
    writer = gguf.GGUFWriter(None, "llama")
    original = readers.add_vocabulary(folder, Config(folder / "config.json", {}), writer)
    keys = {key: gguffile.encode(v.value, v.type, v.sub_type) for key, v in writer.kv_data[0].items()}
    assert prove(keys, original).strings > 2000


def test_a_giant_file_is_not_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {}, {})
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(FormatError, match="larger"):
        read(folder)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", FormatError),
        (b"\x0a\xff\xff\xff\xff\x7f", FormatError),
        ((DEMO / "tokenizer.model").read_bytes()[:9999], FormatError),
        (rank_table()[:-40], FormatError),
        (rank_table().replace(b" 7\n", b" 8\n"), FormatError),
        (rank_table() + b"QUFBQQ== 99999999\n", FormatError),
        (rank_table()[2000:], FormatError),
    ],
    ids=["empty", "length", "cut short", "table cut short", "rank twice", "rank far off", "bytes missing"],
)
def test_bad_tokenizer_model(tmp_path: Path, data: bytes, error: type[Exception]) -> None:
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.model": data})
    with pytest.raises(error):
        read(folder, vocab_size=SIZE + 256)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"tokenizer\.json"):
        read(write_folder(tmp_path / "m", {}, {}), vocab_size=10)


def test_a_vocabulary_larger_than_the_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {}, {}, spm=True)
    with pytest.raises(FormatError, match=r"2048 tokens.*2000"):
        read(folder, vocab_size=2000)


def train(tmp_path: Path, **options: Any) -> Path:
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog and then some more words to learn from\n" * 20)
    SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), minloglevel=2, hard_vocab_limit=False, **options
    )
    return tmp_path / "tokenizer.model"


def test_unigram_models_are_refused(tmp_path: Path) -> None:
    path = train(tmp_path, model_type="unigram", vocab_size=320, byte_fallback=True)
    with pytest.raises(UnsupportedError, match="unigram"):
        read(path.parent, vocab_size=400)


def test_models_without_byte_tokens_are_refused(tmp_path: Path) -> None:
    """llama.cpp would end the process at the first character it does not know."""
    path = train(tmp_path, model_type="bpe", vocab_size=60)
    with pytest.raises(UnsupportedError, match="byte tokens"):
        read(path.parent, vocab_size=400)


def test_what_a_sentencepiece_model_says_of_itself(tmp_path: Path) -> None:
    """User-defined pieces, no space in front, its own normalization: in the file, or in the proof."""
    path = train(
        tmp_path, model_type="bpe", vocab_size=330, byte_fallback=True, user_defined_symbols=["<turn>"],
        add_dummy_prefix=False,
    )  # fmt: skip
    writer = gguf.GGUFWriter(None, "llama")
    original = readers.add_vocabulary(path.parent, Config(tmp_path / "config.json", {"vocab_size": 400}), writer)
    keys = {key: gguffile.encode(v.value, v.type, v.sub_type) for key, v in writer.kv_data[0].items()}
    header = gguffile.Header(keys, ())
    number = header.get("tokenizer.ggml.tokens").index("<turn>")
    assert header.get("tokenizer.ggml.token_type")[number] == gguf.TokenType.USER_DEFINED
    assert header.get("tokenizer.ggml.add_space_prefix") is False
    proof = prove(keys, original)
    assert "nmt_nfkc" in proof.loss and "spaces" in proof.loss


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Some bytes changed, a piece lost, doubled or moved, a value swapped for one of another kind."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(max(1, len(found)))
        stop = min(len(found), start + chance.choice((1, 1, 2, 8, 200)))
        match chance.randrange(6):
            case 0:
                found[start:stop] = bytes(chance.randrange(256) for _ in range(stop - start))
            case 1:
                del found[start:stop]
            case 2:
                found[start:start] = found[start:stop]
            case 3:
                del found[start:]
            case 4:
                found[start:stop] = chance.choice(
                    (b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"4294967296", b"true")
                )
            case 5:
                digits = [index for index, byte in enumerate(found) if 48 <= byte < 58]
                if digits:
                    found[chance.choice(digits)] = chance.randrange(48, 58)
    return bytes(found)


def small() -> bytes:
    """A tokenizer.json of the alphabet and a few merges, so that a mutation hits something that matters."""
    whole = tokenizer_json(PUBLISHED["qwen2"], added("<|a|>", first=258), nfc=True)
    texts = [*list(VOCAB)[:256], "ab", "abc"]
    whole["model"] |= {"vocab": {text: n for n, text in enumerate(texts)}, "merges": [["a", "b"], ["ab", "c"]]}
    return json.dumps(whole | {"post_processor": byte_level()}).encode()


SAMPLES: dict[str, Callable[[], bytes]] = {
    "tokenizer.json": small,
    "tokenizer.model": lambda: (DEMO / "tokenizer.model").read_bytes(),
    "qwen.tiktoken": rank_table,
    "tokenizer_config.json": lambda: json.dumps(
        {"bos_token": "<s>", "add_bos_token": True, "chat_template": [{"name": "default", "template": "x"}],
         "added_tokens_decoder": {"3": {"content": "<|x|>", "special": True}}}
    ).encode(),
}  # fmt: skip


def fuzz(name: str, count: int, seed: int = 1) -> int:
    """Read ``count`` mutants of one file; how many were refused. Anything but a GgufrunError goes through."""
    chance, refused, data = random.Random(seed), 0, SAMPLES[name]()
    with tempfile.TemporaryDirectory() as place:
        folder = write_folder(Path(place) / "m", {}, {"tokenizer.json": small()} if "config" in name else {})
        for _ in range(count):
            (folder / name).write_bytes(mutate(chance, data))
            try:
                read(folder, vocab_size=4000)
            except GgufrunError:
                refused += 1
    return refused


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_files(name: str) -> None:
    count = {"qwen.tiktoken": 100}.get(name, 250)
    # some mutants are sound: a changed score, a changed template
    assert 0 < fuzz(name, count) < count


def test_the_files_are_read_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": WHOLE})
    files = TokenizerFiles.of(folder, Config(folder / "config.json", {}))
    assert files.tokenizer is files.tokenizer


if __name__ == "__main__":
    for sample in SAMPLES:
        total = int(sys.argv[1])
        sys.stdout.write(f"{sample}: {fuzz(sample, total, seed=2)} of {total} refused\n")
