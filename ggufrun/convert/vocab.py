"""Tokenizer files become the vocabulary of a GGUF.

Source of the rules: llama.cpp's ``conversion/base.py`` (``_create_vocab_sentencepiece``) and the ``gguf`` package's
``SpecialVocab``, which reads special ids, ``add_*_token`` flags and the chat template.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from ggufrun.convert.config import Config, read_json
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError

SPECIAL_LOOKS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
"""Tokens that are special whatever their file says, as llama.cpp's converter has it."""


@dataclass
class Vocabulary:
    """Ids in order: text as UTF-8, score, and ``gguf.TokenType``."""

    tokens: list[bytes]
    scores: list[float]
    types: list[int]

    def put(self, number: int, text: str, score: float, kind: gguf.TokenType) -> None:
        """Give the id ``number`` a text."""
        self.tokens[number], self.scores[number], self.types[number] = text.encode(), score, int(kind)


def add_vocabulary(folder: Path, config: Config, writer: gguf.GGUFWriter) -> None:
    """Write the ``tokenizer.*`` keys. NotFoundError without a tokenizer, FormatError for a damaged one."""
    model = folder / "tokenizer.model"
    if not model.is_file():
        if (folder / "tokenizer.json").is_file():
            raise UnsupportedError(
                f"{folder} has only a tokenizer.json, which this release does not read",
                "add the tokenizer.model beside it",
            )
        raise NotFoundError(f"no tokenizer.model in {folder}", "copy the model's tokenizer files there")
    settings = _tokenizer_config(folder)
    prefix_space = settings.get("add_prefix_space")
    if isinstance(prefix_space, bool):
        writer.add_add_space_prefix(prefix_space)
    vocabulary = _sentencepiece(model, config.integer("vocab_size"))
    _add_tokens(folder, settings, vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    _special(folder, len(vocabulary.tokens)).add_to_gguf(writer, quiet=True)


def _sentencepiece(path: Path, size: int) -> Vocabulary:
    """The pieces of a SentencePiece model; ids it does not have, up to ``size``, are padding."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        data = path.read_bytes()
        if not data or not processor.LoadFromSerializedProto(data):
            raise RuntimeError("empty")
        pieces = processor.GetPieceSize()
    except (RuntimeError, ValueError, TypeError) as error:
        raise FormatError(f"{path} is no SentencePiece model", "download it again") from error
    if pieces > size:
        raise FormatError(
            f"{path} has {pieces} tokens, config.json a vocabulary of {size}",
            "use the tokenizer that the checkpoint was trained with",
        )
    kinds = gguf.TokenType
    vocabulary = Vocabulary(
        [f"[PAD{number}]".encode() for number in range(size)], [-10000.0] * size, [int(kinds.UNUSED)] * size
    )
    for number in range(pieces):
        kind = (
            kinds.UNKNOWN if processor.IsUnknown(number)
            else kinds.CONTROL if processor.IsControl(number)
            else kinds.UNUSED if processor.IsUnused(number)
            else kinds.BYTE if processor.IsByte(number)
            else kinds.NORMAL
        )  # fmt: skip
        vocabulary.put(number, processor.IdToPiece(number), processor.GetScore(number), kind)
    return vocabulary


def _add_tokens(folder: Path, settings: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Tokens added beside the SentencePiece model: added_tokens.json, then added_tokens_decoder."""
    size = len(vocabulary.tokens)
    added_file = folder / "added_tokens.json"
    added = read_json(added_file) if added_file.is_file() else {}
    decoder = settings.get("added_tokens_decoder", {})
    try:
        for text, number in added.items():
            _check_id(folder, text, number, size)
            vocabulary.put(number, text, -1000.0, gguf.TokenType.USER_DEFINED)
        for key, entry in decoder.items():
            number, text = int(key), entry["content"]
            _check_id(folder, text, number, size)
            if entry.get("special") or _looks_special(text):
                vocabulary.put(number, text, -1000.0, gguf.TokenType.CONTROL)
            else:
                vocabulary.put(number, text.replace("\u2581", " "), -1000.0, gguf.TokenType.USER_DEFINED)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the added tokens in {folder} make no sense: {error}", "download the tokenizer") from error


def _check_id(folder: Path, text: str, number: int, size: int) -> None:
    if not 0 <= number < size:
        raise FormatError(
            f"{folder} adds the token {text!r} as {number}, the vocabulary ends at {size - 1}",
            "use the tokenizer that the checkpoint was trained with",
        )


def _looks_special(text: str) -> bool:
    marked = (text.startswith("<|") and text.endswith("|>")) or (text.startswith("<｜") and text.endswith("｜>"))
    unused = text.startswith("<unused") and text.endswith(">")
    return text in SPECIAL_LOOKS or marked or unused


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise FormatError(f"{path} is no JSON object", "download it again")
    return settings


def _special(folder: Path, size: int) -> gguf.SpecialVocab:
    try:
        return gguf.SpecialVocab(folder, n_vocab=size)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"the tokenizer files in {folder} make no sense: {error}", "download them again") from error
