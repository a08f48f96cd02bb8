"""``convert --imatrix auto``: the order of the work, and the bar of the measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import console

if TYPE_CHECKING:
    from ggufrun.convert.plan import Plan
    from ggufrun.workflows.convert import ConvertRequest
    from ggufrun.workflows.receipts import Receipts


def convert(request: ConvertRequest, *, split_max_size: str | None, receipt: bool, how: common.WriteFlags) -> None:
    """``convert --imatrix auto``: the plain targets first, or a temporary file in the checkpoint's own precision; the
    matrix is measured on that, and then the other targets are made.
    """
    from ggufrun.cli.jobs.output import carry_out, split
    from ggufrun.cli.terminal.watch import TERMINAL
    from ggufrun.workflows.imatrix import automatic, automatic_path
    from ggufrun.workflows.receipts import existing, measurer
    from ggufrun.workflows.temporary_model import temporary_model, temporary_path

    def done(plan: Plan, measure: Callable[[], Receipts] | None = None) -> list[dict[str, Any]]:
        return carry_out(split(plan, split_max_size), replace(how, dry_run=False), measure)

    plain = [kind for kind in request.types if kind.plain]
    quantized = [kind for kind in request.types if not kind.plain]
    first = request.path(quantized[0])
    plans = [request.plan()] + ([] if plain else [request.own_precision(temporary_path(first))])
    _check_room(plans, how.force or how.resume)
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if plain:
            plan = request.plan(plain)
            reference, kind = split(plan, split_max_size).targets[0].path, plain[0].name
            found += done(plan)
        else:
            own = temporary_model(request.own_precision, first, how.threads, "the importance matrix", TERMINAL)
            reference, kind = stack.enter_context(own)
        matrix = automatic(reference, automatic_path(first.parent, request.stem), how.threads, TERMINAL)
        plan = request.plan(quantized, matrix)
        measure = measurer(plan, lambda: existing(reference, kind), how.threads, TERMINAL) if receipt else None
        found += done(plan, measure)
    if how.as_json:
        console.print_json(found)


def _check_room(plans: Sequence[Plan], force: bool) -> None:
    """Refuse before any work what would fail after it: targets that stand, too small a disk."""
    from ggufrun.convert.writer import check_targets

    for plan in plans:
        plan.close()
    check_targets([(target.path, target.size) for plan in plans for target in plan.targets], force)
