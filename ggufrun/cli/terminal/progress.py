"""Progress bars: on stderr of a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from ggufrun.cli.terminal import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

    from ggufrun.hub import Progress

T = TypeVar("T")


@contextmanager
def bytes_bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left over ``total`` bytes; yields the function that moves it on by so many."""
    if not console.err().is_terminal:
        yield lambda n_bytes: None
        return
    bar = _bytes()
    task = bar.add_task(console.shown(what), total=total)
    with bar:
        yield lambda n_bytes: bar.advance(task, n_bytes)


@contextmanager
def fetch_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar over all files that come from the hub; yields what the hub reports to."""
    if not console.err().is_terminal:
        yield lambda state: None
        return
    bar = _bytes()
    task = bar.add_task("asking the hub", total=None)

    def update(state: Progress) -> None:
        bar.update(task, description=console.shown(state.file[-40:]), completed=state.done, total=state.total)

    with bar:
        yield update


def _bar() -> ProgressColumn:
    """What is done and what is not, in colours that tell them apart on a light background, too."""
    from rich.progress import BarColumn

    return BarColumn(bar_width=None, style="bright_black", complete_style="green", finished_style="green")


def _bytes() -> Bar:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        _bar(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
        console=console.err(),
        transient=True,
    )


@contextmanager
def steps(work: Generator[T, None, None], total: int, what: str, talks: bool = False) -> Iterator[Iterator[T]]:
    """``work``, with a bar and the time left; closed at the end, before its models are.

    ``talks`` says that results are printed meanwhile: where these are seen, there is no bar.
    """
    with closing(work):
        if not console.err().is_terminal or (talks and console.out().is_terminal):
            yield work
            return
        from rich import progress

        bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            _bar(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(compact=True),
            console=console.err(),
            transient=True,
            # else it takes what is meant for a pipe
            redirect_stdout=False,
        )
        with bar:
            yield iter(bar.track(work, total=total, description=console.shown(what)))
