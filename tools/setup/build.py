"""What is built, and the key under which its wheel is kept: everything that decides what the compiler writes.

A second run or a second clone installs the kept wheel in seconds, and a home directory that several machines share
never serves one machine's instructions to another. The key is a digest of

* the engine's version, our CMake files and kernels (comments aside) and our CMake options;
* the variables by which a user steers a build: ``CMAKE_ARGS``, ``CC``, ``CFLAGS`` and the like;
* the platform as Python names it in a wheel, and the C library (the wheel is ``py3-none-PLATFORM``: it serves every
  Python of the platform, so the interpreter's own version is no part of the key);
* every macro that the C and the C++ compiler predefine under ``-march=native``: that is the compiler, its version and
  exactly the instruction sets that a native build may use here;
* for a build with GPU support, its toolkit's version and the architectures.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.setup.common import PACKAGE, SetupError
from tools.setup.plan import CPU, Plan

DEFINES = {
    # Pictures and sound are not ggufrun's business, and are a third of the compile time.
    "LLAVA_BUILD": "OFF",
    # The engine can lend its devices to another machine; 50 KB of library.
    "GGML_RPC": "ON",
}

STEERING = (
    "CMAKE_ARGS", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDACXX", "CUDAARCHS", "CUDAFLAGS",
    "HIPCXX", "ARCHFLAGS", "MACOSX_DEPLOYMENT_TARGET", "CMAKE_GENERATOR", "CMAKE_BUILD_TYPE", "CMAKE_TOOLCHAIN_FILE",
    "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE", "SKBUILD_CMAKE_BUILD_TYPE",
)  # fmt: skip
"""Variables that change what is built; each is part of the key."""


@dataclass(frozen=True)
class Build:
    """Everything that decides what the compiler writes. ``gpu`` names the toolkit and the architectures, if any."""

    version: str
    defines: dict[str, str]
    recipe: str
    steering: dict[str, str]
    target: str
    libc: str
    compilers: str
    gpu: str = ""

    @property
    def key(self) -> str:
        """The folder name under which the wheel is kept: readable version, then a digest of all fields."""
        fields = {name: value for name, value in asdict(self).items() if value or name != "gpu"}
        text = json.dumps(fields, sort_keys=True)
        return f"{self.version}-{self.target}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def pinned_version(pyproject: str) -> str:
    """The engine's exact version in the text of ``pyproject.toml``."""
    match = re.search(rf'"{PACKAGE}==([^"\s;]+)"', pyproject)
    if not match:
        raise SetupError(f"pyproject.toml does not pin {PACKAGE} to one version")
    return match.group(1)


RECIPE = {".cmake": "#", ".c": "//", ".h": "//"}
"""Suffixes of the files under ``tools`` that take part in the build, with what a comment line of each starts with."""

COMMENTS = {**RECIPE, ".txt": "#", ".toml": "#"}
"""The same of all files that any build is described in."""


def recipe_digest(files: list[Path]) -> str:
    """A digest of the recipe's files that stays the same when only comment lines or blank lines change."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0")
        for line in path.read_text(encoding="utf-8").splitlines():
            code = line.strip()
            if code and not code.startswith(COMMENTS[path.suffix]):
                digest.update(code.encode() + b"\n")
    return digest.hexdigest()


def steering(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``environment`` that change what is built."""
    return {name: environment[name] for name in STEERING if environment.get(name)}


def recipe_files(root: Path) -> list[Path]:
    """Our part of every build: the CMake files and kernels under ``tools``. A backend's own count for that backend."""
    tools = root / "tools"
    return [path for path in tools.rglob("*") if path.suffix in RECIPE and tools / "setup" not in path.parents]


def describe(root: Path, compilers: str, environment: Mapping[str, str], plan: Plan = CPU) -> Build:
    """The build that this checkout, these compilers, this environment and this plan lead to."""
    return Build(
        version=pinned_version((root / "pyproject.toml").read_text(encoding="utf-8")),
        defines=DEFINES | plan.defines,
        recipe=recipe_digest([*recipe_files(root), *plan.recipe]),
        steering=steering(environment),
        target=re.sub(r"[^A-Za-z0-9_.]", "_", sysconfig.get_platform()),
        libc=" ".join(platform.libc_ver()).strip(),
        compilers=compilers,
        gpu=plan.gpu,
    )


def cache_root(environment: Mapping[str, str], system: str = sys.platform) -> Path:
    """Where this system keeps a user's cache; ``GGUFRUN_CACHE`` goes before."""
    if chosen := environment.get("GGUFRUN_CACHE"):
        return Path(chosen).expanduser().absolute()
    if system == "darwin":
        return Path.home() / "Library" / "Caches" / "ggufrun"
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "ggufrun"
