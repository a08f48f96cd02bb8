"""How many threads the engine computes with when the user does not say."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

MAX_THREADS = 512
"""``GGML_MAX_N_THREADS``."""

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@cache
def default_threads() -> int:
    """One thread a processor core that this process may use.

    Two threads of one core share its arithmetic units, and waiting for the slower one costs more than it brings; a
    container's quota bounds the count for the same reason.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        cores = {_siblings(cpu) for cpu in allowed}
        count = len(cores)
    else:
        logical = os.cpu_count() or 4
        # Where the layout is unknown: half of the logical processors are usually cores.
        count = logical if logical <= 4 else logical // 2
    return max(1, min(count, _quota() or count, MAX_THREADS))


def _siblings(cpu: int) -> str:
    try:
        return Path(SIBLINGS.format(cpu)).read_text(encoding="ascii").strip()
    except OSError:
        return f"cpu{cpu}"


def _quota() -> int | None:
    """Whole processors that the control group allows, if it allows fewer than there are."""
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()[:2]
        return None if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None
