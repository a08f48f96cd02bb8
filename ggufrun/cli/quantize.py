"""``ggufrun quantize``: a GGUF becomes one or several smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli import options
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.cli.receipt import Receipts
    from ggufrun.convert.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(quantize)


def quantize(
    model: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="GGUF file or local model, best F16, BF16 or F32.", show_default=False),
    ],
    types: Annotated[list[str], typer.Argument(metavar="TYPE...", help="q4_k_m, q8_0, ...; several share one read.")],
    output: options.Output = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a quantized input, and its loss.")
    ] = False,
    imatrix: options.ImatrixFile = None,
    tensor_type: options.TensorTypes = None,
    output_tensor_type: options.OutputType = None,
    token_embedding_type: options.EmbeddingType = None,
    pure: options.Pure = False,
    leave_output_tensor: options.LeaveOutput = False,
    prune_layers: Annotated[
        str | None, typer.Option("--prune-layers", metavar="N,N...", help="Leave these layers out.")
    ] = None,
    split_max_size: options.SplitSize = None,
    receipt: options.Receipt = False,
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Quantize a GGUF to one or several types.

    The bytes are those that llama.cpp's own quantizer would write.
    """
    from ggufrun.cli.writing import base_name, split, target_namer, write
    from ggufrun.convert.imatrix import load_imatrix
    from ggufrun.convert.plan import plan_quantize
    from ggufrun.hub import resolve_model
    from ggufrun.quantize.plan import QuantizeOptions, parse_override
    from ggufrun.quantize.types import parse_file_type

    if receipt and split_max_size:
        raise UsageError("--receipt measures whole files", "leave --split-max-size out, and split afterwards")
    source = resolve_model(model, gguf_only=True)
    file_types = list(dict.fromkeys(parse_file_type(text) for text in types))
    plan = plan_quantize(
        source,
        file_types,
        target_namer(output, base_name(source), len(file_types)),
        QuantizeOptions(
            allow_requantize=allow_requantize,
            pure=pure,
            leave_output=leave_output_tensor,
            tensor_types=tuple(map(parse_override, tensor_type or ())),
            output_type=output_tensor_type,
            embedding_type=token_embedding_type,
            prune=_layers(prune_layers),
        ),
        load_imatrix(imatrix) if imatrix else None,
    )
    measure = _receipt(source, plan, threads) if receipt and not dry_run else None
    write(
        split(plan, split_max_size),
        threads=threads,
        dry_run=dry_run,
        force=force,
        resume=resume,
        as_json=as_json,
        receipt=measure,
    )


def _receipt(source: Path, plan: Plan, threads: int | None) -> Callable[[], Receipts]:
    from ggufrun.cli.receipt import check_reference, measurer, standing
    from ggufrun.convert.describe import describe

    check_reference(source)
    kind = describe(source)[0].file_type
    return measurer(plan, lambda: standing(source, kind), threads)


def _layers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of layers", "write for example --prune-layers 3,4") from error
