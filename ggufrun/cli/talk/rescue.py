"""Conversations without a file of their own that were cut off: by a terminal that went away, a signal, or an engine
that ended the process. Each process keeps its own, in the user's data folder.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

DAY = 86400.0
KEPT_DAYS = 30
"""Days until such a conversation is removed, by the next one that is kept."""

PATTERN = "chat_hangup*.json"


def rescue_file() -> Path:
    """Where this process keeps its conversation. Those of long ago are removed."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_old(folder)
    moment = time.strftime("%Y%m%d-%H%M%S")
    return folder / f"chat_hangup_{moment}_{os.getpid()}.json"


def recently_rescued() -> list[Path]:
    """Those that were kept within a day and not continued since, the latest first."""
    return [path for path, age in _ages(_folder()) if age < DAY]


def mark_continued(path: Path) -> None:
    """If ``path`` is a conversation that was kept, it needs no mention any more. It stays for some days."""
    with contextlib.suppress(OSError):
        if path.match(PATTERN) and path.parent.samefile(_folder()):
            long_ago = time.time() - DAY
            os.utime(path, (long_ago, long_ago))


def _folder() -> Path:
    from platformdirs import user_data_path

    return Path(user_data_path("ggufrun", appauthor=False))


def _ages(folder: Path) -> list[tuple[Path, float]]:
    """The conversations there and how many seconds ago they were kept, or continued and a day; the latest first."""
    found = []
    now = time.time()
    for path in folder.glob(PATTERN):
        with contextlib.suppress(OSError):
            found.append((path, now - path.stat().st_mtime))
    return sorted(found, key=lambda pair: pair[1])


def _remove_old(folder: Path) -> None:
    for path, age in _ages(folder):
        if age > KEPT_DAYS * DAY:
            for one in (path, path.with_name(f"{path.name}.state")):
                with contextlib.suppress(OSError):
                    one.unlink()
