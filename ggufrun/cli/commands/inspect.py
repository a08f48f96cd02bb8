"""``ggufrun inspect``: what a GGUF or a checkpoint holds."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common, measuring, placement
from ggufrun.cli.terminal import console, tables
from ggufrun.units import size_text

if TYPE_CHECKING:
    from rich.table import Table

    from ggufrun.checkpoint.gguf.file import Header
    from ggufrun.convert.describe import Description
    from ggufrun.engine.placement.memory import Use

DEFAULT_CONTEXT = 4096


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(placement.with_flags(inspect))


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            autocompletion=common.model_names,
            metavar="FILE",
            help="GGUF file, checkpoint folder or local model.",
            show_default=False,
        ),
    ],
    context: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            metavar="N",
            min=1,
            help="Length of the context for the memory estimate.  [default: up to 4096]",
        ),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List all tensors.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print the chat template.")] = False,
    diff: Annotated[
        str | None,
        typer.Option("--diff", metavar="OTHER", help="Show differences from OTHER: metadata, types, values."),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Show what goes to which device, what stays free, and what else would fit.")
    ] = False,
    ubatch_size: measuring.MicroBatch = 512,
    flash_attention: measuring.FlashAttention = "auto",
    type_k: measuring.CacheK = "f16",
    type_v: measuring.CacheV = "f16",
    place: placement.PlaceFlags = placement.PLAIN,
    as_json: common.Json = False,
) -> None:
    """Show what a model file holds, and the memory it takes.

    Architecture, sizes, types, vocabulary and chat template; of checkpoints, too. The flags of devices and of the cache
    belong to --fit.
    """
    from ggufrun.cli.terminal import diff_table
    from ggufrun.convert.describe import describe
    from ggufrun.hub import resolve_model
    from ggufrun.workflows.receipts import read

    if diff is not None:
        diff_table.show(resolve_model(path), resolve_model(diff), tensors, as_json)
        return
    if fit:
        from ggufrun.cli.terminal import memory_table
        from ggufrun.engine.context import ContextParams
        from ggufrun.workflows.memory_budget import budget

        params = ContextParams(
            n_ctx=context, n_ubatch=ubatch_size, flash_attention=flash_attention, type_k=type_k, type_v=type_v
        )
        model = placement.params(measuring.find(path), place)
        chosen, lines = budget(model, params, placement.margin(place))
        if as_json:
            console.print_json(memory_table.as_json(chosen, lines))
        else:
            memory_table.show(chosen, lines)
        return
    file = resolve_model(path)
    found, header = describe(file)
    if template and not as_json:
        console.print_text(found.template or "")
        return
    asked = context or min(DEFAULT_CONTEXT, found.context or DEFAULT_CONTEXT)
    use, refused = engine_plan(file, header, asked)
    if as_json:
        told = {"memory": _memory_json(found, use, asked), "refused": refused, "prompt_format": _format(file, header)}
        console.print_json({**_json(found, header, tensors), **told})
        return
    memory = _memory(found, use, asked)
    console.out().print(_overview(found, memory, read(header), _format(file, header), _holds(header), refused))
    tables.show(_types(found), console.out())
    if tensors:
        tables.show(_tensors(header), console.out())


def _table(*columns: tuple[str, bool]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name, is_number in columns:
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    return table


def _format(path: Path, header: Header) -> dict[str, str] | None:
    """How ``chat`` would talk to the model, and why; None for what is not a GGUF that the engine can open."""
    from ggufrun.chat.formats.choose_format import FormatOptions, choose
    from ggufrun.checkpoint.gguf.checks import check_model
    from ggufrun.engine.model import Model, ModelParams
    from ggufrun.errors import EngineError, FormatError, GgufrunError

    if not path.is_file():
        return None
    try:
        check_model(path, header)
        model = Model(ModelParams(path, vocab_only=True))
    except (GgufrunError, OSError):
        return None
    with model:
        try:
            choice = choose(model, FormatOptions())
        except (FormatError, EngineError) as error:
            return {"name": "none", "why": error.what}
        return {"name": choice.format.name, "why": choice.why}


def _holds(header: Header) -> str | None:
    """What it is if it is no model, and what that is for."""
    from ggufrun.checkpoint.gguf.checks import NO_MODELS, kind_of

    kind = kind_of(header)
    return ": ".join(NO_MODELS[kind]) if kind in NO_MODELS else None


def _overview(
    found: Description,
    memory: str | None,
    receipt: str | None,
    prompt_format: dict[str, str] | None,
    holds: str | None,
    refused: str | None,
) -> Table:
    from rich.table import Table

    heads = f"{found.heads}" + (f" ({found.kv_heads} for keys and values)" if found.kv_heads != found.heads else "")
    vocabulary, template = found.vocabulary, found.template
    no_template = None if holds else "none"
    special = ", ".join(f"{name} {number} {text}" for name, (number, text) in vocabulary.special.items())
    kind = vocabulary.model + (f"/{vocabulary.pre}" if vocabulary.pre else "")
    rows: list[tuple[str, str | None]] = [
        ("file", f"{found.path} ({found.kind}, {size_text(found.file_bytes)})"),
        ("holds", holds),
        ("refused", None if holds else refused),
        ("name", found.name),
        ("architecture", found.architecture or None),
        ("parameters", f"{found.parameters:,}"),
        ("type", f"{found.file_type}, {found.bits_per_weight:.2f} bits a weight"),
        ("layers", _number(found.layers)),
        ("width", _number(found.width)),
        ("heads", heads if found.heads else None),
        ("context", f"{found.context:,} tokens" if found.context else None),
        ("rope", _rope(found)),
        ("vocabulary", f"{vocabulary.size:,} tokens, {kind}" if vocabulary.size or not holds else None),
        ("special tokens", special or None),
        ("adds BOS", {True: "yes", False: "no", None: None}[vocabulary.add_bos]),
        ("chat template", f"{len(template)} characters (--template shows it)" if template else no_template),
        ("prompt format", f"{prompt_format['name']}: {prompt_format['why']}" if prompt_format else None),
        ("memory", memory),
        ("receipt", receipt),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim" if console.out().is_terminal else "")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(name, console.literal(value))
    return table


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def engine_plan(path: Path, header: Header, context: int) -> tuple[Use | None, str | None]:
    """What the engine plans for a GGUF at ``path``, or for the one that the checkpoint there would become, with a
    context of so many tokens on the processor alone; or why it cannot be run.
    """
    from ggufrun.checkpoint.gguf.checks import check_model
    from ggufrun.checkpoint.gguf.file import hollow
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import ModelParams
    from ggufrun.engine.placement.memory import measure
    from ggufrun.engine.placement.offload import NO_DEVICE, Placement
    from ggufrun.errors import GgufrunError, UnsupportedError

    try:
        check_model(path, header)
        with contextlib.nullcontext(path) if path.is_file() else hollow(header) as file:
            alone = ModelParams(file, placement=Placement(split="none", main=NO_DEVICE))
            return measure(alone, ContextParams(n_ctx=context)).total, None
    except UnsupportedError:
        # sound, and of another kind, such as an encoder
        return None, None
    except GgufrunError as error:
        return None, error.what
    except OSError as error:
        return None, str(error)


def _memory(found: Description, use: Use | None, context: int) -> str | None:
    if use is None:
        return None
    weights, cache, compute = map(size_text, (found.tensor_bytes, use.cache, use.compute))
    total = size_text(found.tensor_bytes + use.cache + use.compute)
    return f"{total} at {context:,} tokens of context: {weights} of weights, {cache} of cache, {compute} of buffers"


def _memory_json(found: Description, use: Use | None, context: int) -> dict[str, int | None]:
    """The same as numbers, null where nobody knows."""
    cache, buffers = (None, None) if use is None else (use.cache, use.compute)
    total = None if use is None else found.tensor_bytes + use.cache + use.compute
    return {"context": context, "bytes": total, "weights": found.tensor_bytes, "cache": cache, "buffers": buffers}


def _rope(found: Description) -> str | None:
    if found.rope_base is None:
        return None
    return f"base {found.rope_base:g}" + (f", {found.rope_scaling} scaling" if found.rope_scaling else "")


def _types(found: Description) -> Table:
    table = _table(("type", False), ("tensors", True), ("parameters", True), ("size", True))
    for share in found.types:
        table.add_row(share.type, str(share.tensors), f"{share.parameters:,}", size_text(share.bytes))
    return table


def _tensors(header: Header) -> Table:

    table = _table(("tensor", False), ("shape", True), ("type", False), ("size", True))
    for info in header.tensors:
        shape = " x ".join(map(str, info.shape))
        table.add_row(console.literal(info.name), shape, info.type.name, size_text(info.n_bytes))
    return table


def _json(found: Description, header: Header, tensors: bool) -> dict[str, Any]:
    value = dataclasses.asdict(found)
    value["path"] = str(found.path)
    value["bits_per_weight"] = round(found.bits_per_weight, 3)
    value["metadata"] = {
        key: item.decode() if len(item) <= 64 else f"{len(item)} values"
        for key, item in header.metadata.items()
        if key != "tokenizer.chat_template"
    }
    if tensors:
        value["tensors"] = [
            {"name": info.name, "shape": list(info.shape), "type": info.type.name, "bytes": info.n_bytes}
            for info in header.tensors
        ]
    return value
