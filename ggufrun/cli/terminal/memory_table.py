"""The budget of memory as a table: what of a model goes where, what is left, and what else would fit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ggufrun.cli.terminal import console, tables
from ggufrun.units import size_text

if TYPE_CHECKING:
    from rich.table import Table

    from ggufrun.engine.placement.fit import Fit
    from ggufrun.engine.placement.memory import Place


def show(found: Fit, lines: list[str]) -> None:
    """The table, and the lines beneath it."""
    tables.show(table(found), console.out())
    for line in [summary(found), *lines]:
        console.say(line)


def table(found: Fit) -> Table:
    """A row a device, the computer's own memory last."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD)
    for name in ("device", "free", "weights", "cache", "buffers", "left"):
        is_number = name != "device"
        made.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for place in (*found.footprint.devices, found.footprint.host):
        use = place.use
        left = Text(size_text(place.left), style="" if place.left >= 0 else "red")
        made.add_row(
            console.literal(_name(place)),
            size_text(place.device.free),
            size_text(use.weights),
            size_text(use.cache),
            size_text(use.compute),
            left,
        )
    return made


def _name(place: Place) -> str:
    device = place.device
    return f"{device.name} ({device.description})" if device.description else device.name


def summary(found: Fit) -> str:
    """One line about the whole."""
    footprint = found.footprint
    what = f"context {footprint.context:,} of {footprint.trained_context:,} tokens"
    if not footprint.devices:
        return f"{what}; no GPU: the processor computes"
    what = f"{found.layers} of {found.of} layers on the devices, {what}"
    if found.placement.shares:
        what += f", shares {','.join(f'{share:g}' for share in found.placement.shares)}"
    if found.placement.cpu_experts:
        what += f", experts of {min(found.placement.cpu_experts, footprint.layers)} layers with the processor"
    return f"{what}, {size_text(found.margin)} kept free on each"


def as_json(found: Fit, lines: list[str]) -> dict[str, Any]:
    """The same for scripts, in bytes."""
    return {
        "layers": found.layers,
        "of": found.of,
        "context": found.footprint.context,
        "trained_context": found.footprint.trained_context,
        "shares": list(found.placement.shares),
        "cpu_experts": found.placement.cpu_experts,
        "margin": found.margin,
        "fits": found.footprint.fits,
        "places": [
            {**asdict(place.device), **asdict(place.use), "left": place.left}
            for place in (*found.footprint.devices, found.footprint.host)
        ],
        "advice": lines,
    }
