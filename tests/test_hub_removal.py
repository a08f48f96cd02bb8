"""Removing local models: all that belongs to one goes, what only lies beside it or behind a link stays."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggufrun.convert.writer import TargetFile
from ggufrun.errors import GgufrunError, NotFoundError, TargetError, UsageError
from ggufrun.hub import in_use, removal
from ggufrun.hub.digests import METADATA
from ggufrun.hub.scan import stopped
from tests.support.checkpoints import write_llama

NOTES = METADATA.as_posix()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder and a place outside of it; no program has files of these names open."""
    folder = tmp_path / "models"
    monkeypatch.setenv("GGUFRUN_MODELS", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    for name in (
        "models/plain-Q4_K_M.gguf",
        "models/org/two/two-Q8_0-00001-of-00002.gguf",
        "models/org/two/two-Q8_0-00002-of-00002.gguf",
        "models/org/two/two-Q8_0-00001-of-00003.gguf",
        "models/org/two/two-Q4_0.gguf",
        f"models/org/two/{NOTES}/two-Q4_0.gguf.metadata",
        f"models/org/two/{NOTES}/two-Q4_0.gguf.{'a' * 16}.lock",
        f"models/org/two/{NOTES}/two-Q4_0.gguf.sha256.metadata",
        f"models/org/two/{NOTES}/two-Q8_0-00003-of-00003.gguf.{'b' * 16}.incomplete",
        f"models/org/sub/{NOTES}/Q2_K/sub-Q2_K.gguf.metadata",
        "models/org/sub/.cache/huggingface/.gitignore",
        "models/org/sub/Q2_K/sub-Q2_K.gguf",
        "outside/x-00001-of-00002.gguf",
        "outside/x-00002-of-00002.gguf",
        "outside/y.gguf",
        "outside/notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    write_llama(folder / "work" / "checkpoint", shards=2)
    return folder


def everything(folder: Path) -> set[str]:
    """Every file, folder and link below."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def remove(name: str) -> removal.Removal:
    found = removal.find(name)
    removal.check_free(found)
    removal.carry_out(found)
    return found


def test_shards_go_together_and_others_stay(models: Path) -> None:
    before = everything(models)
    with pytest.raises(UsageError, match=r"two-Q8_0-00001-of-00002.gguf, .*two-Q8_0-00001-of-00003.gguf; write more"):
        removal.find("two-Q8_0")
    found = removal.find("two-Q8_0-00001-of-00002")
    assert found.size == 10 and len(found.files) == 2
    removal.carry_out(found)
    assert before - everything(models) == {f"org/two/two-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)}
    # and of the one that is not whole the rest of what was fetched
    before = everything(models)
    remove("two-Q8_0")
    part = f"org/two/{NOTES}/two-Q8_0-00003-of-00003.gguf.{'b' * 16}.incomplete"
    assert before - everything(models) == {"org/two/two-Q8_0-00001-of-00003.gguf", part}


def test_notes_go_with_their_file_and_empty_folders(models: Path) -> None:
    before = everything(models)
    remove("org/two:q4_0")
    gone = {f"org/two/{NOTES}/two-Q4_0.gguf.metadata", f"org/two/{NOTES}/two-Q4_0.gguf.{'a' * 16}.lock"}
    assert before - everything(models) == {"org/two/two-Q4_0.gguf", *gone}
    remove("sub-Q2_K")
    assert not (models / "org" / "sub").exists() and (models / "org").is_dir()
    remove("plain-q4_k_m.gguf")
    assert models.is_dir()


def test_a_checkpoint_goes_but_for_the_models_in_it(models: Path, tmp_path: Path) -> None:
    folder = models / "work" / "checkpoint"
    (folder / "checkpoint-F16.gguf").write_bytes(b"12345")
    (folder / ".hidden.gguf").write_bytes(b"12345")
    (folder / "code").mkdir()
    (folder / "code" / "model.py").touch()
    (folder / "link").symlink_to(tmp_path / "outside")
    write_llama(folder / "adapted")
    inner = everything(folder / "adapted")
    found = remove("work/checkpoint")
    assert found.stays == (
        "work/checkpoint/adapted",
        "work/checkpoint/checkpoint-F16",
        "work/checkpoint/link/x",
        "work/checkpoint/link/y",
    )
    assert everything(folder) == {"checkpoint-F16.gguf", ".hidden.gguf", "link", "adapted"} | {
        f"adapted/{name}" for name in inner
    }
    assert len(everything(tmp_path / "outside")) == 4
    (folder / "link").unlink()
    (folder / ".hidden.gguf").unlink()
    remove("checkpoint-F16")
    remove("adapted")
    assert not (models / "work").exists()


def test_a_checkpoint_that_is_the_models_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "poet"
    write_llama(folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "text.txt").touch()
    for name in (".profile", "notes.txt", "README.md"):
        (folder / name).touch()
    monkeypatch.setenv("GGUFRUN_MODELS", str(folder))
    remove("poet")
    assert everything(folder) == {"mine", "mine/text.txt", ".profile", "notes.txt", "README.md"}


def test_links_go_and_what_they_lead_to_stays(models: Path, tmp_path: Path) -> None:
    outside = everything(tmp_path / "outside")
    (models / "y.gguf").symlink_to(tmp_path / "outside" / "y.gguf")
    write_llama(tmp_path / "far")
    far = everything(tmp_path / "far")
    (models / "near").symlink_to(tmp_path / "far")
    (models / "lost.gguf").symlink_to(tmp_path / "nowhere.gguf")
    for name in ("y", "near", "lost", str(models / "plain-Q4_K_M.gguf")):
        found = removal.find(name)
        assert found.size == (5 if "plain" in name else 0)
        removal.carry_out(found)
        assert not os.path.lexists(found.path), name
    assert everything(tmp_path / "outside") == outside and everything(tmp_path / "far") == far


def test_nothing_outside_but_a_gguf_by_its_path(models: Path, tmp_path: Path) -> None:
    (models / "link").symlink_to(tmp_path / "outside")
    before = everything(tmp_path)
    write_llama(tmp_path / "checkpoint")
    for name, words in (
        ("link/y", "behind a link, outside of .*remove it there: .*outside/y.gguf"),
        ("outside", "is not a model of .*only a GGUF is removed by its path"),
        ("outside/notes.txt", "nor a GGUF"),
        (".", "nor a GGUF"),
        ("models", "nor a GGUF"),
        ("checkpoint", "is here, and a model of .* too; write .*models/work/checkpoint"),
    ):
        with pytest.raises(UsageError, match=words):
            removal.find(name)
    for name in ("nothing", "../outside/y", "a\0b"):
        with pytest.raises(NotFoundError):
            removal.find(name)
    assert before <= everything(tmp_path)
    remove("outside/x-00002-of-00002.gguf")
    remove("models/link/y.gguf")
    assert everything(tmp_path / "outside") == {"notes.txt"}
    remove("models/work/checkpoint/")
    assert not (models / "work").exists() and (tmp_path / "checkpoint").is_dir()


def test_links_that_lead_nowhere_are_known_by_their_names(models: Path, tmp_path: Path) -> None:
    for name in ("lost.gguf", "lost", "lost.txt"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    for name in ("lost", "lost.txt"):
        with pytest.raises(UsageError, match="nor a GGUF"):
            remove(name)
    remove("lost.gguf")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_symlink()) == ["lost", "lost.txt"]


def test_all_shards_that_are_there_go_by_the_path_of_one(models: Path, tmp_path: Path) -> None:
    other = tmp_path / "outside" / "x-00001-of-00003.gguf"
    other.write_bytes(b"12345")
    found = remove("outside/x-00002-of-00002.gguf")
    assert [path.name for path in found.files] == ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]
    assert everything(tmp_path / "outside") == {"x-00001-of-00003.gguf", "y.gguf", "notes.txt"}
    # and of a set that is not whole what is left
    assert [path.name for path in remove("outside/x-00001-of-00003.gguf").files] == ["x-00001-of-00003.gguf"]


def test_a_pull_that_was_stopped(models: Path) -> None:
    """The part of a file goes, and what came of its model; never what another pull brought to the same folder."""
    one, two = models / "org" / "one", models / "org" / "two"
    for name in (
        "config.json",
        f"{NOTES}/config.json.metadata",
        f"{NOTES}/model.safetensors.{'c' * 16}.incomplete",
        f"{NOTES}/model.safetensors.{'c' * 16}.lock",
        f"{NOTES}/gone.json.metadata",
        ".cache/huggingface/.gitignore",
    ):
        (one / name).parent.mkdir(parents=True, exist_ok=True)
        (one / name).write_bytes(b"12345")
    (two / NOTES / f"two-Q2_K.gguf.{'d' * 64}.incomplete").write_bytes(b"1234567")
    assert {name: part.stat().st_size for name, part in stopped(models).items()} == {
        "org/one/model.safetensors": 5,
        "org/two/two-Q2_K.gguf": 7,
        "org/two/two-Q8_0-00003-of-00003.gguf": 5,
    }
    before = everything(two)
    found = remove("org/two/two-q2_k.gguf")
    assert (found.kind, found.name) == ("stopped pull", "org/two/two-Q2_K.gguf")
    assert before - everything(two) == {f"{NOTES}/two-Q2_K.gguf.{'d' * 64}.incomplete"}
    with (one / NOTES / f"model.safetensors.{'c' * 16}.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="is being fetched"):
            remove("org/one/model.safetensors")
    assert remove("org/one/model.safetensors").size == 0
    assert not one.exists() and two.is_dir()


def test_an_organization_is_no_model(models: Path) -> None:
    for name in ("org/two/two-Q8_0", "org/two/two-Q4_0"):
        for path in models.glob(f"{name}*"):
            path.unlink()
    # one model is left there
    for name in ("org", "ORG", "org:q2_k"):
        with pytest.raises(NotFoundError, match="no such file, and no model"):
            removal.find(name)
    for name in ("sub-Q2_K", "sub-q2_k.gguf", "org/sub", "org/sub:Q2_K", "Q2_K/sub-Q2_K"):
        assert removal.find(name).name == "org/sub/Q2_K/sub-Q2_K"


def test_a_file_of_several_names_frees_nothing(models: Path) -> None:
    (models / "again.gguf").hardlink_to(models / "plain-Q4_K_M.gguf")
    assert removal.find("again").size == 0
    remove("again")
    assert removal.find("plain-Q4_K_M").size == 5


@contextmanager
def another_process(script: str, *arguments: Path) -> Iterator[None]:
    """A process that runs a few lines, says so, and then waits."""
    command = [sys.executable, "-c", f"{script}\nprint(flush=True)\ninput()", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.communicate(b"\n")


@pytest.mark.skipif(not (in_use.PROCESSES / "self" / "maps").exists(), reason="what is open is known on Linux only")
@pytest.mark.parametrize(
    "script",
    [
        "import sys; file = open(sys.argv[1], 'rb')",
        # as the engine has it: mapped, and the file closed
        "import mmap, os, sys; fd = os.open(sys.argv[1], 0); m = mmap.mmap(fd, 0, prot=1); os.close(fd)",
    ],
    ids=["open", "mapped"],
)
@pytest.mark.parametrize("name", ["静夜思 1.gguf", "a\nb.gguf"])
def test_what_is_open_is_left(models: Path, script: str, name: str) -> None:
    path = models / name
    path.write_bytes(b"12345" * mmap.PAGESIZE)
    words = r"is open in process \d+ \(python.*end that first"
    with another_process(script, path), pytest.raises(TargetError, match=words):
        removal.check_free(removal.find(str(path)))
    removal.check_free(removal.find(str(path)))


def test_what_is_written_or_fetched_is_left(models: Path) -> None:
    target = TargetFile(models / "plain-Q4_K_M.gguf", 100, force=True)
    with pytest.raises(TargetError, match="another job is writing"):
        removal.check_free(removal.find("plain-Q4_K_M"))
    target.abort(keep=True)
    # what a killed job left is locked by nobody
    removal.check_free(removal.find("plain-Q4_K_M"))
    (lock,) = (models / "org" / "two" / METADATA).glob("*.lock")
    with lock.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="is being fetched"):
            removal.check_free(removal.find("two-Q4_0"))
    removal.check_free(removal.find("two-Q4_0"))


def test_a_folder_that_is_not_ours(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root, who may be running this, can write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(GgufrunError, match=r"cannot remove .*permissions"):
        removal.check_free(removal.find("plain-Q4_K_M"))


def test_what_the_cache_has(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ggufrun.hub import client

    monkeypatch.setattr(client, "cache_folder", lambda: tmp_path / "hub")
    found = removal.find("two-Q4_0")
    assert removal.cached(found) is None
    blobs = tmp_path / "hub" / "models--org--two" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc").write_bytes(b"1234567")
    assert removal.cached(found) == ("org/two", 7)
    assert removal.cached(removal.find("plain-Q4_K_M")) is None
