"""The processors that this process may use: affinity, cores and their hardware threads, and a control group's quota.

Everything is read from where the operating system tells it, each time: a container's limits can change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings"
MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Processors:
    """``logical`` processors, which are hardware threads of ``cores`` cores; ``quota`` is what a control group grants
    of them, in processors' worth of time, or None for all."""

    logical: int
    cores: int
    quota: float | None = None

    @property
    def for_throughput(self) -> int:
        """Threads for work in independent pieces: every hardware thread, and a quota rounded up.

        One core's second thread fills the gaps that the first leaves while it waits for memory or for a result.
        """
        return max(1, self.logical if self.quota is None else min(self.logical, ceil(self.quota)))

    @property
    def for_latency(self) -> int:
        """Threads for work whose threads wait for one another at every step: one a core, and a quota rounded.

        Two threads of one core share its arithmetic units, and waiting for the slower one costs more than it brings.
        """
        return max(1, self.cores if self.quota is None else min(self.cores, round(self.quota)))


def processors() -> Processors:
    """What there is now."""
    if hasattr(os, "sched_getaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        return Processors(len(allowed), len({_siblings(cpu) for cpu in allowed}), quota())
    logical = os.cpu_count() or 4
    # where the layout is unknown: half of the logical processors are usually cores
    return Processors(logical, logical if logical <= 4 else logical // 2)


def _siblings(cpu: int) -> str:
    try:
        return Path(SIBLINGS.format(cpu)).read_text(encoding="ascii").strip()
    except OSError:
        return f"cpu{cpu}"


def quota() -> float | None:
    """The smallest quota of this process's control group and of those above it."""
    found = [limit for folder in _folders() if (limit := _limit(folder)) is not None]
    return min(found, default=None)


def _folders() -> Iterator[Path]:
    """Where the control groups of this process are to be seen. In a container the paths may be the host's, and only
    the root is there."""
    yield CGROUPS
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # the second version, the second beside the first, and the first
        bases = [CGROUPS / controllers] if controllers else [CGROUPS, CGROUPS / "unified"]
        for base in bases:
            place = base / path.strip("/")
            while place != base.parent:
                yield place
                place = place.parent


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            amount, period = (folder / "cpu.max").read_text(encoding="ascii").split()[:2]
        else:
            amount = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return int(amount) / int(period) if amount not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
