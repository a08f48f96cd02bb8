"""What the machine must have before a build begins: compilers that work, disk, and memory for the compilers at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tools.setup.common import SetupError, run

MEMORY_A_JOB = 1 << 30
"""Bytes that one compiler may take. Ninja counts cores only, and a 64-core machine may lend a container 8 GB."""

PROGRAMS = {
    "c": '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n',
    "c++": "#include <vector>\nint main() { return (int) std::vector<int>().size(); }\n",
}

CANDIDATES = {"c": ("CC", ("cc", "gcc", "clang")), "c++": ("CXX", ("c++", "g++", "clang++"))}

INSTALLERS = (
    ("apt-get", "sudo apt-get install build-essential"),
    ("dnf", "sudo dnf install gcc gcc-c++ make"),
    ("yum", "sudo yum install gcc gcc-c++ make"),
    ("zypper", "sudo zypper install gcc gcc-c++ make"),
    ("pacman", "sudo pacman -S base-devel"),
    ("apk", "sudo apk add build-base linux-headers"),
)


def compiler_advice(system: str = sys.platform) -> str:
    """The command that installs a C and C++ compiler here."""
    if system == "darwin":
        return "xcode-select --install"
    for program, command in INSTALLERS:
        if shutil.which(program, path=places()):
            return command
    return "install gcc and g++, or clang"


def places() -> str:
    """Where programs are. On a machine whose PATH is broken the package managers are still where they always are."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/sbin", "/bin"])


def find_compiler(language: str, environment: Mapping[str, str]) -> list[str]:
    """The compiler's command line, as CMake would pick it."""
    variable, names = CANDIDATES[language]
    if chosen := environment.get(variable, "").split():
        if shutil.which(chosen[0], path=environment.get("PATH", "")) is None:
            raise SetupError(f"{variable} names {chosen[0]!r}, which is not there; unset it or name a compiler")
        return chosen
    for name in names:
        if found := shutil.which(name, path=environment.get("PATH", "")):
            return [found]
    raise SetupError(f"no {language.upper()} compiler found; install one: {compiler_advice()}")


def fingerprint(language: str, command: list[str]) -> str:
    """Check that the compiler works; return a digest of what it is and which instructions it may use here."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "main"
        source.write_text(PROGRAMS[language], encoding="utf-8")
        made = run([*command, "-x", language, str(source), "-o", str(source) + ".out"])
        if made.returncode != 0:
            said = next((line for line in (made.stderr or made.stdout).splitlines() if "error" in line.lower()), "")
            detail = f" ({said.strip()})" if said else ""
            raise SetupError(
                f"the {language.upper()} compiler {command[0]} cannot build a two-line program{detail}; "
                f"repair it: {compiler_advice()}"
            )
        for native in (["-march=native"], ["-mcpu=native"], []):
            macros = run([*command, *native, "-dM", "-E", "-x", language, os.devnull])
            if macros.returncode == 0:
                return hashlib.sha256("\n".join(sorted(macros.stdout.splitlines())).encode()).hexdigest()
    return hashlib.sha256(run([*command, "--version"]).stdout.encode()).hexdigest()


def check_disk(folder: Path, needed: int, free: Callable[[Path], int] | None = None) -> None:
    """Raise unless ``folder``'s file system has ``needed`` bytes free."""
    have = free(folder) if free else shutil.disk_usage(folder).free
    if have < needed:
        raise SetupError(
            f"{folder} has {have / 1e6:.0f} MB free and the engine's build needs {needed / 1e6:.0f} MB; "
            "free some space, or set GGUFRUN_CACHE to a folder on another disk"
        )


def jobs(cores: int, memory: int) -> int:
    """How many compilers to run at once."""
    return max(1, min(cores, memory // MEMORY_A_JOB if memory else cores))


def machine_jobs() -> int:
    """``jobs`` for this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 0
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return jobs(cores, memory)
