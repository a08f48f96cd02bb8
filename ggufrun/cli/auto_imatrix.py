"""``convert --imatrix auto``: the order of the work, and the bar of the measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun.cli.flags import common
from ggufrun.cli.passing import passing, passing_path
from ggufrun.cli.terminal import console
from ggufrun.cli.terminal.progress import steps

if TYPE_CHECKING:
    from ggufrun.cli.receipt import Receipts
    from ggufrun.convert.plan import Plan
    from ggufrun.quantize.imatrix import Imatrix
    from ggufrun.quantize.types import FileType
    from ggufrun.workflows.imatrix import Counts


def collecting(counts: Counts, total: int) -> AbstractContextManager[Iterator[int]]:
    """A bar over the chunks that an importance matrix is measured on."""
    return steps(counts, total, "collecting")


Make = Callable[[Sequence["FileType"], Callable[["FileType"], Path], "Imatrix | None"], "Plan"]
"""Plans some types, under the paths it is given, with or without a matrix."""


def convert(
    make: Make,
    file_types: Sequence[FileType],
    path_of: Callable[[FileType], Path],
    stem: str,
    *,
    split_max_size: str | None,
    receipt: bool,
    how: common.WriteFlags,
) -> None:
    """``convert --imatrix auto``: the plain targets first, or a passing file in the checkpoint's own precision; the
    matrix is measured on that, and then the other targets are made.
    """
    from ggufrun.cli.receipt import measurer, standing
    from ggufrun.cli.writing import carry_out, split
    from ggufrun.workflows.imatrix import automatic, automatic_path

    def done(plan: Plan, measure: Callable[[], Receipts] | None = None) -> list[dict[str, Any]]:
        return carry_out(split(plan, split_max_size), replace(how, dry_run=False), measure)

    def own_precision(path: Path) -> Plan:
        return make((), lambda kind: path, None)

    plain = [kind for kind in file_types if kind.plain]
    quantized = [kind for kind in file_types if not kind.plain]
    first = path_of(quantized[0])
    plans = [make(file_types, path_of, None)] + ([] if plain else [own_precision(passing_path(first))])
    _check_room(plans, how.force or how.resume)
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if plain:
            plan = make(plain, path_of, None)
            reference, kind = split(plan, split_max_size).targets[0].path, plain[0].name
            found += done(plan)
        else:
            reference, kind = stack.enter_context(passing(own_precision, first, how.threads, "the importance matrix"))
        matrix = automatic(reference, automatic_path(first.parent, stem), how.threads, console.note, collecting)
        plan = make(quantized, path_of, matrix)
        found += done(plan, measurer(plan, lambda: standing(reference, kind), how.threads) if receipt else None)
    if how.as_json:
        console.print_json(found)


def _check_room(plans: Sequence[Plan], force: bool) -> None:
    """Refuse before any work what would fail after it: targets that stand, too small a disk."""
    from ggufrun.convert.writer import check_targets

    for plan in plans:
        plan.close()
    check_targets([(target.path, target.size) for plan in plans for target in plan.targets], force)
