"""SentencePiece models (``tokenizer.model``): pieces, scores, types, and how the model treats spaces.

Source of the rules: llama.cpp's ``conversion/base.py`` (``_create_vocab_sentencepiece``); field numbers from
``sentencepiece_model.proto``. Where the reference's file would tokenize differently from the model, this one does not:
pieces that the model marks as user-defined keep that type, and a model that puts no space in front says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.convert.vocab.tokenizer_files import MAX_VOCABULARY, TokenizerFiles
from ggufrun.convert.vocab.vocabulary import SPACE, Kind, Original, Vocabulary, looks_special
from ggufrun.errors import FormatError, UnsupportedError
from ggufrun.regularfile import read_bytes

MAX_BYTES = 64 << 20

UNIGRAM, BPE = 1, 2
MODEL_TYPES = {UNIGRAM: "unigram", BPE: "BPE", 3: "word", 4: "character"}

PIECES, TRAINER, NORMALIZER = 1, 2, 3
"""Fields of ``ModelProto``."""

USER_DEFINED = 4
TYPE_FIELD = bytes((3 << 3, USER_DEFINED))
"""``ModelProto.SentencePiece.Type``, and the field as a piece holds it."""


@dataclass(frozen=True)
class Model:
    """A SentencePiece model: its processor, and what its description says."""

    path: Path
    processor: Any
    prefix: bool
    normalizer: str
    squeezes: bool
    user_defined: frozenset[int]

    @property
    def size(self) -> int:
        """How many pieces there are."""
        return int(self.processor.GetPieceSize())

    @property
    def loss(self) -> str:
        """What the model does to a text that llama.cpp does not, in words; empty for nothing."""
        parts = [f"normalizes text ({self.normalizer})"] if self.normalizer else []
        return " and ".join([*parts, "shortens runs of spaces"] if self.squeezes else parts)


def read_model(path: Path) -> Model:
    """Open a SentencePiece model. FormatError for anything else, UnsupportedError for one that is not BPE."""
    from sentencepiece import SentencePieceProcessor

    data = read_bytes(path, MAX_BYTES)
    broken = FormatError(f"{path} is not a SentencePiece model", "download it again")
    processor = SentencePieceProcessor()
    try:
        if not data or not processor.LoadFromSerializedProto(data):
            raise broken
        if not 0 < processor.GetPieceSize() <= MAX_VOCABULARY:
            raise broken
        fields = _fields(memoryview(data))
        described = dict(fields)
        trainer = dict(_fields(described.get(TRAINER, memoryview(b""))))
        normalizer = dict(_fields(described.get(NORMALIZER, memoryview(b""))))
        pieces = [value for key, value in fields if key == PIECES]
        # to take every piece apart would cost half a second
        marked = {n for n, piece in enumerate(pieces) if TYPE_FIELD in bytes(piece)}
        user_defined = frozenset(n for n in marked if dict(_fields(pieces[n])).get(3) == USER_DEFINED)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise broken from error
    kind = trainer.get(3, UNIGRAM)
    if kind != BPE:
        raise UnsupportedError(
            f"{path} is a {MODEL_TYPES.get(kind, 'strange')} model, and llama.cpp merges pieces as BPE does",
            "this model's text would be tokenized wrongly; use another runtime for it",
        )
    has_map = len(normalizer.get(2, b"")) > 0
    name = bytes(normalizer.get(1, b"")).decode("utf-8", "replace") if has_map else ""
    return Model(
        path,
        processor,
        prefix=bool(normalizer.get(3, 1)),
        normalizer=name or ("a table of its own" if has_map else ""),
        squeezes=bool(normalizer.get(4, 1)),
        user_defined=user_defined,
    )


def read_pieces(model: Model, size: int) -> Vocabulary:
    """The model's pieces; ids it does not have, up to ``size``, are padding."""
    if model.size > size:
        raise FormatError(
            f"{model.path} has {model.size} tokens, config.json a vocabulary of {size}",
            "use the tokenizer that the checkpoint was trained with",
        )
    vocabulary = Vocabulary.padded(size)
    processor = model.processor
    for number in range(model.size):
        kind = (
            Kind.UNKNOWN if processor.IsUnknown(number)
            else Kind.CONTROL if processor.IsControl(number)
            else Kind.UNUSED if processor.IsUnused(number)
            else Kind.BYTE if processor.IsByte(number)
            else Kind.USER_DEFINED if number in model.user_defined
            else Kind.NORMAL
        )  # fmt: skip
        try:
            text = processor.IdToPiece(number)
        except UnicodeDecodeError as error:
            raise FormatError(f"the piece {number} of {model.path} is not text", "download it again") from error
        if kind == Kind.USER_DEFINED:
            # llama.cpp looks for these in the text itself, where spaces are spaces
            text = text.replace(SPACE, " ")
        vocabulary.put(number, text, processor.GetScore(number), kind)
    return vocabulary


