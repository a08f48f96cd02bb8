"""``--receipt``: what a quantization cost, measured right after writing and kept in the file's own metadata.

The keys are described in docs/quality.md; `ggufrun inspect` shows them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.gguf.file import Header, Kind, Value, encode
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert.annotate import annotate
from ggufrun.convert.plan import Plan
from ggufrun.convert.target import Target
from ggufrun.engine.chunks import ChunkParams
from ggufrun.errors import GgufrunError, UsageError
from ggufrun.evaluate.statistics import Comparison
from ggufrun.evaluate.text import SAMPLE, builtin_text
from ggufrun.quantize import ggml
from ggufrun.workflows.compare_models import compare_models
from ggufrun.workflows.temporary_model import temporary_model
from ggufrun.workflows.watch import NOBODY, Watch

PREFIX = "ggufrun.receipt."
CONTEXT = 512

Receipts = Mapping[Path, Comparison]


def check_reference(path: Path) -> None:
    """UsageError for a source that is quantized itself: beside it the loss would look smaller than it is."""
    for info in read_header(path).tensors:
        if ggml.block_type(int(info.type)).quantized:
            raise UsageError(
                f"{path.name} is quantized itself ({info.name} is {info.type.name}), so it shows no cost",
                "start from the F16 or BF16 file, or leave --receipt out",
            )


def measurer(
    plan: Plan,
    reference: Callable[[], AbstractContextManager[tuple[Path, str]]],
    threads: int | None,
    watch: Watch = NOBODY,
) -> Callable[[], Receipts]:
    """What measures the targets of ``plan`` once they are written. ``reference`` opens the file to compare with, and
    its type. UsageError where there is nothing to measure.
    """
    if all(target.file_type.plain for target in plan.targets):
        raise UsageError("--receipt has nothing to measure", "name a quantized type, such as q4_k_m")

    def run() -> Receipts:
        targets = [target for target in plan.targets if not target.file_type.plain]
        try:
            with reference() as (path, kind):
                return _measure(path, kind, targets, threads, watch)
        except GgufrunError as error:
            raise type(error)(f"written, but without a receipt: {error.what}", error.todo) from error

    return run


def _measure(reference: Path, kind: str, targets: Sequence[Target], threads: int | None, watch: Watch) -> Receipts:
    whole = builtin_text(SAMPLE)
    paths = [target.path for target in targets]
    found = compare_models(reference, paths, whole, ChunkParams(CONTEXT, threads=threads), watch=watch)
    for path, one in zip(paths, found, strict=True):
        annotate(path, PREFIX, _keys(one, kind, whole))
    return dict(zip(paths, found, strict=True))


def _keys(found: Comparison, reference: str, text: str) -> dict[str, Value]:
    digest = hashlib.sha256(text.encode()).hexdigest()
    spread = found.kld_spread
    values: dict[str, tuple[Any, Kind]] = {
        "reference": (reference, Kind.STRING),
        "text": (f"ggufrun sample, sha256 {digest}", Kind.STRING),
        "context": (CONTEXT, Kind.UINT32),
        "tokens": (found.tokens, Kind.UINT32),
        "kld.mean": (found.kld.value, Kind.FLOAT32),
        "kld.error": (found.kld.error, Kind.FLOAT32),
        "kld.median": (spread.at(0.5), Kind.FLOAT32),
        "kld.p99": (spread.at(0.99), Kind.FLOAT32),
        "kld.max": (spread.maximum, Kind.FLOAT32),
        "same_top": (found.same_top.value, Kind.FLOAT32),
        "rms_change": (found.rms_change.value, Kind.FLOAT32),
        "perplexity": (found.perplexity.value, Kind.FLOAT32),
        "perplexity.reference": (found.reference.value, Kind.FLOAT32),
    }
    return {PREFIX + name: encode(value, kind) for name, (value, kind) in values.items()}


@contextmanager
def existing(path: Path, kind: str) -> Iterator[tuple[Path, str]]:
    """A reference that is there anyway."""
    yield path, kind


@contextmanager
def plain_or_temporary(
    plan: Plan, make: Callable[[Path], Plan], threads: int | None, watch: Watch = NOBODY
) -> Iterator[tuple[Path, str]]:
    """A plain target of ``plan`` as the reference, or a file that is written for the occasion and removed: ``make``
    plans it under the path it is given.
    """
    plain = next((target for target in plan.targets if target.file_type.plain), None)
    if plain is not None:
        yield plain.path, plain.file_type.name
        return
    with temporary_model(make, plan.targets[0].path, threads, "the receipt", watch) as found:
        yield found


def sentence(values: Mapping[str, Any]) -> str:
    """A receipt's figures, by their keys without the prefix, for people."""
    return (
        f"KL divergence {values['kld.mean']:.6f} ± {values['kld.error']:.6f} beside {values['reference']}, "
        f"99% below {values['kld.p99']:.4f}, largest {values['kld.max']:.4f}; "
        f"same top token {100 * values['same_top']:.2f}%, RMS Δp {100 * values['rms_change']:.3f}%, "
        f"over {values['tokens']} tokens"
    )


def read(header: Header) -> str | None:
    """The receipt in a file's metadata as a sentence, or None. Nothing is believed of a foreign file but its types."""
    values = {
        key.removeprefix(PREFIX): value.decode() for key, value in header.metadata.items() if key.startswith(PREFIX)
    }
    try:
        return sentence(values)
    except (KeyError, TypeError, ValueError):
        return None
