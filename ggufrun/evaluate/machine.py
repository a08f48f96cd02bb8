"""Facts about this machine: processor, memory, disk, an NVIDIA card. Nothing here loads a native library.

Each fact is read from where the operating system tells it; what it does not tell is None or empty, never a guess.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TELLING = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "v",
)  # fmt: skip
"""The processor features that decide llama.cpp's speed, as ``/proc/cpuinfo`` spells them (x86, then ARM, RISC-V)."""


@dataclass(frozen=True)
class Processor:
    """``physical`` cores carry ``logical`` processors; this process may use ``usable`` of the latter."""

    model: str
    features: tuple[str, ...]
    physical: int | None
    logical: int
    usable: int


@dataclass(frozen=True)
class Memory:
    """Bytes; ``limit`` is what a container allows, if less than the machine has."""

    total: int | None
    available: int | None
    limit: int | None


@dataclass(frozen=True)
class NvidiaCard:
    """A card as ``nvidia-smi`` names it; ``driver`` is None when a card is there and its driver is not."""

    name: str
    memory: int | None
    driver: str | None


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


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...], int | None]:
    """Model name, telling features and number of physical cores from the text of ``/proc/cpuinfo``."""
    model, features, cores = "", set[str](), set[tuple[str, str]]()
    for block in re.split(r"\n\s*\n", text):
        fields = {}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
        model = model or fields.get("model name", "") or fields.get("Model", "")
        features |= set((fields.get("flags") or fields.get("Features") or "").split())
        if "core id" in fields:
            cores.add((fields.get("physical id", ""), fields["core id"]))
    return model, tuple(name for name in TELLING if name in features), len(cores) or None


def processor() -> Processor:
    """The processor."""
    logical = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    if sys.platform == "darwin":
        physical = ask("sysctl", "-n", "hw.physicalcpu")
        # Intel Macs list their features; Apple's own processors all have NEON and the dot product.
        listed = ask("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features").lower()
        found = set(listed.replace("avx1.0", "avx").split())
        if platform.machine() == "arm64":
            found |= {"asimd", "asimddp"}
        return Processor(
            ask("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine(),
            tuple(name for name in TELLING if name in found),
            int(physical) if physical.isdigit() else None,
            logical,
            usable,
        )
    model, features, cores = parse_cpuinfo(read("/proc/cpuinfo"))
    return Processor(model or platform.processor() or platform.machine(), features, cores, logical, usable)


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Total and available bytes from the text of ``/proc/meminfo``."""
    found = {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return found.get("MemTotal"), found.get("MemAvailable")


def parse_vm_stat(text: str) -> int | None:
    """Bytes that macOS can hand out, from the text of ``vm_stat``: free, inactive and speculative pages."""
    page = re.search(r"page size of (\d+) bytes", text)
    pages = [int(count) for count in re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)", text, re.MULTILINE)]
    return int(page.group(1)) * sum(pages) if page and pages else None


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
    return Memory(total_bytes, available, limit)


def disk_free(path: Path) -> int | None:
    """Bytes free where ``path`` is, or where it would be made."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def parse_nvidia_smi(text: str) -> list[NvidiaCard]:
    """Cards from ``nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits``."""
    cards = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3:
            cards.append(NvidiaCard(parts[0], int(parts[1]) << 20 if parts[1].isdigit() else None, parts[2]))
    return cards


def nvidia_cards() -> list[NvidiaCard]:
    """NVIDIA cards in this machine, with or without a working driver."""
    query = ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    if cards := parse_nvidia_smi(query):
        return cards
    driver = re.search(r"Kernel Module\D*([\d.]+)", read("/proc/driver/nvidia/version"))
    if driver:
        return [NvidiaCard("NVIDIA card", None, driver.group(1))]
    # PCI vendor 10de, class 03: a display controller of theirs that no driver has taken up.
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        if read(f"{device}/vendor").strip() == "0x10de" and read(f"{device}/class").startswith("0x03"):
            return [NvidiaCard("NVIDIA card", None, None)]
    return []