def add_tokens(files: TokenizerFiles, vocabulary: Vocabulary, looks: bool = True) -> None:
    """Tokens added beside the model: added_tokens.json, then tokenizer_config.json's added_tokens_decoder.

    Without ``looks`` a token is special only if its file says so, its spaces stay as written, and the added tokens of
    tokenizer.json are read too; so llama.cpp's converter treats some families.
    """
    for text, number in files.object("added_tokens.json").items():
        if type(number) is not int:
            raise FormatError(f"added_tokens.json in {files.folder} has no ids", "download the tokenizer again")
        vocabulary.add(number, text, -1000.0, Kind.USER_DEFINED)
    decoder = files.settings.get("added_tokens_decoder") or {}
    listed = [] if looks else files.tokenizer.get("added_tokens") or []
    try:
        entries = [(int(key), entry) for key, entry in decoder.items()]
        entries += [(int(entry["id"]), entry) for entry in listed]
        for number, entry in entries:
            text = entry["content"]
            if entry.get("special") or (looks and looks_special(text)):
                vocabulary.add(number, text, -1000.0, Kind.CONTROL)
            else:
                text = text.replace(SPACE, " ") if looks else text
                vocabulary.add(number, text, -1000.0, Kind.USER_DEFINED)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"the added tokens in {files.folder} make no sense: {error}", "download the tokenizer"
        ) from error


def original(model: Model, vocabulary: Vocabulary, prefix: bool) -> Original:
    """The model as the proof asks it. ``prefix`` says whether a text gets a space in front."""
    from sentencepiece import SentencePieceProcessor

    data = _with_prefix(model.processor.serialized_model_proto(), prefix)
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(data)

    def encode(texts: Sequence[str], special: bool) -> list[list[int]]:
        found: list[list[int]] = processor.EncodeAsIds(list(texts))
        return found

    def normalize(text: str) -> str:
        plain = str(processor.Normalize(text)).replace(SPACE, " ")
        return plain[1:] if prefix and plain.startswith(" ") else plain

    cut_out = (Kind.USER_DEFINED, Kind.CONTROL, Kind.UNKNOWN)
    added = [
        (text.decode("utf-8", "replace"), number)
        for number, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in cut_out
    ]
    # the model itself knows no added tokens, and after its own user-defined pieces it puts no space in front again
    ignored = [
        text
        for text, number in added
        if vocabulary.types[number] == Kind.USER_DEFINED and (prefix or number not in model.user_defined)
    ]
    return Original(
        model.path.name,
        encode,
        tuple(added),
        known=False,
        normalize=normalize if model.loss else None,
        loss=model.loss,
        ignored=tuple(ignored),
    )


def _with_prefix(data: bytes, prefix: bool) -> bytes:
    """The model with another setting of add_dummy_prefix: of a repeated field the last one counts."""
    return data + bytes((NORMALIZER << 3 | 2, 2, 3 << 3, prefix))


def _fields(data: memoryview) -> list[tuple[int, Any]]:
    """The fields of a protobuf message: whole numbers, and bytes as views. ValueError for anything else."""
    found: list[tuple[int, Any]] = []
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            found.append((number, value))
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(data):
            raise ValueError("cut short")
        found.append((number, data[position : position + length]))
        position += length
    return found


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("number too long")
