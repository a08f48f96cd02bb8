"""The built wheel's name and requirements: what it computes on, and the packages whose libraries it uses."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from pathlib import Path

SURPLUS = re.compile(
    # what a C program would want; Python's bindings look beside themselves only
    r"^(lib|include|bin)/"
    # each library comes three times: the loader wants its soname, the bindings the plain name of those that they open
    r"|\.so\.\d+\.\d+(\.\d+)*$"
    r"|/libggml-(cuda|vulkan)\.so$"
)
"""Files of a wheel that nothing opens. llama-cpp-python packs each library six times, of which one or two are used: a
wheel for one architecture had 259 MB, and has 43 without them.
"""


def label(wheel: Path, tag: str, requires: tuple[str, ...]) -> Path:
    """Give ``wheel`` the build tag ``1<tag>`` and further requirements, without what nothing uses. Its new path;
    the old one is gone.

    Format: the binary distribution format of the Python packaging user guide.
    """
    if not tag and not requires:
        return wheel
    name, version, *rest = wheel.stem.split("-")
    build = "1" + re.sub(r"[^A-Za-z0-9_]", "_", tag)
    target = wheel.with_name("-".join([name, version, build, *rest[-3:]]) + ".whl")
    records = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        record = ""
        for entry in source.infolist():
            if SURPLUS.search(entry.filename):
                continue
            data = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                record = entry.filename
                continue
            if entry.filename.endswith(".dist-info/METADATA"):
                data = with_requirements(data.decode("utf-8"), requires).encode("utf-8")
            elif entry.filename.endswith(".dist-info/WHEEL"):
                data = with_build(data.decode("utf-8"), build).encode("utf-8")
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{entry.filename},sha256={digest},{len(data)}")
            made.writestr(entry, data)
        made.writestr(record, "\n".join([*records, f"{record},,"]) + "\n")
    wheel.unlink()
    return target


def with_requirements(metadata: str, requires: tuple[str, ...]) -> str:
    """``METADATA`` with further ``Requires-Dist``, before the description."""
    head, separator, body = metadata.partition("\n\n")
    return "\n".join([head, *(f"Requires-Dist: {one}" for one in requires)]) + separator + body


def with_build(text: str, build: str) -> str:
    """``WHEEL`` with the build tag."""
    lines = [line for line in text.splitlines() if line and not line.startswith("Build:")]
    return "\n".join([*lines, f"Build: {build}"]) + "\n"
