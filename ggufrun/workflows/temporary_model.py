"""A file in the source's own precision, written to be measured and removed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ggufrun.convert import pipeline
from ggufrun.convert.plan import Plan
from ggufrun.units import size_text
from ggufrun.workflows.watch import NOBODY, Watch


def temporary_path(first: Path) -> Path:
    """Where a temporary file lies, next to the first target."""
    return first.with_name(f".{first.name}.passing.gguf")


@contextmanager
def temporary_model(
    make: Callable[[Path], Plan], first: Path, threads: int | None, why: str, watch: Watch = NOBODY
) -> Iterator[tuple[Path, str]]:
    """A GGUF in the source's own precision, written next to the target ``first`` and removed afterwards: its path and
    its type. ``make`` plans it under the path it is given, ``why`` says what it is for.
    """
    path = temporary_path(first)
    plan = make(path)
    try:
        kind = plan.targets[0].file_type.name
        watch.note(f"  writing {kind} next to it for a while ({size_text(plan.targets[0].size)}), for {why}")
        with watch.bytes(plan.source_bytes, "temporary file") as advance:
            pipeline.run(plan, threads, force=True, on_progress=advance)
        yield path, kind
    finally:
        plan.close()
        path.unlink(missing_ok=True)
