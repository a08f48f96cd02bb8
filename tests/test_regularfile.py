"""Files that never end, wait or grow: what reads a file whole goes through one function, and that is bounded."""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufrun import regularfile
from ggufrun.errors import FormatError, GgufrunError
from tests import fuzz

PACKAGE = Path(regularfile.__file__).parent

OPENS = {"open", "fdopen", "read_text", "read_bytes", "fromfile", "memmap", "mmap", "load", "loads"}
"""Names of calls that read a file, or parse what was read from one."""

LIBRARIES = {"json", "tomllib", "tomli", "pickle", "marshal", "np", "numpy", "os", "io", "mmap", "gzip", "tarfile"}
"""What ``load``, ``loads`` and ``open`` are looked for in; of other objects they are methods of ours."""

OWN = "a file or a device that this process has just made or chosen, or an answer of its own child"
KERNEL = "the kernel's own files"

ALLOWED: dict[tuple[str, str], str] = {
    ("regularfile", "open_descriptor"): "the one place",
    ("regularfile", "open_regular"): "the one place",
    ("jsontext", "parse"): "the one place for JSON",
    ("atomicfile", "_make"): "makes a new file",
    ("atomicfile", "_remove_dead"): "asks for the lock, reads nothing",
    ("atomicfile", "sync_folder"): "a folder, to bring it to the disk",
    ("filelock", "_acquire"): "the number of a process, from a file of its own",
    ("convert.journal", "__init__"): "appends",
    ("chat.formats.stylebook", "parse"): "the one place for TOML; a file of bounded size",
    ("workflows.textfile", "read"): "a pipe, which is waited for and read up to a bound",
    ("convert.upstream", "unpack"): "an archive whose digest has been compared",
    ("convert.writer", "__init__"): "a target, locked",
    ("convert.writer", "commit"): "a folder, to bring it to the disk",
    ("hub.digests", "pieces"): "a descriptor from regularfile",
    ("hub.in_use", "is_locked"): "asks for the lock, reads nothing",
    ("hub.transfer", "_attempt"): "writes; what is there is read with `pieces`",
    ("evaluate.text", "builtin_text"): "comes with the package",
    ("cli.app", "_open_streams"): OWN,
    ("cli.talk.input", "edited"): OWN,
    ("cli.talk.keyboard", "note"): OWN,
    ("cli.commands.doctor", "ask_engine"): OWN,
    ("cli.jobs.device_proof", "_prove"): OWN,
    ("cli.terminal.errors", "let_go"): OWN,
    ("cli.commands.worker", "follow"): OWN,
    ("convert.edit", "_write_in_place"): "a GGUF whose header was read with regularfile",
    ("evaluate.logits_file", "__init__"): "rows of a file that was opened with regularfile, or is being made",
    ("server.apis.leading_space", "without_space"): OWN,
    ("server.apis.leading_space", "_event"): OWN,
    ("server.apis.page_routes", "page_routes"): "comes with the package",
    ("server.models_file", "read"): "what was read with regularfile, within bounds",
    ("server.plan", "main"): "what its own parent sends",
    ("server.pool", ""): OWN,
    ("server.upstream", ""): OWN,
    ("processors", "_folders"): KERNEL,
    ("processors", "_limit"): KERNEL,
    ("processors", "_siblings"): KERNEL,
    ("engine.placement.system_memory", "read"): KERNEL,
    ("hub.in_use", "_open_in"): KERNEL,
    ("hub.in_use", "_program"): KERNEL,
    ("chat.formats.limits", "_limited"): KERNEL,
    ("chat.formats.template_process", "_alone"): OWN,
    ("chat.formats.template_process", "_serve"): "what its own parent sends",
    # methods of ours that are called so
    ("api.model", "complete"): "opens a conversation",
    ("checkpoint.folder", "__init__"): "opens a checkpoint file as its format does",
    ("cli.talk.conversation", "_opening"): "opens a conversation",
}
"""Module and function -> why it opens or parses a file by itself. Modes that only write need no entry."""


OPTIONAL = ("README.md", "generation_config.json")


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file-reading kind, with the innermost function that it stands in."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef) else function
            if isinstance(child, ast.Call) and reads(child):
                yield inside, child
            yield from visit(child, inside)

    return visit(tree, "")


