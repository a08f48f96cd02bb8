"""Jobs that are killed, and continued to the same bytes; jobs that meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ggufrun.convert import journal, pipeline
from ggufrun.convert.plan import Plan, plan_convert
from ggufrun.convert.writer import TargetFile
from ggufrun.errors import TargetError
from ggufrun.quantize.types import FILE_TYPES
from tests.support.checkpoints import write_llama

NAMES = ("IQ4_XS", "F16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "llama"
    write_llama(folder, hidden_size=512, intermediate_size=1024, num_hidden_layers=2)
    return folder


def plan(checkpoint: Path, out: Path) -> Plan:
    return plan_convert(checkpoint, [FILE_TYPES[name] for name in NAMES], lambda kind: out / kind.name)


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What an uninterrupted job writes."""
    out = tmp_path_factory.mktemp("whole")
    pipeline.run(plan(checkpoint, out))
    return [(out / name).read_bytes() for name in NAMES]


def written(out: Path) -> list[bytes]:
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    return [(out / name).read_bytes() for name in NAMES]


KILLED = """
import sys
from pathlib import Path
from ggufrun.convert import journal, pipeline
from tests.test_convert_resume import plan
journal.FLUSH_BYTES = 1 << 17
pipeline.CHUNK = 1 << 14
pipeline.run(plan(Path(sys.argv[1]), Path(sys.argv[2])), threads=2, resume=True)
"""


@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_killed_and_continued(
    checkpoint: Path, expected: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    """SIGKILL after some of the journal's lines, several times over; the end is as if nothing had happened."""
    monkeypatch.setattr(journal, "FLUSH_BYTES", 1 << 17)
    monkeypatch.setattr(pipeline, "CHUNK", 1 << 14)
    record = tmp_path / ".IQ4_XS.journal"
    kills = 0
    for attempt in range(1, 4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(checkpoint), str(tmp_path)])
        deadline = time.monotonic() + 150
        while process.poll() is None and time.monotonic() < deadline:
            if record.exists() and record.read_text().count("\n") > 1 + blocks * attempt:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
    assert kills, "the job was too quick to be killed"
    if record.exists():
        done = len(record.read_text().split("\n")) - 2
        assert done > 0
        again: list[int] = []
        made = plan(checkpoint, tmp_path)
        pipeline.run(made, resume=True, on_progress=again.append)
        assert sum(again) == made.source_bytes
    assert written(tmp_path) == expected


