"""Opening a model, and its vocabulary, held against the checkpoint's own files and SentencePiece."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece

from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.threads import default_threads
from ggufrun.errors import EngineError, NotFoundError, UnsupportedError
from tests.support.checkpoints import DEMO

CONFIG = json.loads((DEMO / "config.json").read_text())
TEXTS = [
    "床前明月光，疑是地上霜。",
    'Recite "Quiet Night Thought"',
    "两个  空格\n和\t制表符 ",
    "😀 字符不在词表里 ✓",
    "</s> as text",
    "",
]


def test_facts(demo_model: Model) -> None:
    assert demo_model.vocab.size == CONFIG["vocab_size"]
    assert demo_model.train_context == CONFIG["max_position_embeddings"]
    assert (demo_model.vocab.bos, demo_model.vocab.eos) == (CONFIG["bos_token_id"], CONFIG["eos_token_id"])
    assert demo_model.vocab.add_bos
    assert demo_model.meta("general.architecture") == "llama"
    assert demo_model.meta("no.such.key") is None
    template = json.loads((DEMO / "tokenizer_config.json").read_text())["chat_template"]
    assert demo_model.chat_template == template
    # Longer than the first buffer.
    assert len(template) > 256 and demo_model.meta("tokenizer.chat_template") == template


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_sentencepiece(demo_model: Model, text: str) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
    ids = demo_model.vocab.tokenize(text, special=False)
    assert ids == reference.encode(text)
    assert b"".join(map(demo_model.vocab.piece, ids)).decode().removeprefix(" ") == text


def test_control_tokens(demo_model: Model) -> None:
    vocab = demo_model.vocab
    assert vocab.tokenize("</s>", special=True) == [vocab.eos]
    assert vocab.eos not in vocab.tokenize("</s>", special=False)
    assert vocab.tokenize("", special=True, bos=True) == [vocab.bos]
    assert vocab.piece(vocab.eos) == b"" and vocab.text(vocab.eos) == "</s>"
    assert vocab.is_eog(vocab.eos) and not vocab.is_eog(vocab.bos)
    assert vocab.control("</s>") == vocab.eos and vocab.control("<|im_end|>") is None


def test_bytes_that_are_no_characters_reach_the_model(demo_model: Model) -> None:
    text = b"\xff\xe5".decode("utf-8", "surrogateescape")
    pieces = [demo_model.vocab.piece(token) for token in demo_model.vocab.tokenize(text, special=False)]
    assert b"".join(pieces) == b" \xff\xe5"


@pytest.mark.parametrize("token", [-1, CONFIG["vocab_size"], 2**31 - 1])
def test_a_token_outside_the_vocabulary(demo_model: Model, token: int) -> None:
    with pytest.raises(EngineError, match="not in the vocabulary"):
        demo_model.vocab.piece(token)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Model(ModelParams(tmp_path / "missing.gguf"))


def test_a_damaged_file_gives_the_engines_reason(demo_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_gguf("q8_0").read_bytes()[:200_000])
    with pytest.raises(EngineError, match=r"tensor .* not within"):
        Model(ModelParams(broken))


def test_giving_up_while_loading(demo_gguf: Callable[[str], Path]) -> None:
    with pytest.raises(KeyboardInterrupt):
        Model(ModelParams(demo_gguf("q8_0")), on_progress=lambda fraction: False)


def test_a_vocabulary_without_bytes_is_refused(tmp_path: Path) -> None:
    """llama.cpp would end the process at the first character that such a vocabulary cannot write."""
    path = tmp_path / "nobytes.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "▁a"])
    writer.add_token_scores([0.0, 0.0, 0.0, -1.0])
    writer.add_token_types([2, 3, 3, 1])
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="byte tokens"):
        Model(ModelParams(path, vocab_only=True))


def test_threads_are_bounded() -> None:
    assert 1 <= default_threads() <= 512
