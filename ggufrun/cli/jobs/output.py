"""What ``convert`` and ``quantize`` share: names of targets, carrying out a plan, the tables."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import console, tables
from ggufrun.cli.terminal.progress import bytes_bar
from ggufrun.quantize import ggml
from ggufrun.units import parse_size, size_text

if TYPE_CHECKING:
    from ggufrun.convert.plan import Plan
    from ggufrun.convert.target import Target
    from ggufrun.evaluate.statistics import Comparison
    from ggufrun.workflows.receipts import Receipts


def split(plan: Plan, max_size: str | None) -> Plan:
    """The plan with ``--split-max-size`` applied."""
    from ggufrun.convert.plan import split_plan

    return plan if max_size is None else split_plan(plan, parse_size(max_size))


def write(plan: Plan, how: common.WriteFlags, receipt: Callable[[], Receipts] | None = None) -> None:
    """Carry out ``plan``, or show it. ``receipt`` measures what was written."""
    found = carry_out(plan, how, receipt)
    if how.as_json:
        console.print_json(found)


def carry_out(
    plan: Plan,
    how: common.WriteFlags,
    receipt: Callable[[], Receipts] | None = None,
    what: str = "converting",
) -> list[dict[str, Any]]:
    """Carry out ``plan``, or show it, and close it. Returns a summary of each target; for JSON nothing is printed.

    ``receipt`` measures what was written; ``what`` stands before the progress bar. With ``how.resume``, a job that is
    done already is left as it is.
    """
    from ggufrun.convert import pipeline

    try:
        for note in plan.notes:
            console.warn(note)
        if how.dry_run:
            if not how.as_json:
                _print_plan(plan)
            return [_summary(plan, target) | {"tensors": _planned(target)} for target in plan.targets]
        left = pipeline.without_done(plan) if how.resume else plan
        for target in plan.targets:
            if target not in left.targets:
                if not how.as_json:
                    console.print_path(target.path)
                console.note(f"  {target.path.name} is done already")
        if not left.targets:
            return [_summary(plan, target) | {"seconds": 0.0} for target in plan.targets]
        start = time.perf_counter()
        with bytes_bar(left.source_bytes, what) as advance:
            pipeline.run(left, how.threads, how.force, advance, how.resume)
        seconds = time.perf_counter() - start
        if not how.as_json:
            _print_results(left, seconds)
        receipts = receipt() if receipt else {}
        for path, measured in receipts.items():
            console.note(f"  {path.name}: {cost(measured)}")
        return [
            _summary(plan, target) | {"seconds": round(seconds, 3)} | _receipt(receipts, target.path)
            for target in plan.targets
        ]
    finally:
        plan.close()


def cost(found: Comparison) -> str:
    """What a receipt says, in short."""
    return (
        f"KL divergence {found.kld.value:.6f} ± {found.kld.error:.6f}, same top token "
        f"{100 * found.same_top.value:.2f}%, RMS Δp {100 * found.rms_change.value:.3f}%"
    )


def _receipt(receipts: Receipts, path: Path) -> dict[str, Any]:
    from ggufrun.cli.jobs.comparison import as_dict

    return {"bytes": path.stat().st_size, "receipt": as_dict(receipts[path])} if path in receipts else {}


def type_counts(target: Target) -> str:
    """How many tensors have which type, the most common first: ``20 q4_K, 9 f32``."""
    counts = Counter(ggml.block_type(placed.kind).name for placed in target.tensors)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _summary(plan: Plan, target: Target) -> dict[str, Any]:
    return {
        "path": str(target.path),
        "type": target.file_type.name,
        "bytes": target.size,
        "bits_per_weight": round(target.bits_per_weight, 3),
        "fallback_tensors": target.n_fallback,
        "notes": list(plan.notes),
    }


def _print_results(plan: Plan, seconds: float) -> None:
    for target in plan.targets:
        # the path is what a script wants; the rest is talk
        console.print_path(target.path)
        if not target.tensors:
            console.note(f"  metadata and vocabulary, no tensors: {size_text(target.size)}")
            return
        console.note(
            f"  {target.file_type.name}: {size_text(target.size)}, {target.bits_per_weight:.2f} bits a weight "
            f"({type_counts(target)})"
        )
        if target.n_fallback:
            console.warn(f"{target.n_fallback} tensors have rows that do not fit the blocks and got a larger type")
    rate = plan.source_bytes / 1e6 / max(seconds, 1e-9)
    console.note(f"  {size_text(plan.source_bytes)} read in {seconds:.1f} s, {rate:.0f} MB/s")


def _print_plan(plan: Plan) -> None:
    from rich import box
    from rich.table import Table

    for target in plan.targets:
        title = console.literal(f"{target.path} ({target.file_type.name})")
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("tensor", overflow="fold")
        table.add_column("shape", justify="right", no_wrap=True)
        table.add_column("from", no_wrap=True)
        table.add_column("to", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        for placed in target.tensors:
            shape = " x ".join(map(str, placed.tensor.shape))
            kind = ggml.block_type(placed.kind).name
            table.add_row(
                console.literal(placed.name),
                shape,
                placed.tensor.dtype.lower(),
                kind.lower(),
                size_text(placed.n_bytes),
            )
        tables.show(table, console.out())
        console.say(
            f"{target.path}: {size_text(target.size)}, {target.bits_per_weight:.2f} bits a weight; nothing was written"
        )


def _planned(target: Target) -> list[dict[str, Any]]:
    return [
        {
            "name": placed.name,
            "shape": list(placed.tensor.shape),
            "from": placed.tensor.dtype.lower(),
            "to": ggml.block_type(placed.kind).name.lower(),
            "bytes": placed.n_bytes,
        }
        for placed in target.tensors
    ]
