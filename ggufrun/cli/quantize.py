"""``ggufrun quantize``: a GGUF becomes one or several smaller ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggufrun.cli import options


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(quantize)


def quantize(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="GGUF file, best F16, BF16 or F32.")],
    types: Annotated[list[str], typer.Argument(metavar="TYPE...", help="q4_k_m, q8_0, ...; several share one read.")],
    output: options.Output = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a quantized input, and its loss.")
    ] = False,
    pure: options.Pure = False,
    leave_output_tensor: options.LeaveOutput = False,
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Quantize a GGUF to one or several types.

    The bytes are those that llama.cpp's own quantizer would write.
    """
    from ggufrun.cli.writing import base_name, target_namer, write
    from ggufrun.convert.plan import plan_quantize
    from ggufrun.quantize.plan import QuantizeOptions
    from ggufrun.quantize.types import parse_file_type

    file_types = list(dict.fromkeys(parse_file_type(text) for text in types))
    plan = plan_quantize(
        source,
        file_types,
        target_namer(output, base_name(source), len(file_types)),
        QuantizeOptions(allow_requantize=allow_requantize, pure=pure, leave_output=leave_output_tensor),
    )
    write(plan, threads=threads, dry_run=dry_run, force=force, resume=resume, as_json=as_json)
