"""Several inputs in one call: what is an input and what a type, one job after another, and what came of each."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun.cli.terminal import console, tables
from ggufrun.cli.terminal.errors import explain, one_line
from ggufrun.errors import GgufrunError, UsageError
from ggufrun.units import size_text

if TYPE_CHECKING:
    from ggufrun.quantize.types import FileType

LOOKS_LIKE_A_TYPE = re.compile(r"(?:I?Q|TQ|MXFP|NVFP|B?F|FP)\d\w*", re.IGNORECASE)

Summary = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of one input: a summary of every target, or the error that ended it."""

    name: str
    seconds: float
    targets: Sequence[Summary] = ()
    error: str = ""


def sort_arguments(arguments: Sequence[str]) -> tuple[list[str], list[FileType]]:
    """Inputs and types, in any order: what names a type is one, everything else is an input, however often it is given.

    UsageError for what is neither a file nor a type but looks like one (``q9``). A file that is called like a type is
    an input when written ``./q8_0``.
    """
    from ggufrun.quantize.types import find_file_type, parse_file_type

    inputs: dict[str, None] = {}
    types: dict[FileType, None] = {}
    for text in arguments:
        known = find_file_type(text)
        if known is not None:
            types[known] = None
        elif LOOKS_LIKE_A_TYPE.fullmatch(text.replace("-", "_")) and not Path(text).exists():
            parse_file_type(text)
        else:
            inputs[text] = None
    if not inputs:
        raise UsageError("no model is named", "write for example ggufrun quantize model-f16.gguf q4_k_m")
    _refuse_output(list(inputs), list(types))
    return list(inputs), list(types)


def _refuse_output(inputs: Sequence[str], types: Sequence[FileType]) -> None:
    """UsageError for ``IN OUT TYPE [THREADS]``, as llama-quantize has it: here OUT would be another input."""
    if inputs[-1].isdecimal() and not Path(inputs[-1]).exists():
        raise UsageError(f"there is no file {inputs[-1]}", f"threads are given with -j {inputs[-1]}")
    if len(inputs) != 2 or len(types) != 1 or not inputs[1].endswith(".gguf"):
        return
    source, output = map(Path, inputs)
    if source.exists() and not output.exists() and not _is_local(inputs[1]):
        hint = f"to write to it: ggufrun quantize {source} {types[0].name.lower()} -o {output}"
        raise UsageError(f"there is no file {output}", hint)


def _is_local(name: str) -> bool:
    from ggufrun.hub import resolve_model

    try:
        resolve_model(name, gguf_only=True)
    except GgufrunError:
        return False
    return True


def find_sources(names: Sequence[str]) -> list[tuple[str, Path | GgufrunError]]:
    """The file that each name means, or why there is none; the parts of one split model count once."""
    from ggufrun.checkpoint.gguf.source import part_paths
    from ggufrun.hub import resolve_model

    found: list[tuple[str, Path | GgufrunError]] = []
    seen: set[Path] = set()
    for name in names:
        try:
            path = resolve_model(name, gguf_only=True)
            first = part_paths(path)[0]
        except GgufrunError as error:
            found.append((name, error))
            continue
        if first.resolve() not in seen:
            seen.add(first.resolve())
            found.append((name, first))
    return found


def run_all(
    sources: Sequence[tuple[str, Path | GgufrunError]],
    job: Callable[[Path, str], list[Summary]],
    as_json: bool,
) -> list[Outcome]:
    """Do ``job`` for every source, whatever becomes of the others. An error is said at once, on one line.

    ``job`` gets the path and a short text about where in the list it is.
    """
    outcomes = []
    for number, (name, source) in enumerate(sources, 1):
        start = time.perf_counter()
        try:
            if isinstance(source, GgufrunError):
                raise source
            targets = job(source, f"{number}/{len(sources)} {source.name}")
            outcomes.append(Outcome(name, time.perf_counter() - start, targets))
        except (GgufrunError, OSError, MemoryError) as error:
            text = one_line(_text(error))
            sys.stderr.write(f"ggufrun: {console.shown(name)}: {text}\n")
            if as_json:
                console.print_json_line({"input": name, "error": text})
            outcomes.append(Outcome(name, time.perf_counter() - start, error=text))
    return outcomes


def _text(error: BaseException) -> str:
    if isinstance(error, OSError):
        return explain(error)
    return str(error) or "out of memory"


def print_outcomes(outcomes: Sequence[Outcome], dry_run: bool) -> None:
    """A table of what came of each input, and a line that counts."""
    from rich import box
    from rich.table import Table

    names = [Path(one.name).name for one in outcomes]
    if len(set(names)) < len(names):
        names = [one.name for one in outcomes]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("input", overflow="fold")
    table.add_column("type", no_wrap=True)
    for name in ("size", "bits", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, one in zip(names, outcomes, strict=True):
        if one.error:
            # what to do about it has been said
            table.add_row(console.literal(name), "", "", "", "", console.literal(one.error.partition(";")[0], "red"))
        for number, target in enumerate(one.targets):
            table.add_row(
                console.literal(name if number == 0 else ""),
                target["type"],
                size_text(target["bytes"]),
                f"{target['bits_per_weight']:.2f}",
                f"{one.seconds:.1f}" if number == 0 and not dry_run else "",
                console.literal(target["path"]),
            )
    tables.show(table, console.err())
    failed = sum(bool(one.error) for one in outcomes)
    done = sum(len(one.targets) for one in outcomes)
    word = "planned" if dry_run else "written"
    files = "file" if done == 1 else "files"
    console.note(f"  {done} {files} {word} from {len(outcomes) - failed} of {len(outcomes)} inputs")
