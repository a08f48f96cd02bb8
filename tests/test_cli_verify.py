"""``ggufrun verify``: files that are whole, and each way in which they are not."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import typer

from ggufrun.cli.commands.verify import verify
from ggufrun.errors import NotFoundError
from tests.support.checkpoints import DEMO, write_llama
from tests.support.hubserver import git_sha1

Check = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Verify a path: the row of each file. The exit status must agree with the rows."""

    def run(path: Path | str) -> dict[str, dict[str, Any]]:
        status = 0
        try:
            verify([str(path)], as_json=True)
        except typer.Exit as stop:
            status = stop.exit_code
        found = json.loads(capsys.readouterr().out)
        assert found["ok"] == (status == 0) == all(row["status"] == "ok" for row in found["files"])
        return {row["file"]: row for row in found["files"]}

    return run


def statuses(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: row["status"] for name, row in found.items()}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_metas_checklist(tmp_path: Path, check: Check) -> None:
    for name in ("consolidated.00.pth", "consolidated.01.pth", "params.json"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    lines = [f"{md5(path)}  {path.name}" for path in sorted(tmp_path.iterdir())]
    (tmp_path / "checklist.chk").write_text("\n".join([*lines, f"{'0' * 32}  consolidated.02.pth"]) + "\n")
    found = check(tmp_path)
    assert statuses(found) == {
        "consolidated.00.pth": "ok",
        "consolidated.01.pth": "ok",
        "consolidated.02.pth": "missing",
        "params.json": "ok",
    }
    (tmp_path / "consolidated.01.pth").write_bytes(b"other")
    assert statuses(check(tmp_path / "checklist.chk"))["consolidated.01.pth"] == "bad"
    assert statuses(check(tmp_path / "consolidated.01.pth")) == {"consolidated.01.pth": "bad"}
    assert statuses(check(tmp_path / "params.json")) == {"params.json": "ok"}


def test_a_gguf_against_a_list_in_one_read(tmp_path: Path, check: Check, demo_gguf: Callable[[str], Path]) -> None:
    path = tmp_path / "poet.gguf"
    shutil.copy(demo_gguf("q4_k_m"), path)
    (tmp_path / "SHA256SUMS").write_text(f"{sha256(path)} *poet.gguf\n")
    (row,) = check(tmp_path).values()
    assert row["checks"] == ["GGUF, 39 tensors, 3,410,176 values", "sha256 (SHA256SUMS)"]
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    (row,) = check(path).values()
    assert "cut short" in row["problems"][0] and "sha256 differs from SHA256SUMS" in row["problems"][1]
    path.write_bytes(data + b"tail")
    (row,) = check(path).values()
    assert row["problems"] == ["sha256 differs from SHA256SUMS"]


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
def test_a_number_that_is_none_names_its_tensor(
    tmp_path: Path, check: Check, demo_gguf: Callable[[str], Path], kind: str
) -> None:
    path = tmp_path / "poet.gguf"
    shutil.copy(demo_gguf(kind), path)
    reader = gguf.GGUFReader(path, "r+")
    (tensor,) = (tensor for tensor in reader.tensors if tensor.name == "blk.2.ffn_gate.weight")
    # every one of these types has a half-precision number at the start of a block
    tensor.data.reshape(-1).view(np.uint16)[0] = 0x7E00
    reader.data.flush()
    (row,) = check(path).values()
    assert row["status"] == "bad" and row["problems"][0].startswith("blk.2.ffn_gate.weight")


def test_structure_without_any_list(tmp_path: Path, check: Check) -> None:
    write_llama(tmp_path / "model", shards=3)
    found = check(tmp_path / "model")
    assert set(statuses(found).values()) == {"ok"} and len(found) == 4
    (shard,) = (tmp_path / "model").glob("*-00002-of*")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert statuses(check(tmp_path))[f"model/{shard.name}"] == "bad"
    shard.unlink()
    assert statuses(check(tmp_path))[f"model/{shard.name}"] == "missing"
    index = tmp_path / "model" / "model.safetensors.index.json"
    other = json.loads(index.read_text())
    other["weight_map"]["nowhere"] = next((tmp_path / "model").glob("*-00001-of*")).name
    index.write_text(json.dumps(other))
    assert "lacks nowhere" in check(tmp_path)["model/model.safetensors.index.json"]["problems"][0]
    other["weight_map"]["nowhere"] = "../../evil.safetensors"
    index.write_text(json.dumps(other))
    assert "evil" in check(tmp_path)["model/model.safetensors.index.json"]["problems"][0]


def test_a_missing_gguf_shard(tmp_path: Path, check: Check, demo_gguf: Callable[[str], Path]) -> None:
    shutil.copy(demo_gguf("q8_0"), tmp_path / "m-00001-of-00003.gguf")
    shutil.copy(demo_gguf("q4_k_m"), tmp_path / "m-00003-of-00003.gguf")
    expected = {"m-00001-of-00003.gguf": "ok", "m-00002-of-00003.gguf": "missing", "m-00003-of-00003.gguf": "ok"}
    assert statuses(check(tmp_path)) == expected


def test_torch_archives(tmp_path: Path, check: Check) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\0.")
        archive.writestr("archive/data/0", bytes(range(256)) * 100)
    assert statuses(check(path)) == {path.name: "ok"}
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    assert "archive/data/0" in check(path)[path.name]["problems"][0]
    path.write_bytes(data[:-50])
    check(path)


def test_the_hubs_digests(tmp_path: Path, check: Check) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "sub").mkdir()
    shutil.copy(DEMO / "model.safetensors", tmp_path / "sub" / "model.safetensors")
    notes = tmp_path / ".cache" / "huggingface" / "download"
    (notes / "sub").mkdir(parents=True)
    (notes / "config.json.metadata").write_text(f"{'a' * 40}\n{git_sha1(b'{}')}\n1.0\n")
    digest = sha256(DEMO / "model.safetensors")
    (notes / "sub" / "model.safetensors.metadata").write_text(f"{'a' * 40}\n{digest}\n1.0\n")
    (notes / "gone.json.metadata").write_text(f"{'a' * 40}\n{'b' * 40}\n1.0\n")
    expected = {"config.json": "ok", "gone.json": "missing", "sub/model.safetensors": "ok"}
    assert statuses(check(tmp_path)) == expected
    (tmp_path / "config.json").write_bytes(b"[]")
    assert check(tmp_path)["config.json"]["problems"] == ["git-sha1 differs from hub"]


