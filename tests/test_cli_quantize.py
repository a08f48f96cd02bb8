"""``quantize`` over many inputs, ``--fit``, and ``--imatrix auto`` on ``quantize`` and ``convert``, from the shell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.flags.common import TypeFlags, WriteFlags
from ggufrun.cli.jobs.several_inputs import sort_arguments
from ggufrun.convert.annotate import annotate
from ggufrun.convert.imatrix import load_imatrix
from ggufrun.engine.chunks import ChunkParams
from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement.memory import measure
from ggufrun.errors import UsageError
from ggufrun.quantize.types import BEST_FIRST, FILE_TYPES
from ggufrun.workflows import imatrix as workflow
from ggufrun.workflows.imatrix import MODEL_KEY, RESUME_KEY, Collection, collect, model_digest
from ggufrun.workflows.targets import base_name
from tests.support.checkpoints import DEMO, write_llama
from tests.support.measured import SAMPLE
from tests.test_cli_convert import fails, ggufrun


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- what is an input, what a type ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "inputs", "types"),
    [
        (["a.gguf", "q4_k_m"], ["a.gguf"], ["Q4_K_M"]),
        (["Q8-0", "a.gguf", "b", "f16", "a.gguf", "q8_0"], ["a.gguf", "b"], ["Q8_0", "F16"]),
        (["a.gguf"], ["a.gguf"], []),
        # a file that is called like a type
        (["./q8_0", "q4_k"], ["./q8_0"], ["Q4_K_M"]),
        (["qwen2", "q4_0"], ["qwen2"], ["Q4_0"]),
        (["org/q4_k_m", "q4_0"], ["org/q4_k_m"], ["Q4_0"]),
    ],
)
def test_arguments(arguments: list[str], inputs: list[str], types: list[str]) -> None:
    found, kinds = sort_arguments(arguments)
    assert (found, [kind.name for kind in kinds]) == (inputs, types)


def test_arguments_that_say_nothing() -> None:
    for arguments, words in ((["q4_0"], "no model"), (["a", "q9"], "unknown type 'q9'"), (["a", "iq4xs"], "IQ4_XS")):
        with pytest.raises(UsageError, match=words):
            sort_arguments(arguments)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("model-f16.gguf", "model"),
        ("model.Q8_0.gguf", "model"),
        ("model.gguf", "model"),
        ("model-f16-00001-of-00003.gguf", "model"),
        ("model-00002-of-00003.gguf", "model"),
        ("f16.gguf", "f16"),
    ],
)
def test_names_without_their_type(name: str, stem: str) -> None:
    assert base_name(Path(name)) == stem


# --- many inputs ------------------------------------------------------------------------------------------------------


def test_one_failing_input_does_not_stop_the_others(measured: Callable[[str], Path], tmp_path: Path) -> None:
    good, other, quantized = measured("dense-f16"), measured("moe-f16"), measured("dense-q8_0")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(good.read_bytes()[:-1000])
    result = ggufrun("quantize", good, quantized, broken, "nowhere", other, "q4_0", "q8_0", cwd=tmp_path)
    assert result.returncode == 1
    names = [f"{stem}-{kind}.gguf" for stem in ("dense", "moe") for kind in ("Q4_0", "Q8_0")]
    assert result.stdout.split() == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "broken.gguf"])
    errors = [line for line in result.stderr.splitlines() if line.startswith("ggufrun: ")]
    assert [re.search("already quantized|cut short|no such file", line)[0] for line in errors] == [  # type: ignore[index]
        "already quantized",
        "cut short",
        "no such file",
    ]
    assert re.search(r"4 files written from 2 of 5 inputs", result.stderr)
    assert "Traceback" not in result.stderr
    alone = tmp_path / "alone"
    alone.mkdir()
    assert ggufrun("quantize", other, "q4_0", "-o", alone).returncode == 0
    assert (alone / "moe-Q4_0.gguf").read_bytes() == (tmp_path / "moe-Q4_0.gguf").read_bytes()


def test_json_lines(measured: Callable[[str], Path], tmp_path: Path) -> None:
    good, quantized = measured("dense-f16"), measured("dense-q8_0")
    result = ggufrun("quantize", good, quantized, "q4_0", "q8_0", "--json", cwd=tmp_path)
    assert result.returncode == 1
    first, second, third = lines(result.stdout)
    assert [first["path"], second["path"]] == ["dense-Q4_0.gguf", "dense-Q8_0.gguf"]
    assert first["input"] == str(good)
    assert first["bytes"] == (tmp_path / "dense-Q4_0.gguf").stat().st_size
    assert (third["input"], "already quantized" in third["error"]) == (str(quantized), True)
    planned = lines(ggufrun("quantize", good, "q4_k_m", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert len(planned[0]["tensors"]) == 21


def test_two_inputs_that_would_become_the_same_file(measured: Callable[[str], Path], tmp_path: Path) -> None:
    for folder in ("a", "b", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "m-f16.gguf").symlink_to(measured("dense-f16"))
    (tmp_path / "b" / "m-f16.gguf").symlink_to(measured("moe-f16"))
    models = [tmp_path / "a" / "m-f16.gguf", tmp_path / "b" / "m-f16.gguf"]
    result = ggufrun("quantize", *models, "q8_0", "-o", tmp_path / "out", "--force")
    assert result.returncode == 1
    assert "is also what" in result.stderr
    assert ggufrun("quantize", models[0], "q8_0", "-o", tmp_path / "x.gguf").returncode == 0
    assert (tmp_path / "out" / "m-Q8_0.gguf").read_bytes() == (tmp_path / "x.gguf").read_bytes()
    fails(ggufrun("quantize", *models, "q8_0", "-o", tmp_path / "y.gguf"), "is not a folder, and there are 2 inputs", 2)


def test_the_parts_of_a_split_model_are_one_input(measured: Callable[[str], Path], tmp_path: Path) -> None:
    assert ggufrun("quantize", measured("dense-f16"), "f16", "--split-max-size", "1M", cwd=tmp_path).returncode == 0
    parts = sorted(tmp_path.glob("dense-F16-*.gguf"))
    assert len(parts) > 1
    result = ggufrun("quantize", *reversed(parts), "q8_0", cwd=tmp_path)
    assert result.stdout.split() == ["dense-Q8_0.gguf"], result.stderr


def test_resume_leaves_what_is_done(measured: Callable[[str], Path], tmp_path: Path) -> None:
    source = tmp_path / "dense-f16.gguf"
    source.write_bytes(measured("dense-f16").read_bytes())
    command: list[str | Path] = ["quantize", source, measured("moe-f16"), "q4_0"]
    assert ggufrun(*command, cwd=tmp_path).returncode == 0
    before = (tmp_path / "dense-Q4_0.gguf").stat()
    (tmp_path / "moe-Q4_0.gguf").unlink()
    again = ggufrun(*command, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "dense-Q4_0.gguf is done already" in again.stderr
    assert (tmp_path / "dense-Q4_0.gguf").stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "moe-Q4_0.gguf").exists()
    # of several types only the missing one is made
    more = ggufrun("quantize", source, "q4_0", "q8_0", "--resume", cwd=tmp_path)
    assert more.stdout.split() == ["dense-Q4_0.gguf", "dense-Q8_0.gguf"], more.stderr
    assert (tmp_path / "dense-Q4_0.gguf").stat().st_mtime_ns == before.st_mtime_ns
    # a source that is younger than the target is another job
    source.touch()
    fails(ggufrun("quantize", source, "q4_0", "--resume", cwd=tmp_path), "exists; pass --force")


def test_what_is_no_model(tmp_path: Path) -> None:
    matrix = Path(__file__).parent / "golden" / "imatrix-dense.bin"
    for more in (["q4_0"], ["--fit", "1G"]):
        fails(ggufrun("quantize", matrix, *more, cwd=tmp_path), "is an importance matrix, not a model; pass it with")


def test_a_type_of_one_tensor_that_needs_a_matrix(measured: Callable[[str], Path], tmp_path: Path) -> None:
    result = ggufrun("quantize", measured("dense-f16"), "q4_k_m", "--tensor-type", "attn_q=iq2_xs", cwd=tmp_path)
    fails(result, r"needs an importance matrix \(blk\.0\.attn_q\.weight as iq2_xs\); .*--imatrix auto", 2)


# --- --fit ------------------------------------------------------------------------------------------------------------


def test_the_best_type_that_fits(measured: Callable[[str], Path], tmp_path: Path) -> None:
    """Against what the engine says of the very files."""
    source = measured("dense-f16")
    files = {}
    for name in ("q8_0", "q5_k_m", "q4_k_m", "q2_k"):
        files[name] = tmp_path / f"{name}.gguf"
        assert ggufrun("quantize", source, name, "-o", files[name]).returncode == 0
    params = ContextParams(256)
    memory = {name: measure(ModelParams(path), params).total.total for name, path in files.items()}
    flags: list[str | Path] = ["-c", "256", "--json", "--dry-run"]
    for name, limit in memory.items():
        (found,) = lines(ggufrun("quantize", source, "--fit", str(limit), *flags, cwd=tmp_path).stdout)
        assert found["type"] == name.upper()
        assert found["path"] == f"dense-{name.upper()}.gguf"
        fit = found["fit"]
        assert (fit["limit"], fit["context"]) == (limit, 256)
        rows = {row["type"]: row for row in fit["considered"]}
        assert list(rows) == [kind.name for kind in BEST_FIRST]
        for other, path in files.items():
            row = rows[other.upper()]
            assert (row["bytes"], row["memory"]) == (path.stat().st_size, memory[other])
            assert row["fits"] == (memory[other] <= limit)
        assert "importance matrix" in rows["IQ2_XS"]["problem"]
    assert sorted(tmp_path.iterdir()) == sorted(files.values())


def test_context_and_types_of_cache_count(measured: Callable[[str], Path], tmp_path: Path) -> None:
    source, made = measured("dense-f16"), tmp_path / "q4.gguf"
    assert ggufrun("quantize", source, "q4_k_m", "-o", made).returncode == 0
    found = []
    for context, kind in ((256, "f16"), (512, "f16"), (512, "q8_0")):
        flags = ("-c", str(context), "-ctk", kind, "-ctv", kind, "--dry-run", "--json")
        result = ggufrun("quantize", source, "q4_k_m", "--fit", "1G", *flags, cwd=tmp_path)
        found.append(lines(result.stdout)[0]["fit"]["considered"][0]["memory"])
        assert found[-1] == measure(ModelParams(made), ContextParams(context, type_k=kind, type_v=kind)).total.total
    assert found[0] < found[1] != found[2]


def test_fit_shows_what_it_considered_and_quantizes(measured: Callable[[str], Path], tmp_path: Path) -> None:
    source = measured("dense-f16")
    result = ggufrun("quantize", source, "--fit", "1G", "q4_0", "q6_k", cwd=tmp_path)
    assert result.stdout.split() == ["dense-Q6_K.gguf"]
    shown = [line.split()[0] for line in result.stderr.splitlines() if re.search("fits|chosen$", line.strip())]
    assert shown[-3:] == ["the", "Q6_K", "Q4_0"]
    # types that need an importance matrix are in reach with one
    small = ggufrun(
        "quantize", source, "--fit", "1G", "iq2_xs", "--imatrix", "auto", "--dry-run", "--json", cwd=tmp_path
    )
    assert lines(small.stdout)[0]["type"] == "IQ2_XS"
    assert [path.name for path in tmp_path.iterdir()] == ["dense-Q6_K.gguf"]


def test_nothing_fits(measured: Callable[[str], Path], tmp_path: Path) -> None:
    source = measured("dense-f16")
    result = ggufrun("quantize", source, "--fit", "1M", cwd=tmp_path)
    assert result.returncode == 1
    assert "nothing fits into 1M with 512 tokens of context" in result.stderr.splitlines()[-1]
    assert "--imatrix auto" in result.stderr.splitlines()[-1]
    fails(ggufrun("quantize", source, "--fit", "much", cwd=tmp_path), "'much' is not a size", 2)
    assert list(tmp_path.iterdir()) == []


def test_fit_gpu_without_one(measured: Callable[[str], Path], tmp_path: Path) -> None:
    from ggufrun.engine.placement.devices import has_gpu

    if has_gpu():
        pytest.skip("this machine has a GPU")
    result = ggufrun("quantize", measured("dense-f16"), "--fit", "gpu", cwd=tmp_path)
    fails(result, r"--fit gpu: the engine sees no GPU here; .* --fit 8G")


ONE_THREAD = WriteFlags(threads=1)

# --- --imatrix auto ---------------------------------------------------------------------------------------------------


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample in place of the calibration text, in short chunks: seconds, not minutes."""
    run = workflow.collect

    def shorter(work: Collection, resume: bool, *rest: Any) -> Any:
        return run(replace(work, limit=4, params=ChunkParams(64, threads=1)), resume, *rest)

    monkeypatch.setattr(workflow, "collect", shorter)