def test_only_what_is_missing_is_encoded_again(
    checkpoint: Path, expected: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FLUSH_BYTES", 1 << 17)
    monkeypatch.setattr(pipeline, "CHUNK", 1 << 14)
    calls = 0

    def interrupt(n_bytes: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(plan(checkpoint, tmp_path), on_progress=interrupt, resume=True)
    encoded: list[int] = []
    real = pipeline.encode_chunk

    def count(chunk: pipeline.Chunk) -> pipeline.Encoded:
        encoded.append(chunk.number)
        return real(chunk)

    monkeypatch.setattr(pipeline, "encode_chunk", count)
    made = plan(checkpoint, tmp_path)
    pipeline.run(made, resume=True)
    total = sum(1 for _ in pipeline.chunks(made))
    assert total - 100 <= len(encoded) <= total - 50
    assert written(tmp_path) == expected


def test_a_job_killed_between_two_names(checkpoint: Path, expected: list[bytes], tmp_path: Path) -> None:
    """The first target has its name, the second is whole but still called a partial file."""
    made = plan(checkpoint, tmp_path)
    pipeline.run(made)
    (tmp_path / "F16").rename(tmp_path / ".F16.part")
    lines = [journal.identity(made, pipeline.CHUNK), *(str(chunk.number) for chunk in pipeline.chunks(made)), ""]
    (tmp_path / ".IQ4_XS.journal").write_text("\n".join(lines))
    pipeline.run(plan(checkpoint, tmp_path), resume=True)
    assert written(tmp_path) == expected


def test_another_source_is_not_continued(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".IQ4_XS.journal").write_text("0" * 64 + "\n1\n2\n")
    with pytest.raises(TargetError, match="another job"):
        pipeline.run(plan(checkpoint, tmp_path), resume=True)
    pipeline.run(plan(checkpoint, tmp_path))


def interrupted(checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is stopped after 100 of its pieces, and keeps them."""
    monkeypatch.setattr(journal, "FLUSH_BYTES", 1 << 17)
    monkeypatch.setattr(pipeline, "CHUNK", 1 << 14)
    pieces: list[int] = []

    def stop(n_bytes: int) -> None:
        pieces.append(n_bytes)
        if len(pieces) == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(plan(checkpoint, out), on_progress=stop, resume=True)
    assert len((out / ".IQ4_XS.journal").read_text().split("\n")) > 50


def test_a_refused_job_leaves_the_other_one(
    checkpoint: Path, expected: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong options are a slip: what has been done before is not lost by it."""
    interrupted(checkpoint, tmp_path, monkeypatch)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as other:
        other.setattr(pipeline, "identity", lambda plan, chunk: "0" * 64)
        with pytest.raises(TargetError, match="belongs to another job; continue it as it was begun"):
            pipeline.run(plan(checkpoint, tmp_path), resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    pipeline.run(plan(checkpoint, tmp_path), resume=True)
    assert written(tmp_path) == expected


@pytest.mark.parametrize("lost", ["removed", "cut", "made again"])
def test_what_is_marked_as_done_counts_with_its_file_only(
    checkpoint: Path, expected: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A partial file that is another one now, even of the same target, does not become a file with holes."""
    interrupted(checkpoint, tmp_path, monkeypatch)
    partial = tmp_path / ".F16.part"
    if lost == "removed":
        partial.unlink()
    elif lost == "cut":
        os.truncate(partial, 1000)
    else:
        # by a job that makes this target alone, and is killed at once
        made = plan(checkpoint, tmp_path)
        (target,) = (target for target in made.targets if target.path.name == "F16")
        file = TargetFile(target.path, target.size, False, job="1" * 64)
        file.write(0, np.frombuffer(target.head, np.uint8))
        file.abort(keep=True)
        made.close()
    pipeline.run(plan(checkpoint, tmp_path), resume=True)
    assert written(tmp_path) == expected


def test_a_changed_source_is_another_job(checkpoint: Path, tmp_path: Path) -> None:
    before = journal.identity(plan(checkpoint, tmp_path), pipeline.CHUNK)
    path = checkpoint / "model.safetensors"
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert journal.identity(plan(checkpoint, tmp_path), pipeline.CHUNK) != before


def test_a_journal_cut_off_in_a_line_forgets_the_line(checkpoint: Path, expected: list[bytes], tmp_path: Path) -> None:
    made = plan(checkpoint, tmp_path)
    (tmp_path / ".IQ4_XS.journal").write_text(journal.identity(made, pipeline.CHUNK) + "\n1")
    pipeline.run(made, resume=True)
    assert written(tmp_path) == expected


def test_resuming_nothing_is_starting(checkpoint: Path, expected: list[bytes], tmp_path: Path) -> None:
    pipeline.run(plan(checkpoint, tmp_path), resume=True)
    assert written(tmp_path) == expected


def test_leftovers_of_a_killed_job_are_not_in_the_way(checkpoint: Path, expected: list[bytes], tmp_path: Path) -> None:
    (tmp_path / ".IQ4_XS.part").write_bytes(b"\xff" * 10_000_000)
    (tmp_path / ".IQ4_XS.journal").write_text("nonsense")
    pipeline.run(plan(checkpoint, tmp_path))
    assert written(tmp_path) == expected


def test_two_jobs_for_one_target(checkpoint: Path, expected: list[bytes], tmp_path: Path) -> None:
    """The second is told, and the first is not disturbed."""
    met = threading.Event()
    errors: list[str] = []

    def meet(n_bytes: int) -> None:
        if not met.is_set():
            met.set()
            with pytest.raises(TargetError) as caught:
                pipeline.run(plan(checkpoint, tmp_path))
            errors.append(str(caught.value))

    pipeline.run(plan(checkpoint, tmp_path), on_progress=meet)
    assert errors and "another job is writing" in errors[0]
    assert written(tmp_path) == expected


@pytest.mark.parametrize(("step", "left"), [("_lock", []), ("commit", sorted(NAMES)), ("abort", [])])
def test_an_interruption_at_the_worst_moment(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, left: list[str]
) -> None:
    """A signal between a file's creation and whoever would remove it, between two names, amid the removal."""
    real = getattr(TargetFile, step)

    def interrupted(self: TargetFile, *arguments: bool) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, *arguments)

    def progress(n_bytes: int) -> None:
        if step == "abort":
            raise OSError("made up")

    monkeypatch.setattr(TargetFile, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(plan(checkpoint, tmp_path), on_progress=progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == left
