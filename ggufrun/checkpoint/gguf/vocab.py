"""Does a GGUF's vocabulary hold what its kind needs? Refused before llama.cpp reads it.

llama.cpp builds tries, tables of suffixes and the text of every token from the list as it is. Of tokens of another kind
than the file names, some of that never ends, some takes gigabytes, and some throws at the first unlucky character of a
prompt, where nothing catches it.

Source: ``src/llama-vocab.cpp`` of the pinned release.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from ggufrun.checkpoint.gguf.charsmap import check_charsmap
from ggufrun.checkpoint.gguf.file import Header, Kind, Value
from ggufrun.checkpoint.gguf.header import AGAIN
from ggufrun.errors import FormatError, UnsupportedError

MAX_TOKEN = 4096
"""Bytes of a token. llama.cpp nests one call a byte when it frees a trie; published tokens have some hundred."""

MAX_TOKENS = 1 << 24

MAX_SUFFIXES = 1 << 26
"""Bytes of all suffixes of all tokens: PLaMo 2's table has them one by one. Its published one takes a tenth of that."""

WITHOUT = ("no_vocab", "none")
"""Kinds without a list."""

WHOLE_WORDS = frozenset({"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"})
"""Ways of cutting a text up whose BPE tokens are text as it is, not in GPT-2's alphabet."""

SPACE = "\u0120".encode()
"""The space in GPT-2's alphabet: a token by itself in every vocabulary that is written with it."""

TOKENS = "tokenizer.ggml.tokens"


def check_vocabulary(path: Path, header: Header) -> None:
    """FormatError for a vocabulary that llama.cpp cannot live with. What it refuses itself is left to it."""
    kind = header.get("tokenizer.ggml.model")
    if not isinstance(kind, str):
        return
    if kind in WITHOUT:
        size = header.get(f"{header.architecture}.vocab_size", 0)
        if isinstance(size, int) and size > MAX_TOKENS:
            raise FormatError(f"{path.name} says vocab_size = {size}", AGAIN)
        return
    if kind == "test":
        raise UnsupportedError(f"{path.name} has the vocabulary of llama.cpp's own tests", "convert it again")
    tokens = _texts(header.metadata.get(TOKENS))
    if tokens is None:
        return
    _check_list(path, tokens)
    if kind in CHECKS:
        CHECKS[kind](path, header, tokens)


def _texts(value: Value | None) -> list[bytes] | None:
    """The texts of a list as llama.cpp sees them, up to a NUL; None for what is not a list of texts."""
    if value is None or value.kind is not Kind.ARRAY or Kind(struct.unpack_from("<I", value.raw)[0]) is not Kind.STRING:
        return None
    raw, position, found = value.raw, 12, []
    length_at = struct.Struct("<Q").unpack_from
    for _ in range(len(value)):
        begin = position + 8
        position = begin + length_at(raw, position)[0]
        found.append(raw[begin:position])
    if b"\0" in raw:
        found = [text.partition(b"\0")[0] for text in found]
    return found


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "backslashreplace"))


def _check_list(path: Path, tokens: list[bytes]) -> None:
    if not tokens:
        raise FormatError(f"{path.name} has a vocabulary without tokens", AGAIN)
    longest = max(tokens, key=len)
    if len(longest) > MAX_TOKEN:
        raise FormatError(f"{path.name} has a token of {len(longest)} bytes, {_shown(longest)}...", AGAIN)
    known = set(tokens)
    if len(known) == len(tokens) and b"" not in known:
        return
    seen: set[bytes] = set()
    for number, text in enumerate(tokens):
        # llama.cpp's name for an empty one
        name = text or b"[EMPTY_%d]" % number
        if name in seen:
            raise FormatError(f"{path.name} has the token {_shown(name)} twice", AGAIN)
        seen.add(name)


def _unfit(path: Path, kind: str, why: str) -> FormatError:
    return FormatError(f"{path.name} says its vocabulary is of the kind {kind}, but {why}", AGAIN)


