"""A folder of quantizations published: model card, checksums, and the files on a hub that is a fake."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.errors import FormatError
from ggufrun.hub import client, upload
from ggufrun.hub.client import Listing
from ggufrun.hub.digests import Digest
from ggufrun.workflows import card
from tests.support.checkpoints import DEMO
from tests.test_cli_convert import fails, ggufrun

Gguf = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_gguf: Gguf) -> Path:
    """Two quantizations, one of them split, with a receipt and an importance matrix."""
    made = tmp_path_factory.mktemp("publish") / "tang-poet-GGUF"
    made.mkdir()
    assert ggufrun("convert", DEMO, "-t", "q4_k_m", "-t", "q8_0", "--receipt", "-o", made).returncode == 0
    model = demo_gguf("f16")
    assert ggufrun("quantize", model, "iq3_m", "--imatrix", "auto", "-o", made / "poet-IQ3_M.gguf").returncode == 0
    return made


def test_the_card(folder: Path) -> None:
    arguments = ("--repo", "me/tang-poet-GGUF", "--base-model", "org/tang-poet", "--license", "mit", "--language", "zh")
    result = ggufrun("card", folder, *arguments)
    assert result.stdout.splitlines() == [str(folder / "README.md"), str(folder / "SHA256SUMS")], result.stderr
    text = (folder / "README.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front == {
        "base_model": "org/tang-poet",
        "base_model_relation": "quantized",
        "license": "mit",
        "language": ["zh"],
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "llama.cpp", "llama"],
    }
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("|")[2].strip() for row in rows] == ["Q8_0", "Q4_K_M", "IQ3_M"]
    for row in rows[:2]:
        name, kld, top = (row.split("|")[index].strip() for index in (1, 5, 6))
        header = read_header(folder / name.strip("`"))
        assert float(kld) == pytest.approx(header.get("ggufrun.receipt.kld.mean"), abs=1e-5)
        assert float(top.rstrip("%")) == pytest.approx(100 * header.get("ggufrun.receipt.same_top"), abs=0.01)
    assert "ollama run hf.co/me/tang-poet-GGUF:Q4_K_M" in text and "Importance matrix: `" in text
    # the file of the importance matrix has no receipt, so it may be anybody's
    assert "Quantized with ggufrun" not in text
    fails(ggufrun("card", folder), "README.md exists; pass --force")


def test_a_card_says_who_quantized_where_a_file_tells(tmp_path: Path) -> None:
    assert ggufrun("convert", DEMO, "-t", "q8_0", "--receipt", "-o", tmp_path).returncode == 0
    assert ggufrun("card", tmp_path).returncode == 0
    assert "Quantized with ggufrun" in (tmp_path / "README.md").read_text("utf-8")
    (tmp_path / "README.md").unlink()
    assert ggufrun("convert", DEMO, "-t", "q8_0", "-o", tmp_path, "--force").returncode == 0
    assert ggufrun("card", tmp_path, "--force").returncode == 0
    assert "How they were made" not in (tmp_path / "README.md").read_text("utf-8")


def test_two_models_in_a_folder_are_not_one(folder: Path, tmp_path: Path, measured: Gguf) -> None:
    (tmp_path / "one.gguf").write_bytes((folder / "poet-IQ3_M.gguf").read_bytes())
    (tmp_path / "other.gguf").write_bytes(measured("dense-f16").read_bytes())
    fails(ggufrun("card", tmp_path), "are not one model; give each model a folder of its own", 2)
    assert not (tmp_path / "README.md").exists()


def test_the_checksums_are_those_of_sha256sum(folder: Path) -> None:
    ggufrun("card", folder, "--force")
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 4, "three models and the importance matrix"
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    assert "sha256 (SHA256SUMS)" in ggufrun("verify", folder).stdout


def test_no_path_of_this_machine_gets_into_a_file(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.gguf"):
        assert card.local_paths(read_header(path)) == {}
        assert str(folder.parent).encode() not in path.read_bytes()
    path = tmp_path / "x.gguf"
    path.write_bytes((folder / "poet-IQ3_M.gguf").read_bytes())
    ggufrun("edit", path, "--set", "quantize.imatrix.file=/home/me/secret/imatrix.gguf")
    result = ggufrun("card", tmp_path)
    assert "x.gguf holds a path of this machine in quantize.imatrix.file; change it: ggufrun edit" in result.stderr
    assert "secret" not in (tmp_path / "README.md").read_text()
    ggufrun("edit", path, "--set", r"quantize.imatrix.file=C:\Users\me\imatrix.gguf")
    assert card.local_paths(read_header(path)) == {"quantize.imatrix.file": r"C:\Users\me\imatrix.gguf"}


def test_folders_without_models(tmp_path: Path) -> None:
    fails(ggufrun("card", tmp_path), "holds no GGUF models")
    fails(ggufrun("card", tmp_path / "none"), "no such folder")
    fails(ggufrun("push", tmp_path, "org/name"), "holds no files")
    fails(ggufrun("push", tmp_path, "org/name:Q8_0"), "not the name of a repository", 2)


CutError = type("RequestError", (Exception,), {"__module__": "httpx"})
"""What the client lets through when the network fails."""


class FakeApi:
    """What the client offers, as far as a push needs it; ``there`` is the repository, ``broken`` a file that fails."""

    there: ClassVar[dict[str, bytes]] = {}
    calls: ClassVar[list[str]] = []
    broken: ClassVar[str | None] = None

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.calls.append(f"create {repo} {private}")
        return f"https://hub/{repo}"

    def upload_file(self, **named: Any) -> None:
        assert named["repo_id"] == "me/poet" and named["commit_message"].startswith("Upload ")
        self.calls.append(named["path_in_repo"])
        if named["path_in_repo"] == self.broken:
            raise CutError("the line was cut")
        self.there[named["path_in_repo"]] = Path(named["path_or_fileobj"]).read_bytes()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    def listing(repo: str, revision: str | None) -> Listing:
        if not FakeApi.there:
            raise FormatError("an empty repository has no commit")
        known: dict[str, tuple[int | None, Digest | None]] = {}
        for name, data in FakeApi.there.items():
            known[name] = (len(data), Digest("sha256", hashlib.sha256(data).hexdigest()))
        return Listing(repo, "main", "0" * 40, tuple(known), known)

    monkeypatch.setattr(FakeApi, "there", {})
    monkeypatch.setattr(FakeApi, "calls", [])
    monkeypatch.setattr(client.hub(), "HfApi", FakeApi)
    monkeypatch.setattr(client, "listing", listing)
    return FakeApi


def test_a_push_sends_what_is_missing(folder: Path, fake: type[FakeApi], monkeypatch: pytest.MonkeyPatch) -> None:
    ggufrun("card", folder, "--force")
    (folder / ".hidden").write_text("no")
    files = upload.files_to_upload(folder)
    names = [one.name for one in files]
    assert set(names[:2]) == {"SHA256SUMS", "README.md"} and len(names) == 6
    monkeypatch.setattr(fake, "broken", names[3])
    with pytest.raises(Exception, match=r"cannot reach .*the line was cut"):
        upload.upload("me/poet", files)
    assert list(fake.there) == names[:3]
    monkeypatch.setattr(fake, "broken", None)
    fake.calls.clear()
    heard: list[tuple[str, bool]] = []
    address = upload.upload("me/poet", files, on_file=lambda one, sent: heard.append((one.name, sent)))
    assert address == "https://hub/me/poet" and fake.calls == ["create me/poet False", *names[3:]]
    assert heard == [(name, name in names[3:]) for name in names]
    assert fake.there == {one.name: one.path.read_bytes() for one in files}
    fake.there["README.md"] = b"another"
    fake.calls.clear()
    upload.upload("me/poet", files)
    assert fake.calls[1:] == ["README.md"]


def test_a_dry_run_sends_nothing(folder: Path) -> None:
    result = ggufrun("push", folder, "me/poet", "--dry-run")
    assert result.returncode == 0 and "nothing was sent" in result.stderr and result.stdout == ""
