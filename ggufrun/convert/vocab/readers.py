"""Tokenizer files become the vocabulary of a GGUF: one function for each way in which model families ship theirs.

Every function writes the ``tokenizer.*`` keys in the order of llama.cpp's converter and returns the tokenizer that they
were made from, for the proof. They raise NotFoundError without a tokenizer, FormatError for a damaged one and
UnsupportedError for one that llama.cpp would follow wrongly.

Source of the rules: ``set_vocab`` of the families in llama.cpp's ``conversion/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf

from ggufrun.convert.config import Config
from ggufrun.convert.vocab import bpe, pretokenizers, ranks, spm
from ggufrun.convert.vocab.special import Special, add_ends, read_special, template_begins, write_special
from ggufrun.convert.vocab.splitting import Splitting, pretokenizer_name
from ggufrun.convert.vocab.tekken import ROLES, read_tekken
from ggufrun.convert.vocab.tokenizer_files import MAX_VOCABULARY, TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Original, Vocabulary, check_vocabulary, without_beyond
from ggufrun.errors import NotFoundError

VocabFunction = Callable[[Path, Config, gguf.GGUFWriter, str | None], Original]
"""(folder of the tokenizer files, config, where to write, ``--pretokenizer`` or None) -> the original tokenizer."""

CODE_LLAMA, GRANITE = 32016, 49152
"""Sizes of vocabularies by which llama.cpp's converter knows Code Llama and the small Granite models."""

CODE_LLAMA_EOT, GEMMA_EOT = 32010, 107

FILL_IN = ("prefix", "suffix", "middle")


def add_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None, prefix: bool | None = None
) -> Original:
    """Whatever the folder has: SentencePiece first, then tokenizer.json or its forerunners, then a table of ranks.

    ``prefix`` says whether a SentencePiece model puts a space in front of a text; None leaves it to the model.
    """
    files = TokenizerFiles.of(folder, config)
    model = files.path("tokenizer.model")
    if model and ranks.is_ranks(model):
        return _llama3_ranks(files, model, config, writer, pretokenizer)
    if model:
        return _sentencepiece(files, model, config, writer, prefix)
    if files.bpe_name:
        return _tokenizer_json(files, config, writer, pretokenizer, prefix)
    if files.path("tekken.json"):
        return _tekken(files, config, writer, pretokenizer)
    if files.path("qwen.tiktoken"):
        return qwen_vocabulary(folder, config, writer, pretokenizer)
    raise NotFoundError(f"no tokenizer.model or tokenizer.json in {folder}", "copy the model's tokenizer files there")


def bpe_vocabulary(folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None) -> Original:
    """tokenizer.json where there is one, whatever lies beside it."""
    files = TokenizerFiles.of(folder, config)
    if not files.bpe_name:
        return add_vocabulary(folder, config, writer, pretokenizer)
    return _tokenizer_json(files, config, writer, pretokenizer)


def llama_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """Llama and what is built like it: the space in front is tokenizer_config.json's to say."""
    files = TokenizerFiles.of(folder, config)
    prefix = files.settings.get("add_prefix_space")
    if isinstance(prefix, bool):
        writer.add_add_space_prefix(prefix)
    else:
        prefix = None
    original = add_vocabulary(folder, config, writer, pretokenizer, prefix)
    size = config.values.get("vocab_size")
    if size == CODE_LLAMA:
        tokens = writer.kv_data[0][gguf.Keys.Tokenizer.LIST].value
        # other models may have as many tokens
        if b"<EOT>" in tokens[CODE_LLAMA_EOT]:
            _write_again(files, writer, (*FILL_IN, "eot"), CODE_LLAMA_EOT)
    if size == GRANITE and not template_begins(files):
        writer.add_add_bos_token(False)
    return original


def gemma_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """Gemma 1: no space in front, and the end of a turn."""
    original = _without_prefix(folder, config, writer, pretokenizer)
    _write_again(TokenizerFiles.of(folder, config), writer, (*FILL_IN, "fsep", "eot"), GEMMA_EOT, template=False)
    # in the converter's order
    writer.kv_data[0].pop(gguf.Keys.Tokenizer.ADD_PREFIX, None)
    writer.add_add_space_prefix(False)
    return original


def gemma2_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """Gemma 2 and 3: no space in front."""
    return _without_prefix(folder, config, writer, pretokenizer)


