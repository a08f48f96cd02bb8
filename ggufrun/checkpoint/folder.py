"""The weights of a Hugging Face folder, in one file or several, whatever the format of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from ggufrun.checkpoint.jsonfile import read_weight_map
from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.errors import FormatError, NotFoundError

AGAIN = "download it again"


class OpenFile(Protocol):
    """A file of weights, open."""

    @property
    def file(self) -> RandomAccessFile:
        """To be closed."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """In the order in which the format lists them."""


@dataclass(frozen=True)
class Format:
    """How files of one format are called in a folder, the index of a sharded one, and what opens a file.

    Files whose names match one of ``others`` hold something else.
    """

    pattern: str
    index: str
    open: Callable[[Path], OpenFile]
    others: tuple[str, ...] = ()


class FolderSource:
    """One or several files of one format as a Source."""

    least_tokens = 0
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, files: Sequence[Path], kind: Format) -> None:
        self.path = self.tokenizer = path
        self.files = tuple(files)
        self.overrides: Mapping[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self._open: list[RandomAccessFile] = []
        try:
            for file_path in files:
                part = kind.open(file_path)
                self._open.append(part.file)
                twice = self.tensors.keys() & part.tensors.keys()
                if twice:
                    raise FormatError(f"{min(twice)} is in two files of {path}", "remove the stray file")
                self.tensors |= part.tensors
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        for file in self._open:
            file.close()


def open_folder(path: Path, kind: Format) -> FolderSource | None:
    """The folder's files of one format, by their index where there is one; None if there are none."""
    index = next(iter(_named(path, kind, kind.index)), None)
    if index is None:
        files = _named(path, kind, kind.pattern)
        return FolderSource(path, files, kind) if files else None
    wanted = _read_index(index, Path(kind.pattern).suffix)
    source = FolderSource(path, [path / name for name in sorted(set(wanted.values()))], kind)
    lost = sorted(wanted.keys() ^ source.tensors.keys())
    if lost:
        source.close()
        raise FormatError(f"{index.name} and the files disagree about {lost[0]}", AGAIN)
    return source


def _named(path: Path, kind: Format, pattern: str) -> list[Path]:
    others = (*kind.others, *(f"{other}.index.json" for other in kind.others))
    return sorted(file for file in path.glob(pattern) if not any(fnmatch(file.name, other) for other in others))


def _read_index(index: Path, suffix: str) -> Mapping[str, str]:
    """Tensor name -> file, from the index of a sharded checkpoint; NotFoundError if one of the files is missing."""
    entries = read_weight_map(index)
    for name in entries.values():
        if not name.endswith(suffix):
            raise FormatError(f"{index.name} names the file {name!r}", AGAIN)
    missing = sorted({name for name in entries.values() if not (index.parent / name).is_file()})
    if missing:
        raise NotFoundError(
            f"{index.parent} lacks {len(missing)} of its files, such as {missing[0]}", "download the rest"
        )
    return entries
