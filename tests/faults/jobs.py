"""Jobs that write a file, run as a user would, and what they must leave behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.checkpoints import DEMO

JOBS: dict[str, tuple[str, ...]] = {
    "convert": ("convert", "CHECKPOINT", "-t", "f16", "-o", "TARGET"),
    "convert, two types": ("convert", "CHECKPOINT", "-t", "q4_k_m", "-t", "q8_0", "-o", "FOLDER"),
    "quantize": ("quantize", "MODEL", "q4_0", "-o", "TARGET"),
    "imatrix": ("imatrix", "MODEL", "--chunks", "2", "-c", "64", "-t", "1", "-o", "TARGET"),
}
"""Command lines of jobs whose result is the same bytes whenever they end well."""

RESUMABLE = ("convert", "convert, two types", "quantize")


@dataclass(frozen=True)
class Workplace:
    """A folder with what the jobs read; results go to ``out`` and are held against ``expected``."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def expected(self) -> Path:
        return self.folder / "expected"

    def command(self, job: str, out: Path, *more: str) -> list[str]:
        """The command line of ``job``, writing to ``out``."""
        meant = {
            "CHECKPOINT": str(DEMO),
            "MODEL": str(self.folder / "model.gguf"),
            "TARGET": str(out / "result.gguf"),
            "FOLDER": str(out),
        }
        return [sys.executable, "-m", "ggufrun", *(meant.get(word, word) for word in JOBS[job]), *more]

    def fresh(self) -> None:
        """An empty folder for the next result."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    def results(self, folder: Path) -> dict[str, bytes]:
        """What there is, by name."""
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def prepare(folder: Path, jobs: tuple[str, ...] = tuple(JOBS)) -> dict[str, Workplace]:
    """A workplace for each of ``jobs``, with the result that it should have."""
    model = folder / "model.gguf"
    subprocess.run(
        [sys.executable, "-m", "ggufrun", "convert", DEMO, "-t", "f16", "-o", model], check=True, capture_output=True
    )
    places = {}
    for number, job in enumerate(jobs):
        place = places[job] = Workplace(folder / f"job-{number}")
        place.expected.mkdir(parents=True)
        (place.folder / "model.gguf").hardlink_to(model)
        subprocess.run(place.command(job, place.expected), check=True, capture_output=True)
    return places


def last_line(text: str) -> str:
    """What was said at the end."""
    return (text.strip().splitlines() or [""])[-1]
