"""The GGUF format against the ``gguf`` package, which llama.cpp's converter uses, and against liars."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint import gguffile
from ggufrun.checkpoint.gguffile import Header, Kind, encode, layout, read_header, serialize
from ggufrun.checkpoint.ggufsource import GGUFSource
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError

TYPES = gguf.GGMLQuantizationType


def reference_file(path: Path) -> dict[str, npt.NDArray[Any]]:
    """A GGUF with every kind of value and several tensor types, written by the gguf package."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("模型 ☂")
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -7)
    writer.add_uint16("t.u16", 60000)
    writer.add_int16("t.i16", -30000)
    writer.add_int32("t.i32", -5)
    writer.add_uint64("t.u64", 1 << 40)
    writer.add_int64("t.i64", -(1 << 40))
    writer.add_float32("t.f32", 0.1)
    writer.add_float64("t.f64", 0.1)
    writer.add_bool("t.yes", True)
    writer.add_array("t.texts", ["一", "", "three"])
    writer.add_array("t.numbers", [1, 2, 3])
    writer.add_array("t.floats", [0.5, -1.5])
    writer.add_array("t.flags", [True, False])
    values = np.random.default_rng(3)
    arrays: dict[str, npt.NDArray[Any]] = {
        "a.weight": values.standard_normal((4, 64)).astype(np.float32),
        "b.weight": values.standard_normal((2, 3, 32)).astype(np.float16),
        "c.bias": values.standard_normal(5).astype(np.float32),
    }
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    packed = gguf.quants.quantize(arrays["a.weight"], TYPES.Q8_0)
    writer.add_tensor("d.weight", packed, raw_dtype=TYPES.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return arrays | {"d.weight": packed}


def test_reads_what_the_gguf_package_wrote(tmp_path: Path) -> None:
    arrays = reference_file(tmp_path / "x.gguf")
    source = GGUFSource(tmp_path / "x.gguf")
    header = source.header
    assert header.architecture == "llama"
    assert header.get("general.name") == "模型 ☂"
    assert [header.get(f"t.{key}") for key in ("u8", "i8", "u16", "i16", "i32")] == [200, -7, 60000, -30000, -5]
    assert [header.get(f"t.{key}") for key in ("u64", "i64", "f64", "yes")] == [1 << 40, -(1 << 40), 0.1, True]
    assert header.get("t.f32") == pytest.approx(0.1, rel=1e-6)
    assert header.get("t.texts") == ["一", "", "three"]
    assert header.get("t.numbers") == [1, 2, 3]
    assert header.get("t.floats") == [0.5, -1.5]
    assert header.get("t.flags") == [True, False]
    assert len(header.metadata["t.texts"]) == 3
    assert source.tensors["b.weight"].shape == (2, 3, 32)
    assert source.tensors["d.weight"].shape == (4, 64)
    for name, array in arrays.items():
        tensor = source.tensors[name]
        np.testing.assert_array_equal(tensor.rows(0, tensor.n_rows).reshape(-1), array.reshape(-1))
    np.testing.assert_array_equal(source.tensors["d.weight"].rows(1, 3), arrays["d.weight"][1:3])
    source.close()


def test_serializes_to_the_bytes_of_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    reference_file(path)
    header = read_header(path)
    assert serialize(header) == path.read_bytes()[: header.data_start]


def test_encodes_as_the_gguf_package_does(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("texts", [b"\xe4\xb8", "二".encode()])
    writer.add_array("ints", [1, -2])
    writer.add_float32("f", 1 / 3)
    mine = {key: encode(value.value, value.type, value.sub_type) for key, value in writer.kv_data[0].items()}
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert serialize(Header(mine, ())).rstrip(b"\0") == path.read_bytes().rstrip(b"\0")


def sound() -> bytes:
    metadata = {
        "general.architecture": encode("llama", Kind.STRING),
        "tokens": encode(["a", "bc"], Kind.ARRAY),
        "n": encode(3, Kind.UINT32),
    }
    tensors = layout([("x", (2, 32), TYPES.F32), ("y", (3, 32), TYPES.Q8_0)], 32)
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