def test_an_automatic_matrix_is_the_one_that_imatrix_measures(measured: Callable[[str], Path], tmp_path: Path) -> None:
    source, kept = measured("dense-f16"), tmp_path / "dense-imatrix.gguf"
    result = ggufrun("quantize", source, "iq2_xs", "--imatrix", "auto", "-j", "1", cwd=tmp_path)
    assert result.stdout == "dense-IQ2_XS.gguf\n", result.stderr
    assert ggufrun("imatrix", source, "-o", tmp_path / "own.gguf", "-t", "1").returncode == 0
    automatic, own = load_imatrix(kept), load_imatrix(tmp_path / "own.gguf")
    assert automatic.datasets == own.datasets == ("ggufrun calibration",)
    for name, entry in own.entries.items():
        assert (automatic.entries[name].sums == entry.sums).all()
    with_file = ggufrun("quantize", source, "iq2_xs", "--imatrix", kept, "-o", tmp_path / "x.gguf")
    assert with_file.returncode == 0, with_file.stderr
    header, other = read_header(tmp_path / "x.gguf"), read_header(tmp_path / "dense-IQ2_XS.gguf")
    data = (tmp_path / "x.gguf").read_bytes()[header.data_start :]
    assert data == (tmp_path / "dense-IQ2_XS.gguf").read_bytes()[other.data_start :]
    again = ggufrun("quantize", source, "q4_k_m", "--imatrix", "auto", cwd=tmp_path)
    assert "measured before" in again.stderr
    assert "chunks" not in again.stderr
    # the other command, too, finds it done, and the other way round; other settings are another matrix
    before = kept.read_bytes()
    found = ggufrun("imatrix", source, "-t", "1", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "dense-imatrix.gguf\n") and "measured before" in found.stderr
    fails(ggufrun("imatrix", source, "--chunks", "3", cwd=tmp_path), "exists; pass --force")
    assert kept.read_bytes() == before
    kept.write_bytes((tmp_path / "own.gguf").read_bytes())
    again = ggufrun("quantize", source, "q3_k_m", "--imatrix", "auto", cwd=tmp_path)
    assert again.returncode == 0 and "measured before" in again.stderr


