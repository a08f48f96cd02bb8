"""``ggufrun verify``: is what lies on the disk what its makers put there?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import console, tables
from ggufrun.cli.terminal.progress import bytes_bar

if TYPE_CHECKING:
    from ggufrun.hub.digests import Digest, Expected

SHARD = re.compile(r"(.+)-(?P<number>\d{5})-of-(\d{5}\..+)")
"""How shards of every format are named."""

MODEL_SUFFIXES = {".gguf", ".safetensors", ".bin", ".pth", ".pt"}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(verify)


@dataclass
class Verdict:
    """What was checked of a file, and what was wrong with it."""

    name: str
    checks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    missing: bool = False

    @property
    def status(self) -> str:
        """``ok``, ``bad``, ``missing``, or ``unknown`` where there was nothing to check against."""
        if self.missing:
            return "missing"
        return "bad" if self.problems else "ok" if self.checks else "unknown"


def verify(
    paths: Annotated[
        list[str],
        typer.Argument(
            autocompletion=common.model_names,
            metavar="PATH",
            help="Files, folders, lists of checksums, or local models.",
            show_default=False,
        ),
    ],
    as_json: common.Json = False,
) -> None:
    """Check files: checksums, the hub's digests, their structure.

    Lists are Meta's checklist.chk (MD5) and what md5sum, sha256sum and the like write. Exit status 1 if a file is bad
    or missing.
    """
    from ggufrun.hub import resolve_model

    targets = list(dict.fromkeys(resolve_model(path) for path in paths))
    found = [verdict for target in targets for verdict in _verified(target, whole_names=len(targets) > 1)]
    (_print_json if as_json else _print)(found)
    if any(verdict.status != "ok" for verdict in found):
        raise typer.Exit(1)


def _verified(target: Path, *, whole_names: bool) -> list[Verdict]:
    """What is to be said of each file of ``target``, by its name there, or with ``whole_names`` by its path."""
    from ggufrun.errors import NotFoundError

    base = target if target.is_dir() else target.parent
    verdicts: dict[Path, Verdict] = {}
    expected = _expected(target, base, verdicts)
    files = _files(target, expected)
    total = sum(_size(file) for file in files)
    with bytes_bar(total, "verifying") as advance:
        for file in files:
            verdict = verdicts.setdefault(file, Verdict(_name(file, base)))
            _verify_file(file, expected.get(file, []), verdict, advance)
            _complete(file, verdict, base, verdicts)
    for path, other in _copies(files):
        verdicts[path].problems.append(f"is a copy of {other.name}")
    for path in _whole_models(files):
        if (verdict := verdicts[path]).status == "ok" and (problem := _refused(path)):
            verdict.problems.append(problem)
    found = sorted((v for v in verdicts.values() if v.checks or v.problems or v.missing), key=lambda v: v.name)
    if not found:
        raise NotFoundError(f"{target} holds nothing to verify", "name a model file, or a folder with checksums")
    for verdict in found if whole_names else ():
        verdict.name = str(base / verdict.name)
    return found


def _copies(files: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Shards of one model that have the same content, each with the one that it repeats."""
    from ggufrun.hub.digests import file_digest
    from ggufrun.regularfile import read_start

    groups: dict[tuple[Path, str, int], list[Path]] = {}
    for path in files:
        if path.is_file() and (shard := SHARD.fullmatch(path.name)):
            groups.setdefault((path.parent, shard[1] + shard[3], path.stat().st_size), []).append(path)
    for group in groups.values():
        first: dict[bytes, Path] = {}
        for path in group if len(group) > 1 else ():
            # the headers differ unless it is a copy; only then all of it is read
            other = first.setdefault(read_start(path, 1 << 16), path)
            if other != path and file_digest(path, "sha256") == file_digest(other, "sha256"):
                yield path, other


def _whole_models(files: Sequence[Path]) -> Iterator[Path]:
    """The GGUFs, of a split model its first part where all are here."""
    from ggufrun.hub.scan import missing_shards
    from ggufrun.regularfile import read_start

    for path in files:
        is_gguf = path.is_file() and read_start(path, 4) == b"GGUF"
        shard = SHARD.fullmatch(path.name)
        if is_gguf and (shard is None or (int(shard.group("number")) == 1 and not missing_shards(path))):
            yield path


def _refused(path: Path) -> str | None:
    """Why llama.cpp does not load the model, such as a tensor that is missing or one too many."""
    from ggufrun.checkpoint.gguf.checks import NO_MODELS, kind_of
    from ggufrun.checkpoint.gguf.file import hollow
    from ggufrun.checkpoint.gguf.source import GGUFSource
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import ModelParams
    from ggufrun.engine.placement.memory import measure
    from ggufrun.engine.placement.offload import NO_DEVICE, Placement
    from ggufrun.errors import EngineError, GgufrunError

    try:
        source = GGUFSource(path)
        source.close()
        header = source.header
        if not header.architecture or not header.tensors or kind_of(header) in NO_MODELS:
            return None
        # the header alone, with a hole for the data: llama.cpp plans with it, and allocates nothing of its size
        metadata = {key: value for key, value in header.metadata.items() if not key.startswith("split.")}
        with hollow(replace(header, metadata=metadata)) as file:
            measure(ModelParams(file, placement=Placement(split="none", main=NO_DEVICE)), ContextParams(n_ctx=512))
    except EngineError as error:
        words = error.what.partition(": ")[2]
        return f"llama.cpp does not load it: {words}" if "tensor" in words else None
    except GgufrunError:
        # it has been told, or is of a kind that this release does not know
        return None
    return None


