"""``imatrix``, ``perplexity``, ``compare``, ``bench`` and ``--receipt`` as a shell sees them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggufrun.checkpoint.gguf.file import Kind, encode
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.commands import imatrix
from ggufrun.convert.annotate import annotate
from ggufrun.convert.imatrix import load_imatrix, save_imatrix
from ggufrun.engine.chunks import ChunkParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement import system_memory
from ggufrun.errors import NotFoundError
from ggufrun.evaluate.imatrix import Collector
from ggufrun.workflows import compare_models, receipts
from ggufrun.workflows import imatrix as workflow
from tests.support.checkpoints import DEMO
from tests.support.measured import SAMPLE
from tests.test_cli_convert import fails, ggufrun

GOLDEN = Path(__file__).parent / "golden"


def test_an_interrupted_collection_goes_on(
    measured: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, whole = measured("dense-f16"), tmp_path / "part.gguf", tmp_path / "whole.gguf"
    common: dict[str, Any] = {
        "text": SAMPLE,
        "ctx_size": 64,
        "batch_size": 128,
        "chunks": 10,
        "threads": 1,
    }
    imatrix.imatrix([str(model)], output=whole, save_every=0, **common)
    run = Collector.run

    def stops(self: Collector, *arguments: Any) -> Generator[int, None, None]:
        for number, done in enumerate(run(self, *arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(Collector, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        imatrix.imatrix([str(model)], output=out, **common)
    monkeypatch.undo()
    assert load_imatrix(out).chunk_count == 6
    assert str(read_header(out).get(workflow.RESUME_KEY)).endswith(" 6")

    flags: list[str | Path] = ["-f", SAMPLE, "-c", "64", "-b", "128", "-t", "1", "-o", out]
    fails(ggufrun("imatrix", model, *flags, "--chunks", "10"), r"exists; pass --force")
    fails(ggufrun("imatrix", model, *flags, "--chunks", "9", "--resume"), "another model or text", 2)
    fails(ggufrun("imatrix", measured("moe-f16"), *flags, "--chunks", "10", "--resume"), "of another model")
    result = ggufrun("imatrix", model, *flags, "--chunks", "10", "--resume")
    assert (result.returncode, result.stdout) == (0, f"{out}\n"), result.stderr
    assert "4 chunks of 64 tokens" in result.stderr
    ours, expected = load_imatrix(out), load_imatrix(whole)
    assert read_header(out).metadata == read_header(whole).metadata
    for name, entry in expected.entries.items():
        assert (ours.entries[name].counts == entry.counts).all()
        np.testing.assert_allclose(ours.entries[name].sums, entry.sums, rtol=1e-6)
    before = out.read_bytes()
    assert ggufrun("imatrix", model, *flags, "--chunks", "10", "--resume").returncode == 0
    done = ggufrun("imatrix", model, *flags, "--chunks", "10")
    assert done.returncode == 0 and "measured before" in done.stderr
    fails(ggufrun("imatrix", model, *flags, "--chunks", "11"), r"exists; pass --force")
    fails(ggufrun("imatrix", model, *flags, "--chunks", "11", "--resume"), r"is finished, with 10 chunks", 2)
    other = [*flags[2:], "-f", GOLDEN.parent.parent / "README.md", "--chunks", "10"]
    fails(ggufrun("imatrix", model, *other), r"exists; pass --force")
    assert out.read_bytes() == before
    again = ggufrun("imatrix", model, *flags, "--chunks", "10", "--force")
    assert again.returncode == 0 and "measured before" not in again.stderr


def test_the_work_of_a_file(measured: Callable[[str], Path], tmp_path: Path) -> None:
    """What it was measured with decides whether it is done: the model, its vocabulary, the text and the settings."""
    model, copy = measured("dense-f16"), tmp_path / "copy.gguf"
    work = workflow.Collection(ModelParams(model), tmp_path / "x.gguf", "one", "name", ChunkParams(64))
    digests = {
        replace(work, **change).digest
        for change in (
            {},
            {"whole": "two"},
            {"params": ChunkParams(128)},
            {"limit": 2},
            {"skip": 1},
            {"process_output": True},
            {"parse_special": True},
            {"model": ModelParams(measured("moe-f16"))},
        )
    }
    assert len(digests) == 8
    same = {"name": "other", "target": tmp_path / "y.gguf", "params": ChunkParams(64, threads=3), "save_every": 0}
    assert replace(work, **same).digest == work.digest  # type: ignore[arg-type]
    copy.write_bytes(model.read_bytes())
    annotate(copy, "general.", {"general.name": encode("other", Kind.STRING)})
    assert replace(work, model=ModelParams(copy)).digest == work.digest
    annotate(copy, "tokenizer.ggml.pre", {"tokenizer.ggml.pre": encode("other", Kind.STRING)})
    assert replace(work, model=ModelParams(copy)).digest != work.digest
    assert workflow.finished(replace(work, target=model)) is None
    (tmp_path / "x.gguf").write_bytes(b"no GGUF")
    assert workflow.finished(work) is None


def test_saved_on_the_way(measured: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.gguf"
    saved: list[int] = []
    save = workflow._save

    def remembers(*arguments: Any) -> None:
        save(*arguments)
        saved.append(load_imatrix(out).chunk_count)

    monkeypatch.setattr(workflow, "_save", remembers)
    imatrix.imatrix(
        [str(measured("dense-f16"))],
        text=SAMPLE,
        output=out,
        ctx_size=64,
        batch_size=64,
        chunks=7,
        save_every=3,
        threads=1,
    )
    assert saved == [3, 6, 7]
    assert workflow.RESUME_KEY not in read_header(out).metadata


def test_a_killed_collection_ends_in_the_same_bytes(
    measured: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves is the file that was saved on the way."""
    model, part, whole = measured("moe-f16"), tmp_path / "part.gguf", tmp_path / "whole.gguf"
    common: dict[str, Any] = {
        "text": SAMPLE,
        "ctx_size": 64,
        "batch_size": 64,
        "chunks": 9,
        "threads": 1,
        "save_every": 2,
    }
    imatrix.imatrix([str(model)], output=whole, **common)
    run = Collector.run
    for stop in (3, 4):

        def killed(self: Collector, *arguments: Any, stop: int = stop) -> Generator[int, None, None]:
            for number, done in enumerate(run(self, *arguments)):
                if number == stop:
                    raise RuntimeError("killed")
                yield done

        monkeypatch.setattr(Collector, "run", killed)
        with pytest.raises(RuntimeError, match="killed"):
            imatrix.imatrix([str(model)], output=part, resume=True, **common)
    assert str(read_header(part).get(workflow.RESUME_KEY)).endswith(" 6")
    monkeypatch.undo()
    imatrix.imatrix([str(model)], output=part, resume=True, **common)
    assert part.read_bytes() == whole.read_bytes()


