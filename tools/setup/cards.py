"""The NVIDIA cards of this machine, its driver, and the architectures to build for."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tools.setup.common import SetupError, run

SMI = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi", "/usr/bin/nvidia-smi")

PORTABLE = {
    13: ("75-virtual", "80-virtual", "86-real", "89-real", "90-virtual", "120a-real"),
    12: ("61-virtual", "70-virtual", "75-virtual", "80-virtual", "86-real", "89-real", "90-virtual"),
}
"""CUDA's major version -> architectures of a wheel to hand on: machine code for the cards that most people have, and an
intermediate form for the others, which their driver compiles once. llama.cpp's own choice, near enough.
"""

DRIVERS = ((580, 13), (525, 12))
"""From this driver's version on, this major version of CUDA runs (NVIDIA's table of compatibility)."""


@dataclass(frozen=True)
class Card:
    """``capability`` is such as ``90`` for 9.0, None where an old nvidia-smi does not tell."""

    name: str
    capability: str | None


@dataclass(frozen=True)
class Graphics:
    """``driver`` is None where there is none, such as on a machine that only builds. ``runs`` is CUDA's major version,
    as the driver's library tells it where that was asked.
    """

    cards: tuple[Card, ...] = ()
    driver: str | None = None
    runs: int | None = None

    @property
    def cuda(self) -> int | None:
        """The newest major version of CUDA that the driver runs; 0 if none, None without a driver. What the driver's
        library says counts: NVIDIA's packages for compatibility make an older driver run a newer CUDA.
        """
        if self.runs is not None:
            return self.runs if self.runs >= DRIVERS[-1][1] else 0
        if self.driver is None:
            return None
        number = re.match(r"\d+", self.driver)
        version = int(number[0]) if number else 0
        return next((cuda for driver, cuda in DRIVERS if version >= driver), 0)


def parse(text: str) -> Graphics:
    """From ``nvidia-smi --query-gpu=driver_version,compute_cap,name --format=csv,noheader``."""
    cards, driver = [], None
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == 3 and re.match(r"\d+\.", parts[0]):
            driver = parts[0]
            known = re.fullmatch(r"(\d+)\.(\d)", parts[1])
            cards.append(Card(parts[2], known[1] + known[2] if known else None))
    return Graphics(tuple(cards), driver)


def graphics() -> Graphics:
    """What is in this machine: from nvidia-smi, else from the driver's library, which a container has without it."""
    found = Graphics()
    if any(shutil.which(program) for program in SMI):
        program = next(program for program in SMI if shutil.which(program))
        found = parse(run([program, "--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader"]).stdout)
        if not found.driver:
            # before driver 470 it cannot be asked for the capability
            old = run([program, "--query-gpu=driver_version,name", "--format=csv,noheader"]).stdout
            found = parse("\n".join(line.replace(",", ", unknown,", 1) for line in old.splitlines()))
    if found.cuda is None or found.cuda < DRIVERS[0][1]:
        told = parse_library(run([sys.executable, "-c", LIBRARY]).stdout)
        found = replace(told, driver=found.driver, cards=found.cards or told.cards)
    if found.driver is None:
        found = replace(found, driver=_loaded() or (f"(CUDA {found.runs})" if found.runs else None))
    return found


LIBRARY = """
import ctypes, sys
for name in ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"):
    try:
        cuda = ctypes.CDLL(name)
        break
    except OSError:
        cuda = None
number, text = ctypes.c_int(), ctypes.create_string_buffer(256)
if cuda is None or cuda.cuInit(0) or cuda.cuDriverGetVersion(ctypes.byref(number)):
    sys.exit(1)
print(number.value)
if cuda.cuDeviceGetCount(ctypes.byref(number)):
    sys.exit(1)
for index in range(number.value):
    device, part = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(text, 256, device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    for attribute, value in zip((75, 76), part):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    print(f"{part[0].value}.{part[1].value}, {text.value.decode(errors='replace')}")
"""
"""Asks the driver's library, in a process of its own, for what CUDA it runs (13000 is 13.0) and for its cards."""


def parse_library(text: str) -> Graphics:
    """From what ``LIBRARY`` prints; nothing without a library that works."""
    first, *rest = text.splitlines() or [""]
    if not first.isdigit():
        return Graphics()
    cards = []
    for line in rest:
        capability, _, name = line.partition(", ")
        cards.append(Card(name, capability.replace(".", "")))
    return Graphics(tuple(cards), None, int(first) // 1000)


def _loaded() -> str | None:
    """The version of the driver in the kernel."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    version = re.search(r"Kernel Module\D*([\d.]+)", text)
    return version[1] if version else None


def asked(text: str) -> tuple[str, ...]:
    """The architectures of ``CUDA_ARCHS``: ``89,90``, ``8.9 9.0``, ``sm_90`` or CMake's own ``90-real``."""
    found = []
    for part in re.split(r"[,;\s]+", text.strip()):
        known = re.fullmatch(r"(?:sm_|compute_)?(\d{1,2})\.?(\d)([af]?)(-real|-virtual)?", part)
        if not known:
            raise SetupError(f"CUDA_ARCHS: {part!r} is no architecture; give compute capabilities such as 89,90")
        found.append("".join(group or "" for group in known.groups()))
    return tuple(dict.fromkeys(found))


def architectures(environment: Mapping[str, str], graphics: Graphics, cuda: int, portable: bool) -> tuple[str, ...]:
    """What was asked for, else (unless ``portable``) the cards that are here, else a portable set."""
    if text := environment.get("CUDA_ARCHS", "").strip():
        return asked(text)
    here = {card.capability for card in graphics.cards if card.capability}
    if here and not portable:
        return tuple(sorted(here, key=int))
    return PORTABLE[cuda]


def check(wanted: tuple[str, ...], known: tuple[str, ...], compiler: str) -> None:
    """Raise unless the compiler, which builds for ``known``, builds for all that is ``wanted``."""
    for name in wanted:
        number = re.match(r"\d+", name)
        if number and known and number[0] not in known:
            raise SetupError(
                f"{compiler} does not build for compute capability {number[0][:-1]}.{number[0][-1]}, only for "
                f"{', '.join(f'{one[:-1]}.{one[-1]}' for one in known)}; "
                "take another CUDA toolkit (CUDA_HOME) or another CUDA_ARCHS"
            )


def parse_known(text: str) -> tuple[str, ...]:
    """From ``nvcc --list-gpu-arch``: ``compute_75`` a line."""
    return tuple(sorted(set(re.findall(r"^compute_(\d+)", text, re.MULTILINE)), key=int))
