"""The user's cache of built wheels: built once a key, beside its place, then renamed into it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tools.setup.build import Build
from tools.setup.common import SetupError, say
from tools.setup.machine import check_disk
from tools.setup.plan import CPU

WORK = ".building-"
"""How the folders of unfinished builds begin."""


def sweep(wheels: Path, age: float = 24 * 3600) -> None:
    """Remove what builds left that were killed: folders that are older than any build takes."""
    for folder in wheels.glob(f"{WORK}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > age:
                shutil.rmtree(folder, ignore_errors=True)


Builder = Callable[[Build, Path, Path], None]
"""Builds the wheel into the first folder, using it for temporary files, and writes its log to the second path."""


def cached_wheel(folder: Path) -> Path | None:
    """The wheel kept in ``folder``, if there is one."""
    return next(iter(sorted(folder.glob("*.whl"))), None)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold ``path`` against other builds of the same key; on a file system without locks, go on without."""
    import fcntl

    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("engine: another setup is building it; waiting")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def workplace(wheels: Path, build: Build) -> Path:
    """An empty folder to build in, the same for every build of this key (the lock is held), so that ccache recognizes
    its files; another where that cannot be.
    """
    work = wheels / f"{WORK}{build.key}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir()
    except OSError:
        work = Path(tempfile.mkdtemp(prefix=WORK, dir=wheels))
    return work


def obtain(
    build: Build, wheels: Path, builder: Builder, fresh: bool = False, disk: int = CPU.disk
) -> tuple[Path, bool]:
    """The wheel for ``build`` and whether it had to be built. Built in a folder beside, then renamed into place.

    ``fresh`` sets a wheel that stands aside and builds anew. ``disk`` is what a build takes, in bytes.
    """
    place = wheels / build.key
    try:
        wheels.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot write to {wheels} ({error.strerror})"
        raise SetupError(f"{what}; set GGUFRUN_CACHE to a folder of yours") from error
    if not fresh and (wheel := cached_wheel(place)):
        return wheel, False
    with lock(wheels / f"{build.key}.lock"):
        if not fresh and (wheel := cached_wheel(place)):
            return wheel, False
        sweep(wheels)
        check_disk(wheels, disk)
        work = workplace(wheels, build)
        try:
            builder(build, work, wheels / f"{build.key}.log")
            if cached_wheel(work) is None:
                raise SetupError(f"the build left no wheel in {work}")
            (work / "build.json").write_text(json.dumps(asdict(build), indent=2) + "\n", encoding="utf-8")
            work.chmod(0o755)
            shutil.rmtree(place, ignore_errors=True)
            work.rename(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    wheel = cached_wheel(place)
    assert wheel is not None
    return wheel, True