def test_the_text_of_our_own_and_the_name_of_the_file(measured: Callable[[str], Path], tmp_path: Path) -> None:
    result = ggufrun("imatrix", measured("dense-f16"), "--chunks", "2", "-c", "64", "-t", "1", cwd=tmp_path)
    assert result.stdout == "dense-imatrix.gguf\n", result.stderr
    found = load_imatrix(tmp_path / "dense-imatrix.gguf")
    assert found.datasets == ("ggufrun calibration",)
    assert len(found.entries) == 14


def test_merging_from_the_shell(tmp_path: Path) -> None:
    moe, dense, out = GOLDEN / "imatrix-moe.bin", GOLDEN / "imatrix-dense.bin", tmp_path / "sum.gguf"
    again = tmp_path / "again.bin"
    again.write_bytes(moe.read_bytes())
    assert ggufrun("imatrix", "--merge", moe, again, "-o", out).stdout == f"{out}\n"
    assert load_imatrix(out).chunk_count == 2 * load_imatrix(moe).chunk_count
    fails(ggufrun("imatrix", "--merge", moe, out, "-o", out), "one of the files to merge", 2)
    fails(ggufrun("imatrix", "--merge", moe, dense, "-o", tmp_path / "y.gguf"), "only matrices of one model")
    fails(ggufrun("imatrix", "--merge", moe, again, moe, "-o", tmp_path / "y.gguf"), "given twice", 2)
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name, words in (("folder", "is a folder"), ("pipe", "is not a regular file"), ("none", "no such file")):
        result = ggufrun("imatrix", "--merge", moe, tmp_path / f"{name}.gguf", "-o", tmp_path / "y.gguf")
        fails(result, f"(importance matrix|no model in) .*{name}.gguf|{words}")
        assert words in result.stderr
    assert not (tmp_path / "y.gguf").exists()