def _check_sentencepiece(path: Path, header: Header, tokens: list[bytes]) -> None:
    known = set(tokens)
    # NUL cannot be looked up by itself, it ends a text
    alone = {text[0] for text in known if len(text) == 1}
    missing = [byte for byte in range(256) if b"<0x%02X>" % byte not in known and byte not in alone - {0}]
    if missing:
        why = f"it has no token for the byte {missing[0]:02X}, so not every text can be written in it"
        raise _unfit(path, "llama", why)


def _check_bpe(path: Path, header: Header, tokens: list[bytes]) -> None:
    pre = str(header.get("tokenizer.ggml.pre", ""))
    if pre == "whitespace":
        # llama.cpp takes the blanks out for the kind of that name only, and asserts that there are none
        raise _unfit(path, "gpt2", "its text is to be split as by the kind whitespace")
    if pre not in WHOLE_WORDS and SPACE not in tokens:
        raise _unfit(path, "gpt2", f"no token is a space by itself ({SPACE.decode()})")
    _check_any_bpe(path, header, tokens)


def _check_any_bpe(path: Path, header: Header, tokens: list[bytes]) -> None:
    """llama.cpp puts the whole token in the place of each of its characters that is none of GPT-2's."""
    size = sum(len(text) ** 2 for text in tokens if len(text) > 64)
    if size > MAX_SUFFIXES:
        raise _unfit(path, "BPE", f"its tokens are long: {max(map(len, tokens))} bytes")


def _check_rwkv(path: Path, header: Header, tokens: list[bytes]) -> None:
    """llama.cpp starts again at the beginning of the text where a token's first byte is not a token, for ever."""
    first: set[int] = set()
    single: set[int] = set()
    for text in tokens:
        byte, rest = _unescaped(text)
        first.add(byte)
        if not rest:
            single.add(byte)
    if missing := sorted(first - single - {-1}):
        raise _unfit(path, "rwkv", f"the byte {missing[0]:02X} begins a token and is none by itself")


ESCAPES = {ord("t"): ord("\t"), ord("n"): ord("\n"), ord("r"): ord("\r")}


def _unescaped(text: bytes) -> tuple[int, bool]:
    """The first byte of an RWKV token, -1 for none, and whether more follow, as llama.cpp reads its escapes."""
    if not text or text == b"\\":
        return -1, False
    if text[0] != ord("\\"):
        return text[0], len(text) > 1
    if text[1] != ord("x"):
        return ESCAPES.get(text[1], text[1]), len(text) > 2
    if len(text) < 4:
        return -1, False
    high, low = ((code - 87 if code >= 97 else code - 48) & 0xFF for code in text[2:4])
    return ((high << 4) + low) & 0xFF, len(text) > 4


def _check_plamo2(path: Path, header: Header, tokens: list[bytes]) -> None:
    if sum(len(text) ** 2 for text in tokens) // 2 > MAX_SUFFIXES:
        raise _unfit(path, "plamo2", f"its tokens are long: {max(map(len, tokens))} bytes")
    known = set(tokens)
    if missing := [byte for byte in range(256) if b"<0x%02X>" % byte not in known]:
        raise _unfit(path, "plamo2", f"it has no token for the byte {missing[0]:02X}")


def _check_unigram(path: Path, header: Header, tokens: list[bytes]) -> None:
    value = header.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if value is not None and value.kind is Kind.ARRAY and value.raw[:4] in BYTE_LISTS:
        check_charsmap(path, value.raw[12:])


BYTE_LISTS = frozenset(struct.pack("<I", kind) for kind in (Kind.UINT8, Kind.INT8))

CHECKS: dict[str, Callable[[Path, Header, list[bytes]], None]] = {
    "llama": _check_sentencepiece,
    "gpt2": _check_bpe,
    "gemma4": _check_any_bpe,
    "hybriddna": _check_any_bpe,
    "whitespace": _check_any_bpe,
    "rwkv": _check_rwkv,
    "plamo2": _check_plamo2,
    "t5": _check_unigram,
}
"""What each kind of vocabulary (``tokenizer.ggml.model``) needs of its tokens."""