def test_a_matrix_of_something_else_is_not_taken(measured: Callable[[str], Path], tmp_path: Path) -> None:
    source, kept = measured("dense-f16"), tmp_path / "dense-imatrix.gguf"
    common = {"params": ChunkParams(64, threads=1), "limit": 2}
    collect(Collection(ModelParams(source), kept, SAMPLE.read_text("utf-8"), "mine", **common), resume=False)  # type: ignore[arg-type]
    before = kept.read_bytes()
    command: list[str | Path] = ["quantize", source, "iq2_xs", "--imatrix", "auto"]
    fails(
        ggufrun(*command, cwd=tmp_path), r"was not measured on dense-f16.gguf as .*; use it with --imatrix dense-im", 2
    )
    assert (kept.read_bytes(), (tmp_path / "dense-IQ2_XS.gguf").exists()) == (before, False)


def test_the_digest_tells_models_apart(measured: Callable[[str], Path], tmp_path: Path) -> None:
    source, copy = measured("dense-f16"), tmp_path / "copy.gguf"
    copy.write_bytes(source.read_bytes())
    annotate(copy, "general.", {"general.name": read_header(measured("moe-f16")).metadata["general.name"]})
    assert model_digest(copy) == model_digest(source) != model_digest(measured("dense-q8_0"))
    info = next(info for info in read_header(copy).tensors if info.name == "blk.1.ffn_up.weight")
    data = bytearray(copy.read_bytes())
    data[read_header(copy).data_start + info.offset] ^= 1
    copy.write_bytes(data)
    assert model_digest(copy) != model_digest(source)


