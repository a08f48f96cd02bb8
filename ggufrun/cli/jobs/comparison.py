"""A model compared with a reference, as llama-perplexity prints it and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggufrun.evaluate.statistics import Comparison, Estimate, Spread


HEAD = (
    "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS"
    "            Same top p\n"
)
"""Above the rows of `row`."""


def row(number: int, found: Comparison) -> str:
    """The figures after so many chunks."""
    change, top = found.rms_change.scaled(100), found.same_top.scaled(100)
    return (
        f"{number:4}"
        f"    {found.perplexity.value:9.4f} ± {found.perplexity.error:9.4f}"
        f"    {found.log_ratio.value:10.5f} ± {found.log_ratio.error:10.5f}"
        f"    {found.kld.value:10.5f} ± {found.kld.error:10.5f}"
        f"    {change.value:6.3f} ± {change.error:6.3f} %"
        f"    {top.value:6.3f} ± {top.error:6.3f} %\n"
    )


def report(found: Comparison) -> list[str]:
    """The lines that llama-perplexity ends with."""

    def wide(name: str, value: Estimate) -> str:
        return f"{name:<30}: {value.value:10.6f} ± {value.error:10.6f}"

    def percent(name: str, value: Estimate) -> str:
        return f"{name:<10}: {100 * value.value:6.3f} ± {100 * value.error:5.3f} %"

    change = found.change
    return [
        "====== Perplexity statistics ======",
        wide("Mean PPL(Q)", found.perplexity),
        wide("Mean PPL(base)", found.reference),
        f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * found.correlation:6.2f}%",
        wide("Mean ln(PPL(Q)/PPL(base))", found.log_ratio),
        wide("Mean PPL(Q)/PPL(base)", found.ratio),
        wide("Mean PPL(Q)-PPL(base)", found.difference),
        "",
        "====== KL divergence statistics ======",
        f"Mean    KLD: {found.kld.value:10.6f} ± {found.kld.error:10.6f}",
        *(f"{name} KLD: {value:10.6f}" for name, value in _lines(found.kld_spread)),
        "",
        "====== Token probability statistics ======",
        f"Mean    Δp: {100 * change.value:6.3f} ± {100 * change.error:5.3f} %",
        *(f"{name} Δp: {100 * value:6.3f}%" for name, value in _lines(found.change_spread)),
        percent("RMS Δp", found.rms_change),
        percent("Same top p", found.same_top),
    ]


def _lines(spread: Spread) -> Sequence[tuple[str, float]]:
    return [
        ("Maximum", spread.maximum),
        *(("Median " if fraction == 0.5 else f"{f'{100 * fraction:4.1f}%':<7}", v) for fraction, v in spread.quantiles),
        ("Minimum", spread.minimum),
    ]


def as_dict(found: Comparison) -> dict[str, Any]:
    """Everything, for JSON."""
    value = dataclasses.asdict(found)
    value["perplexity_reference"] = value.pop("reference")
    value["ratio"] = dataclasses.asdict(found.ratio)
    for name in ("kld_spread", "change_spread"):
        spread = getattr(found, name)
        value[name] = {
            "max": spread.maximum,
            **{f"{100 * fraction:g}%": quantile for fraction, quantile in spread.quantiles},
            "min": spread.minimum,
        }
    return value
