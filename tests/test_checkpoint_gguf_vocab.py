"""Vocabularies whose kind does not fit their tokens are refused before llama.cpp reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.charsmap import check_charsmap
from ggufrun.checkpoint.gguf.file import Header, Kind, Value, encode
from ggufrun.checkpoint.gguf.vocab import check_vocabulary
from ggufrun.errors import FormatError, UnsupportedError
from tests.attack.vocabularies import VOCABULARIES

PATH = Path("x.gguf")
KINDS = {list: Kind.ARRAY, bytes: Kind.ARRAY, bool: Kind.BOOL, int: Kind.UINT32, str: Kind.STRING}


def header(name: str, **changes: Any) -> Header:
    """The small vocabulary called ``name`` with some keys changed; None leaves one out."""
    metadata: dict[str, Value] = {"general.architecture": encode("llama", Kind.STRING)}
    for key, value in (VOCABULARIES[name]() | changes).items():
        if value is not None:
            kind = KINDS[type(value)]
            metadata[f"tokenizer.ggml.{key}"] = encode(value, kind, Kind.STRING if value == [] else None)
    return Header(metadata, ())


@pytest.mark.parametrize("name", VOCABULARIES)
def test_sound_ones(name: str) -> None:
    check_vocabulary(PATH, header(name))


def test_files_without_one() -> None:
    check_vocabulary(PATH, Header({}, ()))
    check_vocabulary(PATH, header("bpe", tokens=None))
    check_vocabulary(PATH, header("bpe", model="no_vocab"))
    # what is of another type llama.cpp refuses
    check_vocabulary(PATH, header("bpe", pre=[1, 2]))
    check_vocabulary(PATH, header("bpe", model=[1, 2]))
    check_vocabulary(PATH, header("bpe", tokens="x"))


def tokens(name: str, change: Callable[[list[Any]], object]) -> list[Any]:
    found = list(VOCABULARIES[name]()["tokens"])
    change(found)
    return found


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        # each of these never ended, or took gigabytes, while the file was only looked at
        ("sentencepiece", {"model": "rwkv"}, "kind rwkv, but the byte .. begins a token and is none by itself"),
        ("plamo2", {"model": "rwkv"}, "kind rwkv"),
        ("bpe", {"model": "plamo2"}, "kind plamo2, but it has no token for the byte 00"),
        # these threw at a character of the prompt, or while they were loaded
        ("bpe", {"model": "llama"}, "kind llama, but it has no token for the byte 00"),
        ("sentencepiece", {"model": "gpt2"}, "kind gpt2, but no token is a space by itself"),
        ("rwkv", {"model": "llama"}, "kind llama"),
        ("sentencepiece", {"model": "test"}, "llama.cpp's own tests"),
    ],
)
def test_kinds_that_do_not_fit(name: str, changes: dict[str, Any], why: str) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=why):
        check_vocabulary(PATH, header(name, **changes))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("bpe", lambda found: found.__setitem__(300, found[7]), "has the token '.' twice"),
        ("bpe", lambda found: found.__setitem__(300, "a\0b"), "has the token 'a' twice"),
        ("bpe", lambda found: found.__setitem__(300, "x" * 5000), "a token of 5000 bytes"),
        ("bpe", lambda found: found.clear(), "without tokens"),
        ("bpe", lambda found: found.extend([f"{'y' * 4000}{n}" for n in range(9)]), "its tokens are long"),
        ("plamo2", lambda found: found.extend([f"{'y' * 4000}{n}" for n in range(9)]), "its tokens are long"),
        ("sentencepiece", lambda found: found.__setitem__(3 + 0xC3, "x"), "no token for the byte C3"),
        ("rwkv", lambda found: found.__setitem__(1 + 0x74, "tt"), "the byte 74 begins a token"),
    ],
)
def test_lists_that_do_harm(name: str, change: Callable[[list[Any]], object], why: str) -> None:
    with pytest.raises(FormatError, match=why):
        check_vocabulary(PATH, header(name, tokens=tokens(name, change)))


def test_empty_tokens_have_names_of_their_own() -> None:
    """llama.cpp calls them by their numbers."""
    check_vocabulary(PATH, header("bpe", tokens=tokens("bpe", lambda found: found.extend(["", ""]))))
    with pytest.raises(FormatError, match="twice"):
        check_vocabulary(PATH, header("bpe", tokens=tokens("bpe", lambda found: found.extend(["", "[EMPTY_320]"]))))


def test_as_many_dummies_as_a_header_likes() -> None:
    found = header("bpe", model="no_vocab")
    metadata = {**found.metadata, "llama.vocab_size": encode((1 << 32) - 1, Kind.UINT32)}
    with pytest.raises(FormatError, match="vocab_size = 4294967295"):
        check_vocabulary(PATH, Header(metadata, ()))


def charsmap(replacements: bytes, *, value: int = 0, base: int = 256) -> bytes:
    """A table that rewrites "a" as the text at ``value``; its root leads to nodes from ``base`` on."""
    nodes = np.zeros(512, np.uint32)
    nodes[0] = base << 10
    place = 256 ^ ord("a")
    # a leaf, whose own base leads to the value's node
    nodes[place] = ord("a") | 1 << 8 | (place ^ 7) << 10
    nodes[7] = value | 1 << 31
    return struct.pack("<I", nodes.nbytes) + nodes.tobytes() + replacements


def test_tables_of_characters() -> None:
    check_charsmap(PATH, charsmap(b"b\0"))
    check_vocabulary(PATH, header("unigram", precompiled_charsmap=charsmap(b"b\0")))
    for broken in (
        b"",
        b"\0\0\0\0",
        charsmap(b"b\0")[:-2],
        charsmap(b"b\0", value=2),
        charsmap(b"b\0", value=1 << 30),
        charsmap(b"bbb"),
        charsmap(b"b\0", base=512),
        charsmap(b"b\0", base=1 << 20),
    ):
        with pytest.raises(FormatError, match="leads outside itself"):
            check_charsmap(PATH, broken)
    with pytest.raises(FormatError, match="leads outside itself"):
        check_vocabulary(PATH, header("unigram", precompiled_charsmap=charsmap(b"b\0", base=512)))
    with pytest.raises(FormatError, match="of 8388608 bytes"):
        check_charsmap(PATH, bytes(1 << 23))
