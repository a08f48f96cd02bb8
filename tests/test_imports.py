"""Imports run one way: the rooms' allowed imports held against the code itself, and no circle within a room either.

Imports inside functions count too: they are late, not free.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import pytest

from ggufrun.cli.app import app

PACKAGE = Path(__file__).resolve().parent.parent / "ggufrun"

GROUND = ("atomicfile", "errors", "filelock", "jsontext", "processors", "regularfile", "units")
"""Small modules that the upper floors may all use."""

ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "processors": set(),
    "filelock": {"errors"},
    "atomicfile": {"filelock"},
    "jsontext": set(),
    "regularfile": {"errors"},
    "units": {"errors"},
    "native": {"errors"},
    "hub": {"jsontext", "native", "regularfile", "units", "errors"},
    "checkpoint": {"jsontext", "regularfile", "errors"},
    "quantize": {"native", "errors"},
    "engine": {"atomicfile", "jsontext", "native", "processors", "regularfile", "errors"},
    "convert": {"checkpoint", "jsontext", "native", "processors", "quantize", "regularfile", "errors"},
    "chat": {"atomicfile", "engine", "filelock", "jsontext", "regularfile", "errors"},
    # its importance matrix is the record that quantize reads
    "evaluate": {"engine", "native", "quantize", "regularfile", "errors"},
    "workflows": {*GROUND, "chat", "checkpoint", "convert", "engine", "evaluate", "hub", "native", "quantize"},
    "api": {*GROUND, "chat", "checkpoint", "convert", "engine", "evaluate", "hub", "quantize", "workflows"},
    "server": {*GROUND, "chat", "checkpoint", "engine", "hub", "native", "quantize", "workflows"},
    "cli": {
        *GROUND,
        "chat",
        "checkpoint",
        "convert",
        "engine",
        "evaluate",
        "hub",
        "native",
        "quantize",
        "server",
        "workflows",
    },
}
"""Room -> the rooms it may import (itself aside)."""

INNER: dict[str, dict[str, set[str]]] = {
    "cli": {
        "terminal": set(),
        "flags": {"terminal"},
        "jobs": {"flags", "terminal"},
        "talk": {"flags", "terminal"},
        "commands": {"flags", "jobs", "talk", "terminal"},
    },
    "chat": {"formats": set()},
    "checkpoint": {"gguf": {""}, "quantized": {"gguf", ""}, "adapters": {"gguf", "quantized", ""}},
    "convert": {"vocab": {""}, "arch.shared": {"vocab", ""}, "arch": {"arch.shared", "vocab", ""}},
}
"""Room -> a folder in it -> what else of the room that folder may import; "" stands for modules in no folder. A folder
that is not listed is free."""

ENTRANCES = {"__init__": {"api", "errors"}, "__main__": {"cli"}}
"""Modules of the package itself, which belong to no room."""

FOREIGN: dict[str, set[str]] = {
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
    "prompt_toolkit": {"cli"},
    "huggingface_hub": {"hub"},
    # a string in it names the C functions; the package itself would bring its high-level classes along
    "llama_cpp": set(),
    "jinja2": {"chat"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "sentencepiece": {"convert"},
    "tokenizers": {"convert"},
    # Heavy, and not needed: a checkpoint is read without the framework that wrote it.
    "torch": set(),
    "transformers": set(),
    "safetensors": set(),
}
"""Other people's packages -> the only rooms that may import them. What is not listed is free."""


