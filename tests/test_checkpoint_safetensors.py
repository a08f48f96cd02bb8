"""Reading safetensors: what the reference writer wrote comes back, and a lying header is an error."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ggufrun.checkpoint.folder import FolderSource
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.checkpoint.safetensors import SAFETENSORS, parse_header, read_safetensors
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError
from tests.support.checkpoints import bf16, safetensors_bytes, write_llama


def test_reads_what_the_reference_library_wrote(tmp_path: Path) -> None:
    values = np.random.default_rng(1)
    saved: dict[str, Any] = {
        "b": values.standard_normal((7, 5)).astype(np.float32),
        "a": values.standard_normal((3, 4, 2)).astype(np.float16),
        "scalar": np.array(2.5, np.float64),
        "ints": np.arange(6, dtype=np.int64),
    }
    save_file(saved, tmp_path / "model.safetensors")
    source = FolderSource(tmp_path, [tmp_path / "model.safetensors"], SAFETENSORS)
    assert list(source.tensors) == sorted(saved)
    for name, array in saved.items():
        tensor = source.tensors[name]
        assert tensor.shape == array.shape
        read = tensor.rows(0, tensor.n_rows)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read.reshape(array.shape), array)
    tensor = source.tensors["b"]
    np.testing.assert_array_equal(tensor.rows(2, 5), saved["b"][2:5])
    source.close()


def test_bf16_comes_as_its_bits(tmp_path: Path) -> None:
    bits = bf16(np.array([[1.0, -2.5], [3.0e38, 1e-40]], np.float32))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes({"x": ("BF16", bits)}))
    source = open_checkpoint(tmp_path)
    assert source.tensors["x"].dtype == "BF16"
    np.testing.assert_array_equal(source.tensors["x"].rows(0, 2), bits)
    source.close()


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    weights = write_llama(tmp_path, dtype="F32", shards=3, tokenizer=False)
    source = open_checkpoint(tmp_path)
    assert set(source.tensors) == set(weights)
    for name, values in weights.items():
        tensor = source.tensors[name]
        np.testing.assert_array_equal(tensor.rows(0, tensor.n_rows).reshape(values.shape), values)
    source.close()


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_llama(tmp_path, shards=2, tokenizer=False)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NotFoundError, match="model-00002-of-00002"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", 7])
def test_an_index_cannot_reach_out_of_its_folder(tmp_path: Path, name: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(FormatError, match="names the file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FormatError, match=r"is not JSON|is not an index|is not a JSON object"):
        open_checkpoint(tmp_path)


def header_of(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    file = RandomAccessFile(path)
    try:
        parse_header(file)
    finally:
        file.close()


SOUND = safetensors_bytes({"x": ("F32", np.zeros((2, 3), np.float32)), "y": ("F16", np.zeros(4, np.float16))})


def test_cut_short_anywhere(tmp_path: Path) -> None:
    header_of(tmp_path, SOUND)
    for length in range(len(SOUND)):
        with pytest.raises(FormatError):
            header_of(tmp_path, SOUND[:length])


def lie(**entry: Any) -> bytes:
    """A file with one tensor of 24 bytes, described as ``entry`` says."""
    text = json.dumps({"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(24)


def test_the_liar_is_sound_when_it_tells_the_truth(tmp_path: Path) -> None:
    header_of(tmp_path, lie())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lie(shape=[2, 4]), r"lies: x of shape \(2, 4\) in 24 bytes"),
        (lie(shape=[-2, -3]), "lies about x"),
        (lie(shape=[True, 6]), "lies about x"),
        (lie(shape=[2.0, 3]), "lies about x"),
        (lie(shape="ab"), "lies about x"),
        (lie(shape=[1 << 63, 0], data_offsets=[0, 0]), "lies about x"),
        (lie(shape=[1 << 40, 1 << 40]), "of shape"),
        (lie(data_offsets=[8, 32]), "x starts at"),
        (lie(data_offsets=[0, 28]), "in 28 bytes"),
        (lie(data_offsets=[24, 0]), "in -24 bytes"),
        (lie(data_offsets=[0]), "lies about x"),
        (lie(data_offsets=None), "lies about x"),
        (lie(shape=[1, 3], data_offsets=[0, 12]), "cut short"),
        (bytes(7), "cut short: 7 bytes"),
        ((1 << 62).to_bytes(8, "little") + bytes(64), "its header claims"),
        ((65).to_bytes(8, "little") + bytes(64), "its header claims 65 bytes"),
        ((10).to_bytes(8, "little") + b"not json!!", "not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        ((4).to_bytes(8, "little") + b'"\xff"x', "not JSON"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "not JSON"),
        ((15).to_bytes(8, "little") + b'{"x":1, "x": 2}', "a name appears twice"),
        ((7).to_bytes(8, "little") + b'{"x":1}', "nothing useful of x"),
    ],
)
def test_lies_are_errors(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        header_of(tmp_path, data)


def test_a_header_and_nothing_else(tmp_path: Path) -> None:
    header_of(tmp_path, (2).to_bytes(8, "little") + b"{}")
    header_of(tmp_path, lie(shape=[(1 << 63) - 1, 0], data_offsets=[0, 0])[:-24])


def test_overlapping_tensors(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    text = json.dumps({"x": entry, "y": entry}).encode()
    with pytest.raises(FormatError, match="starts at"):
        header_of(tmp_path, len(text).to_bytes(8, "little") + text + bytes(24))


@pytest.mark.parametrize(("dtype", "shape"), [("F4", [6, 8]), ("F9_E7M1", [7]), ("F6_E2M3", [4, 8])])
def test_an_unknown_type_is_refused_when_it_is_read(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    header_of(tmp_path, lie(dtype=dtype, shape=shape))
    found = read_safetensors(tmp_path / "model.safetensors")
    assert found.tensors["x"].shape == tuple(shape)
    with pytest.raises(UnsupportedError, match=f"x in model.safetensors has the type {dtype}"):
        found.tensors["x"].rows(0, 1)
    found.file.close()


@pytest.mark.parametrize("entry", [{"dtype": "F4"}, {"dtype": 7}, {"dtype": "F9", "data_offsets": [24, 0]}])
def test_an_unknown_type_is_no_excuse_for_a_lie(tmp_path: Path, entry: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="lies"):
        header_of(tmp_path, lie(**entry))


def test_mutated_headers_end_in_clean_errors(tmp_path: Path) -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(2000):
        data = bytearray(SOUND)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data) - 32)] = chance.randrange(256)
        try:
            header_of(tmp_path, bytes(data))
        except GgufrunError:
            refused += 1
    assert refused > 1000


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"x": ("F32", np.ones((64, 64), np.float32))}))
    source = open_checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FormatError, match="ends at byte 1000"):
        source.tensors["x"].rows(0, 64)
    source.close()


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ([], NotFoundError, "holds no model"),
        (["pytorch_model.bin"], FormatError, "torch.save"),
        (["consolidated.00.pth"], NotFoundError, "params.json"),
    ],
)
def test_folders_without_safetensors(tmp_path: Path, files: list[str], error: type[GgufrunError], words: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(error, match=words):
        open_checkpoint(tmp_path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        open_checkpoint(tmp_path / "nowhere")
