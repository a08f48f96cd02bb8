"""The GGUF format against the ``gguf`` package, which llama.cpp's converter uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint.gguf.file import Header, encode, serialize
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.source import GGUFSource

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
