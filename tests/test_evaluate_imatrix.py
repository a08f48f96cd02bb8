"""Importance matrices against ``llama-imatrix``: its files are recorded in ``golden/``, and made afresh where it is.

Commands: ``llama-imatrix -m MODEL.gguf -f ggufrun/data/sample.txt -c 128 -t 2 --no-ppl --chunks 12 -o FILE``,
with ``--output-format dat`` for the older format, and ``--in-file`` for sums of files.
"""

from __future__ import annotations

import ctypes
import signal
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert.imatrix import load_imatrix, save_imatrix
from ggufrun.engine.chunks import ChunkParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.observe import weight_name
from ggufrun.errors import FormatError, TargetError, UsageError
from ggufrun.evaluate.imatrix import Collector, merge
from ggufrun.evaluate.text import cut_into_chunks
from ggufrun.native.library import ggml, library_path
from ggufrun.native.structures import Tensor
from ggufrun.quantize.imatrix import Imatrix, ImatrixEntry
from tests.conftest import Oracle
from tests.support.measured import EXPERTS, SAMPLE, USED, weights, write_model

GOLDEN = Path(__file__).parent / "golden"
LENGTH, CHUNKS = 128, 12


def collect(
    path: Path, output: bool = False, length: int = LENGTH, limit: int = CHUNKS, n_batch: int = 2048
) -> Imatrix:
    with Model(ModelParams(path)) as model:
        text = cut_into_chunks(model, SAMPLE.read_text("utf-8"), length, limit)
        collector = Collector(output)
        with closing(collector.run(model, ChunkParams(length, n_batch, threads=1), text)) as steps:
            for _ in steps:
                pass
        return collector.result([SAMPLE.name], length)


