"""source -> encode -> write: the rows of a plan stream through a few worker threads into the target files.

Each worker reads some rows, turns them into float32 once, encodes them for every target and hands the bytes to the
calling thread, which writes. The kernels, reading and writing all release the GIL, so they overlap. Memory is a few
megabytes a worker, whatever the model: a chunk of ``CHUNK`` values and its encodings.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.tensor import Rows, Source, Tensor
from ggufrun.convert.journal import Journal, check_journal, identity
from ggufrun.convert.plan import Plan, stored_bytes
from ggufrun.convert.target import Placed, Target
from ggufrun.convert.writer import TargetFile, check_targets, partial_path
from ggufrun.errors import FormatError, GgufrunError, TargetError
from ggufrun.native.signals import defer_signals
from ggufrun.processors import processors
from ggufrun.quantize import ggml
from ggufrun.regularfile import read_start

CHUNK = 1 << 19
"""Values a worker handles at once: 2 MB of float32, which stays in the cache of a core."""

PLAIN = (ggml.F32, ggml.F16, ggml.BF16)

QUEUE_PER_WORKER = 4

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Chunk:
    """Rows ``start`` to ``stop`` of one source tensor, and where they go in each target that holds it."""

    number: int
    tensor: Tensor
    start: int
    stop: int
    places: tuple[tuple[Path, Placed], ...]


@dataclass(frozen=True)
class Encoded:
    """A chunk's bytes for every target: (path, offset in the file, bytes), and what was read for it."""

    number: int
    pieces: tuple[tuple[Path, int, Bytes], ...]
    source_bytes: int


def default_threads() -> int:
    """Every hardware thread that this process may use, fewer where a container's quota is smaller.

    NUMA needs no more: a worker reads into buffers of its own, which lie in the memory of the node that it runs on, and
    what it encodes crosses to another node once, when it is written.
    """
    return processors().for_throughput


def run(
    plan: Plan,
    threads: int | None = None,
    force: bool = False,
    on_progress: Callable[[int], None] = lambda n_bytes: None,
    resume: bool = False,
) -> None:
    """Write every target of ``plan``. ``on_progress`` gets the bytes read since it was last called.

    On any error, and on KeyboardInterrupt, no target and no temporary file is left; FormatError if a source changed
    meanwhile. ``resume`` continues where a killed job stopped, and leaves what it has done when it is interrupted
    itself.
    """
    journal_path = _journal_path(plan)
    job = identity(plan, CHUNK)
    continues = resume and journal_path.exists()
    if continues:
        check_journal(journal_path, job)
    # a job that was killed while it renamed its files has some under their names already
    standing = [target for target in plan.targets if continues and _is_committed(target)]
    targets = [target for target in plan.targets if target not in standing]
    check_targets(((target.path, target.size) for target in targets), force, plan.source.files)
    files: dict[Path, TargetFile] = {}
    journal: Journal | None = None
    keep = False
    try:
        # the lock on the first partial file is also the journal's
        with defer_signals():
            for target in targets:
                files[target.path] = TargetFile(target.path, target.size, force, continues, job)
                files[target.path].write(0, np.frombuffer(target.head, np.uint8))
        # what is marked as done counts only with the very files that it was done in
        journal = Journal(journal_path, job, all(file.continues for file in files.values()) and continues)
        _encode_to(plan, files, journal, threads or default_threads(), on_progress)
        for file in files.values():
            file.flush()
        plan.read.check()
        journal.finish()
        with defer_signals():
            for file in files.values():
                file.commit()
    except BaseException as error:
        keep = resume and not isinstance(error, (FormatError, TargetError))
        raise
    finally:
        # whoever presses Ctrl+C again is not faster than this
        with defer_signals():
            for file in files.values():
                file.abort(keep)
            if journal is not None:
                journal.close(keep)
            elif files and not keep:
                # interrupted while it was made; the locks say that it is ours
                journal_path.unlink(missing_ok=True)


