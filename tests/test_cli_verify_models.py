"""What verify finds of a model that has the right form and the wrong content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.file import Header, layout, serialize
from ggufrun.checkpoint.gguf.header import read_header
from tests.support.checkpoints import write_llama
from tests.test_cli_convert import ggufrun

Gguf = Callable[[str], Path]


def problems(path: Path) -> dict[str, list[str]]:
    """What verify says is wrong, by file."""
    result = ggufrun("verify", path, "--json")
    rows = json.loads(result.stdout)["files"]
    assert result.returncode == any(row["problems"] for row in rows), result.stderr
    return {row["file"]: row["problems"] for row in rows if row["problems"]}


def with_tensors(source: Path, target: Path, change: Callable[[Header], list[str]]) -> None:
    """A copy with the named tensors only, or a tensor twice under another name (``new=old``)."""
    header, data = read_header(source), source.read_bytes()
    old = {info.name: info for info in header.tensors}
    pairs = [(name.partition("=")[0], old[name.rpartition("=")[2]]) for name in change(header)]
    infos = layout([(name, info.shape, int(info.type)) for name, info in pairs], header.alignment)
    head = serialize(Header(header.metadata, tuple(infos)))
    body = bytearray(max(info.offset + info.n_bytes for info in infos))
    for info, (_, before) in zip(infos, pairs, strict=True):
        begin = header.data_start + before.offset
        body[info.offset : info.offset + info.n_bytes] = data[begin : begin + before.n_bytes]
    target.write_bytes(head + body)


def test_tensors_missing_and_beyond(tmp_path: Path, demo_gguf: Gguf) -> None:
    names = [info.name for info in read_header(demo_gguf("q8_0")).tensors]
    path = tmp_path / "x.gguf"
    with_tensors(demo_gguf("q8_0"), path, lambda _: names)
    assert problems(path) == {}
    with_tensors(demo_gguf("q8_0"), path, lambda _: [name for name in names if name != "blk.1.attn_k.weight"])
    assert "tensor 'blk.1.attn_k.weight' not found" in problems(path)["x.gguf"][0]
    with_tensors(demo_gguf("q8_0"), path, lambda _: [*names, "blk.99.more.weight=blk.0.attn_k.weight"])
    assert f"wrong number of tensors; expected {len(names) + 1}, got {len(names)}" in problems(path)["x.gguf"][0]


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_hole_in_a_tensor(tmp_path: Path, demo_gguf: Gguf, share: float) -> None:
    path = tmp_path / "x.gguf"
    shutil.copyfile(demo_gguf("q4_k_m"), path)
    header = read_header(path)
    info = next(info for info in header.tensors if info.name == "blk.1.ffn_down.weight")
    with path.open("r+b") as file:
        file.seek(header.data_start + info.offset)
        file.write(bytes(int(share * info.n_bytes)))
    found = problems(path)
    assert (found != {}) == (share > 0.5)
    if found:
        assert found["x.gguf"][0].startswith("blk.1.ffn_down.weight is all zeros over 59%")


def test_a_shard_that_is_another_ones_copy(tmp_path: Path, demo_gguf: Gguf) -> None:
    assert ggufrun("quantize", demo_gguf("f16"), "q8_0", "--split-max-size", "1M", cwd=tmp_path).returncode == 0
    first, second = sorted(tmp_path.glob("*-0000[12]-of-*.gguf"))
    assert problems(tmp_path) == {}
    shutil.copyfile(first, second)
    said = problems(tmp_path)[second.name]
    assert any("is in truth part 1 of" in line for line in said)
    assert f"is a copy of {first.name}" in said


def test_shards_of_checkpoints_too(tmp_path: Path) -> None:
    write_llama(tmp_path / "model", shards=2)
    first, second = sorted((tmp_path / "model").glob("model-*.safetensors"))
    assert problems(tmp_path / "model") == {}
    shutil.copyfile(first, second)
    (tmp_path / "model" / "model.safetensors.index.json").unlink()
    assert problems(tmp_path / "model") == {second.name: [f"is a copy of {first.name}"]}


def test_shards_of_one_size_are_not_copies(tmp_path: Path, demo_gguf: Gguf) -> None:
    for number in (1, 2):
        header, data = read_header(demo_gguf("q8_0")), demo_gguf("q8_0").read_bytes()
        changed = bytearray(data)
        changed[-number] ^= 255
        (tmp_path / f"x-{number:05}-of-00002.bin").write_bytes(changed)
        assert replace(header)
    assert not any("copy" in line for lines in problems(tmp_path).values() for line in lines)
