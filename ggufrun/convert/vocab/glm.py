"""The vocabularies of ChatGLM 3 and GLM-4, whose special tokens stand partly in the models' code only.

Source of the rules: ``set_vocab`` and ``set_vocab_chatglm3`` in llama.cpp's ``conversion/chatglm.py`` and ``glm.py``.
"""

from __future__ import annotations

from pathlib import Path

import gguf

from ggufrun.convert.config import Config
from ggufrun.convert.vocab import pretokenizers, ranks, spm
from ggufrun.convert.vocab.readers import vocabulary_size, write_bpe, write_byte_level, write_sentencepiece
from ggufrun.convert.vocab.special import Special, read_special, write_special
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.convert.vocab.vocabulary import Kind, Original
from ggufrun.errors import FormatError, NotFoundError

CHATGLM3_SPECIAL = (
    "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
)  # fmt: skip
GLM4_OLD = (("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"))
GLM4 = (*GLM4_OLD, ("bos", "<|endoftext|>"))
GLM4_MOE = (("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>"))
"""Kinds of special tokens that only the models' code tells, and the tokens."""


def chatglm_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """ChatGLM 3: SentencePiece with five markers and four roles after it. GLM-4 of the same class: tokenizer.json, or
    a table of ranks, whose special tokens stand in tokenizer_config.json."""
    files = TokenizerFiles.of(folder, config)
    model = files.path("tokenizer.model")
    if files.path("tokenizer.json"):
        return _glm(files, config, writer, pretokenizer, GLM4_OLD)
    if not model:
        raise NotFoundError(f"no tokenizer.model in {folder}", "copy the model's tokenizer files there")
    if ranks.is_ranks(model):
        return _glm4_ranks(files, model, config, writer, pretokenizer)
    source = spm.read_model(model)
    size = _glm_size(config, source.size)
    vocabulary = spm.read_pieces(source, size)
    for number, text in enumerate(("<unk>", "<bos>", "<eos>")):
        vocabulary.tokens[number] = text.encode()
    for number in range(source.size, size):
        vocabulary.scores[number] = 0.0
    for number, text in enumerate(CHATGLM3_SPECIAL, source.size):
        vocabulary.put(number, text, 0.0, Kind.CONTROL)
    return write_sentencepiece(files, writer, source, vocabulary, name="chatglm-spm")


def glm4_vocabulary(folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None) -> Original:
    """GLM-4 in transformers' own format."""
    return _glm(TokenizerFiles.of(folder, config), config, writer, pretokenizer, GLM4)


def glm4_moe_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """GLM-4.5 and later: a text begins with [gMASK], and the end of a call of tools is told."""
    return _glm(TokenizerFiles.of(folder, config), config, writer, pretokenizer, GLM4_MOE)


def _glm(
    files: TokenizerFiles,
    config: Config,
    writer: gguf.GGUFWriter,
    pretokenizer: str | None,
    wanted: tuple[tuple[str, str], ...],
) -> Original:
    if not files.path("tokenizer.json"):
        raise NotFoundError(f"no tokenizer.json in {files.folder}", "copy the model's tokenizer files there")

    return write_byte_level(
        files, config, writer, pretokenizer, lambda special: _complete_glm(files, special, "tokenizer.json", wanted)
    )


def _glm4_ranks(
    files: TokenizerFiles, path: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None
) -> Original:
    found = ranks.read_ranks(path)
    names = [token.text for token in sorted(files.added, key=lambda token: token.id)]
    table = ranks.Table(path, found, names, pretokenizers.LLAMA3)
    if table.ids != files.ids:
        raise FormatError(
            f"the special tokens in {files.folder} do not follow the {len(found)} of {path.name}",
            "use the model's own tokenizer_config.json",
        )
    vocabulary = ranks.read_vocabulary(table, _glm_size(config, table.size))
    special = read_special(files, len(vocabulary.tokens))
    _complete_glm(files, special, "tokenizer_config.json", GLM4_OLD)
    write_bpe(writer, vocabulary, pretokenizer or "chatglm-bpe")
    write_special(writer, special, ranks.all_merges(found))
    return ranks.original(table, vocabulary)


def _glm_size(config: Config, least: int) -> int:
    return vocabulary_size(config, least, "padded_vocab_size" if config.has("padded_vocab_size") else "vocab_size")


def _complete_glm(files: TokenizerFiles, special: Special, name: str, wanted: tuple[tuple[str, str], ...]) -> None:
    for kind, text in wanted:
        if text not in files.ids:
            raise FormatError(f"{name} has no token {text}", "use the model's own tokenizer files")
        special.default(kind, files.ids[text])
