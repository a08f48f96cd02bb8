"""The functions of the package that write and measure files do what the commands do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ggufrun
from ggufrun.convert.imatrix import load_imatrix
from ggufrun.errors import NotFoundError, TargetError, UsageError
from tests.support.checkpoints import DEMO


def command(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ggufrun", *map(str, arguments)], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr


def test_convert_and_quantize_write_what_the_commands_write(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    heard: list[tuple[int, int]] = []
    written = ggufrun.convert(DEMO, ["f16", "q4_k_m"], ours, progress=lambda done, total: heard.append((done, total)))
    command("convert", DEMO, "-t", "f16", "-t", "q4_k_m", "-o", theirs)
    assert [one.type for one in written] == ["F16", "Q4_K_M"]
    assert heard[-1][0] == heard[-1][1] and heard == sorted(heard)
    (again,) = ggufrun.quantize(written[0].path, "q8_0", tensor_types={"ffn_down": "f16"}, out=ours)
    command("quantize", written[0].path, "q8_0", "--tensor-type", "ffn_down=f16", "-o", theirs)
    for path in (*(one.path for one in written), again.path):
        assert path.read_bytes() == (theirs / path.name).read_bytes()
        assert path.stat().st_size >= 1


def test_what_exists_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"mine")
    with pytest.raises(TargetError):
        ggufrun.convert(DEMO, "f16", target)
    assert target.read_bytes() == b"mine"
    (written,) = ggufrun.convert(DEMO, "f16", target, force=True, name="Poet")
    assert written.path == target and ggufrun.inspect(target).name == "Poet"


def test_inspect_describes(demo_gguf: Callable[[str], Path]) -> None:
    found = ggufrun.inspect(demo_gguf("q8_0"))
    assert (found.kind, found.architecture, found.file_type) == ("GGUF", "llama", "Q8_0")
    assert ggufrun.inspect(DEMO).parameters == found.parameters


def test_perplexity_and_imatrix(measured: Callable[[str], Path], tmp_path: Path) -> None:
    model = measured("dense-f16")
    text = "The quick brown fox jumps over the lazy dog. " * 60
    steps: list[tuple[int, int]] = []
    alone = ggufrun.perplexity(model, text, n_ctx=64, chunks=3, threads=1, progress=lambda *step: steps.append(step))
    assert alone.chunks == 3 and steps == [(1, 3), (2, 3), (3, 3)]
    same = ggufrun.perplexity(model, text, reference=model, n_ctx=64, chunks=3, threads=1)
    assert same.perplexity == alone.perplexity
    assert same.comparison is not None and abs(same.comparison.kld.value) < 1e-6 and same.comparison.same_top.value == 1
    out = ggufrun.imatrix(model, tmp_path / "i.gguf", text=text, n_ctx=64, chunks=2, threads=1)
    (tmp_path / "text.txt").write_text(text, "utf-8")
    command("imatrix", model, "-f", tmp_path / "text.txt", "-o", tmp_path / "c.gguf", "-c", 64, "--chunks", 2, "-t", 1)
    ours, theirs = load_imatrix(out), load_imatrix(tmp_path / "c.gguf")
    assert ours.entries.keys() == theirs.entries.keys() and ours.chunk_count == 2
    assert all((ours.entries[name].sums == entry.sums).all() for name, entry in theirs.entries.items())


def test_errors_have_what_and_todo(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as wrong:
        ggufrun.convert(DEMO, "q9", tmp_path)
    assert wrong.value.what and wrong.value.todo
    with pytest.raises(NotFoundError):
        ggufrun.convert(tmp_path / "none")
    with pytest.raises(AttributeError):
        ggufrun.nothing  # noqa: B018


def test_rooms_of_the_same_name_leave_the_functions_alone() -> None:
    import ggufrun.convert.plan
    import ggufrun.quantize.types

    assert callable(ggufrun.convert) and callable(ggufrun.quantize)
    assert sorted(ggufrun.__all__) == dir(ggufrun)
