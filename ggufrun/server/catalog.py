"""The models that are served, by the names that requests use.

A request's name is only ever looked up in this list: it never becomes a path.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufrun.errors import UsageError
from ggufrun.hub.models import find_by_name
from ggufrun.hub.scan import LocalModel
from ggufrun.server.settings import Settings

RESCAN_SECONDS = 1.0
"""A name that is not known makes the folder looked through again, not more often than this."""


@dataclass(frozen=True)
class Entry:
    """A model that may be asked: ``name`` is what the APIs call it, ``aliases`` are other names it answers to."""

    name: str
    path: Path
    settings: Settings = field(default_factory=Settings)
    aliases: tuple[str, ...] = ()
    local: LocalModel | None = None

    @property
    def size(self) -> int:
        """Bytes of its files."""
        if self.local is not None:
            return self.local.size
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def modified(self) -> float:
        """When its file was written, in seconds since 1970."""
        if self.local is not None:
            return self.local.modified
        return self.path.stat().st_mtime if self.path.exists() else 0.0

    @property
    def digest(self) -> str:
        """Tells it from others by name, size and time; the weights are not read."""
        return hashlib.sha256(f"{self.name}\0{self.size}\0{self.modified}".encode()).hexdigest()


def plain(name: str) -> str:
    """A name as clients may have changed it: lower case, every run of other characters a hyphen."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower().removesuffix(":latest").removesuffix(".gguf")).strip("-")


class Catalog:
    """The entries. ``scan``, where the local folder is served, lists it again."""

    def __init__(self, entries: Sequence[Entry], scan: Callable[[], Sequence[Entry]] | None = None) -> None:
        self._given = list(entries)
        self._scan = scan
        self._scanned = 0.0
        self.entries: list[Entry] = list(entries)
        self.rescan()

    def rescan(self) -> None:
        """Look through the folder now."""
        if self._scan is not None:
            self.entries = [*self._given, *self._scan()]
            self._scanned = time.monotonic()

    @property
    def default(self) -> Entry | None:
        """What a request without a name is answered by: the first of the command line, or the only one there is."""
        if self._given:
            return self._given[0]
        return self.entries[0] if len(self.entries) == 1 else None

    def find(self, name: str) -> Entry | None:
        """The model that ``name`` means; None where there is none, or several."""
        found = self._find(name)
        if found is None and self._scan is not None and time.monotonic() - self._scanned > RESCAN_SECONDS:
            self.rescan()
            found = self._find(name)
        return found

    def _find(self, name: str) -> Entry | None:
        for entry in self.entries:
            if name == entry.name or name in entry.aliases:
                return entry
        wanted = plain(name)
        if not wanted:
            return None
        matching = [one for one in self.entries if wanted in (plain(one.name), *map(plain, one.aliases))]
        if matching:
            return matching[0] if len(matching) == 1 else None
        try:
            local = find_by_name(
                name.removesuffix(":latest"), [one.local for one in self.entries if one.local is not None]
            )
        except UsageError:
            return None
        return next((one for one in self.entries if local is not None and one.local is local), None)
