"""``--imatrix auto``: an importance matrix measured on the spot, on the calibration text that comes with the package.

It is kept beside the first target under a name that tells of the model, and used again: keys of its own hold digests
of the model, and of all that it was measured with. ``ggufrun imatrix`` writes the same file. docs/quality.md describes
both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun.cli.flags import common, measuring
from ggufrun.cli.flags.placement import PLAIN, PlaceFlags
from ggufrun.cli.passing import passing, passing_path
from ggufrun.cli.terminal import console
from ggufrun.cli.terminal.progress import steps
from ggufrun.errors import FormatError, GgufrunError, UsageError
from ggufrun.filelock import claimed

if TYPE_CHECKING:
    from ggufrun.checkpoint.gguffile import Header
    from ggufrun.cli.receipt import Receipts
    from ggufrun.convert.plan import Plan
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.evaluate.imatrix import Collector
    from ggufrun.evaluate.text import Text
    from ggufrun.quantize.imatrix import Imatrix
    from ggufrun.quantize.types import FileType

RESUME_KEY = "ggufrun.imatrix.resume"
"""In an unfinished file: a digest of the text and the settings, and the chunks done."""

MODEL_KEY = "ggufrun.imatrix.model"
"""A digest of the model's tensors."""

WORK_KEY = "ggufrun.imatrix.work"
"""In a finished file: a digest of the model, its vocabulary, the text and the settings."""

SAVE_EVERY = 10

SAMPLE_BYTES = 4096
"""Of each tensor, for the digest of a model."""


