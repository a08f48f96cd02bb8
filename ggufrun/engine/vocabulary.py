"""A model's vocabulary: text to token ids, token ids to bytes, and which tokens mean something special."""

from __future__ import annotations

import ctypes
import re
from functools import cached_property
from typing import Any

from ggufrun.errors import EngineError, UnsupportedError
from ggufrun.native.deep_stack import stack_for, with_stack
from ggufrun.native.library import llama

NULL = -1
"""``LLAMA_TOKEN_NULL``: the vocabulary has no such token."""

NONE_TYPE, SPM_TYPE, BPE_TYPE = 0, 1, 2
"""``enum llama_vocab_type``: no vocabulary; SentencePiece BPE with byte fallback (LLaMA and its family); byte-level BPE
(GPT-2 and its family)."""

SHALLOW = 256
"""Bytes of text that any thread's stack is enough for."""

BYTE_ATTRIBUTE = 1 << 5
"""``LLAMA_TOKEN_ATTR_BYTE``."""

MAX_TEXT = 1 << 30
"""Bytes of text in one call; ``llama_tokenize`` counts them in an int32."""


class Vocab:
    """The vocabulary of a loaded model. Lives as long as the model does.

    ``bos``, ``eos`` and ``eot`` are token ids, or -1 where the model has none; ``add_bos`` says whether a text starts
    with ``bos``.
    """

    def __init__(self, pointer: Any, pretokenizer: str = "") -> None:
        """``pretokenizer`` is what ``tokenizer.ggml.pre`` says."""
        api = llama()
        self._vocab = pointer
        self._pretokenizer = pretokenizer
        self.kind: int = api.llama_vocab_type(pointer)
        self.size: int = api.llama_vocab_n_tokens(pointer)
        if self.kind == NONE_TYPE or self.size <= 0:
            raise UnsupportedError("the file holds no vocabulary", "convert it again with its tokenizer files")
        self.bos = self._valid(api.llama_vocab_bos(pointer))
        self.eos = self._valid(api.llama_vocab_eos(pointer))
        self.eot = self._valid(api.llama_vocab_eot(pointer))
        # llama.cpp asserts, which would end the process, when it is told to add a token that does not exist.
        self.add_bos: bool = bool(api.llama_vocab_get_add_bos(pointer)) and self.bos != NULL
        self.add_eos: bool = bool(api.llama_vocab_get_add_eos(pointer))
        self._eog: dict[int, bool] = {}
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self._buffer = ctypes.create_string_buffer(256)
        if self.kind == SPM_TYPE and not self._has_bytes():
            raise UnsupportedError(
                "the vocabulary has no byte tokens (<0x00> to <0xFF>), so not every text can be written in it",
                "convert the checkpoint again with its own tokenizer.model",
            )

    def _valid(self, token: int) -> int:
        return token if 0 <= token < self.size else NULL

    def _has_bytes(self) -> bool:
        # Without byte tokens llama.cpp throws a C++ exception on the first unknown character, which ends the process.
        # They follow <unk>, <s>, </s> in every vocabulary that SentencePiece trained; otherwise look everywhere.
        attribute = llama().llama_vocab_get_attr
        usual = sum(bool(attribute(self._vocab, i) & BYTE_ATTRIBUTE) for i in range(min(3 + 256, self.size)))
        if usual >= 256:
            return True
        return sum(bool(attribute(self._vocab, i) & BYTE_ATTRIBUTE) for i in range(self.size)) >= 256

    def tokenize(self, text: str, *, special: bool, bos: bool = False) -> list[int]:
        """Token ids of ``text``. With ``special`` the texts of control tokens become those tokens; with ``bos`` the
        model's BOS comes first if the model wants one (`add_bos`). An EOS is never added.

        A SentencePiece vocabulary gives every text that is tokenized by itself a leading space.
        """
        raw = _bytes(text)
        if len(raw) > MAX_TEXT:
            raise EngineError(f"a text of {len(raw)} bytes is too long to tokenize", "split it")
        ids: list[int] = []
        if raw:
            if self.kind != BPE_TYPE or len(raw) <= SHALLOW:
                ids = self._tokenize(raw, special)
            else:
                check_blanks(text, self._pretokenizer)
                parts = [_bytes(part) for part in split_digits(text)] if self._pretokenizer == "superbpe" else [raw]
                ids = with_stack(
                    lambda: [token for part in parts for token in self._tokenize(part, special)], stack_for(text)
                )
        return [self.bos, *ids] if bos and self.add_bos else ids

    def _tokenize(self, raw: bytes, special: bool) -> list[int]:
        api = llama()
        capacity = len(raw) + 2
        buffer = (ctypes.c_int32 * capacity)()
        count = api.llama_tokenize(self._vocab, raw, len(raw), buffer, capacity, False, special)
        if count < 0 and -count <= 2 * MAX_TEXT:
            capacity = -count
            buffer = (ctypes.c_int32 * capacity)()
            count = api.llama_tokenize(self._vocab, raw, len(raw), buffer, capacity, False, special)
        if count < 0:
            raise EngineError("the text cannot be tokenized", "split it")
        return list(buffer[:count])

    def is_eog(self, token: int) -> bool:
        """Does ``token`` end a generation: EOS, EOT and their kin."""
        known = self._eog.get(token)
        if known is None:
            known = self._eog[token] = bool(llama().llama_vocab_is_eog(self._vocab, token))
        return known

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends a generation."""
        return tuple(token for token in range(self.size) if self.is_eog(token))

    @cached_property
    def suppressed(self) -> tuple[int, ...]:
        """Tokens that the model's authors never want to see generated (``tokenizer.ggml.suppress_tokens``)."""
        count = ctypes.c_int32(0)
        tokens = llama().llama_vocab_get_suppress_tokens(self._vocab, ctypes.byref(count))
        return tuple(token for token in tokens[: count.value] if 0 <= token < self.size) if tokens else ()

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that ``token`` stands for, often a part of a character. A control token stands for nothing unless
        ``special`` asks for its name. Raises EngineError for an id outside the vocabulary.
        """
        key = (token, special)
        known = self._pieces.get(key)
        if known is None:
            known = self._pieces[key] = self._read_piece(token, special)
        return known

    def _read_piece(self, token: int, special: bool) -> bytes:
        if not 0 <= token < self.size:
            raise EngineError(f"token {token} is not in the vocabulary of {self.size} tokens")
        api = llama()
        length = api.llama_token_to_piece(self._vocab, token, self._buffer, len(self._buffer), 0, special)
        if length < 0:
            self._buffer = ctypes.create_string_buffer(-length)
            length = api.llama_token_to_piece(self._vocab, token, self._buffer, len(self._buffer), 0, special)
        return self._buffer.raw[: max(length, 0)]

    def text(self, token: int) -> str:
        """The name of ``token`` as the vocabulary writes it, such as ``<s>``; empty for -1."""
        return self.piece(token, special=True).decode("utf-8", "replace") if 0 <= token < self.size else ""

    def control(self, text: str) -> int | None:
        """The id of the single token that ``text`` names, or None when it takes several tokens to write."""
        ids = self.tokenize(text, special=True)
        if len(ids) == 1 and self.text(ids[0]) == text:
            return ids[0]
        return None

    @property
    def pointer(self) -> Any:
        """The ``llama_vocab *``, for the samplers that ask for it."""
        return self._vocab


DIGITS = re.compile(r"[0-9]{1000,}")
GROUPS = 333


def split_digits(text: str) -> list[str]:
    """``text`` cut within long runs of digits, where the pretokenizer superbpe cuts anyway: into threes from their end
    on. llama.cpp looks from every digit for the end, which takes a time with the square of the length.
    """
    parts, begin = [], 0
    for match in DIGITS.finditer(text):
        cuts = range(match.end() - 3 * GROUPS, match.start(), -3 * GROUPS)
        for cut in reversed(cuts):
            parts.append(text[begin:cut])
            begin = cut
    return [*parts, text[begin:]]


MAX_BLANKS = 100_000
BLANKS = re.compile(rf"\s{{{MAX_BLANKS},}}")


def check_blanks(text: str, pretokenizer: str) -> None:
    """EngineError for a run of blanks that llama.cpp takes the square of its length for: with jais-2, 13 seconds of
    computing for 300,000.
    """
    if pretokenizer == "jais-2" and (match := BLANKS.search(text)):
        count = match.end() - match.start()
        raise EngineError(
            f"the text has {count} blanks in a row, too many for this model's vocabulary", "leave some out"
        )


def _bytes(text: str) -> bytes:
    """UTF-8. Bytes that were no characters when Python read them go through as they came."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
