"""Facts about this machine: processor, disk, an NVIDIA card. Nothing here loads a native library.

Each fact is read from where the operating system tells it; what it does not tell is None or empty, never a guess.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ggufrun.engine.host import ask, read

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
class NvidiaCard:
    """A card as ``nvidia-smi`` names it; ``driver`` is None when a card is there and its driver is not.

    ``capability`` is such as ``9.0``, None where that is not told.
    """

    name: str
    memory: int | None
    driver: str | None
    capability: str | None = None


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


def disk_free(path: Path) -> int | None:
    """Bytes free where ``path`` is, or where it would be made."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def parse_nvidia_smi(text: str) -> list[NvidiaCard]:
    """Cards from ``nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv,noheader,nounits``.

    Old ones do not know the last of these.
    """
    cards = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) in (3, 4):
            memory = int(parts[1]) << 20 if parts[1].isdigit() else None
            known = len(parts) == 4 and re.fullmatch(r"\d+\.\d", parts[3])
            cards.append(NvidiaCard(parts[0], memory, parts[2], parts[3] if known else None))
    return cards


def nvidia_cards() -> list[NvidiaCard]:
    """NVIDIA cards in this machine, with or without a working driver."""
    for fields in ("name,memory.total,driver_version,compute_cap", "name,memory.total,driver_version"):
        query = ask("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
        if cards := parse_nvidia_smi(query):
            return cards
    driver = re.search(r"Kernel Module\D*([\d.]+)", read("/proc/driver/nvidia/version"))
    if driver:
        return [NvidiaCard("NVIDIA card", None, driver.group(1))]
    return [NvidiaCard("NVIDIA card", None, None)] if on_bus() else []


def on_bus(bus: Path = Path("/sys/bus/pci/devices")) -> bool:
    """PCI vendor 10de, class 03: a display controller of NVIDIA's, with or without a driver."""
    return any(
        read(f"{device}/vendor").strip() == "0x10de" and read(f"{device}/class").startswith("0x03")
        for device in bus.glob("*")
    )


def nvidia_present() -> bool:
    """Is an NVIDIA card here? Without asking a program, which would take a while."""
    places = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg")
    wsl = Path("/usr/lib/wsl/lib/libcuda.so.1").exists()
    return any(Path(place).exists() for place in places[:2]) or (Path(places[2]).exists() and wsl) or on_bus()
