"""The vocabularies of DeepSeek and of what is built like it: tokenizer.json, or Kimi's ``tiktoken.model``.

Source of the rules: ``DeepseekV2Model.set_vocab`` in llama.cpp's ``conversion/deepseek.py``; of the splitting and the
special tokens that follow the table, the ``tokenization_kimi.py`` that Kimi K2 is published with. Those that
tokenizer_config.json does not name are reserved.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf

from ggufrun.convert.config import Config
from ggufrun.convert.vocab import pretokenizers, ranks
from ggufrun.convert.vocab.readers import bpe_vocabulary, vocabulary_size, write_bpe
from ggufrun.convert.vocab.special import add_ends, read_special, write_special
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import FormatError

FILE = "tiktoken.model"
N_SPECIAL = 256
SPLITTING = "kimi-k2"


def deepseek_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """tokenizer.json where there is one, else a table of ranks."""
    files = TokenizerFiles.of(folder, config)
    path = files.path(FILE)
    if files.bpe_name or path is None:
        return bpe_vocabulary(folder, config, writer, pretokenizer)
    found = ranks.read_ranks(path)
    size = vocabulary_size(config, len(found) + N_SPECIAL)
    named = {token.id: token.text for token in files.added}
    numbers = range(len(found), min(len(found) + N_SPECIAL, size))
    if stray := sorted(number for number in named if number not in numbers and number < size):
        raise FormatError(
            f"the special token {named[stray[0]]} in {folder} does not follow the {len(found)} of {FILE}",
            "use the model's own tokenizer files",
        )
    names = [named.get(number, f"<|reserved_token_{number}|>") for number in numbers]
    table = ranks.Table(path, found, names, pretokenizers.KIMI)
    vocabulary = ranks.read_vocabulary(table, size)
    vocabulary.beyond |= {text: number for number, text in named.items() if number >= size}
    write_bpe(writer, vocabulary, pretokenizer or SPLITTING)
    special = read_special(files, size)
    add_ends(files, special, vocabulary.tokens)
    write_special(writer, special, ranks.last_merges(found, every=False))
    return replace(ranks.original(table, vocabulary), approximate=pretokenizers.APPROXIMATE[SPLITTING])


def kimi_linear_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """Kimi Linear's: with the table, the end of a text is tokenizer_config.json's to say."""
    original = deepseek_vocabulary(folder, config, writer, pretokenizer)
    files = TokenizerFiles.of(folder, config)
    named = files.settings.get("eos_token")
    text = named.get("content") if isinstance(named, dict) else named
    number = dict(original.added).get(text) if isinstance(text, str) else None
    if original.name == FILE and number is not None:
        writer.add_eos_token_id(number)
    return original
