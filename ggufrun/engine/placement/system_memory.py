"""This machine's memory, from where the operating system tells it. Nothing here loads a native library.

What the system does not tell is None, never a guess.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CGROUP = "/sys/fs/cgroup"
"""Where a container finds its own limits."""


@dataclass(frozen=True)
class Memory:
    """Bytes: what can be had without pushing others out, and what a container allows if less than the machine has."""

    total: int | None
    available: int | None
    limit: int | None


def read(path: str) -> str:
    """A small text file of the system, empty if it is not there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def ask(*command: str) -> str:
    """What a program prints, empty if it is not there, fails or takes too long."""
    try:
        plain = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=2, check=True, env=plain
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Total and available bytes from the text of ``/proc/meminfo``."""
    found = {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return found.get("MemTotal"), found.get("MemAvailable")


def parse_vm_stat(text: str) -> int | None:
    """Bytes that macOS can hand out, from the text of ``vm_stat``: free, inactive and speculative pages."""
    page = re.search(r"page size of (\d+) bytes", text)
    pages = [int(count) for count in re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)", text, re.MULTILINE)]
    return int(page.group(1)) * sum(pages) if page and pages else None


def parse_cgroup(limit: int, current: str, stat: str) -> int:
    """Bytes that a container may still take of ``limit``: cached file pages are given back when they are wanted."""
    used = int(current) if current.strip().isdigit() else 0
    cached = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
    return max(0, limit - max(0, used - (int(cached.group(1)) if cached else 0)))


def memory() -> Memory:
    """The memory."""
    if sys.platform == "darwin":
        total = ask("sysctl", "-n", "hw.memsize")
        return Memory(int(total) if total.isdigit() else None, parse_vm_stat(ask("vm_stat")), None)
    total_bytes, available = parse_meminfo(read("/proc/meminfo"))
    limit = None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError):
            limit = int(read(path))
            break
    if limit is not None and total_bytes is not None and limit >= total_bytes:
        limit = None
    if limit is not None and available is not None:
        available = min(available, parse_cgroup(limit, read(f"{CGROUP}/memory.current"), read(f"{CGROUP}/memory.stat")))
    return Memory(total_bytes, available, limit)
