"""Disks that fill up in the middle of a job: one line, status 1, and nothing half-written."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.jobs import JOBS, Workplace, last_line, prepare

LIMIT, SMALL_DISK = "a limit on the size of files", "a small disk"


def run(rounds: int, seed: int, jobs: tuple[str, ...] = tuple(JOBS)) -> Iterator[tuple[str, str]]:
    """As `kill.run`. A small disk needs the right to mount one; without it all rounds are limits."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ggufrun-faults-") as temporary:
        places = prepare(Path(temporary), jobs)
        for number in range(rounds):
            job = jobs[number % len(jobs)]
            place = places[job]
            largest = max(len(data) for data in place.results(place.expected).values())
            size = dice.choice((0, 1, 4096, dice.randrange(largest), dice.randrange(largest), largest - 1))
            how = dice.choice((LIMIT, SMALL_DISK))
            if how == SMALL_DISK:
                place.fresh()
                with _small_disk(place.out, max(size, 1 << 16)) as mounted:
                    if mounted:
                        yield f"{how} of {size} bytes for {job}", _round(place, job, place.out)
                        continue
            yield f"{LIMIT} at {size} bytes for {job}", _round(place, job, place.out, size)


def _round(place: Workplace, job: str, out: Path, limit: int | None = None) -> str:
    if limit is not None:
        place.fresh()

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        place.command(job, out),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
    )
    if "Traceback" in done.stderr:
        return f"a traceback: {last_line(done.stderr)}"
    if done.returncode != 1 or not last_line(done.stderr).startswith("ggufrun: "):
        return f"status {done.returncode}: {last_line(done.stderr)}"
    expected = place.results(place.expected)
    left = {name for name, data in place.results(out).items() if data != expected.get(name)}
    return f"it left {sorted(left)}" if left else ""


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of ``size`` bytes at ``folder``, where this process may mount one; False otherwise."""
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)
