"""The line that says that a new file's vocabulary tokenizes text as the original tokenizer does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufrun.cli.terminal import console

SHOWN = 4

if TYPE_CHECKING:
    from ggufrun.convert.vocab.proof import Proof


def _some(texts: tuple[str, ...]) -> str:
    shown = ", ".join(texts[:SHOWN])
    return f"{shown} and {len(texts) - SHOWN} more" if len(texts) > SHOWN else shown


def print_proof(proof: Proof | None) -> None:
    """Say what was compared."""
    if proof is None:
        return
    alike = f"{proof.strings - proof.differing:,} of " if proof.differing else ""
    console.note(f"  vocabulary: {alike}{proof.strings:,} test strings tokenize exactly as with {proof.name}")
    if proof.differing:
        console.warn(f"llama.cpp tokenizes {proof.differing:,} strings differently, for {proof.approximate}")
    if proof.overruled:
        kind = "special tokens" if len(proof.overruled) > 1 else "a special token"
        console.note(f"  llama.cpp takes {_some(proof.overruled)} for {kind}, which {proof.name} does not")
    if proof.loss:
        console.warn(f"{proof.name} {proof.loss} before it tokenizes, and llama.cpp does not")
