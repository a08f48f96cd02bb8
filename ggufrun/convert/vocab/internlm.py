"""The vocabularies of InternLM 2 and 3: SentencePiece, with chat models that end a turn with <|im_end|>.

Source of the rules: ``set_vocab`` of both in llama.cpp's ``conversion/internlm.py``.
"""

from __future__ import annotations

from pathlib import Path

import gguf

from ggufrun.convert.config import Config
from ggufrun.convert.vocab import spm
from ggufrun.convert.vocab.readers import bpe_vocabulary, vocabulary_size, write_sentencepiece
from ggufrun.convert.vocab.special import add_ends, read_special, write_special
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Kind, Original

END = "<|im_end|>"


def internlm2_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """InternLM 2: SentencePiece with a piece for the byte 0, and chat models that end with <|im_end|>."""
    files = TokenizerFiles.of(folder, config)
    model = files.path("tokenizer.model")
    if not model:
        return bpe_vocabulary(folder, config, writer, pretokenizer)
    source = spm.read_model(model)
    vocabulary = spm.read_pieces(source, vocabulary_size(config, source.size))
    for number, text in enumerate(vocabulary.tokens):
        if text == b"\0":
            # to C++ it would be an empty string
            vocabulary.tokens[number] = "🐉".encode()
        if text.startswith(b"[UNUSED"):
            vocabulary.types[number] = int(Kind.UNUSED)
    spm.add_tokens(files, vocabulary, looks=False)
    original = write_sentencepiece(files, writer, source, vocabulary, write=False)
    writer.add_add_space_prefix(source.prefix)
    special = read_special(files, len(vocabulary.tokens))
    if files.ids.get(END, len(vocabulary.tokens)) < len(vocabulary.tokens):
        special.ids["eos"] = files.ids[END]
    write_special(writer, special)
    return original


def internlm3_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """InternLM 3: whether there is a space in front is tokenizer_config.json's to say."""
    files = TokenizerFiles.of(folder, config)
    model = files.path("tokenizer.model")
    if not model:
        return bpe_vocabulary(folder, config, writer, pretokenizer)
    source = spm.read_model(model)
    vocabulary = spm.read_pieces(source, vocabulary_size(config, source.size))
    spm.add_tokens(files, vocabulary)
    said = files.settings.get("add_prefix_space")
    prefix = said if isinstance(said, bool) else None
    original = write_sentencepiece(files, writer, source, vocabulary, write=False, prefix=prefix)
    if prefix is not None or not source.prefix:
        writer.add_add_space_prefix(bool(prefix))
    special = read_special(files, len(vocabulary.tokens))
    if "eos" in special.ids and any(token.text == END and token.marked for token in files.added):
        special.ids["eos"] = files.ids[END]
    add_ends(files, special, vocabulary.tokens)
    write_special(writer, special)
    return original
