"""``ggufrun quantize``: GGUF files become smaller ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common, records
from ggufrun.cli.terminal import abort, console
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.cli.flags.common import WriteFlags
    from ggufrun.convert.plan import Plan
    from ggufrun.quantize.imatrix import Imatrix
    from ggufrun.quantize.plan import QuantizeOptions
    from ggufrun.quantize.types import FileType
    from ggufrun.workflows.fit_type import Limit
    from ggufrun.workflows.receipts import Receipts


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=common.TYPES)(records.with_records_expanded(quantize, abort.guarded))


def quantize(
    arguments: Annotated[
        list[str],
        typer.Argument(
            autocompletion=common.model_names,
            metavar="INPUT|TYPE",
            help="GGUF files or local models, best F16, BF16 or F32; and q4_k_m, q8_0, ...: several share one read.",
            show_default=False,
        ),
    ],
    output: common.Output = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept an input that is quantized already, and the extra loss.")
    ] = False,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit", metavar="SIZE|gpu", help="Write the best type (of those given) that runs in this much memory."
        ),
    ] = None,
    ctx_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            metavar="N",
            min=0,
            help="Length of the context for --fit; 0 for all that the model has.  [default: up to 4096]",
        ),
    ] = None,
    type_k: Annotated[
        str, typer.Option("-ctk", "--cache-type-k", help="Data type of the cached keys for --fit.")
    ] = "f16",
    type_v: Annotated[
        str, typer.Option("-ctv", "--cache-type-v", help="Data type of the cached values for --fit.")
    ] = "f16",
    kinds: common.TypeFlags = common.NO_TYPES,
    prune_layers: Annotated[
        str | None, typer.Option("--prune-layers", metavar="N,N...", help="Numbers of layers to leave out.")
    ] = None,
    split_max_size: common.SplitSize = None,
    receipt: common.Receipt = False,
    how: common.WriteFlags = common.AS_USUAL,
) -> None:
    """Quantize GGUF files to one or several types.

    The bytes are those that llama.cpp's own quantizer would write. One input that fails does not stop the others.
    """
    from ggufrun.cli.jobs.several_inputs import find_sources, print_outcomes, run_all, sort_arguments
    from ggufrun.convert.imatrix import load_imatrix
    from ggufrun.engine.context import ContextParams
    from ggufrun.workflows.fit_type import parse_limit

    names, file_types = sort_arguments(arguments)
    if receipt and split_max_size:
        raise UsageError("--receipt measures whole files", "leave --split-max-size out, and split afterwards")
    if not file_types and fit is None:
        raise UsageError("no type is named", "add one or several, such as q4_k_m, or --fit SIZE")
    limit = parse_limit(fit, ContextParams(ctx_size, type_k=type_k, type_v=type_v)) if fit is not None else None
    job = _Job(
        file_types=file_types,
        output=output,
        options=kinds.options(allow_requantize=allow_requantize, prune=_layers(prune_layers)),
        limit=limit,
        imatrix=load_imatrix(Path(kinds.imatrix)) if kinds.imatrix and not kinds.automatic else None,
        split_max_size=split_max_size,
        receipt=receipt,
        how=how,
    )
    sources = find_sources(names)
    if len(sources) == 1:
        (_, source) = sources[0]
        if not isinstance(source, Path):
            raise source
        job.run(source, "quantizing")
        return
    if output is not None and not output.is_dir():
        raise UsageError(f"{output} is not a folder, and there are {len(sources)} inputs", "name one with -o")
    outcomes = run_all(sources, job.run, how.as_json)
    if not how.as_json:
        print_outcomes(outcomes, how.dry_run)
    if any(one.error for one in outcomes):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Job:
    """What is to be done with every input."""

    file_types: Sequence[FileType]
    output: Path | None
    options: QuantizeOptions
    limit: Limit | None
    imatrix: Imatrix | None
    split_max_size: str | None
    receipt: bool
    how: WriteFlags
    made: dict[Path, Path] = field(default_factory=dict)
    """The targets so far, and the input of each."""

    def run(self, source: Path, what: str) -> list[dict[str, Any]]:
        """Quantize ``source``; ``what`` stands before the progress bar."""
        from ggufrun.cli.jobs.fit_table import chosen_type
        from ggufrun.cli.jobs.output import carry_out, split
        from ggufrun.convert.plan import plan_quantize
        from ggufrun.workflows.targets import base_name, target_namer

        file_types = self.file_types
        fields: dict[str, Any] = {"input": str(source)}
        if self.limit is not None:
            chosen, fit = chosen_type(source, file_types, self.options, self.limit)
            file_types = [chosen]
            fields["fit"] = fit.as_dict()
        path_of = target_namer(self.output, base_name(source), len(file_types))
        plan = plan_quantize(source, file_types, path_of, self.options, self.imatrix)
        try:
            self._claim(plan, source)
            wanted = any(not target.file_type.plain for target in plan.targets)
            if self.options.has_imatrix and wanted and not self.how.dry_run:
                plan = self._calibrated(plan, source, file_types, path_of)
            measure = _receipt(source, plan, self.how.threads) if self.receipt and not self.how.dry_run else None
            plan = split(plan, self.split_max_size)
        except BaseException:
            plan.close()
            raise
        found = carry_out(plan, self.how, receipt=measure, what=what)
        if self.how.as_json:
            for one in found:
                console.print_json_line(fields | one)
        return found

    def _claim(self, plan: Plan, source: Path) -> None:
        """Refuse a target that an earlier input of this call has become."""
        for target in plan.targets:
            other = self.made.setdefault(target.path.resolve(), source)
            if other != source:
                raise UsageError(f"{target.path} is also what {other} becomes", "quantize them into two folders")

    def _calibrated(
        self, plan: Plan, source: Path, file_types: Sequence[FileType], path_of: Callable[[FileType], Path]
    ) -> Plan:
        """The same plan with an importance matrix that is measured now, once all else is known to go well."""
        from ggufrun.cli.terminal.watch import TERMINAL
        from ggufrun.convert.plan import plan_quantize
        from ggufrun.convert.writer import check_targets
        from ggufrun.workflows.imatrix import automatic, automatic_path
        from ggufrun.workflows.targets import base_name

        plan.close()
        sizes = ((target.path, target.size) for target in plan.targets)
        check_targets(sizes, self.how.force or self.how.resume, plan.source.files)
        place = automatic_path(plan.targets[0].path.parent, base_name(source))
        found = automatic(source, place, self.how.threads, TERMINAL)
        return plan_quantize(source, file_types, path_of, self.options, found)


def _receipt(source: Path, plan: Plan, threads: int | None) -> Callable[[], Receipts]:
    from ggufrun.cli.terminal.watch import TERMINAL
    from ggufrun.convert.describe import describe
    from ggufrun.workflows.receipts import check_reference, existing, measurer

    check_reference(source)
    kind = describe(source)[0].file_type
    return measurer(plan, lambda: existing(source, kind), threads, TERMINAL)


def _layers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UsageError(f"{text!r} is not a list of layers", "write for example --prune-layers 3,4") from error
