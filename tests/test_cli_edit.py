"""``ggufrun edit``, ``split`` and ``merge``: metadata changes, and every tensor stays as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert import edit, writer
from ggufrun.errors import FormatError
from tests.conftest import Oracle
from tests.test_cli_convert import fails, ggufrun

Gguf = Callable[[str], Path]


@pytest.fixture
def model(tmp_path: Path, demo_gguf: Gguf) -> Path:
    path = tmp_path / "poet.gguf"
    shutil.copyfile(demo_gguf("q8_0"), path)
    return path


def tensors(path: Path) -> list[tuple[str, bytes]]:
    """By the reference implementation of the format."""
    return [(tensor.name, tensor.data.tobytes()) for tensor in gguf.GGUFReader(path).tensors]


def told(path: Path, key: str) -> object:
    field = gguf.GGUFReader(path).fields.get(key)
    return None if field is None else field.contents()


def test_a_number_is_changed_in_place(model: Path) -> None:
    before, inode = tensors(model), model.stat().st_ino
    result = ggufrun("edit", model, "--set", "llama.rope.freq_base=20000", "--json")
    said = json.loads(result.stdout)
    assert said["in_place"] and model.stat().st_ino == inode
    assert said["changes"] == [{"key": "llama.rope.freq_base", "before": 10000.0, "after": 20000.0}]
    assert told(model, "llama.rope.freq_base") == 20000.0 and tensors(model) == before
    assert [path.name for path in model.parent.iterdir()] == ["poet.gguf"]


def test_what_moves_the_data_makes_a_copy(model: Path, tmp_path: Path) -> None:
    before, inode = tensors(model), model.stat().st_ino
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}你好")
    result = ggufrun(
        "edit", model, "--set", "general.name=诗人", "--set", "x.list=[1, 2]", "--set", "x.ratio=f32:0.5",
        "--remove", "general.file_type", "--chat-template", tmp_path / "t.jinja",
    )  # fmt: skip
    assert result.stdout == f"{model}\n" and "general.name: " in result.stderr, result.stderr
    assert model.stat().st_ino != inode and tensors(model) == before
    assert told(model, "tokenizer.chat_template") == "{{ messages[0].content }}你好"
    assert (told(model, "general.name"), told(model, "x.list"), told(model, "x.ratio")) == ("诗人", [1, 2], 0.5)
    assert told(model, "general.file_type") is None
    assert ggufrun("verify", model).returncode == 0


def test_a_copy_leaves_the_file(model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    other = tmp_path / "other.gguf"
    assert ggufrun("edit", model, "--set", "general.name=x", "-o", other).returncode == 0
    assert model.read_bytes() == data and told(other, "general.name") == "x"
    fails(ggufrun("edit", model, "--set", "general.name=y", "-o", other), "exists; pass --force")
    assert "nothing was written" in ggufrun("edit", model, "--set", "general.name=y", "--dry-run").stderr
    assert model.read_bytes() == data


def test_another_name_of_the_file_keeps_the_old_content(model: Path, tmp_path: Path) -> None:
    """As pull makes them: the other program's file is not ours to change."""
    other = tmp_path / "theirs.gguf"
    os.link(model, other)
    data = other.read_bytes()
    said = json.loads(ggufrun("edit", model, "--set", "llama.rope.freq_base=20000", "--json").stdout)
    assert not said["in_place"] and other.read_bytes() == data
    assert told(model, "llama.rope.freq_base") == 20000.0


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["--set", "general.alignment=64"], "says where the tensors lie", 2),
        (["--remove", "no.such"], "there is no key no.such", 2),
        (["--remove", "general.architecture"], "cannot be removed", 2),
        (["--set", "llama.block_count=many"], "llama.block_count is of the type UINT32, and 'many' is not", 2),
        (["--set", "llama.block_count=-1"], "of the type UINT32", 2),
        (["--set", "x=[1, {}]"], "is a list, and", 2),
        (["--set", "nothing"], "is not KEY=VALUE", 2),
        ([], "no change is asked for", 2),
        (["--set", "llama.attention.head_count=0"], "after this change the model would not load", 1),
        (["--set", "llama.block_count=u32:100000"], "after this change the model would not load", 1),
    ],
)
def test_what_is_refused(model: Path, arguments: list[str], words: str, status: int) -> None:
    data = model.read_bytes()
    fails(ggufrun("edit", model, *arguments), words, status)
    assert model.read_bytes() == data


def test_never_half_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the old file, whole and alone."""
    data, header = model.read_bytes(), read_header(model)
    name = edit.parse_value("general.name", "another name that is longer than the one before", None)
    after = edit.changed_header(header, {"general.name": name, "x.y": name}, [])
    calls = []

    def broken(self: object, offset: int, part: object) -> None:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(28, "No space left on device", str(model))

    monkeypatch.setattr(writer.TargetFile, "write", broken)
    with pytest.raises(OSError, match="No space left"):
        edit.write_edit(model, after, model, force=False)
    assert model.read_bytes() == data and list(model.parent.iterdir()) == [model]


def test_a_damaged_model_can_be_mended(model: Path) -> None:
    wrong = edit.changed_header(
        read_header(model), {"llama.attention.head_count": edit.parse_value("", "u32:0", None)}, []
    )
    with pytest.raises(FormatError):
        edit.check_edit(model, read_header(model), wrong)
    edit.write_edit(model, wrong, model, force=False)
    assert ggufrun("edit", model, "--set", "llama.attention.head_count=8").returncode == 0


def test_split_and_merge(model: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    result = ggufrun("split", model, "--max-size", "1M", "-o", tmp_path / "parts")
    parts = [Path(line) for line in result.stdout.splitlines()]
    assert len(parts) > 2 and parts == sorted((tmp_path / "parts").iterdir()), result.stderr
    assert [pair for part in parts for pair in tensors(part)] == tensors(model)
    result = ggufrun("merge", parts[1], "-o", tmp_path / "whole.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == model.read_bytes(), result.stderr
    fails(ggufrun("merge", model), "is one file already.*--lora ADAPTER", 2)
    fails(ggufrun("split", model, "--max-size", "1G"), "fits into one file", 2)
    assert len(ggufrun("split", model, "--max-tensors", "20", "-o", tmp_path).stdout.splitlines()) == 2


def test_against_gguf_split(oracle: Oracle, model: Path, tmp_path: Path) -> None:
    tool = oracle.binaries / "llama-gguf-split"
    for folder in ("theirs", "ours"):
        (tmp_path / folder).mkdir()
    oracle.run(tool, "--split", "--split-max-tensors", "10", model, tmp_path / "theirs" / "poet")
    ggufrun("split", model, "--max-tensors", "10", "-o", tmp_path / "ours")
    theirs, ours = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("theirs", "ours")
    )
    assert theirs == ours
    first = sorted((tmp_path / "ours").iterdir())[0]
    oracle.run(tool, "--merge", first, tmp_path / "merged.gguf")
    assert tensors(tmp_path / "merged.gguf") == tensors(model)
    # theirs says split.count = 0
    assert ggufrun("verify", tmp_path / "merged.gguf").returncode == 0
    assert ggufrun("inspect", tmp_path / "merged.gguf", "--json").returncode == 0