def check_same(ours: Imatrix, theirs: Imatrix) -> None:
    assert ours.entries.keys() == theirs.entries.keys()
    assert (ours.chunk_count, ours.chunk_size) == (theirs.chunk_count, theirs.chunk_size)
    for name, entry in theirs.entries.items():
        mine = ours.entries[name]
        assert mine.sums.shape == entry.sums.shape
        # on another processor a token may be sent to another expert, when two weigh the same to the last bits
        assert np.abs(mine.counts - entry.counts).max() <= (2 if len(entry.counts) > 1 else 0), name
        tolerance = 2e-2 if len(entry.counts) > 1 else 1e-4
        np.testing.assert_allclose(mine.sums, entry.sums, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_recorded_sums(measured: Callable[[str], Path], name: str) -> None:
    check_same(collect(measured(f"{name}-f16"), output=name == "moe"), load_imatrix(GOLDEN / f"imatrix-{name}.bin"))


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_fresh_sums(
    oracle: Oracle, measured: Callable[[str], Path], record: Path | None, tmp_path: Path, name: str
) -> None:
    model, out = measured(f"{name}-f16"), tmp_path / "theirs.gguf"
    more = ["--process-output"] if name == "moe" else []
    tool = oracle.binaries / "llama-imatrix"
    command: tuple[str | Path, ...] = (
        tool,
        "-m",
        model,
        "-f",
        SAMPLE,
        "-c",
        "128",
        "-t",
        "2",
        "--no-ppl",
        "--chunks",
        str(CHUNKS),
        *more,
    )
    oracle.run(*command, "-o", out)
    theirs = load_imatrix(out)
    ours = collect(model, output=name == "moe")
    for key, entry in theirs.entries.items():
        assert (ours.entries[key].counts == entry.counts).all(), key
        np.testing.assert_allclose(ours.entries[key].sums, entry.sums, rtol=1e-4, err_msg=key)
    again = tmp_path / "again.gguf"
    save_imatrix(again, replace(ours, entries=theirs.entries, datasets=(str(SAMPLE),)))
    assert again.read_bytes() == out.read_bytes()
    if record is not None:
        # under a name that does not depend on where the repository lies
        save_imatrix(record / f"imatrix-{name}.bin", replace(theirs, datasets=(SAMPLE.name,)), force=True)
        if name == "moe":
            legacy = record / "imatrix-moe.dat"
            oracle.run(*command, "--output-format", "dat", "-o", legacy)
            before, after = (struct.pack("<i", len(text)) + text for text in (str(SAMPLE).encode(), b"sample.txt"))
            legacy.write_bytes(legacy.read_bytes().removesuffix(before) + after)


def test_their_quantizer_takes_our_file(oracle: Oracle, measured: Callable[[str], Path], tmp_path: Path) -> None:
    save_imatrix(tmp_path / "ours.gguf", collect(measured("dense-f16"), limit=2))
    tool, out = oracle.binaries / "llama-quantize", tmp_path / "out.gguf"
    oracle.run(tool, "--imatrix", tmp_path / "ours.gguf", measured("dense-f16"), out, "Q4_K_M", "2")
    header = read_header(out)
    assert header.get("quantize.imatrix.entries_count") == 14
    assert header.get("quantize.imatrix.chunks_count") == 2
    assert header.get("quantize.imatrix.dataset") == SAMPLE.name


def test_every_token_is_counted_once_a_matrix(measured: Callable[[str], Path]) -> None:
    found = collect(measured("moe-f16"), limit=5, n_batch=256)
    assert found.chunk_count == 5
    for name, entry in found.entries.items():
        if "exps" in name:
            assert entry.counts.shape == (EXPERTS,)
            assert entry.counts.sum() == 5 * LENGTH * USED
        else:
            assert entry.counts.tolist() == [5 * LENGTH]


def test_shared_activations_have_the_same_sums(measured: Callable[[str], Path]) -> None:
    found = collect(measured("dense-f16"), limit=3).entries
    for group in (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up")):
        first, *others = (found[f"blk.1.{name}.weight"].sums for name in group)
        for other in others:
            assert (first == other).all()
    assert (found["blk.0.attn_q.weight"].sums != found["blk.1.attn_q.weight"].sums).any()
    assert (found["blk.1.attn_q.weight"].sums != found["blk.1.ffn_up.weight"].sums).any()


def test_the_output_matrix_only_when_asked(measured: Callable[[str], Path]) -> None:
    model = measured("dense-f16")
    with_output = collect(model, output=True, limit=2)
    assert with_output.entries.keys() - collect(model, limit=2).entries.keys() == {"output.weight"}


@pytest.mark.parametrize("n_batch", [64, 128, 512])
def test_the_batch_hardly_matters(measured: Callable[[str], Path], n_batch: int) -> None:
    whole, parts = (collect(measured("dense-f16"), limit=6, n_batch=size) for size in (2048, n_batch))
    for name, entry in whole.entries.items():
        assert (parts.entries[name].counts == entry.counts).all()
        np.testing.assert_allclose(parts.entries[name].sums, entry.sums, rtol=1e-2)


@pytest.mark.parametrize("name", ["dense-f16", "moe-f16"])
def test_activations_that_lie_elsewhere_are_copied(
    measured: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = collect(measured(name), limit=2)
    asked = []

    def elsewhere(buffer: int) -> bool:
        asked.append(buffer)
        return False

    # the way from a GPU's memory, taken here from the processor's own
    monkeypatch.setattr(ggml(), "ggml_backend_buffer_is_host", elsewhere)
    copied = collect(measured(name), limit=2)
    assert asked
    for key, entry in here.entries.items():
        assert (copied.entries[key].sums == entry.sums).all()
        assert (copied.entries[key].counts == entry.counts).all()


def test_the_mirror_of_a_tensor_has_its_size() -> None:
    overhead = ctypes.CDLL(str(library_path())).ggml_tensor_overhead
    overhead.restype = ctypes.c_size_t
    # an object's header of four fields precedes the tensor
    assert overhead() - ctypes.sizeof(Tensor) == 32


def test_names_of_copies() -> None:
    assert weight_name(b"blk.0.attn_k.weight") == "blk.0.attn_k.weight"
    assert weight_name(b"CUDA0#blk.0.attn_k.weight#0") == "blk.0.attn_k.weight"


def test_values_that_are_not_finite_name_the_tensor(tmp_path: Path) -> None:
    tensors = weights()
    tensors["blk.1.ffn_up.weight"][3, 5] = np.nan
    path = write_model(tmp_path / "nan.gguf", tensors)
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_down\.weight"):
        collect(path, limit=2)


def test_a_text_that_is_too_short(measured: Callable[[str], Path]) -> None:
    with Model(ModelParams(measured("dense-f16"))) as model:
        with pytest.raises(UsageError, match="two chunks of 512 take 1024"):
            cut_into_chunks(model, "Too short.", 512)
        with pytest.raises(UsageError, match="after 50 chunks"):
            cut_into_chunks(model, SAMPLE.read_text("utf-8"), 128, skip=50)


def test_chunks_start_with_bos_and_targets_do_not(measured: Callable[[str], Path]) -> None:
    with Model(ModelParams(measured("dense-f16"))) as model:
        text = cut_into_chunks(model, SAMPLE.read_text("utf-8"), 64, 4)
    assert text.chunks.shape == (4, 64)
    assert (text.chunks[:, 0] == 1).all()
    assert text.targets[0, 0] == 1
    assert (text.targets[1:, 0] != 1).all()
    assert (text.chunks[:, 1:] == text.targets[:, 1:]).all()


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_files_come_back_byte_for_byte(tmp_path: Path, name: str) -> None:
    golden = GOLDEN / f"imatrix-{name}.bin"
    save_imatrix(tmp_path / "copy.gguf", load_imatrix(golden))
    assert (tmp_path / "copy.gguf").read_bytes() == golden.read_bytes()


def test_a_saved_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    matrix = load_imatrix(GOLDEN / "imatrix-dense.bin")
    save_imatrix(tmp_path / "a.gguf", matrix)
    with pytest.raises(TargetError, match="exists"):
        save_imatrix(tmp_path / "a.gguf", matrix)
    save_imatrix(tmp_path / "a.gguf", matrix, force=True, extra={"ggufrun.imatrix.resume": "x 1"})
    assert read_header(tmp_path / "a.gguf").get("ggufrun.imatrix.resume") == "x 1"


def test_a_disk_that_fills_up_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = load_imatrix(GOLDEN / "imatrix-dense.bin")
    save_imatrix(tmp_path / "a.gguf", matrix)
    before = (tmp_path / "a.gguf").read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        save_imatrix(tmp_path / "a.gguf", matrix, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
    assert (tmp_path / "a.gguf").read_bytes() == before


@pytest.mark.parametrize("kinds", [("bin", "bin", "dat"), ("dat", "bin")])
def test_merging_adds_up(oracle: Oracle, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    files = [GOLDEN / f"imatrix-moe.{kind}" for kind in kinds]
    inputs = [part for path in files for part in ("--in-file", str(path))]
    tool, out = oracle.binaries / "llama-imatrix", tmp_path / "theirs.gguf"
    oracle.run(tool, *inputs, "-c", "128", "-m", "none", "-o", out)
    theirs, ours = load_imatrix(out), merge([load_imatrix(path) for path in files])
    check_same(ours, theirs)
    assert ours.datasets == theirs.datasets


def test_a_matrix_with_itself_is_twice_as_much() -> None:
    once = load_imatrix(GOLDEN / "imatrix-moe.bin")
    twice = merge([once, once])
    assert twice.chunk_count == 2 * once.chunk_count
    assert twice.datasets == once.datasets * 2
    for name, entry in once.entries.items():
        assert (twice.entries[name].sums == 2 * entry.sums).all()
        assert (twice.entries[name].counts == 2 * entry.counts).all()
        np.testing.assert_allclose(twice.entries[name].importance(), entry.importance(), rtol=1e-6)


def test_matrices_of_different_models_are_not_merged() -> None:
    dense, moe = (load_imatrix(GOLDEN / f"imatrix-{name}.bin") for name in ("dense", "moe"))
    with pytest.raises(FormatError, match="ffn_"):
        merge([dense, moe])
    name = "blk.0.attn_q.weight"
    wider = replace(
        dense, entries={**dense.entries, name: ImatrixEntry(np.ones((1, 512), np.float32), np.array([7], np.int64))}
    )
    with pytest.raises(FormatError, match=r"blk\.0\.attn_q\.weight has 256 columns .* 512"):
        merge([dense, wider])


def test_ctrl_c_while_the_model_runs(measured: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    pressed: list[str] = []

    def presses(self: Collector, weight: str) -> bool:
        # the second of two batches is under way, in the middle of its graph
        if self.chunks and weight == "blk.1.ffn_up.weight" and not pressed:
            pressed.append(weight)
            signal.raise_signal(signal.SIGINT)
        return weight.startswith("blk.")

    monkeypatch.setattr(Collector, "_wants", presses)
    with Model(ModelParams(measured("dense-f16"))) as model:
        text = cut_into_chunks(model, SAMPLE.read_text("utf-8"), LENGTH, 4)
        collector = Collector()
        with closing(collector.run(model, ChunkParams(LENGTH, 256, threads=1), text)) as steps:
            assert next(steps) == 2
            with pytest.raises(KeyboardInterrupt):
                next(steps)
    assert collector.chunks == 2
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    check_same(collector.result([SAMPLE.name], LENGTH), collect(measured("dense-f16"), limit=2, n_batch=256))