def reads(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in OPENS:
        return False
    owner = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""
    if name in ("load", "loads"):
        return owner in LIBRARIES
    if name in ("read_text", "read_bytes"):
        # those of a path; the functions of `regularfile` get the path as an argument
        return isinstance(call.func, ast.Attribute) and owner not in (
            "regularfile",
            "textfile",
            "settings",
            "measuring",
        )
    mode = next((key.value for key in call.keywords if key.arg == "mode"), None)
    if mode is None and isinstance(call.func, ast.Attribute) and owner not in LIBRARIES:
        mode = call.args[0] if call.args else None
    elif mode is None:
        mode = call.args[1] if len(call.args) > 1 else None
    return not (isinstance(mode, ast.Constant) and isinstance(mode.value, str) and mode.value[:1] in "wax")


def found() -> dict[tuple[str, str], list[int]]:
    places: dict[tuple[str, str], list[int]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for function, call in calls(ast.parse(path.read_text("utf-8"))):
            places.setdefault((module, function), []).append(call.lineno)
    return places


def test_nothing_else_reads_files() -> None:
    others = [
        f"{module}.{function}: lines {lines}"
        for (module, function), lines in found().items()
        if (module, function) not in ALLOWED
    ]
    assert not others, "read with ggufrun.regularfile and ggufrun.jsontext, or say why not:\n" + "\n".join(others)


def test_every_exception_is_needed() -> None:
    assert set(ALLOWED) <= set(found()), "these no longer open a file by themselves"


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "open(path, 'rb')",
        "path.open()",
        "path.open('r+b')",
        "path.read_text('utf-8')",
        "path.read_bytes()",
        "(folder / name).read_text()",
        "os.open(path, os.O_RDONLY)",
        "json.loads(text)",
        "json.load(file)",
        "tomllib.loads(text)",
        "np.fromfile(path)",
    ],
)
def test_a_read_is_seen(source: str) -> None:
    assert list(calls(ast.parse(f"def f():\n    {source}")))


@pytest.mark.parametrize(
    "source", ["path.open('wb')", "open(path, 'w')", "regularfile.read_text(path, 9)", "x.load(y)"]
)
def test_other_calls_pass(source: str) -> None:
    assert not list(calls(ast.parse(source)))


def strange(folder: Path, kind: str) -> Path:
    """A name that leads to something that no reader should wait for or read to its end."""
    path = folder / "config.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        if not Path(kind).exists():
            pytest.skip(f"no {kind} here")
        path.symlink_to(kind)
    return path


STRANGE = ("fifo", "folder", "/dev/zero", "/dev/urandom", "/dev/null")


@pytest.mark.parametrize("kind", STRANGE)
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = strange(tmp_path, kind)
    for read in (regularfile.read_bytes, regularfile.read_start):
        with pytest.raises(FormatError, match=r"is not a regular file|is a folder"):
            read(path, 99)


def test_the_kernels_log_is_not_waited_for(tmp_path: Path) -> None:
    """A regular file by its mode, without a size, that blocks once its news are read."""
    path = strange(tmp_path, "/proc/kmsg")
    if not os.access(path, os.R_OK):
        pytest.skip("only root may read it")
    for _ in range(2):
        with contextlib.suppress(FormatError, OSError):
            assert len(regularfile.read_bytes(path, 1 << 20)) <= 1 << 20


def test_the_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"12345")
    assert regularfile.read_bytes(path, 5) == b"12345"
    with pytest.raises(FormatError, match=r"x.json is larger than 4 bytes, as no x.json should be"):
        regularfile.read_bytes(path, 4)
    # not a byte of a hole is read
    os.truncate(path, 1 << 40)
    with pytest.raises(FormatError, match="larger than 1 MiB"):
        regularfile.read_bytes(path, 1 << 20)


def test_what_has_no_size_is_bounded_too() -> None:
    with pytest.raises(FormatError, match="larger than 16 bytes"):
        regularfile.read_bytes(Path("/proc/self/maps"), 16)


def test_missing_files_are_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        regularfile.read_bytes(tmp_path / "x", 1)


@pytest.mark.parametrize("name", ["texts", "sentencepiece", "bpe", "vocab-merges", "tekken", "adapter", "imatrix"])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_no_file_of_a_checkpoint_may_be_anything_else(tmp_path: Path, name: str, kind: str) -> None:
    target = fuzz.TARGETS[name]
    target.make(tmp_path)
    for file in target.names:
        path = tmp_path / file
        path.rename(tmp_path / "kept")
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(kind)
        # what is only described in words may be left out
        if file in OPTIONAL:
            assert fuzz.attempt(target, tmp_path) is None
        else:
            with pytest.raises(GgufrunError):
                target.read(tmp_path)
        path.unlink()
        (tmp_path / "kept").rename(path)
    target.read(tmp_path)