def phi3_vocabulary(folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None) -> Original:
    """Phi-3: SentencePiece whose added tokens also stand in tokenizer.json; Phi-4: byte-level BPE."""
    files = TokenizerFiles.of(folder, config)
    model = files.path("tokenizer.model")
    if files.settings.get("tokenizer_class") == "GPT2Tokenizer" or not model:
        return bpe_vocabulary(folder, config, writer, pretokenizer)
    source = spm.read_model(model)
    vocabulary = spm.read_pieces(source, vocabulary_size(config, source.size))
    spm.add_tokens(files, vocabulary, looks=False)
    return write_sentencepiece(files, writer, source, vocabulary)


def qwen_vocabulary(folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None) -> Original:
    """Qwen 1: a table of ranks, and special tokens that only its code names."""
    files = TokenizerFiles.of(folder, config)
    path = files.path("qwen.tiktoken")
    if path is None:
        return bpe_vocabulary(folder, config, writer, pretokenizer)
    table = ranks.Table(
        path, ranks.read_ranks(path), ranks.QWEN_SPECIAL, pretokenizers.QWEN2, whole=False, composes=True
    )
    vocabulary = ranks.read_vocabulary(table, vocabulary_size(config, 0))
    special = read_special(files, len(vocabulary.tokens))
    end = table.ids["<|endoftext|>"]
    if not special.ids:
        special.ids |= {"bos": end, "eos": end}
    special.default("unk", end)
    write_bpe(writer, vocabulary, pretokenizer or "qwen2")
    write_special(writer, special, ranks.last_merges(table.ranks))
    return ranks.original(table, vocabulary)


def vocabulary_size(config: Config, least: int, key: str = "vocab_size") -> int:
    """Tokens that the model has: what its configuration says, else those of the tokenizer, ``least``."""
    return config.integer(key, high=MAX_VOCABULARY) if config.has(key) or not least else least


def _without_prefix(folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None) -> Original:
    original = add_vocabulary(folder, config, writer, pretokenizer, prefix=False)
    writer.add_add_space_prefix(False)
    return original


def _write_again(
    files: TokenizerFiles, writer: gguf.GGUFWriter, kinds: tuple[str, ...], eot: int, template: bool = True
) -> None:
    """The converter's second round of special tokens, for kinds that only some models of a family have."""
    special = read_special(files, len(writer.kv_data[0][gguf.Keys.Tokenizer.LIST].value), kinds)
    special.default("eot", eot)
    if not template:
        special.template = None
    write_special(writer, special)


def _sentencepiece(
    files: TokenizerFiles, path: Path, config: Config, writer: gguf.GGUFWriter, prefix: bool | None
) -> Original:
    source = spm.read_model(path)
    vocabulary = spm.read_pieces(source, vocabulary_size(config, source.size))
    spm.add_tokens(files, vocabulary)
    return write_sentencepiece(files, writer, source, vocabulary, prefix=prefix)


def write_sentencepiece(
    files: TokenizerFiles,
    writer: gguf.GGUFWriter,
    source: spm.Model,
    vocabulary: Vocabulary,
    name: str = "default",
    write: bool = True,
    prefix: bool | None = None,
) -> Original:
    """Write a vocabulary with scores, and the special tokens unless ``write`` is off.

    ``prefix`` says whether a space is put in front of texts, where that is not for the tokenizer to say.
    """
    check_vocabulary(vocabulary.tokens, byte_fallback=True)
    _write_scored(writer, vocabulary, name)
    if write:
        special = read_special(files, len(vocabulary.tokens))
        add_ends(files, special, vocabulary.tokens)
        write_special(writer, special)
        if prefix is None and not source.prefix:
            # llama.cpp would put a space in front, and its converter does not tell it otherwise
            writer.add_add_space_prefix(False)
    original = spm.original(source, vocabulary, source.prefix if prefix is None else prefix)
    return without_beyond(original, vocabulary)


def _write_scored(writer: gguf.GGUFWriter, vocabulary: Vocabulary, name: str) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)


def write_bpe(writer: gguf.GGUFWriter, vocabulary: Vocabulary, name: str) -> None:
    """Write the tokens of a byte-level vocabulary, whose texts are split as ``name`` says."""
    check_vocabulary(vocabulary.tokens, byte_fallback=False)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)