def _encode_to(
    plan: Plan,
    files: Mapping[Path, TargetFile],
    journal: Journal,
    threads: int,
    on_progress: Callable[[int], None],
) -> None:
    def flush() -> None:
        for file in files.values():
            file.flush()

    work = (chunk for chunk in chunks(plan) if not _was_done(chunk, journal, on_progress))
    for encoded in _encode_all(work, threads):
        for path, offset, data in encoded.pieces:
            if path in files:
                files[path].write(offset, data)
        on_progress(encoded.source_bytes)
        journal.mark(encoded.number, sum(data.nbytes for _, _, data in encoded.pieces), flush)


def _was_done(chunk: Chunk, journal: Journal, on_progress: Callable[[int], None]) -> bool:
    if chunk.number not in journal.done:
        return False
    on_progress(stored_bytes(chunk.tensor) // chunk.tensor.n_rows * (chunk.stop - chunk.start))
    return True


def _is_committed(target: Target) -> bool:
    """Has a killed job already given this target its name?"""
    path = target.path
    if not path.is_file() or path.stat().st_size != target.size or partial_path(path).exists():
        return False
    return _has_head(path, target)


def _journal_path(plan: Plan) -> Path:
    first = plan.targets[0].path
    return first.with_name(f".{first.name}.journal")


def without_done(plan: Plan) -> Plan:
    """What is left to do of ``plan`` when it is begun again: without the targets that are done, perhaps none.

    A job that was cut off is left as it was, as its journal counts the pieces of all.
    """
    if _journal_path(plan).exists():
        return plan
    return replace(plan, targets=tuple(target for target in plan.targets if not _is_done(target, plan.source)))


def _is_done(target: Target, source: Source) -> bool:
    """Does the target stand, whole, with the header it would get, and younger than the files it is made from?"""
    path = target.path
    if not path.is_file() or partial_path(path).exists():
        return False
    status = path.stat()
    if status.st_size != target.size or status.st_mtime_ns < max(file.stat().st_mtime_ns for file in source.files):
        return False
    return _has_head(path, target)


def _has_head(path: Path, target: Target) -> bool:
    return read_start(path, len(target.head)) == target.head


def chunks(plan: Plan) -> Iterator[Chunk]:
    """The work, tensor by tensor, in the order in which the targets hold them."""
    places: dict[str, list[tuple[Path, Placed]]] = {}
    for target in plan.targets:
        for placed in target.tensors:
            places.setdefault(placed.name, []).append((target.path, placed))
    number = 0
    for found in places.values():
        tensor = found[0][1].tensor
        # a chunk stays inside one matrix: each expert has an importance of its own
        per_matrix = tensor.shape[-2] if len(tensor.shape) > 2 else tensor.n_rows
        step = max(1, CHUNK // tensor.n_per_row)
        for matrix in range(0, tensor.n_rows, per_matrix):
            for start in range(matrix, matrix + per_matrix, step):
                yield Chunk(number, tensor, start, min(start + step, matrix + per_matrix), tuple(found))
                number += 1


def encode_chunk(chunk: Chunk) -> Encoded:
    """Read and encode one chunk. FormatError names the tensor whose values are no numbers or do not fit the type."""
    tensor = chunk.tensor
    # what is computed while it is read, such as a merge, is validated below, and needs no line of numpy's on the way
    with np.errstate(all="ignore"):
        raw = tensor.rows(chunk.start, chunk.stop)
    stored = ggml.block_types().get(tensor.dtype.lower())
    floats: ggml.Floats | None = None
    pieces = []
    for path, place in chunk.places:
        if stored is not None and place.kind == stored.id:
            if stored.quantized:
                # finds what the validation finds, which would write a line of its own to stderr
                floats = _to_floats(tensor, raw, (place.kind,))
            data = raw.reshape(-1).view(np.uint8)
        else:
            if floats is None:
                floats = _to_floats(tensor, raw, [place.kind for _, place in chunk.places])
            data = ggml.quantize_rows(place.kind, floats, _importance(place, chunk))
        try:
            ggml.validate(place.kind, data)
        except FormatError as error:
            raise _explained(error, chunk, raw) from error
        pieces.append((path, place.offset + chunk.start * place.row_bytes, data))
    return Encoded(chunk.number, tuple(pieces), raw.nbytes)


def _importance(place: Placed, chunk: Chunk) -> ggml.Floats | None:
    """The importance of the columns of the matrix that the chunk lies in."""
    if place.importance is None:
        return None
    rows_per_matrix = place.tensor.n_rows // len(place.importance)
    row: ggml.Floats = place.importance[chunk.start // rows_per_matrix]
    return row


_scratch = threading.local()


def _to_floats(tensor: Tensor, raw: Rows, kinds: Collection[int]) -> ggml.Floats:
    """The rows in float32, good until the thread asks again; kept by nobody unless a target is F32 itself."""
    count = raw.shape[0] * tensor.n_per_row
    if tensor.dtype == "F64":
        with np.errstate(over="ignore"):
            floats = raw.astype(np.float32)
    elif tensor.dtype == "F32":
        floats = raw
    else:
        buffer: ggml.Floats | None = None if ggml.F32 in kinds else getattr(_scratch, "floats", None)
        if buffer is None or buffer.size < count:
            buffer = np.empty(max(count, CHUNK), np.float32)
            if ggml.F32 not in kinds:
                _scratch.floats = buffer
        floats = buffer[:count].reshape(raw.shape[0], tensor.n_per_row)
        ggml.to_float(ggml.block_types()[tensor.dtype.lower()].id, raw.reshape(-1).view(np.uint8), floats)
    # what becomes plain floats is validated afterwards; a kernel must not see what is not a number
    if all(kind in PLAIN for kind in kinds):
        return floats
    if not _finite(tensor, raw, floats):
        raise FormatError(f"{tensor.name} holds values that are not finite", "download it again, or repair the model")
    return floats


def _finite(tensor: Tensor, raw: Rows, floats: ggml.Floats) -> bool:
    if tensor.dtype in ("F16", "BF16"):
        # half as much to look at
        try:
            ggml.validate(ggml.block_types()[tensor.dtype.lower()].id, raw.reshape(-1).view(np.uint8))
        except FormatError:
            return False
        return True
    # the sum is finite only if all are (or, of very large ones, not even then), and much quicker to have
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(floats.sum())) or bool(np.isfinite(floats).all())


def _explained(error: FormatError, chunk: Chunk, raw: Rows) -> FormatError:
    """Is it the source that is broken, or does it not fit the type?"""
    tensor = chunk.tensor
    stored = tensor.dtype.lower()
    if stored in ggml.block_types():
        floats = np.empty((raw.shape[0], tensor.n_per_row), np.float32)
        ggml.to_float(ggml.block_types()[stored].id, raw.reshape(-1).view(np.uint8), floats)
    else:
        floats = raw.astype(np.float64)
    if not np.isfinite(floats).all():
        return FormatError(f"{tensor.name} holds values that are not finite", "download it again, or repair the model")
    return FormatError(f"{tensor.name}: {error.what}", "values beyond F16's range? try BF16, or repair the model")


def _encode_all(work: Iterator[Chunk], n_threads: int) -> Iterator[Encoded]:
    """Encode every chunk on ``n_threads`` threads; the order of results is not that of the chunks."""
    lock = threading.Lock()
    done: queue.Queue[Encoded | BaseException | None] = queue.Queue(n_threads * QUEUE_PER_WORKER)
    stop = threading.Event()

    def put(item: Encoded | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                done.put(item, timeout=0.1)
                return

    def worker() -> None:
        try:
            while not stop.is_set():
                with lock:
                    chunk = next(work, None)
                if chunk is None:
                    break
                put(encode_chunk(chunk))
            put(None)
        except BaseException as error:
            put(error)

    threads = [threading.Thread(target=worker, name=f"encode-{number}", daemon=True) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    try:
        running = n_threads
        while running:
            item = done.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise (
                    item
                    if isinstance(item, (GgufrunError, OSError, MemoryError))
                    else RuntimeError("a worker thread failed")
                ) from item
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()
