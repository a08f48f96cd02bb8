"""Split models: written as llama.cpp's gguf-split writes them, loaded by llama.cpp, read back as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.convert import pipeline
from ggufrun.convert.plan import plan_convert, plan_quantize, split_plan
from ggufrun.errors import FormatError, NotFoundError, UsageError
from ggufrun.native.bindings import bindings
from ggufrun.quantize.types import FILE_TYPES
from ggufrun.units import parse_size
from tests.conftest import Oracle
from tests.support.checkpoints import DEMO, write_llama

# not the package itself, which would take llama.cpp's log from the engine
llama_cpp = bindings()

GOLDEN = Path(__file__).parent / "golden" / "split.json"
LIMIT = 2_000_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "llama"
    write_llama(folder)
    return folder


def parts(checkpoint: Path, out: Path, name: str = "F16", limit: int = LIMIT) -> list[Path]:
    plan = split_plan(plan_convert(checkpoint, [FILE_TYPES[name]], lambda kind: out / "x.gguf"), limit)
    pipeline.run(plan)
    plan.close()
    return sorted(out.iterdir())


def test_the_parts_are_gguf_splits(checkpoint: Path, tmp_path: Path) -> None:
    """Recorded from ``llama-gguf-split``; see the golden file for the command."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts(checkpoint, tmp_path)}
    assert digests == json.loads(GOLDEN.read_text())["sha256"]


def test_fresh_parts(oracle: Oracle, checkpoint: Path, tmp_path: Path, record: Path | None) -> None:
    whole, theirs, ours = (tmp_path / name for name in ("x.gguf", "theirs", "ours"))
    theirs.mkdir()
    ours.mkdir()
    plan = plan_convert(checkpoint, [FILE_TYPES["F16"]], lambda kind: whole)
    pipeline.run(plan)
    command = ["llama-gguf-split", "--split", "--split-max-size", f"{LIMIT // 10**6}M"]
    oracle.run(oracle.binaries / command[0], *command[1:], whole, theirs / "x")
    expected = {path.name: path.read_bytes() for path in theirs.iterdir()}
    if record is not None:
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(expected.items())}
        golden = {"command": f"{' '.join(command)} F16.gguf x", "sha256": digests}
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    assert {path.name: path.read_bytes() for path in parts(checkpoint, ours)} == expected


def test_llama_cpp_loads_them(tmp_path: Path) -> None:
    first, *others = parts(DEMO, tmp_path, "Q8_0", 1_500_000)
    assert others
    model = llama_cpp.llama_model_load_from_file(str(first).encode(), llama_cpp.llama_model_default_params())
    assert model
    assert llama_cpp.llama_model_n_params(model) == sum(
        placed.tensor.n_values for placed in plan_convert(DEMO, [], lambda kind: tmp_path / "y").targets[0].tensors
    )
    llama_cpp.llama_model_free(model)


def test_a_split_input_quantizes_to_the_same_file(
    checkpoint: Path, tmp_path: Path, demo_gguf: Callable[[str], Path]
) -> None:
    first, *_ = parts(checkpoint, tmp_path)
    whole = plan_convert(checkpoint, [FILE_TYPES["F16"]], lambda kind: tmp_path / "whole.gguf")
    pipeline.run(whole)
    results = []
    for source in (first, tmp_path / "whole.gguf"):
        plan = plan_quantize(source, [FILE_TYPES["Q4_K_M"]], lambda kind: tmp_path / "q4.gguf")
        pipeline.run(plan, force=True)
        plan.close()
        results.append((tmp_path / "q4.gguf").read_bytes())
    assert results[0] == results[1]


def test_any_part_names_the_model(checkpoint: Path, tmp_path: Path) -> None:
    found = parts(checkpoint, tmp_path)
    sources = [GGUFSource(path) for path in found]
    assert len({tuple(source.tensors) for source in sources}) == 1
    assert sources[0].files == tuple(found)
    for source in sources:
        source.close()


def test_parts_that_are_missing_or_mixed_up(checkpoint: Path, tmp_path: Path) -> None:
    found = parts(checkpoint, tmp_path)
    assert len(found) > 2
    data = found[1].read_bytes()
    found[1].unlink()
    with pytest.raises(NotFoundError, match="00002-of"):
        GGUFSource(found[0])
    found[1].write_bytes(found[2].read_bytes())
    with pytest.raises(FormatError, match="not part 2"):
        GGUFSource(found[0])
    found[1].write_bytes(data)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(found[0].read_bytes())
    with pytest.raises(FormatError, match="not called so"):
        GGUFSource(alone)


def test_a_model_that_fits_is_one_file(checkpoint: Path, tmp_path: Path) -> None:
    (one,) = parts(checkpoint, tmp_path, limit=10**12)
    assert one.name == "x.gguf"
    assert "split.count" not in read_header(one).metadata


def test_a_tensor_larger_than_the_limit_has_its_own_file(checkpoint: Path, tmp_path: Path) -> None:
    found = parts(checkpoint, tmp_path, limit=1)
    assert [len(read_header(path).tensors) for path in found] == [1] * len(found)


def test_sizes() -> None:
    assert parse_size("4G") == 4 * 10**9
    assert parse_size("1.5 MB") == 1_500_000
    assert parse_size("2gib") == 2 << 30
    assert parse_size("700") == 700
    for text in ("", "G", "-4G", "4X", "0"):
        with pytest.raises(UsageError):
            parse_size(text)
