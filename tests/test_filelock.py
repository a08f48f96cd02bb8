"""One job at a time on a file: the second hears of it at once, and nothing stays locked behind a killed one."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggufrun import filelock
from ggufrun.atomicfile import appearing
from ggufrun.cli import app
from ggufrun.errors import TargetError
from ggufrun.filelock import claimed, lock_path

HOLD = """
import sys
from pathlib import Path
from ggufrun.filelock import claimed
with claimed(Path(sys.argv[1]), ""):
    print("held", flush=True)
    sys.stdin.read()
"""

WRITE = """
import sys
from pathlib import Path
from ggufrun.atomicfile import appearing
with appearing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path, script: str = HOLD) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has claimed ``path``, or is writing it, until its stdin ends."""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_the_second_is_told_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    with holder(path) as process:
        told = rf"talk.json is in use by another ggufrun \(process {process.pid}\)"
        with pytest.raises(TargetError, match=told), claimed(path, "wait"):
            pass
        # by way of a link it is the same file
        (tmp_path / "link").symlink_to(path)
        with pytest.raises(TargetError, match="in use"), claimed(tmp_path / "link", "wait"):
            pass
        with claimed(tmp_path / "other.json", "wait"):
            pass
    with claimed(path, "wait"):
        assert lock_path(path).exists()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "link"]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    with holder(path) as process:
        kill(process)
    assert lock_path(path).exists()
    with claimed(path, "wait"):
        pass
    assert not list(tmp_path.iterdir())


def test_ones_own_claim_can_be_claimed_again(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    with claimed(path, ""):
        with claimed(path, ""):
            pass
        assert lock_path(path).exists()
    assert not lock_path(path).exists()


def test_only_one_of_many_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claimed and let go of in a hurry, while the file of the lock comes and goes."""
    monkeypatch.setattr(filelock, "_HELD", _Never())
    path, most, done = tmp_path / "x", [0], [0]
    inside: list[int] = []

    def work() -> None:
        while done[0] < 200:
            try:
                with claimed(path, ""):
                    inside.append(1)
                    most[0] = max(most[0], len(inside))
                    inside.pop()
                    done[0] += 1
            except TargetError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and not list(tmp_path.iterdir())


class _Never(dict[str, int]):
    """Every thread is a process of its own here."""

    def __contains__(self, name: object) -> bool:
        return False

    def __setitem__(self, name: str, count: int) -> None:
        pass

    def __getitem__(self, name: str) -> int:
        return 0

    def __delitem__(self, name: str) -> None:
        pass


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    told = "cannot be written: no such file or directory"
    with pytest.raises(TargetError, match=told), claimed(tmp_path / "no" / "x", "choose another"):
        pass


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, kind: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with claimed(tmp_path / "x", ""), appearing(tmp_path / "y") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "y").read_text() == "new"


def test_what_a_killed_writer_left_is_collected(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    with holder(path, WRITE) as process:
        names = [entry.name for entry in tmp_path.iterdir()]
        kill(process)
    assert [entry.name for entry in tmp_path.iterdir()] == names and names[0].endswith(".part")
    mine = [tmp_path / name for name in (".talk.json.part", ".talk.json.0123.part", ".talk.json.backup.part")]
    for other in mine:
        other.touch()
    with appearing(path):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([*mine, path])


def test_what_a_living_writer_has_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    with holder(path, WRITE) as process:
        with appearing(path) as temporary:
            temporary.write_text("mine")
        assert len(list(tmp_path.glob(".*.part"))) == 1
        process.communicate(b"")
        assert process.returncode == 0
    assert path.read_text() == "half" and sorted(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sync = tmp_path / "talk.json", os.fsync
    calls: list[tuple[object, bool]] = []

    def note(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append(("folder" if stat.S_ISDIR(status.st_mode) else status.st_size, path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with appearing(path) as temporary:
        temporary.write_text("four")
    assert calls == [(4, False), ("folder", True)]
    calls.clear()
    with appearing(path, durable=False):
        pass
    assert calls == []


@pytest.mark.parametrize("command", ["chat", "batch", "imatrix"])
def test_the_second_command_says_so_and_does_nothing(
    tmp_path: Path, demo_gguf: object, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = str(demo_gguf("q8_0"))  # type: ignore[operator]
    output, text = tmp_path / "out.json", tmp_path / "text.txt"
    text.write_text("背一下静夜思\n" * 200)
    arguments = {
        "chat": ["chat", model, "--session", str(output), "hi"],
        "batch": ["chat", model, "--file", str(text), "--output", str(output)],
        "imatrix": ["imatrix", model, "-f", str(text), "-c", "64", "-o", str(output)],
    }[command]
    monkeypatch.setattr(sys, "argv", ["ggufrun", *arguments])
    with holder(output), pytest.raises(SystemExit) as exit:
        app.main()
    out, err = capfd.readouterr()
    assert (exit.value.code, out) == (1, "") and err.count("\n") == 1 and "is in use by another ggufrun" in err
    assert not output.exists()


def test_a_session_that_could_not_be_kept_is_told_of_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before anything is loaded: there is no such model."""
    session = tmp_path / "talk.json"
    session.write_text("{}")
    opened, allowed = os.open, os.access

    def refused(path: str, flags: int, *more: int, **named: int) -> int:
        if str(path).endswith(".lock"):
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *more, **named)

    def without_write(path: object, mode: int) -> bool:
        return mode != os.W_OK and allowed(str(path), mode)

    changes: dict[str, object] = {"access": without_write, "open": refused}
    words = {"access": "talk.json is read-only; copy it", "open": "talk.json cannot be written: read-only file system"}
    for name, told in words.items():
        with monkeypatch.context() as patch:
            patch.setattr(os, name, changes[name])
            patch.setattr(sys, "argv", ["ggufrun", "chat", "none.gguf", "--session", str(session), "hi"])
            with pytest.raises(SystemExit) as exit:
                app.main()
        out, err = capfd.readouterr()
        assert (exit.value.code, out, err.count("\n")) == (1, "", 1) and told in err
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]
