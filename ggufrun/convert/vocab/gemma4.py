"""The vocabulary of Gemma 4: a tokenizer.json over characters, whose merges llama.cpp follows one by one.

Source of the rules: ``Gemma4Model.set_vocab`` in llama.cpp's ``conversion/gemma.py``. As in ``bpe``, added tokens are
marked as such wherever their ids lie.
"""

from __future__ import annotations

from pathlib import Path

import gguf

from ggufrun.convert.config import Config
from ggufrun.convert.vocab import bpe
from ggufrun.convert.vocab.readers import vocabulary_size
from ggufrun.convert.vocab.special import add_ends, read_special, write_special
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Kind, Original, Vocabulary, check_vocabulary, without_beyond
from ggufrun.errors import NotFoundError, UnsupportedError

SHOWN = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)
"""Special tokens that stand in an answer, for programs to read."""

SCORE = -1000.0
"""Of every token: only the merges count."""


def gemma4_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """tokenizer.json, its merges too."""
    files = TokenizerFiles.of(folder, config)
    if not files.path("tokenizer.json"):
        raise NotFoundError(f"no tokenizer.json in {folder}", "copy the model's tokenizer files there")
    model = bpe.read_model(files)
    size = vocabulary_size(config, max({**model.ids, **files.ids}.values()) + 1)
    tokenizer = bpe.load(files, size)
    prefix, repeated = bpe.space_in_front(model.splitting)
    if prefix or not model.byte_fallback:
        raise UnsupportedError(
            f"the tokenizer.json in {folder} cuts text up otherwise than Gemma 4's", "use the model's own tokenizer"
        )
    vocabulary = Vocabulary.padded(size, SCORE)
    bpe.put_pieces(
        vocabulary, files, model, lambda text: (SCORE, Kind.BYTE if bpe.BYTE.fullmatch(text) else Kind.NORMAL)
    )
    for token in files.added:
        special = token.special and token.text not in SHOWN
        vocabulary.add(token.id, token.text, SCORE, Kind.CONTROL if special else Kind.USER_DEFINED)
    check_vocabulary(vocabulary.tokens, byte_fallback=True)
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    found = read_special(files, size)
    add_ends(files, found, vocabulary.tokens)
    write_special(writer, found, bpe.merge_texts(model.merges))
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)
    return without_beyond(bpe.original(files, model, tokenizer, repeated), vocabulary)
