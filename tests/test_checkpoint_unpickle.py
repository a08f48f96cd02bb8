"""The machine that reads pickles: Python's own values come back, and every bound is the one that is told."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from ggufrun.checkpoint import unpickle
from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.checkpoint.unpickle import Cursor, Symbol, load
from ggufrun.errors import FormatError, UnsupportedError

TABLE = {("m", "pair"): Symbol("pair", lambda *values: list(values)), ("m", "Label"): Symbol("Label")}


def machine(tmp_path: Path, program: bytes) -> Any:
    path = tmp_path / "x.bin"
    path.write_bytes(program)
    file = RandomAccessFile(path)
    try:
        return load(Cursor(file, 0, len(program)), TABLE, lambda value: value)
    finally:
        file.close()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 255, 256, 65535, 65536, -1, -(1 << 31), 1 << 31, -(1 << 40), 1 << 100, -(1 << 100)]},
        (None, True, False, 0.5, -1e300, "诗" * 100, "a" * 300, ()),
        {"deep": {"er": ([(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],)}},
        [str(number) * 9 for number in range(20_000)],
    ],
    ids=["numbers", "scalars", "containers", "longer than a buffer"],
)
def test_what_python_wrote(tmp_path: Path, value: Any, protocol: int) -> None:
    assert machine(tmp_path, pickle.dumps(value, protocol)) == value


def test_an_admitted_name_is_called(tmp_path: Path) -> None:
    assert machine(tmp_path, b"cm\npair\n(K\1K\2tR.") == [1, 2]
    assert machine(tmp_path, b"\x8c\1m\x8c\4pair\x93)R.") == []


LONGEST = b"X" + struct.pack("<I", unpickle.MAX_STRING) + b"a" * unpickle.MAX_STRING + b"."


def test_the_longest_string_and_number(tmp_path: Path) -> None:
    assert machine(tmp_path, LONGEST) == "a" * unpickle.MAX_STRING
    assert machine(tmp_path, b"\x8a\x10" + b"\xff" * 16 + b".") == -1


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"X" + struct.pack("<I", unpickle.MAX_STRING + 1) + b"a" * (unpickle.MAX_STRING + 1), "string of 65537 bytes"),
        (b"T" + struct.pack("<i", -1) + b".", "string of -1 bytes"),
        (b"\x8a\x11" + b"\1" * 17 + b".", "number of 17 bytes"),
        (b"c" + b"a" * 256 + b"\nb\n.", "no weights need"),
        (b"c" + b"a" * 257 + b"\nb\n.", "more than 256 letters"),
        (b"(0.", "a mark where a value is due"),
        (b"t.", "no mark"),
        (b"(q\0.", "a mark to remember"),
        (b"K\1)R.", "not a function"),
        (b"cm\nLabel\n)R.", "not a function"),
        (b"cm\npair\nK\1R.", "not a function"),
        (b"K\1\x8c\1m\x93.", "not text"),
        (b"\x8c\1mK\1\x93.", "not text"),
        (b"}(K\1K\2K\3u.", "damaged"),
        (b"})K\1s.", "a key of type tuple"),
        (b"]K\1K\2s.", "where a dict is due"),
        (b"}K\1a.", "where a list is due"),
        (b"\xff", "the instruction"),
        (b"K\1", "does not end"),
        (b"K", "does not end"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, program: bytes, said: str) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=said):
        machine(tmp_path, program)


def test_objects_of_a_quantizer(tmp_path: Path) -> None:
    """As in Baichuan2-7B-Chat-4bits: not an attack."""
    program = b"ccollections\nOrderedDict\n)R"
    table = {("collections", "OrderedDict"): Symbol("OrderedDict", dict)}
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(program + b"cbitsandbytes.nn.modules\nParams4bit\n)R.")
    file = RandomAccessFile(path)
    with pytest.raises(UnsupportedError, match=r"holds objects of bitsandbytes \(.*Params4bit\)") as caught:
        load(Cursor(file, 0, path.stat().st_size), table, lambda value: value)
    file.close()
    assert "original" in caught.value.todo
