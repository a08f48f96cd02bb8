"""The vocabulary of a converted model tokenizes as the original SentencePiece model does."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from ggufrun.native.bindings import bindings
from tests.support.checkpoints import DEMO

# not the package itself, which would take llama.cpp's log from the engine
llama_cpp = bindings()

TEXTS = [
    "背一下静夜思",
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "Who wrote “Quiet Night Thought”? 李白!",
    "  two  spaces, a\ttab\r\nand 🙂🙃 emoji",
    "def f(x):\n    return x ** 2  # 平方",
    "1234567890 3.14 ½ Ⅷ",
    "",
    " ",
    "\n\n",
    "混合mixed文本text。，！？",
    "ᠮᠣᠩᠭᠣᠯ العربية हिन्दी ไทย",
]


@pytest.fixture(scope="module")
def tokenize(demo_gguf: Callable[[str], Path]) -> Callable[[str], list[int]]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(demo_gguf("f16")).encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)

    def run(text: str) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), False, False)
        assert count >= 0
        return list(ids[:count])

    return run


def check(tokenize: Callable[[str], list[int]], text: str) -> None:
    processor = SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
    assert tokenize(text) == processor.EncodeAsIds(text), repr(text)


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizes_as_sentencepiece(tokenize: Callable[[str], list[int]], text: str) -> None:
    check(tokenize, text)


def test_tokenizes_random_mixtures_as_sentencepiece(tokenize: Callable[[str], list[int]]) -> None:
    chance = random.Random(3)
    pieces = [*"".join(TEXTS), "静夜思", "春眠不觉晓", "the ", "\u3000", "é", "𠀀"]
    for _ in range(300):
        check(tokenize, "".join(chance.choices(pieces, k=chance.randint(1, 30))))