def _name(path: Path, base: Path) -> str:
    try:
        return path.relative_to(base).as_posix()
    except ValueError:
        return str(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _expected(target: Path, base: Path, verdicts: dict[Path, Verdict]) -> dict[Path, list[Expected]]:
    """What lists and the hub's notes say of the files asked for; a bad list gets its own verdict."""
    from ggufrun.errors import GgufrunError
    from ggufrun.hub.digests import is_list, notes, read_list, recorded

    found: dict[Path, list[Expected]] = {}
    single = target.is_file() and not is_list(target)
    folder = _walk(base) if target.is_dir() else sorted(base.iterdir()) if single else [target]
    for path in folder:
        if is_list(path) and path.is_file():
            try:
                lines = read_list(path)
            except GgufrunError as error:
                if not single:
                    verdicts[path] = Verdict(_name(path, base), problems=[error.what])
                continue
            for line in lines:
                if line.digest is None:
                    if not single:
                        verdicts.setdefault(path, Verdict(_name(path, base))).problems.append(line.problem)
                elif not single or line.path == target:
                    found.setdefault(line.path, []).append(line)
    known = [target] if single else [*folder, *notes(base)] if target.is_dir() else []
    for path in dict.fromkeys(known):
        if note := recorded(path):
            found.setdefault(path, []).append(note)
    return found


def _walk(folder: Path) -> list[Path]:
    """The files below, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and not path.is_dir()
    )


def _files(target: Path, expected: dict[Path, list[Expected]]) -> list[Path]:
    if target.is_file():
        return [target] if not expected or target in expected else sorted(expected)
    models = [path for path in _walk(target) if path.suffix in MODEL_SUFFIXES or path.name.endswith(".index.json")]
    return sorted({*models, *expected})


def _verify_file(path: Path, expected: list[Expected], verdict: Verdict, advance: Callable[[int], None]) -> None:
    from ggufrun.convert import check
    from ggufrun.errors import GgufrunError
    from ggufrun.regularfile import read_start

    if not path.exists():
        verdict.missing = True
        verdict.problems.append("is not there")
        return
    if not path.is_file():
        verdict.problems.append("is not a file")
        return
    digests = _Digests(path, expected, advance)
    try:
        if path.suffix == ".gguf" or (path.suffix not in check.CHECKS and read_start(path, 4) == b"GGUF"):
            # a blob of Ollama's store has no suffix
            verdict.checks.append(check.check_gguf(path, digests.feed))
        elif path.suffix in check.CHECKS:
            verdict.checks.append(check.CHECKS[path.suffix](path))
    except GgufrunError as error:
        verdict.problems.append(error.what)
    for line, found in zip(expected, digests.finish(), strict=True):
        if found == line.digest:
            verdict.checks.append(f"{found.kind} ({line.source})")
        else:
            verdict.problems.append(f"{found.kind} differs from {line.source}")


class _Digests:
    """The digests that a file is expected to have, computed in one read."""

    def __init__(self, path: Path, expected: list[Expected], advance: Callable[[int], None]) -> None:
        self._path, self._expected, self._advance = path, expected, advance
        self._size = path.stat().st_size
        self._start()

    def _start(self) -> None:
        from ggufrun.hub.digests import Hasher

        kinds = {line.digest.kind for line in self._expected if line.digest}
        self._hashers = {kind: Hasher(kind, self._size) for kind in kinds}
        self._done = 0

    def feed(self, piece: memoryview) -> None:
        """The next bytes of the file."""
        for hasher in self._hashers.values():
            hasher.update(piece)
        self._done += len(piece)
        self._advance(len(piece))

    def finish(self) -> list[Digest]:
        """One a line; reads the file if nobody else did, or not to its end."""
        from ggufrun.hub.digests import pieces

        if self._done == self._size or not self._hashers:
            self._advance(self._size - self._done)
        else:
            self._advance(-self._done)
            self._start()
            for piece in pieces(self._path):
                self.feed(piece)
        return [self._hashers[line.digest.kind].digest for line in self._expected if line.digest]


def _complete(path: Path, verdict: Verdict, base: Path, verdicts: dict[Path, Verdict]) -> None:
    """Look for the files that an index, or the number of a shard, says should be there."""
    from ggufrun.convert.check import check_index
    from ggufrun.errors import GgufrunError
    from ggufrun.hub.scan import missing_shards

    missing: list[str] = []
    if path.name == "pytorch_model.bin.index.json" and any(path.parent.glob("*.safetensors")):
        # the other format's, and not needed
        return
    if path.name.endswith(".index.json") and path.is_file():
        try:
            words, missing = check_index(path)
            verdict.checks.append(words)
        except GgufrunError as error:
            verdict.problems.append(error.what)
    elif path.suffix == ".gguf" and path.is_file():
        missing = missing_shards(path)
    for name in missing:
        lost = path.parent / name
        verdicts.setdefault(lost, Verdict(_name(lost, base), problems=["is not there"], missing=True))


def _print(found: list[Verdict]) -> None:
    from rich import box
    from rich.table import Table

    styles = {"ok": "green", "bad": "bold red", "missing": "bold red", "unknown": "yellow"}
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "file", "checked"):
        table.add_column(name, overflow="fold")
    for verdict in found:
        words = "; ".join([*verdict.problems, *verdict.checks]) or "nothing to check it against"
        table.add_row(
            console.literal(verdict.status, styles[verdict.status]),
            console.literal(verdict.name),
            console.literal(words),
        )
    tables.show(table, console.out())


def _print_json(found: list[Verdict]) -> None:
    rows: list[dict[str, Any]] = [
        {"file": v.name, "status": v.status, "checks": v.checks, "problems": v.problems} for v in found
    ]
    console.print_json({"ok": all(verdict.status == "ok" for verdict in found), "files": rows})