def test_a_matrix_of_the_local_folder_is_merged_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_imatrix(GOLDEN / "imatrix-moe.bin")
    save_imatrix(tmp_path / "models-imatrix.gguf", known)
    monkeypatch.setenv("GGUFRUN_MODELS", str(tmp_path))
    result = ggufrun("imatrix", "--merge", "models-imatrix", GOLDEN / "imatrix-moe.bin", "-o", tmp_path / "sum.gguf")
    assert result.returncode == 0, result.stderr
    assert load_imatrix(tmp_path / "sum.gguf").chunk_count == 2 * known.chunk_count


def test_perplexity_prints_what_llama_perplexity_prints(measured: Callable[[str], Path]) -> None:
    result = ggufrun("perplexity", measured("dense-f16"), "-f", SAMPLE, "-c", "128", "--chunks", "3", "-t", "1")
    running, last = result.stdout.splitlines()
    assert re.fullmatch(r"(\[\d\]\d+\.\d{4},){3}", running), result.stderr
    assert re.fullmatch(r"Final estimate: PPL = \d+\.\d{4} \+/- \d+\.\d{5}", last)


def test_perplexity_as_json(measured: Callable[[str], Path]) -> None:
    model, base = measured("dense-q8_0"), measured("dense-f16")
    result = ggufrun("perplexity", model, "--reference", base, "-c", "128", "--chunks", "2", "-t", "1", "--json")
    found = json.loads(result.stdout)
    assert found["reference"] == str(base)
    assert found["tokens"] == 2 * 63
    assert 0 < found["kld"]["value"] < found["kld_spread"]["99%"] <= found["kld_spread"]["max"] < 0.01
    assert found["perplexity_reference"]["value"] == pytest.approx(found["perplexity"]["value"], rel=0.05)


def test_what_cannot_be_measured(measured: Callable[[str], Path], tmp_path: Path) -> None:
    model = measured("dense-f16")
    (tmp_path / "short.txt").write_text("Too short.")
    fails(ggufrun("perplexity", model, "-f", tmp_path / "short.txt"), "two chunks of 512 take 1024; give a longer", 2)
    fails(ggufrun("imatrix", model, "-f", tmp_path / "none.txt", "-o", tmp_path / "x"), "-f .*none.txt: no such file")
    fails(ggufrun("perplexity", model, "-f", SAMPLE, "-c", "3"), "--ctx-size is 3", 2)
    fails(ggufrun("compare", model, GOLDEN / "imatrix-dense.bin"), "importance matrix, not a model")
    fails(ggufrun("imatrix", model, "-f", SAMPLE, "-o", model, "--force"), "is what it would be made from")
    fails(ggufrun("bench", model, "-p", "many"), "'many' is not a number", 2)
    fails(ggufrun("bench", model, "-p", "4", "-ngl", "some"), "-ngl some; give a number", 2)


