"""What every reader of tokenizer files produces: a vocabulary for the GGUF, and the tokenizer it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import gguf

from ggufrun.errors import FormatError, UnsupportedError

SPECIAL_LOOKS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
"""Tokens that are special whatever their file says, as llama.cpp's converter has it."""

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

Kind = gguf.TokenType

SHOWN = 4
"""Tokens that a note names."""


@dataclass
class Vocabulary:
    """Ids in order: text as UTF-8, score, and ``gguf.TokenType``. ``padded`` makes one of placeholders.

    ``beyond`` are added tokens whose ids lie past the last row of the embedding: the model has no vector for them, and
    the GGUF leaves them out.
    """

    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    beyond: dict[str, int] = field(default_factory=dict)

    @classmethod
    def padded(cls, size: int, score: float = -10000.0) -> Vocabulary:
        """``size`` tokens that are never used."""
        texts = [f"[PAD{number}]".encode() for number in range(size)]
        return cls(texts, [score] * size, [int(Kind.UNUSED)] * size)

    def add(self, number: int, text: str, score: float, kind: gguf.TokenType) -> None:
        """Give the id of an added token a text, unless the model has no such id."""
        if number >= len(self.tokens):
            self.beyond[text] = number
        else:
            self.put(number, text, score, kind)

    def put(self, number: int, text: str, score: float, kind: gguf.TokenType) -> None:
        """Give the id ``number`` a text. FormatError for an id or a text that cannot be one."""
        if not 0 <= number < len(self.tokens):
            raise FormatError(
                f"the token {text[:40]!r} has the id {number}, the vocabulary ends at {len(self.tokens) - 1}",
                "use the tokenizer that the checkpoint was trained with",
            )
        try:
            self.tokens[number], self.scores[number], self.types[number] = text.encode(), score, int(kind)
        except UnicodeEncodeError as error:
            raise FormatError(f"the token {number} is not text: {text[:40]!r}", "download it again") from error


@dataclass(frozen=True)
class Original:
    """The tokenizer that came with the checkpoint, as the vocabulary's proof asks it.

    ``encode`` turns texts into ids without BOS and EOS; with ``special`` the texts of special tokens become those
    tokens. ``added`` are the tokens that are cut out of a text first, ``known`` those that ``encode`` itself cuts out.
    ``normalize`` is what the original does to a text beforehand and llama.cpp does not, if anything; ``loss`` says it
    in words. ``prefixed`` says whether a text starts again after a special token, as it does to llama.cpp. ``ignored``
    are texts of tokens around which the two differ by design: strings that hold one are not compared. ``approximate``
    names the characters in which llama.cpp is known to follow the original's rule only roughly, if in any, as
    ``pretokenizers`` does. ``notes`` are sentences for the user about what the vocabulary lost.
    """

    name: str
    encode: Callable[[Sequence[str], bool], list[list[int]]]
    added: tuple[tuple[str, int], ...] = ()
    known: bool = True
    normalize: Callable[[str], str] | None = None
    loss: str = ""
    prefixed: bool = True
    ignored: tuple[str, ...] = ()
    approximate: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def without_beyond(original: Original, vocabulary: Vocabulary) -> Original:
    """The original tokenizer as far as the vocabulary has its tokens, with a note of those that it has not."""
    beyond = vocabulary.beyond
    if not beyond:
        return original
    shown = [f"{text} ({number})" for text, number in beyond.items()]
    listed = ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    note = f"left out of the vocabulary: {listed}, as the embedding ends at {len(vocabulary.tokens) - 1}"
    return replace(
        original,
        added=tuple((text, number) for text, number in original.added if text not in beyond),
        ignored=(*original.ignored, *beyond),
        notes=(*original.notes, note),
    )


def looks_special(text: str) -> bool:
    """Is ``text`` a control token to llama.cpp's converter even if its file does not mark it?"""
    marked = (text.startswith("<|") and text.endswith("|>")) or (text.startswith("<｜") and text.endswith("｜>"))
    unused = text.startswith("<unused") and text.endswith(">")
    return text in SPECIAL_LOOKS or marked or unused


def check_vocabulary(tokens: Sequence[bytes], byte_fallback: bool) -> None:
    """Refuse what would end llama.cpp's process: the same text twice, or no token for a byte.

    ``byte_fallback`` asks for the tokens <0x00> to <0xFF>.
    """
    seen: dict[bytes, int] = {}
    for number, token in enumerate(tokens):
        text = token or b"[EMPTY_%d]" % number
        if text in seen:
            raise FormatError(
                f"the tokens {seen[text]} and {number} have the same text, {token.decode(errors='replace')[:40]!r}",
                "correct the tokenizer files, or use those that the checkpoint was trained with",
            )
        seen[text] = number
    if byte_fallback and sum(b"<0x%02X>" % byte in seen for byte in range(256)) < 256:
        raise UnsupportedError(
            "the vocabulary has no byte tokens (<0x00> to <0xFF>), without which llama.cpp cannot write every text",
            "nothing can be done: the model was trained without them",
        )
