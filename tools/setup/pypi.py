"""CUDA from PyPI: compiler, headers, runtime and cuBLAS, made to look like an installed toolkit.

The packages unpack into one tree, ``nvidia/cu13/{bin,include,lib,nvvm}``. CMake finds it after small repairs: the links
without a version that linkers look for, and ``lib64``. The driver's library is not among the packages, and not needed:
`cuda-driver.c` looks it up at run time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tools.setup.common import SetupError, run, say
from tools.setup.machine import check_disk
from tools.setup.toolkit import Toolkit

PACKAGES = (
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cublas==13.1.*",
)
"""What compiles and links. The compiler's three belong to one another."""

RUNTIME = ("nvidia-cuda-runtime>=13.0,<14", "nvidia-cublas>=13.1,<14")
"""What the built engine wants at run time; any 13 serves, by CUDA's own rule for minor versions."""

BUILT_WITH = tuple(name for name in PACKAGES if "runtime" in name or "cublas" in name)
"""What is installed beside it where it was built."""

DISK = 1 << 30
"""Bytes: 840 MB were measured."""

TREE = Path("nvidia") / "cu13"


def fetch(toolkit: Toolkit, folder: Path) -> Toolkit:
    """PyPI's toolkit, installed below ``folder`` unless it is there. Raises SetupError."""
    place = folder / f"cuda-{toolkit.version}"
    root = place / TREE
    if not (place / "whole").exists():
        folder.mkdir(parents=True, exist_ok=True)
        check_disk(folder, DISK)
        say(f"cuda: fetching the toolkit {toolkit.version} from PyPI (700 MB, once)")
        work = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))
        try:
            done = run([
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--target", str(work), *PACKAGES,
            ])  # fmt: skip
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
                raise SetupError(f"CUDA's packages cannot be fetched from PyPI: {last}")
            repair(work / TREE)
            (work / "whole").write_text(toolkit.version, encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)
            # another setup may have been quicker
            with contextlib.suppress(OSError):
                work.rename(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return replace(toolkit, root=root)


def repair(root: Path) -> None:
    """Make the tree of the packages one that CMake and nvcc take for a toolkit."""
    libraries = root / "lib"
    if not (root / "bin" / "nvcc").is_file() or not libraries.is_dir():
        raise SetupError(f"the packages of PyPI left no CUDA toolkit in {root}")
    for library in libraries.glob("lib*.so.*"):
        plain = libraries / f"{library.name.partition('.so.')[0]}.so"
        if not plain.exists():
            plain.symlink_to(library.name)
    if not (root / "lib64").exists():
        (root / "lib64").symlink_to("lib")
    for program in (root / "bin", root / "nvvm" / "bin"):
        for path in program.glob("*"):
            if path.is_file() and not os.access(path, os.X_OK):
                path.chmod(path.stat().st_mode | 0o755)