def _tokenizer_json(
    files: TokenizerFiles, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None, said: bool | None = None
) -> Original:
    if not bpe.is_sentencepiece(files) or pretokenizer is not None:
        return write_byte_level(files, config, writer, pretokenizer)
    model = bpe.read_model(files)
    prefix, repeated = bpe.space_in_front(model.splitting)
    size = vocabulary_size(config, max({**model.ids, **files.ids}.values()) + 1)
    tokenizer = bpe.load(files, size)
    vocabulary = bpe.sentencepiece_like(files, model, size)
    check_vocabulary(vocabulary.tokens, byte_fallback=True)
    _write_scored(writer, vocabulary, "default")
    special = read_special(files, len(vocabulary.tokens))
    add_ends(files, special, vocabulary.tokens)
    write_special(writer, special)
    if said is None and not prefix:
        writer.add_add_space_prefix(False)
    original = without_beyond(bpe.original(files, model, tokenizer, repeated), vocabulary)
    # llama.cpp looks for these in the text itself, where spaces are spaces
    added = tuple((vocabulary.tokens[number].decode(), number) for _, number in original.added)
    return replace(original, added=added)


def write_byte_level(
    files: TokenizerFiles,
    config: Config,
    writer: gguf.GGUFWriter,
    pretokenizer: str | None,
    complete: Callable[[Special], None] | None = None,
) -> Original:
    """Write the vocabulary of a byte-level tokenizer.json; ``complete`` adds special tokens that it does not tell."""
    model = bpe.read_model(files)
    known = {**model.ids, **files.ids}
    architectures = config.values.get("architectures")
    name = pretokenizer_name(
        model.splitting, architectures if isinstance(architectures, list | tuple) else (), known, pretokenizer
    )
    size = vocabulary_size(config, max(known.values()) + 1)
    tokenizer = bpe.load(files, size)
    vocabulary = bpe.byte_level(files, model, size, tokenizer)
    write_bpe(writer, vocabulary, name)
    special = read_special(files, size)
    if complete:
        complete(special)
    else:
        add_ends(files, special, vocabulary.tokens)
    if name in pretokenizers.BEGINS and not str(files.settings.get("tokenizer_class")).startswith("Llama"):
        # the class of Llama's puts BOS in front unless its settings say otherwise, other classes do what the file says
        special.add.setdefault("bos", False)
    write_special(writer, special, bpe.merge_texts(model.merges))
    original = without_beyond(bpe.original(files, model, tokenizer, prefixed=True), vocabulary)
    return replace(original, approximate=pretokenizers.APPROXIMATE.get(name, ()))


def _llama3_ranks(
    files: TokenizerFiles, path: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None
) -> Original:
    """Llama 3 as Meta ships it; from 3.1 on, where positions are scaled, some reserved tokens have got a use."""
    # transformers' rope_parameters say "default" for positions that are not scaled
    scaling = config.values.get("rope_scaling")
    names = ranks.LLAMA3_SPECIAL if scaling else ranks.LLAMA3_0_SPECIAL
    table = ranks.Table(path, ranks.read_ranks(path), names, pretokenizers.LLAMA3)
    vocabulary = ranks.read_vocabulary(table, vocabulary_size(config, table.size))
    numbers = table.ids
    special = read_special(files, len(vocabulary.tokens))
    special.ids = {"bos": numbers["<|begin_of_text|>"]} | special.ids
    special.default("eos", numbers["<|end_of_text|>"])
    special.add.setdefault("bos", True)
    write_bpe(writer, vocabulary, pretokenizer or "llama-bpe")
    write_special(writer, special, ranks.all_merges(table.ranks))
    return ranks.original(table, vocabulary)


def _tekken(files: TokenizerFiles, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None) -> Original:
    """Mistral's own tokenizer, where a checkpoint has no other."""
    table = read_tekken(files.folder / "tekken.json", files.large_object("tekken.json"))
    rule = Splitting((), (table.rule, pretokenizers.BYTES), ignore_merges=True)
    name = pretokenizer_name(rule, (), {}, pretokenizer)
    vocabulary = ranks.read_vocabulary(table, vocabulary_size(config, table.size))
    special = read_special(files, len(vocabulary.tokens))
    for kind, text in ROLES.items():
        special.default(kind, table.ids.get(text))
    special.add.setdefault("bos", True)
    write_bpe(writer, vocabulary, name)
    write_special(writer, special, ranks.all_merges(table.ranks))
    return replace(ranks.original(table, vocabulary), approximate=pretokenizers.APPROXIMATE.get(name, ()))
