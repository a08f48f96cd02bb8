"""A file in the source's own precision, written to be measured and removed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.terminal import console
from ggufrun.cli.terminal.progress import bytes_bar
from ggufrun.units import size_text

if TYPE_CHECKING:
    from ggufrun.convert.plan import Plan


def passing_path(first: Path) -> Path:
    """Where a file that is written for the occasion lies, beside the first target."""
    return first.with_name(f".{first.name}.passing.gguf")


@contextmanager
def passing(make: Callable[[Path], Plan], first: Path, threads: int | None, why: str) -> Iterator[tuple[Path, str]]:
    """A GGUF in the source's own precision, written for the occasion beside the target ``first`` and removed: its path
    and its type. ``make`` plans it under the path it is given.
    """
    from ggufrun.convert import pipeline

    path = passing_path(first)
    plan = make(path)
    try:
        kind = plan.targets[0].file_type.name
        console.note(f"  writing {kind} beside it for a while ({size_text(plan.targets[0].size)}), for {why}")
        with bytes_bar(plan.source_bytes, "passing file") as advance:
            pipeline.run(plan, threads, force=True, on_progress=advance)
        yield path, kind
    finally:
        plan.close()
        path.unlink(missing_ok=True)
