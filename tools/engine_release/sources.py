"""The sources of a release of llama-cpp-python: an unpacked folder, an archive, or a version that pip fetches."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "llama-cpp-python"
VENDOR = "vendor/llama.cpp/"
FOLDERS = ("include/", "src/", "ggml/include/", "ggml/src/", "convert_hf_to_gguf_update.py")
"""What is looked at of llama.cpp."""

SUFFIXES = (".c", ".cpp", ".h", ".cu", ".cuh", ".py", ".in")


class SourceError(Exception):
    """The sources cannot be read; the message says why and what to do."""


@dataclass(frozen=True)
class Release:
    """One release: its name, and the text of its files by their paths in llama.cpp's repository. The Python module of
    the C functions is ``llama_cpp.py``.
    """

    name: str
    files: dict[str, str]

    def text(self, path: str) -> str:
        """A file; empty where the release has none of this name."""
        return self.files.get(path, "")

    @cached_property
    def code(self) -> str:
        """All C and C++ sources and headers, one after another."""
        return "\n".join(text for path, text in sorted(self.files.items()) if not path.endswith(".py"))


def opened(where: str) -> Release:
    """The release at ``where``: a folder, a ``.tar.gz``, or a version such as ``0.3.36``. Raises SourceError."""
    path = Path(where)
    if path.is_dir():
        return Release(path.name, dict(_of_folder(path)))
    if path.is_file():
        return Release(path.name.removesuffix(".tar.gz"), dict(_of_archive(path)))
    if not re.fullmatch(r"\d+(\.\w+)+", where):
        raise SourceError(f"{where}: neither a folder, nor an archive, nor a version of {PACKAGE}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", PACKAGE, "--dest", folder, f"{PACKAGE}=={where}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(Path(folder).glob("*.tar.gz"))
        if not found:
            last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise SourceError(f"{PACKAGE} {where} cannot be fetched: {last}")
        return Release(f"{PACKAGE}-{where}", dict(_of_archive(found[0])))


def _wanted(path: str) -> str | None:
    """The name by which a file of an sdist is kept; None for what is not looked at."""
    if path == "llama_cpp/llama_cpp.py":
        return "llama_cpp.py"
    inside = path.removeprefix(VENDOR)
    wanted = inside != path and inside.startswith(FOLDERS) and inside.endswith(SUFFIXES)
    return inside if wanted else None


def _of_folder(root: Path) -> Iterator[tuple[str, str]]:
    if not (root / VENDOR / "include/llama.h").is_file():
        raise SourceError(f"{root}: no {VENDOR}include/llama.h in it; give an unpacked sdist of {PACKAGE}")
    for path in root.rglob("*"):
        name = _wanted(path.relative_to(root).as_posix())
        if name is not None and path.is_file():
            yield name, path.read_text("utf-8", "replace")


def _of_archive(archive: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = _wanted(member.name.partition("/")[2])
            if name is not None and (file := tar.extractfile(member)) is not None:
                yield name, file.read().decode("utf-8", "replace")