def test_the_hubs_cache(tmp_path: Path, check: Check) -> None:
    digest = sha256(DEMO / "model.safetensors")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "abc").mkdir(parents=True)
    shutil.copy(DEMO / "model.safetensors", tmp_path / "blobs" / digest)
    (tmp_path / "snapshots" / "abc" / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    found = check(tmp_path / "snapshots" / "abc")
    assert found["model.safetensors"]["checks"] == ["safetensors, 39 tensors", "sha256 (hub)"]


def test_a_hostile_list_reads_nothing_outside(tmp_path: Path, check: Check) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "fine").write_text("fine")
    lines = [f"{sha256(tmp_path / 'secret')}  ../secret", f"{sha256(tmp_path / 'in' / 'fine')}  fine"]
    (tmp_path / "in" / "SHA256SUMS").write_text("\n".join(lines))
    for target in (tmp_path / "in", tmp_path / "in" / "SHA256SUMS"):
        found = check(target)
        assert statuses(found) == {"SHA256SUMS": "bad", "fine": "ok"}
        assert "refused" in found["SHA256SUMS"]["problems"][0]


def test_a_damaged_list_is_a_row(tmp_path: Path, check: Check) -> None:
    (tmp_path / "SHA256SUMS").write_text("no sums at all\n")
    assert statuses(check(tmp_path)) == {"SHA256SUMS": "bad"}
    assert statuses(check(tmp_path / "SHA256SUMS")) == {"SHA256SUMS": "bad"}


def test_nothing_to_verify(tmp_path: Path, check: Check) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(NotFoundError, match="nothing to verify"):
            check(target)
    with pytest.raises(NotFoundError, match="no such file"):
        check(tmp_path / "absent.gguf")


def test_as_a_shell_sees_it(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    shutil.copy(demo_gguf("q8_0"), tmp_path / "a [b].gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(50))
    command = [sys.executable, "-m", "ggufrun", "verify", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr == ""
    rows = [line.split(maxsplit=1) for line in result.stdout.splitlines() if ".gguf" in line]
    assert [row[0] for row in rows] == ["ok", "bad"]
    assert rows[0][1].startswith("a [b].gguf") and "\x1b" not in result.stdout


def test_several_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str], demo_gguf: Callable[[str], Path]) -> None:
    good, bad = tmp_path / "a" / "good.gguf", tmp_path / "b" / "bad.gguf"
    for path, data in ((good, demo_gguf("q8_0").read_bytes()), (bad, b"GGUF")):
        path.parent.mkdir()
        path.write_bytes(data)
    with pytest.raises(typer.Exit):
        verify([str(good), str(bad.parent), str(good)], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert statuses({row["file"]: row for row in found["files"]}) == {str(good): "ok", str(bad): "bad"}
    assert len(found["files"]) == 2 and not found["ok"]
