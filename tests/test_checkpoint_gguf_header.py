"""Headers of GGUF files that are cut short, damaged or lie."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import Header, Kind, encode, layout, serialize
from ggufrun.checkpoint.gguf.header import read_beginning, read_header
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError


def sound() -> bytes:
    metadata = {
        "general.architecture": encode("llama", Kind.STRING),
        "tokens": encode(["a", "bc"], Kind.ARRAY),
        "n": encode(3, Kind.UINT32),
    }
    tensors = layout([("x", (2, 32), TensorType.F32), ("y", (3, 32), TensorType.Q8_0)], 32)
    header = Header(metadata, tuple(tensors))
    return serialize(header) + bytes(header.data_size)


def read(tmp_path: Path, data: bytes) -> Header:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_cut_short_anywhere(tmp_path: Path) -> None:
    data = sound()
    header = read(tmp_path, data)
    needed = header.data_start + header.tensors[-1].offset + header.tensors[-1].n_bytes
    read(tmp_path, data[:needed])
    for length in range(needed):
        with pytest.raises(FormatError):
            read(tmp_path, data[:length])


@pytest.mark.parametrize(
    ("version", "words"),
    [(1, "version 1, .*convert the model again"), (4, "update ggufrun"), (3 << 24, "endian")],
)
def test_versions(tmp_path: Path, version: int, words: str) -> None:
    data = sound()
    with pytest.raises(UnsupportedError, match=words):
        read(tmp_path, data[:4] + struct.pack("<I", version) + data[8:])


def patched(old: bytes, new: bytes) -> bytes:
    data = sound()
    assert data.count(old) == 1 and len(old) == len(new)
    return data.replace(old, new)


X = struct.pack("<Q", 1) + b"x" + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)


NAMED_N = struct.pack("<Q", 1) + b"n" + struct.pack("<II", 4, 3)
TEXTS = struct.pack("<IQ", 8, 2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GGML" + bytes(100), "not a GGUF file"),
        (b"GG", "not a GGUF file"),
        (b"", "is empty"),
        (sound()[:8] + struct.pack("<Q", (1 << 20) + 1) + sound()[16:], "lies: 3 metadata keys and 1048577 tensors"),
        (sound()[:16] + struct.pack("<Q", (1 << 16) + 1) + sound()[24:], "lies: 65537 metadata keys and 2 tensors"),
        (sound()[:24] + struct.pack("<Q", (1 << 16) + 1) + bytes(1 << 17), "lies: a name of 65537 bytes"),
        (patched(NAMED_N, NAMED_N[:8] + b"\0" + NAMED_N[9:]), "the name"),
        (patched(NAMED_N, NAMED_N[:8] + b"\xff" + NAMED_N[9:]), "not UTF-8"),
        (sound().replace(NAMED_N, struct.pack("<Q", 0) + NAMED_N[9:]), "the name ''"),
        (sound().replace(NAMED_N, struct.pack("<Q", 6) + b"tokens" + NAMED_N[9:]), "the metadata key tokens twice"),
        (patched(NAMED_N, NAMED_N[:9] + struct.pack("<II", 77, 3)), "the unknown type 77"),
        (patched(X, struct.pack("<Q", 1) + b"y" + X[9:]), "the tensor y twice"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 5, 32, 2, 0, 0)), "x has 5 dimensions"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 0, 32, 2, 0, 0)), "x has 0 dimensions"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 2, 0, 2, 0, 0)), r"x of shape \(2, 0\)"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 2, 1 << 30, 1 << 30, 0, 0)), "x of shape"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 2, 1 << 29, 1 << 30, 0, 0)), "cut short|y starts at"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 3, 0, 0)), "y starts at 256, not 384"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 2, 33, 2, 8, 0)), r"x of shape \(2, 33\) as Q8_0"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 2, 0, 8)), "x starts at 8, which is not aligned"),
        (patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 2, 0, 1 << 40)), "x starts at 1099511627776, not 0"),
        (patched(TEXTS, struct.pack("<IQ", 8, 1 << 50)), "an array of 1125899906842624 texts"),
        (patched(TEXTS, struct.pack("<IQ", 9, 2)), "an array of arrays"),
        (patched(TEXTS, struct.pack("<IQ", 99, 2)), "the unknown type 99"),
    ],
)
def test_lies_are_errors(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        read(tmp_path, data)


def test_an_array_of_texts_that_just_fits(tmp_path: Path) -> None:
    """Each takes eight bytes at least: as many empty ones as there is room for are no lie."""
    key = struct.pack("<Q", 1) + b"t" + struct.pack("<IIQ", Kind.ARRAY, Kind.STRING, 3)
    header = read(tmp_path, file.MAGIC + struct.pack("<IQQ", 3, 0, 1) + key + bytes(24))
    assert header.get("t") == ["", "", ""]


def test_version_2_is_read(tmp_path: Path) -> None:
    data = sound()
    assert read(tmp_path, data[:4] + struct.pack("<I", 2) + data[8:]).tensors == read(tmp_path, data).tensors


def test_the_beginning_ends_at_the_first_list(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(sound())
    header = read_beginning(path)
    assert {key: header.get(key) for key in header.metadata} == {"general.architecture": "llama"}
    assert header.tensors == () and header.file_size == len(sound())


def test_an_unknown_tensor_type(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="unknown type 250"):
        read(tmp_path, patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 2, 250, 0)))


def with_alignment(alignment: int, kind: Kind = Kind.UINT32) -> bytes:
    value = encode(alignment, kind)
    key = b"general.alignment"
    head = file.MAGIC + struct.pack("<IQQ", 3, 0, 1)
    return head + struct.pack("<Q", len(key)) + key + struct.pack("<I", value.kind) + value.raw


@pytest.mark.parametrize("alignment", [0, 3, 1 << 21])
def test_alignments(tmp_path: Path, alignment: int) -> None:
    with pytest.raises(FormatError, match="alignment"):
        read(tmp_path, with_alignment(alignment))


def test_sound_alignments(tmp_path: Path) -> None:
    for alignment in (1, 2, 1 << 20):
        assert read(tmp_path, with_alignment(alignment)).data_start % alignment == 0
    with pytest.raises(FormatError, match=r"general\.alignment = 32 as UINT64, not as UINT32"):
        read(tmp_path, with_alignment(32, Kind.UINT64))


def test_mutated_headers_end_in_clean_errors(tmp_path: Path) -> None:
    chance = random.Random(5)
    data = sound()
    refused = 0
    for _ in range(5000):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(200)] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
        try:
            read(tmp_path, bytes(changed))
        except GgufrunError:
            refused += 1
    assert refused > 2500


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_header(tmp_path / "nothing.gguf")
    with pytest.raises(NotFoundError, match="is a folder"):
        read_header(tmp_path)