def test_what_would_fail_later_is_said_before_measuring(measured: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "dense-Q4_0.gguf").write_text("precious")
    fails(ggufrun("quantize", measured("dense-f16"), "q4_0", "--imatrix", "auto", cwd=tmp_path), "exists; pass")
    (tmp_path / f"{DEMO.name}-Q4_0.gguf").write_text("precious")
    fails(ggufrun("convert", DEMO, "-t", "q4_0", "--imatrix", "auto", cwd=tmp_path), "exists; pass")
    assert not list(tmp_path.glob("*imatrix*"))


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize("types", [["Q2_K_S"], ["F16", "IQ4_XS"]], ids=["passing", "plain-target"])
def test_convert_measures_on_a_plain_file(tmp_path: Path, types: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The same as: convert plainly, measure, convert with the file."""
    from ggufrun.cli.commands.convert import convert

    model, auto, steps = tmp_path / "model", tmp_path / "auto", tmp_path / "steps"
    write_llama(model, num_hidden_layers=2, vocab_size=2304)
    auto.mkdir()
    steps.mkdir()
    convert(str(model), types=types, output=auto, kinds=TypeFlags("auto"), how=ONE_THREAD, receipt=True)
    assert sorted(path.name for path in auto.iterdir()) == sorted(
        [*(f"model-{kind}.gguf" for kind in types), "model-imatrix.gguf"]
    )
    assert RESUME_KEY not in read_header(auto / "model-imatrix.gguf").metadata
    assert "ggufrun.receipt.kld.mean" in read_header(auto / f"model-{types[-1]}.gguf").metadata
    kinds = TypeFlags(str(auto / "model-imatrix.gguf"))
    convert(str(model), types=types[-1:], output=steps, kinds=kinds, how=ONE_THREAD)
    made, again = auto / f"model-{types[-1]}.gguf", steps / f"model-{types[-1]}.gguf"
    assert made.read_bytes()[read_header(made).data_start :] == again.read_bytes()[read_header(again).data_start :]
    plain = tmp_path / "plain.gguf"
    convert(str(model), types=types[:1] if len(types) > 1 else None, output=plain)
    assert read_header(auto / "model-imatrix.gguf").get(MODEL_KEY) == model_digest(plain)
    assert "model-imatrix.gguf" in capsys.readouterr().err


def test_every_type_to_fit_is_one() -> None:
    assert set(BEST_FIRST) < set(FILE_TYPES.values())
    assert len(set(BEST_FIRST)) == len(BEST_FIRST) > 15


def test_the_order_of_llama_quantize(measured: Callable[[str], Path], tmp_path: Path) -> None:
    """IN OUT TYPE THREADS: nothing is made under another name; it is said how it is written here."""
    model = measured("dense-f16")
    fails(
        ggufrun("quantize", model, "out.gguf", "q8_0", cwd=tmp_path),
        "no file out.gguf; to write to it: .* -o out.gguf",
        2,
    )
    fails(ggufrun("quantize", model, "q8_0", "4", cwd=tmp_path), "no file 4; threads are given with -j 4", 2)
    fails(ggufrun("quantize", model, "q4", cwd=tmp_path), r"unknown type 'q4'; did you mean Q4_K_M\?", 2)
    assert not list(tmp_path.iterdir())