def module_name(path: Path, package: Path) -> str:
    """``ggufrun/chat/stream.py`` -> ``ggufrun.chat.stream``."""
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that ``module`` imports, anywhere, by statement or by ``import_module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + (1 if is_package else 0)]
                base = ".".join([*kept, *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def room_of(name: str) -> str | None:
    """The room of a full module name; None for the package itself (``ggufrun.__version__``)."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def folder_of(name: str, room: str) -> str:
    """The folder of a module within its room, such as ``arch.shared``: the longest that ``INNER`` knows."""
    inside = name.removeprefix(f"ggufrun.{room}").removeprefix(".") + "."
    known = {*INNER.get(room, {}), *(folder for needs in INNER.get(room, {}).values() for folder in needs)}
    return max((folder for folder in known if folder and inside.startswith(f"{folder}.")), key=len, default="")


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What in ``source`` breaks the two tables."""
    room = module.split(".")[1]
    allowed = ENTRANCES.get(room, ROOMS.get(room, set()))
    found = []
    for line, name in imported(ast.parse(source), module, is_package):
        top = name.split(".")[0]
        if top == "ggufrun":
            target = room_of(name)
            if target and target != room and target not in allowed:
                found.append(f"{module}:{line}: {room} must not import {target}")
            inner = INNER.get(room, {})
            own, other = folder_of(module, room), folder_of(name, room)
            if target == room and own in inner and other != own and other not in inner[own]:
                found.append(f"{module}:{line}: {room}.{own} must not import {name}")
        elif room not in FOREIGN.get(top, {room}):
            found.append(f"{module}:{line}: {room} must not import {top}")
    return found


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def test_imports_run_one_way() -> None:
    paths = modules()
    assert len(paths) > 10
    found = [
        line
        for path in paths
        for line in violations(path.read_text("utf-8"), module_name(path, PACKAGE), path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_every_module_has_a_room() -> None:
    strangers = {module_name(path, PACKAGE).split(".")[1] for path in modules()} - {*ROOMS, *ENTRANCES}
    assert not strangers, f"give these a room, or a row in ROOMS: {strangers}"


def test_the_table_has_no_circles() -> None:
    done: set[str] = set()
    while len(done) < len(ROOMS):
        ready = {room for room, needs in ROOMS.items() if room not in done and needs <= done}
        assert ready, f"these import one another: {set(ROOMS) - done}"
        done |= ready


def circles(sources: Mapping[str, str]) -> set[tuple[str, ...]]:
    """The modules, each with its source, that import one another, directly or by way of others; in groups.

    An import inside a function or for types counts: what it ties together cannot be understood, or moved, apart.
    """
    needs = {
        module: {found for _, name in imported(ast.parse(source), module, False) if (found := owner(name, sources))}
        for module, source in sources.items()
    }

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        ahead = [module]
        while ahead:
            new = needs[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    reach = {module: reached(module) for module in sources}
    return {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in sources
        if module in reach[module]
    }


def owner(name: str, known: Container[str]) -> str | None:
    """The module of ``known`` that the full name of a module, or of something in one, belongs to."""
    head = name.rpartition(".")[0]
    return next((module for module in (name, head) if module in known), None)


def test_no_module_imports_itself_by_way_of_others() -> None:
    found = circles({module_name(path, PACKAGE): path.read_text("utf-8") for path in modules()})
    assert found == set()


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("import os", set()),
        ("from ggufrun.cli import first", {("ggufrun.cli.first", "ggufrun.cli.second")}),
        ("def f():\n    from ggufrun.cli.first import x", {("ggufrun.cli.first", "ggufrun.cli.second")}),
        ("if TYPE_CHECKING:\n    from .first import T", {("ggufrun.cli.first", "ggufrun.cli.second")}),
        ("import ggufrun.cli.third", {("ggufrun.cli.first", "ggufrun.cli.second", "ggufrun.cli.third")}),
    ],
)
def test_a_circle_is_seen(second: str, expected: set[tuple[str, ...]]) -> None:
    sources = {
        "ggufrun.cli.first": "from ggufrun.cli import second",
        "ggufrun.cli.second": second,
        "ggufrun.cli.third": "from ggufrun.cli.first import y",
    }
    assert circles(sources) == expected


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("ggufrun.engine.model", "from ggufrun.chat import session", "engine must not import chat"),
        ("ggufrun.engine.model", "def f():\n    import ggufrun.convert.writer", "engine must not import convert"),
        ("ggufrun.checkpoint.open", "from ..quantize.ggml import library", "checkpoint must not import quantize"),
        ("ggufrun.quantize.plan", "from ggufrun import checkpoint", "quantize must not import checkpoint"),
        ("ggufrun.hub", "from ggufrun.cli.terminal import console", "hub must not import cli"),
        ("ggufrun.engine.model", "importlib.import_module('ggufrun.cli')", "engine must not import cli"),
        ("ggufrun.engine.model", "if TYPE_CHECKING:\n    from rich import console", "engine must not import rich"),
        ("ggufrun.convert.pipeline", "import torch", "convert must not import torch"),
        ("ggufrun.cli.terminal.console", "from ggufrun.cli.flags import chat", "cli.terminal must not import"),
        ("ggufrun.cli.talk.screen", "from ggufrun.cli.commands.chat import run", "cli.talk must not import"),
        ("ggufrun.chat.formats.styles", "from ggufrun.chat.session import Session", "chat.formats must not import"),
        ("ggufrun.convert.arch.shared.rope", "from ggufrun.convert.arch import llama", "arch.shared must not import"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str, expected: str) -> None:
    assert any(expected in line for line in violations(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ggufrun.cli.commands.chat", "from ggufrun.chat.session import Session\nimport rich.table"),
        ("ggufrun.convert.pipeline", "from ggufrun.checkpoint import tensor\nfrom ..quantize import encode"),
        ("ggufrun.engine.model", "from .context import Context\nfrom ggufrun import errors, native\nimport numpy"),
        ("ggufrun.cli.app", "from ggufrun import __version__"),
        ("ggufrun.cli.talk.screen", "from ggufrun.cli.terminal import console"),
        ("ggufrun.convert.arch.llama", "from ggufrun.convert.arch.shared.rope import rope"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


def loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running ``code``."""
    script = f"import sys\ntry:\n    {code}\nfinally:\n    print('\\nloaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"numpy", "llama_cpp", "gguf", "rich", "typer", "huggingface_hub", "jinja2", "ctypes"}
    assert not heavy & loaded_by("import ggufrun")


def commands() -> list[str]:
    """The commands that the program has."""
    return sorted(command.name for command in app.registered_commands if command.name)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in commands())], ids=" ".join
)
def test_help_is_quick(arguments: list[str]) -> None:
    """Help texts need no room of ours and no engine; time is not measured, what is loaded is."""
    loaded = loaded_by(f"sys.argv = {['ggufrun', *arguments]!r}; from ggufrun.cli.app import main; main()")
    assert "ggufrun.cli.app" in loaded
    heavy = {"numpy", "llama_cpp", "gguf", "rich.markdown", "huggingface_hub", "jinja2", "prompt_toolkit"}
    assert not heavy & loaded
    assert not {"starlette", "uvicorn", "asyncio"} & loaded


def test_the_engine_comes_without_its_high_level_classes() -> None:
    loaded = loaded_by("from ggufrun.native.library import llama; llama()")
    assert "llama_cpp.llama_cpp" in loaded
    assert not {"llama_cpp", "llama_cpp.llama", "jinja2"} & loaded


def test_the_package_of_the_engine_can_still_be_imported() -> None:
    code = "from ggufrun.native.bindings import bindings as b; api = b(); import llama_cpp, llama_cpp.llama_cpp as same"
    assert "llama_cpp.llama" in loaded_by(f"{code}; assert same is api and llama_cpp.Llama")
