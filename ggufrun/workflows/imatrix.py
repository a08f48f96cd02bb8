"""Importance matrices: measured, continued where an interrupted run stopped, and found again.

``--imatrix auto`` keeps one next to the first target under a name that tells of the model, and uses it again: keys of
its own hold digests of the model, and of all that it was measured with. ``ggufrun imatrix`` writes the same file.
docs/quality.md describes both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ggufrun.checkpoint.gguf.file import Header
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.convert.imatrix import load_imatrix, save_imatrix
from ggufrun.engine.chunks import ChunkParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement.fit import MARGIN
from ggufrun.errors import FormatError, GgufrunError, UsageError
from ggufrun.evaluate.imatrix import Collector
from ggufrun.evaluate.text import CALIBRATION, Text, builtin_text, cut_into_chunks
from ggufrun.filelock import claimed
from ggufrun.quantize.imatrix import Imatrix
from ggufrun.workflows.compare_models import work_ahead
from ggufrun.workflows.open_model import context_for_chunks, open_model
from ggufrun.workflows.watch import NOBODY, Watch

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

    ``margin`` bytes are left free on each device. ``skip`` and ``limit`` count chunks; ``save_every`` 0 saves only at
    the end.
    """

    model: ModelParams
    target: Path
    whole: str
    name: str
    params: ChunkParams
    margin: int = MARGIN
    limit: int | None = None
    skip: int = 0
    process_output: bool = False
    parse_special: bool = False
    save_every: int = SAVE_EVERY

    @cached_property
    def digest(self) -> str:
        """Of what is measured, known before the text is tokenized."""
        digest = hashlib.sha256(self.model_digest.encode())
        for key, value in sorted(read_header(self.model.path).metadata.items()):
            if key.startswith("tokenizer.ggml."):
                digest.update(f"{key} {len(value.raw)}\n".encode() + value.raw)
        settings = (self.params.length, self.limit, self.skip, self.process_output, self.parse_special)
        digest.update(f"{settings}\n{self.whole}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @cached_property
    def model_digest(self) -> str:
        """Of the model's tensors."""
        return model_digest(self.model.path)


def finished(work: Collection) -> Imatrix | None:
    """The target, where it is there and was measured on the same model and text, with the same settings."""
    try:
        found = read_header(work.target).get(WORK_KEY)
    except (GgufrunError, OSError):
        return None
    return load_imatrix(work.target) if found is not None and found == work.digest else None


def collect(work: Collection, resume: bool, watch: Watch = NOBODY) -> Imatrix:
    """Do it; what an interrupt finds done is saved. ``resume`` goes on from such a file, and takes a
    finished one as it is. TargetError where another process is at it.
    """
    with claimed(work.target, "wait for it, or write elsewhere with -o"):
        return _collect(work, resume, watch)


def _collect(work: Collection, resume: bool, watch: Watch) -> Imatrix:
    if resume and (done_before := finished(work)):
        return done_before
    target, length = work.target, work.params.length
    with open_model(work.model, context_for_chunks(work.params), work.margin, note=watch.note) as model:
        pieces = cut_into_chunks(model, work.whole, length, work.limit, work.parse_special, work.skip)
        collector = Collector(work.process_output)
        digest = _digest(pieces, work)
        if resume and target.exists():
            known = load_imatrix(target)
            belongs(known, read_header(work.model.path), work.model.path)
            _resume(collector, known, target, digest, len(pieces))
        start = saved = collector.chunks
        watch.note(work_ahead(len(pieces) - start, work.params))
        steps_ahead = -(-(len(pieces) - start) // work.params.at_once)
        try:
            with watch.steps(collector.run(model, work.params, pieces, start), steps_ahead, "collecting") as counts:
                for done in counts:
                    if work.save_every and done - saved >= work.save_every and done < len(pieces):
                        _save(work, collector, f"{digest} {done}")
                        collector.settle()
                        saved = done
        except KeyboardInterrupt:
            done = collector.chunks
            if done > start:
                _save(work, collector, f"{digest} {done}")
                watch.note(f"{target}: saved after {done} of {len(pieces)} chunks; --resume continues from there")
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
    state = str(read_header(target).get(RESUME_KEY, ""))
    if not state:
        raise UsageError(f"{target} is finished, with {known.chunk_count} chunks", "pass --force to make it again")
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
    extra = {MODEL_KEY: work.model_digest} | ({RESUME_KEY: state} if state else {WORK_KEY: work.digest})
    save_imatrix(work.target, collector.result([work.name], work.params.length), force=True, extra=extra)


def automatic(model: Path, target: Path, threads: int | None, watch: Watch = NOBODY) -> Imatrix:
    """The importance matrix of ``model`` on the text of our own: ``target``, if that is what it is, else measured now
    and kept there. UsageError for a ``target`` that is something else.
    """
    work = Collection(
        ModelParams(model), target, builtin_text(CALIBRATION), f"ggufrun {CALIBRATION}", ChunkParams(threads=threads)
    )
    if known := finished(work):
        watch.note(f"  importance matrix: {target}, measured before")
        return known
    if target.exists():
        header = read_header(target)
        if header.get(MODEL_KEY) != work.model_digest or RESUME_KEY not in header.metadata:
            raise UsageError(
                f"{target} is there, and was not measured on {model.name} as it is now and the text of our own",
                f"use it with --imatrix {target}, or remove it",
            )
    watch.note(f"  measuring an importance matrix on the calibration text, kept as {target}")
    collect(work, True, watch)
    return load_imatrix(target)


def model_digest(path: Path) -> str:
    """A digest of a GGUF's tensors: their names, shapes, types, and the first bytes of each. The metadata does not
    count: an importance matrix stays true when a model gets another name.
    """
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
