"""Files that are given for a GGUF and are something else: each says what it is, and what to do."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.errors import GgufrunError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4683073952\n"


@pytest.mark.parametrize(
    ("name", "data", "what", "todo"),
    [
        ("x.gguf", b"<!DOCTYPE html>\n<html lang=en>", "web page, not a model", "ggufrun pull"),
        ("x.gguf", b"\n  <html><body>", "web page", "download link of the file"),
        ("x.gguf", POINTER, r"Git LFS pointer of \d+ bytes", "git lfs pull"),
        ("x.bin", b"tjgg\x03\0\0\0" + bytes(50), "GGJT format of 2023", "original checkpoint"),
        ("x.bin", b"lmgg" + bytes(50), "GGML format of 2023", "fetch a GGUF"),
        ("x.gguf", b"PK\x03\x04" + bytes(50), "PyTorch file", "convert the folder"),
        ("x.gguf", b'{"error":"Repository not found"}', "error message of a server", "fetch it again"),
        ("x.gguf", bytes(5000), "begins with zeros", "fetch it again"),
        ("x.Q6_K.gguf.part2of3", b"\x17\x88" * 40, "part 2 of 3 of a file that was cut", "into x.Q6_K.gguf"),
        ("x-q8_0.gguf-split-b", b"\x17\x88" * 40, "part 2 of a file that was cut", "into x-q8_0.gguf"),
        ("x.gguf", b"hello", "not a GGUF file", "convert a checkpoint"),
        ("x.gguf", b"GG", "not a GGUF file", "convert a checkpoint"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_what_it_is(tmp_path: Path, name: str, data: bytes, what: str, todo: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(GgufrunError, match=what) as found:
        read_header(path)
    assert todo in str(found.value.todo)


def test_the_first_piece(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    """It has a header, and ends too early: that is its nature, not damage."""
    path = tmp_path / "poet.gguf.part1of2"
    for size in (1000, 3_000_000):
        path.write_bytes(demo_gguf("q8_0").read_bytes()[:size])
        with pytest.raises(GgufrunError, match=r"part 1 of 2 of a file that was cut; join the parts in order"):
            read_header(path)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (31, r"type 31 \(Q4_0_4_4\): llama.cpp dropped it for Q4_0.*fetch the Q4_0 file"),
        (36, r"type 36 \(I2_S\): only bitnet.cpp computes with it.*original checkpoint"),
        (139, r"type 139 \(IQ4_K\) of ik_llama.cpp.*run this one with ik_llama.cpp"),
        (339, r"type 339 \(with rows interleaved\) of ik_llama.cpp"),
        (250, "unknown type 250; update ggufrun"),
    ],
)
def test_types_of_others(tmp_path: Path, number: int, words: str) -> None:
    path = tmp_path / "x.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0)
    path.write_bytes(head + struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 256, number, 0) + bytes(4096))
    with pytest.raises(GgufrunError, match=words) as found:
        read_header(path)
    assert number == 250 or "update" not in str(found.value)
