"""``ggufrun convert``: a checkpoint becomes one or several GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli.flags import common, records
from ggufrun.cli.flags.aliases import Converting
from ggufrun.cli.terminal import abort
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    pass


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(cls=Converting, epilog=common.TYPES)(records.with_records_expanded(convert, abort.guarded))


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of a checkpoint (Hugging Face or Meta), one that was pulled, or one on the hub: "
            "org/name[@revision].",
            show_default=False,
        ),
    ],
    types: Annotated[
        list[str] | None,
        typer.Option(
            "-t",
            "--type",
            metavar="TYPE",
            help="Type to write: f16, q8_0, q4_k_m, ...; may be repeated.  [default: the checkpoint's own precision]",
        ),
    ] = None,
    output: common.Output = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the model in the metadata.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="ADAPTER[=SCALE]",
            help="PEFT adapter to merge, a folder or org/name; may be repeated. A later adapter's vocabulary counts.",
        ),
    ] = None,
    lora_out: Annotated[
        Path | None,
        typer.Option(
            "--lora-out",
            metavar="FILE",
            readable=False,
            help="Write the adapter of --lora as a GGUF adapter instead of a model.",
        ),
    ] = None,
    kinds: common.TypeFlags = common.NO_TYPES,
    split_max_size: common.SplitSize = None,
    pretokenizer: Annotated[
        str | None,
        typer.Option("--pretokenizer", metavar="NAME", help="Name of llama.cpp's pre-tokenizer, if not recognized."),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template",
            metavar="FILE",
            readable=False,
            help="File with a Jinja chat template to write instead of the model's own.",
        ),
    ] = None,
    vocab_only: Annotated[
        bool, typer.Option("--vocab-only", help="Write metadata and vocabulary without tensors; needs no weights.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the comparison of the vocabulary with the original tokenizer.")
    ] = False,
    converter: Annotated[
        str,
        typer.Option(
            "--converter",
            metavar="ggufrun|upstream",
            help="Converter to use; upstream is llama.cpp's own, needs ggufrun[upstream] and may run a model's code.",
        ),
    ] = "ggufrun",
    receipt: common.Receipt = False,
    how: common.WriteFlags = common.AS_USUAL,
) -> None:
    """Convert a checkpoint to GGUF, quantized or not, in one pass.

    Several -t write several files from one read. No intermediate file, no torch.
    """
    from ggufrun.checkpoint.adapters.adapter import AdapterRequest, split_request
    from ggufrun.cli.jobs import auto_imatrix, upstream
    from ggufrun.cli.jobs.output import split, write
    from ggufrun.cli.terminal import console
    from ggufrun.cli.terminal.progress import fetch_bar
    from ggufrun.cli.terminal.proof_line import print_proof
    from ggufrun.cli.terminal.watch import TERMINAL
    from ggufrun.convert.adapter import plan_adapter
    from ggufrun.convert.imatrix import load_imatrix
    from ggufrun.convert.plan import Wishes
    from ggufrun.hub import adapter_files, checkpoint_files, companion_files, upstream_files
    from ggufrun.quantize.types import parse_file_type
    from ggufrun.workflows.convert import ConvertRequest, read_template
    from ggufrun.workflows.receipts import measurer, plain_or_temporary
    from ggufrun.workflows.source import source_folder
    from ggufrun.workflows.write import prove_vocabulary

    if receipt and (split_max_size or lora_out or converter != "ggufrun"):
        raise UsageError(
            "--receipt goes without --split-max-size, --lora-out and --converter upstream",
            "it measures whole models that ggufrun has written itself",
        )
    if vocab_only and (types or kinds.imatrix or receipt or split_max_size or lora_out or converter != "ggufrun"):
        raise UsageError(
            "--vocab-only goes without -t, --imatrix, --receipt, --split-max-size, --lora-out and --converter upstream",
            "there are no tensors in what it writes",
        )
    if converter not in ("ggufrun", "upstream"):
        raise UsageError(f"no converter {converter!r}", "choose ggufrun or upstream")
    file_types = list(dict.fromkeys(parse_file_type(text) for text in types or ()))
    requests = [split_request(text) for text in lora or ()]
    if lora_out is not None and (len(requests) != 1 or len(file_types) > 1 or output is not None):
        raise UsageError("--lora-out writes one adapter in one type", "give one --lora, at most one -t, and no -o")
    # of the base of a GGUF adapter only config.json is read
    small = vocab_only or lora_out is not None
    wanted = companion_files if small else upstream_files if converter == "upstream" else checkpoint_files
    outline = how.dry_run and not small
    with fetch_bar() as on_progress:
        folder, stem = source_folder(source, outline, wanted, on_progress, console.note, console.warn)
        located = [
            source_folder(text, False, adapter_files, on_progress, console.note, console.warn) for text, _ in requests
        ]
    adapters = [AdapterRequest(place, scale) for (place, _), (_, scale) in zip(located, requests, strict=True)]
    if lora_out is not None:
        plan = plan_adapter(folder, adapters[0], lora_out, file_types, name)
        write(plan, how)
        return
    if adapters:
        stem = f"{stem}-{located[-1][1]}"
        name = name or stem
    automatic = kinds.automatic and any(not kind.plain for kind in file_types)
    importance = load_imatrix(Path(kinds.imatrix)) if kinds.imatrix and not kinds.automatic else None
    wishes = Wishes(name, pretokenizer, read_template(chat_template))
    request = ConvertRequest(folder, name or stem, tuple(file_types), output, kinds.options(), wishes, tuple(adapters))
    if converter == "upstream":
        if adapters or how.dry_run or how.resume or split_max_size or pretokenizer or chat_template or automatic:
            raise UsageError(
                "--converter upstream goes without --lora, --dry-run, --resume, --split-max-size, --pretokenizer, "
                "--chat-template and --imatrix auto",
                "convert first, then use `ggufrun quantize`",
            )
        upstream.convert(folder, file_types, request.path, request.options, name, importance, how)
        return
    plan = request.vocabulary() if vocab_only else request.plan(imatrix=importance)
    proof = None if how.dry_run or no_verify else prove_vocabulary(plan)
    if automatic and not how.dry_run:
        plan.close()
        auto_imatrix.convert(request, split_max_size=split_max_size, receipt=receipt, how=how)
        print_proof(proof)
        return
    measure = None
    if receipt and not how.dry_run:
        measure = measurer(
            plan, lambda: plain_or_temporary(plan, request.own_precision, how.threads, TERMINAL), how.threads, TERMINAL
        )
    write(split(plan, split_max_size), how, measure)
    print_proof(proof)
