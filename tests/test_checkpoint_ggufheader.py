"""Headers of GGUF files that are cut short, damaged or lie."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from ggufrun.checkpoint import gguffile
from ggufrun.checkpoint.gguffile import Header, Kind, encode, layout, serialize
from ggufrun.checkpoint.ggufheader import read_header
from ggufrun.checkpoint.tensortypes import TensorType
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


@pytest.mark.parametrize(("version", "words"), [(1, "version 1"), (4, "update ggufrun"), (3 << 24, "endian")])
def test_versions(tmp_path: Path, version: int, words: str) -> None:
    data = sound()
    with pytest.raises(UnsupportedError, match=words):
        read(tmp_path, data[:4] + struct.pack("<I", version) + data[8:])


def patched(old: bytes, new: bytes) -> bytes:
    data = sound()
    assert data.count(old) == 1 and len(old) == len(new)
    return data.replace(old, new)


X = struct.pack("<Q", 1) + b"x" + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"GGML" + bytes(100),
        b"",
        sound()[:8] + struct.pack("<Q", 1 << 40) + sound()[16:],
        sound()[:16] + struct.pack("<Q", 1 << 40) + sound()[24:],
        patched(X, struct.pack("<Q", 1) + b"y" + X[9:]),
        patched(X, X[:9] + struct.pack("<IQQIQ", 5, 32, 2, 0, 0)),
        patched(X, X[:9] + struct.pack("<IQQIQ", 2, 0, 2, 0, 0)),
        patched(X, X[:9] + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0)),
        patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 3, 0, 0)),
        patched(X, X[:9] + struct.pack("<IQQIQ", 2, 33, 2, 8, 0)),
        patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 2, 0, 8)),
        patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 2, 0, 1 << 40)),
        patched(struct.pack("<IQ", 8, 2), struct.pack("<IQ", 8, 1 << 50)),
        patched(struct.pack("<IQ", 8, 2), struct.pack("<IQ", 9, 2)),
        patched(struct.pack("<IQ", 8, 2), struct.pack("<IQ", 99, 2)),
    ],
)
def test_lies_are_errors(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError):
        read(tmp_path, data)


def test_an_unknown_tensor_type(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="unknown type 250"):
        read(tmp_path, patched(X, X[:9] + struct.pack("<IQQIQ", 2, 32, 2, 250, 0)))


@pytest.mark.parametrize("alignment", [0, 3, 1 << 30])
def test_alignments(tmp_path: Path, alignment: int) -> None:
    metadata = {"general.alignment": encode(alignment, Kind.UINT32)}
    data = gguffile.MAGIC + struct.pack("<IQQ", 3, 0, 1)
    for key, value in metadata.items():
        data += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", value.kind) + value.raw
    with pytest.raises(FormatError, match="alignment"):
        read(tmp_path, data)


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