@dataclass(frozen=True)
class Collection:
    """An importance matrix to be made: of ``model``, on the text ``whole`` called ``name``, into ``target``.

    ``skip`` and ``limit`` count chunks; ``save_every`` 0 saves only at the end.
    """

    model: Path
    target: Path
    whole: str
    name: str
    params: ChunkParams
    place: PlaceFlags = PLAIN
    limit: int | None = None
    skip: int = 0
    process_output: bool = False
    parse_special: bool = False
    save_every: int = SAVE_EVERY

    @cached_property
    def digest(self) -> str:
        """Of what is measured, known before the text is tokenized."""
        from ggufrun.checkpoint.ggufheader import read_header

        digest = hashlib.sha256(self.model_digest.encode())
        for key, value in sorted(read_header(self.model).metadata.items()):
            if key.startswith("tokenizer.ggml."):
                digest.update(f"{key} {len(value.raw)}\n".encode() + value.raw)
        settings = (self.params.length, self.limit, self.skip, self.process_output, self.parse_special)
        digest.update(f"{settings}\n{self.whole}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @cached_property
    def model_digest(self) -> str:
        """Of the model's tensors."""
        return model_digest(self.model)


def finished(work: Collection) -> Imatrix | None:
    """The target, where it is there and was measured on the same model and text, with the same settings."""
    from ggufrun.checkpoint.ggufheader import read_header
    from ggufrun.convert.imatrix import load_imatrix

    try:
        found = read_header(work.target).get(WORK_KEY)
    except (GgufrunError, OSError):
        return None
    return load_imatrix(work.target) if found is not None and found == work.digest else None


def collect(work: Collection, resume: bool) -> Imatrix:
    """Do it, with progress; what an interrupt finds done is saved. ``resume`` goes on from such a file, and takes a
    finished one as it is. TargetError where another process is at it.
    """
    with claimed(work.target, "wait for it, or write elsewhere with -o"):
        return _collect(work, resume)


def _collect(work: Collection, resume: bool) -> Imatrix:
    from ggufrun.checkpoint.ggufheader import read_header
    from ggufrun.convert.imatrix import load_imatrix
    from ggufrun.evaluate.imatrix import Collector
    from ggufrun.evaluate.text import cut

    if resume and (done_before := finished(work)):
        return done_before
    target, length = work.target, work.params.length
    with measuring.open_model(work.model, work.place, work.params) as model:
        pieces = cut(model, work.whole, length, work.limit, work.parse_special, work.skip)
        collector = Collector(work.process_output)
        digest = _digest(pieces, work)
        if resume and target.exists():
            known = load_imatrix(target)
            belongs(known, read_header(work.model), work.model)
            _resume(collector, known, target, digest, len(pieces))
        start = saved = collector.chunks
        measuring.announce(len(pieces) - start, work.params)
        steps_ahead = -(-(len(pieces) - start) // work.params.at_once)
        try:
            with steps(collector.run(model, work.params, pieces, start), steps_ahead, "collecting") as counts:
                for done in counts:
                    if work.save_every and done - saved >= work.save_every and done < len(pieces):
                        _save(work, collector, f"{digest} {done}")
                        collector.settle()
                        saved = done
        except KeyboardInterrupt:
            done = collector.chunks
            if done > start:
                _save(work, collector, f"{digest} {done}")
                console.note(f"{target}: saved after {done} of {len(pieces)} chunks; --resume goes on from there")
            raise
    _save(work, collector)
    return collector.result([work.name], length)


def _digest(text: Text, work: Collection) -> str:
    """Of everything that decides the sums."""
    digest = hashlib.sha256(f"{work.model_digest} {text.chunks.shape} {work.process_output}\n".encode())
    digest.update(text.chunks.tobytes())
    return digest.hexdigest()


def _resume(collector: Collector, known: Imatrix, target: Path, digest: str, total: int) -> None:
    """Fill ``collector`` with what ``target`` holds."""
    from ggufrun.checkpoint.ggufheader import read_header

    state = str(read_header(target).get(RESUME_KEY, ""))
    if not state:
        raise UsageError(f"{target} is finished, with {known.chunk_count} chunks", "pass --force to make it anew")
    before, _, done = state.partition(" ")
    if before != digest or not done.isdecimal() or int(done) > total:
        raise UsageError(
            f"{target} was measured on another model or text, or with other settings", "pass --force to start again"
        )
    collector.take(replace(known, chunk_count=int(done)))


def belongs(known: Imatrix, header: Header, model: Path) -> None:
    """FormatError unless every entry is one of the model's weights, with as many columns."""
    shapes = {info.name: info.shape for info in header.tensors}
    for name, entry in known.entries.items():
        shape = shapes.get(name)
        if shape is None or entry.sums.size % shape[-1]:
            had = "no such tensor" if shape is None else f"{shape[-1]} columns"
            raise FormatError(
                f"{known.path} is of another model: {entry.sums.shape[-1]} columns of {name}, where {model.name} has "
                f"{had}",
                "pass --force to start again",
            )


def _save(work: Collection, collector: Collector, state: str | None = None) -> None:
    from ggufrun.convert.imatrix import save_imatrix

    extra = {MODEL_KEY: work.model_digest} | ({RESUME_KEY: state} if state else {WORK_KEY: work.digest})
    save_imatrix(work.target, collector.result([work.name], work.params.length), force=True, extra=extra)


def automatic(model: Path, target: Path, threads: int | None) -> Imatrix:
    """The importance matrix of ``model`` on the text of our own: ``target``, if that is what it is, else measured now
    and kept there. UsageError for a ``target`` that is something else.
    """
    from ggufrun.checkpoint.ggufheader import read_header
    from ggufrun.convert.imatrix import load_imatrix
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.evaluate.text import CALIBRATION

    whole, name = measuring.read_text(None, CALIBRATION), measuring.text_name(None, CALIBRATION)
    work = Collection(model, target, whole, name, ChunkParams(threads=threads))
    if known := finished(work):
        console.note(f"  importance matrix: {target}, measured before")
        return known
    if target.exists():
        header = read_header(target)
        if header.get(MODEL_KEY) != work.model_digest or RESUME_KEY not in header.metadata:
            raise UsageError(
                f"{target} is there, and was not measured on {model.name} as it is now and the text of our own",
                f"use it with --imatrix {target}, or remove it",
            )
    console.note(f"  measuring an importance matrix on the calibration text, kept as {target}")
    collect(work, resume=True)
    return load_imatrix(target)


def model_digest(path: Path) -> str:
    """A digest of a GGUF's tensors: their names, shapes, types, and the first bytes of each. The metadata does not
    count: an importance matrix stays true when a model gets another name.
    """
    from ggufrun.checkpoint.ggufsource import GGUFSource

    digest = hashlib.sha256()
    source = GGUFSource(path)
    try:
        for name, tensor in sorted(source.tensors.items()):
            digest.update(f"{name} {tensor.shape} {tensor.dtype}\n".encode())
            digest.update(tensor.rows(0, 1).tobytes()[:SAMPLE_BYTES])
    finally:
        source.close()
    return digest.hexdigest()


def automatic_path(folder: Path, stem: str) -> Path:
    """Where the matrix of a model is kept."""
    return folder / f"{stem}-imatrix.gguf"


Make = Callable[[Sequence["FileType"], Callable[["FileType"], Path], "Imatrix | None"], "Plan"]
"""Plans some types, under the paths it is given, with or without a matrix."""


def convert(
    make: Make,
    file_types: Sequence[FileType],
    path_of: Callable[[FileType], Path],
    stem: str,
    *,
    split_max_size: str | None,
    receipt: bool,
    how: common.WriteFlags,
) -> None:
    """``convert --imatrix auto``: the plain targets first, or a passing file in the checkpoint's own precision; the
    matrix is measured on that, and then the other targets are made.
    """
    from ggufrun.cli.receipt import measurer, standing
    from ggufrun.cli.writing import carry_out, split

    def done(plan: Plan, measure: Callable[[], Receipts] | None = None) -> list[dict[str, Any]]:
        return carry_out(split(plan, split_max_size), replace(how, dry_run=False), measure)

    def own_precision(path: Path) -> Plan:
        return make((), lambda kind: path, None)

    plain = [kind for kind in file_types if kind.plain]
    quantized = [kind for kind in file_types if not kind.plain]
    first = path_of(quantized[0])
    plans = [make(file_types, path_of, None)] + ([] if plain else [own_precision(passing_path(first))])
    _check_room(plans, how.force or how.resume)
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if plain:
            plan = make(plain, path_of, None)
            reference, kind = split(plan, split_max_size).targets[0].path, plain[0].name
            found += done(plan)
        else:
            reference, kind = stack.enter_context(passing(own_precision, first, how.threads, "the importance matrix"))
        matrix = automatic(reference, automatic_path(first.parent, stem), how.threads)
        plan = make(quantized, path_of, matrix)
        found += done(plan, measurer(plan, lambda: standing(reference, kind), how.threads) if receipt else None)
    if how.as_json:
        console.print_json(found)


def _check_room(plans: Sequence[Plan], force: bool) -> None:
    """Refuse before any work what would fail after it: targets that stand, too small a disk."""
    from ggufrun.convert.writer import check_targets

    for plan in plans:
        plan.close()
    check_targets([(target.path, target.size) for plan in plans for target in plan.targets], force)
