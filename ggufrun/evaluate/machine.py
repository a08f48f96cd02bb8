"""Facts about this machine: processor, disk, an NVIDIA card. Nothing here loads a native library.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggufrun.engine.placement.system_memory import ask, read

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

    ``capability`` is such as ``9.0``, None where that is not told. ``problem`` is why it cannot be used, where the
    system says so, and ``todo`` what helps.
    """

    name: str
    memory: int | None
    driver: str | None
    capability: str | None = None
    problem: str = ""
    todo: str = ""


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


SMI = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")
"""NVIDIA's program; in WSL it may not be in the path."""

SMI_PATIENCE = 20
"""Seconds: where the driver is not kept loaded, it wakes every card first."""

TROUBLE = (
    (
        "version mismatch",
        "the driver was updated while it ran, and its parts differ in version",
        "restart the machine (in a container: restart that)",
    ),
    ("Unknown Error", "the driver does not answer in here", "in a container: start it again, it has lost its devices"),
    ("couldn't communicate", "the driver is installed but does not run", "restart the machine, or reinstall it"),
)
"""What nvidia-smi says instead of an answer, what that means, and what helps."""

NOT_LENT = ("the driver of the host, but no card in this container", "start the container with `--gpus all`")


def nvidia_cards(smi: Callable[[str], str] | None = None, root: Path = Path("/")) -> list[NvidiaCard]:
    """NVIDIA cards in this machine, with or without a working driver. ``root`` is where the system's files are."""
    said = ""
    for fields in ("name,memory.total,driver_version,compute_cap", "name,memory.total,driver_version"):
        said = (smi or _smi)(fields)
        if cards := parse_nvidia_smi(said):
            return cards
    driver = re.search(r"Kernel Module\D*([\d.]+)", read(str(root / "proc/driver/nvidia/version")))
    version = driver.group(1) if driver else None
    for words, problem, todo in TROUBLE:
        if words in said:
            return [NvidiaCard("NVIDIA card", None, version or "of unknown version", problem=problem, todo=todo)]
    if in_container(root) and not device_nodes(root):
        # it sees the driver of its host, and its bus, whether or not a card is lent to it
        if version is None:
            return []
        return [NvidiaCard("NVIDIA card", None, version, problem=NOT_LENT[0], todo=NOT_LENT[1])]
    if version is not None:
        return [NvidiaCard("NVIDIA card", None, version)]
    return [NvidiaCard("NVIDIA card", None, None)] if on_bus(root) else []


def _smi(fields: str) -> str:
    """What nvidia-smi answers, or says instead; empty without it."""
    command = next((found for name in SMI if (found := shutil.which(name))), None)
    if command is None:
        return ""
    query = [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, errors="replace", timeout=SMI_PATIENCE, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr


def device_nodes(root: Path = Path("/")) -> bool:
    """The files by which a process reaches a card: ``nvidia0`` and so on, ``dxg`` in WSL, ``nvgpu`` on a Jetson."""
    folder = root / "dev"
    if (folder / "dxg").exists():
        return (root / "usr/lib/wsl/lib/libcuda.so.1").exists()
    return any(folder.glob("nvidia[0-9]*")) or (folder / "nvgpu").exists()


def in_container(root: Path = Path("/")) -> bool:
    """Is this a container of Docker, Podman or Kubernetes?"""
    marks = (".dockerenv", "run/.containerenv", "run/secrets/kubernetes.io")
    return any((root / mark).exists() for mark in marks)


def on_bus(root: Path = Path("/"), vendor: str = "0x10de") -> bool:
    """A display controller (PCI class 03) of this vendor, NVIDIA if not another, with or without a driver."""
    return any(
        read(f"{device}/vendor").strip() == vendor and read(f"{device}/class").startswith("0x03")
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def amd_present(root: Path = Path("/")) -> bool:
    """Is a GPU of AMD's here that a process can reach? It may be part of the processor."""
    return on_bus(root, "0x1002") and any((root / "dev" / "dri").glob("renderD*"))


def nvidia_present(root: Path = Path("/")) -> bool:
    """Is an NVIDIA card here that a process can reach, or could with a driver? Without asking a program, which would
    take a while.
    """
    return device_nodes(root) or (on_bus(root) and not in_container(root))
