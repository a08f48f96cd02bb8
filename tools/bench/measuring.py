"""Running commands and taking their time: one run, one comparison, one line of the table."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ggufrun.native.library import library_path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """One measured run: seconds of wall time, peak resident MiB of its largest process, what it printed (stdout of the
    last command, then its stderr)."""

    seconds: float
    peak: float
    output: str


@dataclass(frozen=True)
class Comparison:
    """Two ways to do one thing; each is a list of commands that are timed together.

    ``score`` reads the figure from the last command's output (more is better, ``unit`` names it); without it the figure
    is the seconds. ``agrees`` reads something from both that must be the same, else the row says that it differs.
    ``engine`` has llama.cpp's tool use the very libraries that ggufrun uses.
    """

    name: str
    what: str
    ours: Sequence[Sequence[str]]
    theirs: Sequence[Sequence[str]]
    theirs_is: str
    target: str
    score: Callable[[str], float] | None = None
    unit: str = "tok/s"
    agrees: Callable[[str], str] | None = None
    engine: bool = False


def run(commands: Sequence[Sequence[str]], environment: dict[str, str] | None = None) -> Run:
    """Run commands one after another; a failure ends the benchmark."""
    output, peak = "", 0.0
    start = time.perf_counter()
    for command in commands:
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(environment or {})}
            )
            assert process.stdout is not None
            output = process.stdout.read().decode(errors="replace")
            _, status, usage = os.wait4(process.pid, 0)
            errors.seek(0)
            output += errors.read().decode(errors="replace")
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"bench: {shlex.join(command)} failed with status {process.returncode}\n{output[-2000:]}")
        # macOS counts bytes, Linux kibibytes
        peak = max(peak, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10))
    return Run(time.perf_counter() - start, peak, output)


def measure(comparison: Comparison, runs: int) -> tuple[list[Run], list[Run]]:
    """Run both sides in turn, once uncounted."""
    libraries = with_engine() if comparison.engine else {}
    ours, theirs = [], []
    for number in range(runs + 1):
        pair = run(comparison.ours), run(comparison.theirs, libraries)
        print(f"  {comparison.name} {number}/{runs}: {pair[0].seconds:.2f} s, {pair[1].seconds:.2f} s", file=sys.stderr)
        if number:
            ours.append(pair[0])
            theirs.append(pair[1])
    return ours, theirs


def with_engine() -> dict[str, str]:
    """The environment in which llama.cpp's tools take the libraries that ggufrun uses, before those of the user's."""
    mine, users = str(library_path().parent), os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": f"{mine}{os.pathsep}{users}" if users else mine}


def row(comparison: Comparison, ours: Sequence[Run], theirs: Sequence[Run]) -> str:
    """A line of the table in docs/benchmarks.md."""

    def value(one: Run) -> float:
        return comparison.score(one.output) if comparison.score else one.seconds

    def cell(side: Sequence[Run]) -> str:
        unit = comparison.unit if comparison.score else "s"
        return f"{statistics.median(map(value, side)):.2f} {unit}, {max(one.peak for one in side):.0f} MiB"

    # a speed is divided the other way round than a time
    ratios = [
        value(mine) / value(other) if comparison.score else value(other) / value(mine)
        for mine, other in zip(ours, theirs, strict=True)
    ]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    what = comparison.what
    if comparison.agrees is not None:
        found = {comparison.agrees(one.output) for one in (*ours, *theirs)}
        what += f" (both say {found.pop()})" if len(found) == 1 else f" (THEY DIFFER: {', '.join(sorted(found))})"
    cells = (today, what, cell(ours), comparison.theirs_is, cell(theirs))
    return f"| {' | '.join(cells)} | {middle:.2f} ({low:.2f} to {high:.2f}) | {comparison.target} |"


def absolute_rows(runs: int) -> list[str]:
    """Figures that stand alone: the start of the command line, and the demo's own work."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    ggufrun = [sys.executable, "-m", "ggufrun", "--help"]
    demo = ["sh", str(ROOT / "tools" / "demo.sh"), str(Path(sys.executable).parent)]
    rows = []
    for what, command, target in (
        ("`ggufrun --help`", ggufrun, "under 0.3 s"),
        ("`make demo`, its own work", demo, "under 10 s"),
    ):
        found = [run([command]) for _ in range(runs + 1)][1:]
        seconds = statistics.median(one.seconds for one in found)
        rows.append(
            f"| {today} | {what} | {seconds:.2f} s, {max(one.peak for one in found):.0f} MiB | | | | {target} |"
        )
    first = [json.loads(run([[sys.executable, "-m", "tools.bench.first"]]).output)["beside"] for _ in range(runs)]
    seconds = statistics.median(first)
    what = "first text of an answer in a pipe, beside the model's own time"
    rows.append(f"| {today} | {what} | {1000 * seconds:.1f} ms | | | | under 30 ms |")
    return rows


def machine() -> str:
    """Processor, cores, system, compiler and engine, in a line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name}, {cores} cores, {platform.system()}, Python {platform.python_version()}, "
        f"llama-cpp-python {version('llama-cpp-python')}"
    )
