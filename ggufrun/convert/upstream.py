"""llama.cpp's own converter, for the architectures that ggufrun does not convert itself.

It is taken from the source archive of the very release that the engine is pinned to, which pip fetches once into the
user's cache and whose digest is known here. Only the converter's Python files are unpacked. It runs as a process of
its own, needs torch and transformers (``pip install "ggufrun[upstream]"``), and for some families runs the Python code
that a checkpoint brings.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ggufrun.errors import FormatError, NotFoundError, TargetError, UnsupportedError
from ggufrun.regularfile import open_regular

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Of the release's source archive."""

NEEDED = ("torch", "transformers", "sentencepiece", "numpy")
SCRIPT = "convert_hf_to_gguf.py"
FOLDERS = ("conversion", "gguf-py/gguf")
"""What the converter consists of, below ``vendor/llama.cpp`` of the archive."""

MAX_FILES, MAX_FILE = 2000, 8 << 20


def check_packages() -> None:
    """Raise UnsupportedError where a package that the converter imports is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"--converter upstream needs {', '.join(missing)}", 'install them with: pip install "ggufrun[upstream]"'
        )


def installed(cache: Path | None = None) -> Path:
    """The converter's script in the user's cache (or ``cache``); fetched and unpacked when it is not there yet."""
    import platformdirs

    home = (cache or Path(platformdirs.user_cache_dir("ggufrun"))) / "upstream"
    folder = home / VERSION
    if (folder / SCRIPT).is_file():
        return folder / SCRIPT
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix="unpack-") as temporary:
            archive = _fetch(Path(temporary))
            unpacked = Path(temporary) / VERSION
            unpack(archive, unpacked)
            if not (folder / SCRIPT).is_file():
                unpacked.replace(folder)
    except OSError as error:
        raise TargetError(
            f"cannot keep llama.cpp's converter in {home}: {(error.strerror or str(error)).lower()}",
            "free some space or set XDG_CACHE_HOME",
        ) from error
    return folder / SCRIPT


def _fetch(folder: Path) -> Path:
    """Let pip download the source archive, by the user's own settings of index and proxy."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--no-binary", PACKAGE, "--dest", str(folder), f"{PACKAGE}=={VERSION}"),
    ]
    result = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    found = sorted(folder.glob("*.tar.gz"))
    if result.returncode or not found:
        raise NotFoundError(
            f"pip cannot download {PACKAGE} {VERSION}, which the converter is part of: {last_line(result.stderr)}",
            "check the network, or pip's settings",
        )
    return found[0]


def unpack(archive: Path, folder: Path, sha256: str = SHA256) -> None:
    """Write the converter's files from ``archive`` into ``folder``.

    FormatError for an archive that is not the release's. Nothing but plain Python files of known folders is written,
    whatever the archive holds.
    """
    with open_regular(archive) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise FormatError(f"{archive.name} is not the release's archive", "clear pip's cache and try again")
    count = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                place = _place(member.name)
                if place is None or not member.isfile():
                    continue
                count += 1
                content = tar.extractfile(member)
                if member.size > MAX_FILE or count > MAX_FILES or content is None:
                    raise FormatError(f"{archive.name} holds more than a converter", "report this")
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    except (tarfile.TarError, EOFError) as error:
        raise FormatError(f"{archive.name} is damaged: {error}", "clear pip's cache and try again") from error
    if not (folder / SCRIPT).is_file():
        raise FormatError(f"{archive.name} has no {SCRIPT}", "report this")


def _place(name: str) -> PurePosixPath | None:
    """Where a member of the archive belongs below the converter's folder; None for all that is not of it."""
    parts = PurePosixPath(name).parts
    if len(parts) < 4 or parts[1:3] != ("vendor", "llama.cpp") or ".." in parts or parts[0] == "/":
        return None
    place = PurePosixPath(*parts[3:])
    wanted = str(place) == SCRIPT or any(str(place).startswith(f"{folder}/") for folder in FOLDERS)
    return place if wanted and place.suffix == ".py" else None


@contextmanager
def converted(
    checkpoint: Path, outtype: str, name: str | None, beside: Path, command: Sequence[str] | None = None
) -> Iterator[Path]:
    """A GGUF that llama.cpp's converter made of ``checkpoint``, in a folder that is removed afterwards.

    ``outtype`` is ``f32``, ``f16``, ``bf16`` or ``auto``; ``beside`` is the folder the temporary one is made in.
    ``command`` is how the converter is started. UnsupportedError with the converter's last words where it gives up.
    """
    if command is None:
        check_packages()
        command = [sys.executable, str(installed())]
    with tempfile.TemporaryDirectory(dir=beside, prefix=".ggufrun-upstream-") as folder:
        out = Path(folder) / "model.gguf"
        arguments = [*command, str(checkpoint), "--outtype", outtype, "--outfile", str(out)]
        if name:
            arguments += ["--model-name", name]
        # its output is only of interest when it fails, and may be long
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with (Path(folder) / "log").open("w+b") as log:
            status = subprocess.run(
                arguments, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, env=environment
            ).returncode
            size = log.tell()
            log.seek(max(0, size - 4096))
            words = last_line(log.read().decode(errors="replace"))
        if status or not out.is_file():
            raise UnsupportedError(
                f"llama.cpp's converter gives up: {words}", f"run it yourself to see all it says: {' '.join(command)}"
            )
        yield out


def last_line(text: str) -> str:
    """The last line that says something, cut to a readable length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it says nothing"
