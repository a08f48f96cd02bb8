"""The NVIDIA cards of this machine, its driver, and the architectures to build for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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
    """``driver`` is None where there is none, such as on a machine that only builds."""

    cards: tuple[Card, ...] = ()
    driver: str | None = None

    @property
    def cuda(self) -> int | None:
        """The newest major version of CUDA that the driver runs; 0 if none, None without a driver."""
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
    """What is in this machine."""
    for program in SMI:
        if shutil.which(program):
            found = parse(run([program, "--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader"]).stdout)
            if found.driver:
                return found
            # before driver 470 it cannot be asked for the capability
            old = run([program, "--query-gpu=driver_version,name", "--format=csv,noheader"]).stdout
            return parse("\n".join(line.replace(",", ", unknown,", 1) for line in old.splitlines()))
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Graphics()
    version = re.search(r"Kernel Module\D*([\d.]+)", text)
    return Graphics(driver=version[1] if version else None)


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
