"""The vocabularies of Hunyuan: tokenizer.json, or ``hy.tiktoken``, a table of ranks.

Source of the rules: ``set_vocab`` in llama.cpp's ``conversion/hunyuan.py``; of the special tokens that follow the
table, the ``tokenization_hy.py`` that the models are published with. Of the last kind there are as many as the
vocabulary has room for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

from ggufrun.convert.config import Config, read_json
from ggufrun.convert.vocab import pretokenizers, ranks
from ggufrun.convert.vocab.readers import bpe_vocabulary, vocabulary_size, write_bpe
from ggufrun.convert.vocab.special import read_special, write_special
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import FormatError

SPECIAL = ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>")
MAX_EXTRA = 1024
WIDE = 4096
"""The width of the one dense model with a table of ranks."""


def hunyuan_dense_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """A dense model's, whose config.json tells the end of a text, and generation_config.json that of a turn."""
    files = TokenizerFiles.of(folder, config)
    if files.path("tokenizer.json") or not files.path("hy.tiktoken"):
        original = bpe_vocabulary(folder, config, writer, pretokenizer)
    else:
        original = _table(files, config, writer, pretokenizer)
        if config.integer("hidden_size") == WIDE:
            _add(writer.add_bos_token_id, dict(original.added).get("<|startoftext|>"))
    text = files.config.get("text_config")
    _add(writer.add_eos_token_id, {**files.config, **(text if isinstance(text, dict) else {})}.get("eod_token_id"))
    path = files.path("generation_config.json")
    ends = read_json(path) if path else None
    ends = ends.get("eos_token_id") if isinstance(ends, dict) else None
    if isinstance(ends, list) and len(ends) >= 2:
        # last, as the converter has it
        writer.kv_data[0].pop(gguf.Keys.Tokenizer.EOT_ID, None)
        _add(writer.add_eot_token_id, ends[0])
    return original


def hunyuan_moe_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """That of a model with experts; config.json names another beginning than the model has."""
    files = TokenizerFiles.of(folder, config)
    if not files.path("hy.tiktoken"):
        original = bpe_vocabulary(folder, config, writer, pretokenizer)
    else:
        original = _table(files, config, writer, pretokenizer)
    _add(writer.add_bos_token_id, dict(original.added).get("<|bos|>"))
    return original


def _table(files: TokenizerFiles, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None) -> Original:
    path = files.folder / "hy.tiktoken"
    found = ranks.read_ranks(path)
    size = vocabulary_size(config, 0)
    n_extra = size - len(found) - len(SPECIAL)
    if not 0 <= n_extra <= MAX_EXTRA:
        raise FormatError(
            f"{path} has {len(found)} tokens, config.json a vocabulary of {size}",
            "use the tokenizer that the checkpoint was trained with",
        )
    names = (*SPECIAL, *(f"<|extra_{number}|>" for number in range(n_extra)))
    table = ranks.Table(path, found, names, pretokenizers.QWEN2, whole=False, composes=True)
    vocabulary = ranks.read_vocabulary(table, size)
    write_bpe(writer, vocabulary, pretokenizer or "hunyuan")
    write_special(writer, read_special(files, size), ranks.last_merges(found, every=False))
    return ranks.original(table, vocabulary)


def _add(write: Any, number: Any) -> None:
    if type(number) is int and 0 <= number < 1 << 31:
        write(number)