def test_a_comparison_ranks_and_draws(measured: Callable[[str], Path], tmp_path: Path) -> None:
    models = [measured("dense-q4_0"), measured("dense-q8_0")]
    flags: list[str | Path] = ["-f", SAMPLE, "-c", "128", "--chunks", "3", "-t", "1"]
    result = ggufrun("compare", measured("dense-f16"), *models, *flags, "--svg", tmp_path / "a.svg")
    names = re.findall(r"dense-q\w+\.gguf", result.stdout)
    assert names == ["dense-q8_0.gguf", "dense-q4_0.gguf"], result.stderr
    assert "│" not in result.stdout
    svg = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert len(svg.findall("{http://www.w3.org/2000/svg}circle")) == 2
    fails(ggufrun("compare", measured("dense-f16"), *models, *flags, "--svg", tmp_path / "a.svg"), "exists")
    for model in models:
        words = "is what it would be made from; write elsewhere with --svg"
        fails(ggufrun("compare", measured("dense-f16"), *models, *flags, "--svg", model, "--force"), words)
    # a drawing that the disk cannot hold leaves the one that stands, and nothing beside it
    before = (tmp_path / "a.svg").read_bytes()
    # in kilobytes
    limited = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, "-m", "ggufrun", "compare"]
    small = [measured("dense-f16"), models[0], *flags, "--svg", tmp_path / "a.svg", "--force"]
    result = subprocess.run([*limited, *map(str, small)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "") and "file too large" in result.stderr
    assert (tmp_path / "a.svg").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a.svg"]
    found = json.loads(ggufrun("compare", measured("dense-f16"), *models, *flags, "--json").stdout)
    assert [Path(one["path"]).name for one in found["models"]] == names
    assert found["models"][0]["bytes"] == models[1].stat().st_size


def test_models_are_opened_together_as_memory_allows(
    measured: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    f16, q8, q4 = (measured(f"dense-{kind}") for kind in ("f16", "q8_0", "q4_0"))
    size = {path: path.stat().st_size for path in (f16, q8, q4)}
    for room, expected in (
        (size[f16] + size[q8] + size[q4], [[q8, q4]]),
        (size[f16] + size[q8], [[q8], [q4]]),
        (0, [[q8], [q4]]),
    ):
        monkeypatch.setattr(compare_models, "_available", lambda room=room: room)
        assert list(compare_models.groups(f16, [q8, q4])) == expected
    # all shards count
    shards = [[tmp_path / f"{name}-0000{number}-of-00002.gguf" for number in (1, 2)] for name in "abc"]
    for first, second in shards:
        first.write_bytes(b"1")
        second.write_bytes(b"2" * 99)
    (a, _), (b, _), (c, _) = shards
    for room, expected in ((300, [[b, c]]), (299, [[b], [c]])):
        monkeypatch.setattr(compare_models, "_available", lambda room=room: room)
        assert list(compare_models.groups(a, [b, c])) == expected
    with pytest.raises(NotFoundError):
        compare_models.compare_models(f16, [f16.with_name("none.gguf")], "", ChunkParams(64))


def test_what_a_container_allows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, expected in (
        (system_memory.Memory(64 << 30, 4 << 30, 8 << 30), 3 << 30),
        (system_memory.Memory(64 << 30, None, None), 32 << 30),
        (system_memory.Memory(None, None, None), 0),
    ):
        monkeypatch.setattr(system_memory, "memory", lambda memory=memory: memory)
        assert compare_models._available() == expected


def test_bench_has_llama_benchs_table(measured: Callable[[str], Path]) -> None:
    flags = ["-p", "32,64", "-n", "4", "-pg", "16,2", "-r", "2", "-t", "1"]
    result = ggufrun("bench", measured("dense-f16"), measured("dense-q4_0"), *flags)
    head, rule, *rows = result.stdout.splitlines()
    # as llama-bench of the pinned release prints it on a processor
    assert head == (
        "| model                          |       size |     params | backend    | threads |"
        "            test |                  t/s |"
    )
    assert rule == (
        "| ------------------------------ | ---------: | ---------: | ---------- | ------: |"
        " --------------: | -------------------: |"
    )
    assert [row.split("|")[6].strip() for row in rows] == ["pp32", "pp64", "tg4", "pp16+tg2"] * 2
    for row in rows:
        assert len(row) == len(head)
        assert re.search(r"\| +\d+\.\d\d ± \d+\.\d\d \|$", row)


def test_bench_as_json(measured: Callable[[str], Path]) -> None:
    result = ggufrun("bench", measured("dense-f16"), "-p", "32", "-n", "0", "-r", "3", "-t", "1", "--json")
    (row,) = json.loads(result.stdout)
    # llama-bench's formulas over its own samples
    speeds = [1e9 * 32 / sample for sample in row["samples_ns"]]
    np.testing.assert_allclose(row["samples_ts"], speeds, rtol=1e-4)
    assert row["avg_ts"] == pytest.approx(np.mean(speeds), rel=1e-4)
    assert row["stddev_ts"] == pytest.approx(np.std(speeds, ddof=1), rel=1e-2)
    assert (row["n_prompt"], row["n_gen"], row["n_threads"], row["backends"]) == (32, 0, 1, "CPU")


def tensors(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def test_a_receipt_of_a_conversion(tmp_path: Path) -> None:
    for folder, more in (("with", ["--receipt"]), ("without", [])):
        (tmp_path / folder).mkdir()
        result = ggufrun("convert", DEMO, "-t", "q4_k_m", "-t", "q8_0", "-j", "1", "-o", tmp_path / folder, *more)
        assert result.returncode == 0, result.stderr
    names = {"tang-poet-Q4_K_M.gguf", "tang-poet-Q8_0.gguf"}
    assert {path.name for path in (tmp_path / "with").iterdir()} == names
    divergence = {}
    for name in names:
        ours, plain = tmp_path / "with" / name, tmp_path / "without" / name
        assert tensors(ours) == tensors(plain)
        metadata = dict(read_header(ours).metadata)
        receipt = {key: metadata.pop(key).decode() for key in list(metadata) if key.startswith("ggufrun.receipt.")}
        assert metadata == read_header(plain).metadata
        assert receipt["ggufrun.receipt.reference"] == "BF16"
        assert receipt["ggufrun.receipt.tokens"] > 1000
        assert 0.5 < receipt["ggufrun.receipt.same_top"] < 1
        divergence[name] = receipt["ggufrun.receipt.kld.mean"]
        shown = ggufrun("inspect", ours).stdout
        assert f"KL divergence {divergence[name]:.6f}" in shown
        documented = (SAMPLE.parents[2] / "docs" / "quality.md").read_text("utf-8")
        assert all(f".{key.rpartition('.')[2]}`" in documented for key in receipt)
    assert 0 < divergence["tang-poet-Q8_0.gguf"] < divergence["tang-poet-Q4_K_M.gguf"]


def test_a_receipt_of_a_quantization(measured: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    result = ggufrun("quantize", measured("dense-f16"), "q8_0", "-o", out, "-j", "1", "--receipt", "--json")
    made = json.loads(result.stdout)
    assert made["bytes"] == out.stat().st_size
    again = json.loads(ggufrun("perplexity", out, "--reference", measured("dense-f16"), "-t", "1", "--json").stdout)
    assert made["receipt"]["kld"] == pytest.approx(again["kld"], rel=1e-6)
    stored = read_header(out).get("ggufrun.receipt.kld.mean")
    assert stored == pytest.approx(again["kld"]["value"], rel=1e-6)


def test_receipts_that_would_say_nothing(measured: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    quantized = measured("dense-q8_0")
    fails(ggufrun("quantize", quantized, "q4_0", "--allow-requantize", "-o", out, "--receipt"), "quantized itself", 2)
    fails(ggufrun("convert", DEMO, "-t", "f16", "-o", out, "--receipt"), "nothing to measure", 2)
    fails(ggufrun("convert", DEMO, "-t", "q8_0", "-o", out, "--receipt", "--split-max-size", "1M"), "whole", 2)
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_that_fails_leaves_the_file(
    measured: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggufrun.cli.commands.quantize import quantize

    def fails_late(*_: Any, **__: Any) -> None:
        raise NotFoundError("no memory", "buy some")

    monkeypatch.setattr(receipts, "compare_models", fails_late)
    out = tmp_path / "x.gguf"
    with pytest.raises(NotFoundError, match="written, but without a receipt: no memory"):
        quantize([str(measured("dense-f16")), "q8_0"], output=out, receipt=True)
    assert len(gguf.GGUFReader(out).tensors) == 21
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_second_receipt_takes_the_place_of_the_first(measured: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(measured("dense-q4_0").read_bytes())
    before = read_header(path)
    annotate(path, "a.", {"a.b": gguf_text("x" * 1000), "a.c": gguf_text("y")})
    annotate(path, "a.", {"a.b": gguf_text("z")})
    after = read_header(path)
    assert after.metadata == before.metadata | {"a.b": gguf_text("z")}
    assert tensors(path) == tensors(measured("dense-q4_0"))


def gguf_text(text: str) -> Any:
    from ggufrun.checkpoint.gguf.file import Kind, encode

    return encode(text, Kind.STRING)
