"""Checksum lists as the tools write them: the lines here were printed by md5sum, sha256sum, shasum and openssl."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from ggufrun.errors import FormatError, GgufrunError
from ggufrun.hub.digests import Digest, file_digest, hub_digest, is_inside, is_list, read_list, recorded

MD5 = "900150983cd24fb0d6963f7d28e17f72"
SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""Of ``abc``, from the appendices of RFC 1321 and FIPS 180-2."""
GIT = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"
"""What ``printf abc | git hash-object --stdin`` prints."""


def test_known_answers(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    for kind, expected in (("md5", MD5), ("sha256", SHA256), ("git-sha1", GIT)):
        assert file_digest(tmp_path / "x", kind) == Digest(kind, expected)


@pytest.mark.parametrize(
    ("line", "name", "digest"),
    [
        (f"{MD5}  consolidated.00.pth", "consolidated.00.pth", MD5),
        (f"{MD5} consolidated.00.pth", "consolidated.00.pth", MD5),
        (f"{SHA256}  a b.gguf", "a b.gguf", SHA256),
        (f"{SHA256} *model.gguf", "model.gguf", SHA256),
        (f"{SHA256.upper()}  ./sub/model.gguf", "sub/model.gguf", SHA256),
        (f"SHA256 (model (1).gguf) = {SHA256}", "model (1).gguf", SHA256),
        (f"MD5 (x) = {MD5}", "x", MD5),
        (f"SHA2-256(model.gguf)= {SHA256}", "model.gguf", SHA256),
        (f"SHA256(model.gguf)= {SHA256}", "model.gguf", SHA256),
        (f"\\{SHA256}  line\\nbreak\\\\.gguf", "line\nbreak\\.gguf", SHA256),
        (f"{SHA256}  模型.gguf", "模型.gguf", SHA256),
    ],
)
def test_lines(tmp_path: Path, line: str, name: str, digest: str) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_bytes(f"\ufeff# a comment\n\n{line}\r\n".encode())
    (found,) = read_list(path)
    assert (found.path, found.digest) == (tmp_path / name, Digest("sha256" if len(digest) == 64 else "md5", digest))


def test_a_sum_alone_belongs_to_the_file_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "model.gguf.sha256").write_text(SHA256 + "\n")
    (found,) = read_list(tmp_path / "model.gguf.sha256")
    assert found.path == tmp_path / "model.gguf"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
@pytest.mark.parametrize("options", [[], ["--tag"], ["-b"]])
def test_what_sha256sum_writes_here(tmp_path: Path, options: list[str]) -> None:
    for name in ("a.gguf", "with space (2).gguf", "back\\slash"):
        (tmp_path / name).write_bytes(name.encode())
    command = ["sha256sum", *options, *sorted(path.name for path in tmp_path.iterdir())]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "SHA256SUMS").write_bytes(printed.stdout)
    found = read_list(tmp_path / "SHA256SUMS")
    assert len(found) == 3
    for line in found:
        assert line.digest == Digest("sha256", hashlib.sha256(line.path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "..\\x", "C:\\x", "C:x", "a//b", "\\\\host\\share"]
)
def test_hostile_names_are_refused_one_by_one(tmp_path: Path, name: str) -> None:
    assert not is_inside(name)
    (tmp_path / "SHA256SUMS").write_text(f"{SHA256}  {name}\n{SHA256}  good\n")
    bad, good = read_list(tmp_path / "SHA256SUMS")
    assert bad.digest is None and "refused" in bad.problem
    assert good.path == tmp_path / "good"


@pytest.mark.parametrize(
    "data", [b"", b"\n# only a comment\n", b"hello world\n", b"\xff\xfe\x00", f"{MD5[:-1]}  x\n".encode()]
)
def test_what_is_no_list(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "SHA256SUMS").write_bytes(data)
    with pytest.raises(FormatError):
        read_list(tmp_path / "SHA256SUMS")


def test_mutated_lists_end_in_clean_errors(tmp_path: Path) -> None:
    chance = random.Random(4)
    sound = f"{MD5}  a\nSHA256 (b) = {SHA256}\n\\{SHA256}  c\\nd\n".encode()
    path, refused = tmp_path / "SHA256SUMS", 0
    for _ in range(2000):
        data = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b"\0\n /\\.()=\xff0aZ")
        path.write_bytes(data)
        try:
            for line in read_list(path):
                assert line.path.parent.is_relative_to(tmp_path)
        except GgufrunError:
            refused += 1
    assert 500 < refused < 2000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("checklist.chk", "SHA256SUMS", "sha256sums.txt", "MD5SUMS", "md5sum.txt")),
        *((name, True) for name in ("x.gguf.sha256", "x.md5", "model.SHA512", "sha256.txt")),
        *((name, False) for name in ("model.gguf", "config.json", "README.md", "shapes.txt", "sha.txt")),
    ],
)
def test_names_of_lists(name: str, expected: bool) -> None:
    assert is_list(Path(name)) == expected


def test_the_hubs_notes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(b"abc")
    assert recorded(tmp_path / "sub" / "x") is None
    note = tmp_path / ".cache" / "huggingface" / "download" / "sub" / "x.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{'0' * 40}\n{SHA256}\n1700000000.0\n")
    found = recorded(tmp_path / "sub" / "x")
    assert found is not None and found.digest == Digest("sha256", SHA256)
    note.write_text("damaged")
    assert recorded(tmp_path / "sub" / "x") is None
    assert hub_digest(GIT) == Digest("git-sha1", GIT)
    assert hub_digest('W/"whatever"') is None
