"""Where a model goes: the flags for it, and what they mean.

They are llama.cpp's. Without -ngl, or with ``auto``, as many layers go to the devices as fit:
`ggufrun.workflows.open_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ggufrun.cli.flags import records
from ggufrun.cli.flags.option import option
from ggufrun.cli.terminal import abort
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ggufrun.engine.model import ModelParams
    from ggufrun.engine.placement.offload import Placement
    from ggufrun.workflows.open_model import Where

Remote = Annotated[
    str | None,
    option("--rpc", metavar="HOST:PORT,..", help="Also compute on the devices of these workers."),
]


@dataclass(frozen=True)
class PlaceFlags:
    """What stands on the command line about the place of a model, unchecked."""

    SECTION: ClassVar[str] = "Devices"

    gpu_layers: Annotated[
        str | None,
        option(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            metavar="N|all|auto",
            help="Number of layers on GPUs (auto: as many as fit).",
        ),
    ] = None
    split_mode: Annotated[
        str | None,
        option("-sm", "--split-mode", metavar="MODE", help="Way of splitting a model among GPUs: layer, tensor, none."),
    ] = None
    tensor_split: Annotated[
        str | None,
        option("-ts", "--tensor-split", metavar="N,N", help="Share of the layers for every GPU, such as 3,1."),
    ] = None
    main_gpu: Annotated[
        int | None, option("-mg", "--main-gpu", metavar="N", help="Number of the GPU to use with -sm none (0).")
    ] = None
    override_tensor: Annotated[
        list[str] | None,
        option(
            "-ot",
            "--override-tensor",
            metavar="REGEX=BUFFER",
            help="Place matching tensors in a buffer such as CPU or CUDA0; may be repeated.",
        ),
    ] = None
    cpu_moe: Annotated[
        bool, option("-cmoe", "--cpu-moe", help="Keep the experts of all layers in the computer's memory.")
    ] = False
    n_cpu_moe: Annotated[
        int | None,
        option(
            "-ncmoe",
            "--n-cpu-moe",
            metavar="N",
            help="Keep the experts of the first N layers in the computer's memory.",
        ),
    ] = None
    device: Annotated[
        str | None,
        option("-dev", "--device", metavar="NAME,..", help="Devices to use, as doctor lists them, or none."),
    ] = None
    rpc: Remote = None
    fit_target: Annotated[
        int | None,
        option("-fitt", "--fit-target", metavar="MIB", help="Memory that -ngl auto leaves free on every GPU (512)."),
    ] = None


@dataclass(frozen=True)
class LoadFlags:
    """What stands on the command line about how a model's file is read."""

    SECTION: ClassVar[str] = "Loading"

    mmap: Annotated[
        bool, option("--mmap/--no-mmap", help="Map the model file into memory, or read the whole file (map).")
    ] = True
    mlock: Annotated[
        bool, option("--mlock", help="Lock the model in memory, so that the system cannot swap it out.")
    ] = False
    oversize: Annotated[bool, option("--oversize", help="Load a model even if larger than the memory.")] = False


PLAIN = PlaceFlags()
"""No flag at all."""


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` for Typer, with these flags in the place of its parameter of type PlaceFlags."""
    return records.with_records_expanded(command, abort.guarded)


# --- reading the flags ------------------------------------------------------------------------------------------------


def layers(flags: PlaceFlags) -> int | None:
    """``-ngl``: None leaves it to us, negative means all."""
    text = (flags.gpu_layers or "auto").lower()
    if text in ("auto", "all"):
        return None if text == "auto" else -1
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"-ngl {flags.gpu_layers}", "give a number of layers, all, or auto") from None


def placement(flags: PlaceFlags) -> Placement:
    """The other flags of where things go."""
    from ggufrun.engine.placement.offload import MANY, Placement

    shares: tuple[float, ...] = ()
    if flags.tensor_split:
        try:
            shares = tuple(float(part) for part in flags.tensor_split.replace("/", ",").split(","))
        except ValueError:
            raise UsageError(f"-ts {flags.tensor_split}", "give one number a GPU, such as 3,1") from None
    overrides = []
    for text in (part for one in flags.override_tensor or () for part in one.split(",")):
        pattern, separator, name = text.rpartition("=")
        if not separator or not pattern or not name:
            raise UsageError(f"-ot {text!r} is not REGEX=BUFFER", r"write for example -ot 'ffn_.*_exps=CPU'")
        overrides.append((pattern, name))
    return Placement(
        split=flags.split_mode or "layer",
        shares=shares,
        main=flags.main_gpu or 0,
        overrides=tuple(overrides),
        cpu_experts=MANY if flags.cpu_moe else flags.n_cpu_moe or 0,
        devices=tuple(filter(None, (part.strip() for part in (flags.device or "").split(",")))),
    )


def margin(flags: PlaceFlags) -> int:
    """Bytes that are left alone on each device."""
    from ggufrun.engine.placement.fit import MARGIN

    if flags.fit_target is None:
        return MARGIN
    if flags.fit_target < 0:
        raise UsageError(f"--fit-target is {flags.fit_target}", "give mebibytes, 0 or more")
    return flags.fit_target << 20


def connect(flags: PlaceFlags) -> None:
    """Make the workers of ``--rpc`` known to the engine."""
    if flags.rpc is not None:
        from ggufrun.engine.placement.remote import connect as to
        from ggufrun.engine.placement.remote import parse

        to(parse(flags.rpc))


def where(flags: PlaceFlags) -> Where:
    """How the flags say that models are placed, workers connected."""
    from ggufrun.workflows.open_model import Where

    connect(flags)
    return Where(layers(flags), placement(flags), margin(flags))


def params(path: Path, flags: PlaceFlags, **rest: Any) -> ModelParams:
    """How the flags say that the model is opened, workers connected."""
    from ggufrun.engine.model import ModelParams

    connect(flags)
    return ModelParams(path, layers(flags), placement=placement(flags), **rest)
