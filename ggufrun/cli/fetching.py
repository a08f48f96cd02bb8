"""What ``convert`` and ``pull`` share: ids turned into files, with a bar while they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli import console

if TYPE_CHECKING:
    from ggufrun.hub import Progress


def source_folder(text: str) -> tuple[Path, str]:
    """The folder that SOURCE means, fetched if it is a hub id, and the name of the model."""
    from ggufrun import hub

    source = hub.path_or_id(text)
    if isinstance(source, Path):
        return source, source.resolve().name
    with fetch_bar() as on_progress:
        return hub.fetch(source, on_progress=on_progress, on_note=console.warn), source.name


@contextmanager
def fetch_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar over all files on stderr of a terminal, nothing elsewhere; yields what the hub reports to."""
    if not console.err().is_terminal:
        yield lambda state: None
        return
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
        console=console.err(),
        transient=True,
    )
    task = bar.add_task("asking the hub", total=None)

    def update(state: Progress) -> None:
        bar.update(task, description=state.file[-40:], completed=state.done, total=state.total)

    with bar:
        yield update
