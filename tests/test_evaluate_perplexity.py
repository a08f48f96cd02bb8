"""Perplexity and divergence against ``llama-perplexity``: its lines are recorded, and asked for afresh where it is.

Commands, all with ``-f ggufrun/data/sample.txt -t 1``: ``llama-perplexity -m MODEL -c C -b B --chunks N``; for
divergences ``-m REFERENCE --kl-divergence-base FILE``, then ``-m MODEL --kl-divergence-base FILE --kl-divergence``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ggufrun.cli.jobs.comparison import report
from ggufrun.engine.chunks import ChunkParams, Floats
from ggufrun.engine.model import Model, ModelParams
from ggufrun.errors import EngineError, UsageError
from ggufrun.evaluate import statistics
from ggufrun.evaluate.perplexity import Scores, score, score_against, score_rows
from ggufrun.evaluate.text import cut_into_chunks
from tests.conftest import Oracle
from tests.support.measured import SAMPLE, stock_kernels, weights, write_model

GOLDEN = Path(__file__).parent / "golden" / "perplexity.json"

RUNS = [("dense-f16", 128, 2048), ("dense-f16", 128, 64), ("dense-q4_0", 64, 128), ("moe-f16", 128, 256)]
"""(model, tokens a chunk, tokens a batch): several chunks a batch, and several batches a chunk."""

CHUNKS = 6
PAIRS = [("dense-q8_0", "dense-f16"), ("dense-q4_0", "dense-f16")]


def measure(path: Path, length: int, batch: int, limit: int = CHUNKS) -> str:
    """What the command prints."""
    with Model(ModelParams(path)) as model:
        text = cut_into_chunks(model, SAMPLE.read_text("utf-8"), length, limit)
        parts: list[Scores] = []
        line = ""
        with closing(score(model, ChunkParams(length, batch, threads=1), text)) as steps:
            for scores in steps:
                parts.append(scores)
                line += f"[{len(parts)}]{statistics.perplexity(Scores.join(parts).nll).value:.4f},"
        found = statistics.perplexity(Scores.join(parts).nll)
        return f"{line} PPL = {found.value:.4f} +/- {found.error:.5f}"


def diverge(model_path: Path, reference_path: Path, limit: int = CHUNKS) -> list[str]:
    """The report, with llama.cpp's kernels: ours add in another order, and here small differences are what counts."""
    with stock_kernels(), Model(ModelParams(reference_path)) as base, Model(ModelParams(model_path)) as model:
        whole = SAMPLE.read_text("utf-8")
        text = cut_into_chunks(base, whole, 128, limit)
        with closing(score_against(base, [model], ChunkParams(128, threads=1), text, whole)) as steps:
            scores = Scores.join([one for (one,) in steps])
        return report(statistics.compare(scores))


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


@pytest.mark.parametrize(("name", "length", "batch"), RUNS)
def test_recorded_perplexity(measured: Callable[[str], Path], name: str, length: int, batch: int) -> None:
    theirs = json.loads(GOLDEN.read_text())[f"{name} {length} {batch}"]
    ours = measure(measured(name), length, batch)
    assert len(numbers(theirs)) == CHUNKS + 2
    # another processor rounds in another order; the last digits stand only where the recording was made
    np.testing.assert_allclose(numbers(ours), numbers(theirs), rtol=2e-3)


@pytest.mark.parametrize(("name", "length", "batch"), RUNS)
def test_fresh_perplexity(
    oracle: Oracle, measured: Callable[[str], Path], record: Path | None, name: str, length: int, batch: int
) -> None:
    command: list[str | Path] = [
        oracle.binaries / "llama-perplexity", "-m", measured(name), "-f", SAMPLE, "-t", "1",
        "-c", str(length), "-b", str(batch), "--chunks", str(CHUNKS),
    ]  # fmt: skip
    printed = oracle.run(*command)
    running = re.search(r"\[1\].*", printed)
    assert running is not None
    theirs = running[0]
    theirs += " " + printed[printed.index("PPL = ") :].splitlines()[0]
    if record is not None:
        _record(f"{name} {length} {batch}", theirs)
    with stock_kernels():
        assert measure(measured(name), length, batch) == theirs


def _record(key: str, value: object) -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    GOLDEN.write_text(json.dumps(golden | {key: value}, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def figures(lines: list[str]) -> dict[str, list[float]]:
    """``Maximum KLD:   0.143`` as name and numbers."""
    found = {}
    for line in lines:
        name, colon, rest = line.rpartition(":")
        if colon and numbers(rest):
            found[" ".join(name.split())] = numbers(rest)
    return found


def check_figures(ours: list[str], theirs: list[str], tolerance: float) -> None:
    mine, other = figures(ours), figures(theirs)
    assert [re.sub(r" *-?\d+\.\d+", " N", line) for line in ours] == [
        re.sub(r" *-?\d+\.\d+", " N", line) for line in theirs
    ]
    assert len(mine) == len(other) == 34
    for name, values in other.items():
        # their file of logits rounds the reference's log-probabilities to steps of up to 2.4e-4
        absolute = 5e-4 if "KLD" in name else 2e-2 if "p" in name.split()[-1] else 0
        np.testing.assert_allclose(mine[name], values, rtol=tolerance, atol=absolute, err_msg=name)


@pytest.mark.parametrize(("name", "reference"), PAIRS)
def test_recorded_divergence(measured: Callable[[str], Path], name: str, reference: str) -> None:
    theirs = json.loads(GOLDEN.read_text())[f"{name} beside {reference}"]
    check_figures(diverge(measured(name), measured(reference)), theirs, 2e-2)


@pytest.mark.parametrize(("name", "reference"), PAIRS)
def test_fresh_divergence(
    oracle: Oracle,
    measured: Callable[[str], Path],
    record: Path | None,
    tmp_path: Path,
    name: str,
    reference: str,
) -> None:
    tool, logits = oracle.binaries / "llama-perplexity", tmp_path / "logits"
    common = ("-f", SAMPLE, "-t", "1", "-c", "128", "--chunks", str(CHUNKS), "--kl-divergence-base", logits)
    oracle.run(tool, "-m", measured(reference), *common)
    printed = oracle.run(tool, "-m", measured(name), *common, "--kl-divergence")
    lines = printed[printed.index("====== Perplexity") :].splitlines()
    theirs = lines[: next(i for i, line in enumerate(lines) if "Same top" in line) + 1]
    if record is not None:
        _record(f"{name} beside {reference}", theirs)
    check_figures(diverge(measured(name), measured(reference)), theirs, 5e-3)


def test_a_model_beside_itself_lost_nothing(measured: Callable[[str], Path]) -> None:
    model = measured("dense-f16")
    found = figures(diverge(model, model, 2))
    assert found["Mean KLD"] == [0, 0]
    assert found["Maximum KLD"] == [0]
    assert found["Same top p"] == [100, 0]
    assert found["Mean PPL(Q)/PPL(base)"] == [1, 0]


FIGURES = ("perplexity", "reference", "log_ratio", "ratio", "difference", "kld", "change", "rms_change", "same_top")


def test_uncertainties_are_what_the_bootstrap_says() -> None:
    """Every figure again from tokens drawn anew, a thousand times: how much it then varies is its standard error."""
    chance = np.random.default_rng(5)
    base = chance.gamma(1.5, 1.0, 800)
    nll = np.abs(base + chance.normal(0.05, 0.3, 800))
    scores = Scores(nll, base, chance.gamma(2.0, 0.05, 800), chance.random(800) < 0.8)

    def figures_of(one: Scores) -> dict[str, statistics.Estimate]:
        found = statistics.compare(one)
        return {name: getattr(found, name) for name in FIGURES}

    drawn = []
    for _ in range(1000):
        rows = chance.integers(0, 800, 800)
        drawn.append(figures_of(Scores(nll[rows], base[rows], scores.kld[rows], scores.same_top[rows])))
    for name, estimate in figures_of(scores).items():
        varies = float(np.std([one[name].value for one in drawn]))
        assert estimate.error == pytest.approx(varies, rel=0.1), name


def exact(logits: Floats, base: Floats, target: int) -> tuple[float, float]:
    """Negative log-likelihood and divergence of one row by the book, in double precision."""
    p = np.exp(logits.astype(np.float64) - logits.max())
    q = np.exp(base.astype(np.float64) - base.max())
    p, q = p / p.sum(), q / q.sum()
    used = q > 0
    return -math.log(p[target]), float((q[used] * np.log(q[used] / p[used])).sum())


def test_scores_by_the_book() -> None:
    random = np.random.default_rng(3)
    logits = (random.standard_normal((21, 5000)) * 4).astype(np.float32)
    base = (logits + random.standard_normal((21, 5000)) * 0.1).astype(np.float32)
    base[4, 100:] = -np.inf
    targets = random.integers(0, 50, 21).astype(np.int32)
    found = score_rows(logits, base, targets)
    for row in range(21):
        nll, kld = exact(logits[row], base[row], int(targets[row]))
        assert found.nll[row] == pytest.approx(nll, rel=1e-6)
        assert found.kld[row] == pytest.approx(kld, rel=1e-5)
        assert found.same_top[row] == (logits[row].argmax() == base[row].argmax())


def test_a_token_that_only_the_reference_allows_is_infinitely_far() -> None:
    base = np.zeros((1, 4), np.float32)
    logits = np.array([[0, 0, 0, -np.inf]], np.float32)
    assert score_rows(logits, base, np.array([0], np.int32)).kld[0] == np.inf


def test_uncertainty_shrinks_with_the_root_of_the_tokens() -> None:
    values = np.tile([1.0, 3.0], 5000)
    few, many = statistics.mean(values[:100]), statistics.mean(values)
    assert (few.value, many.value) == (2.0, 2.0)
    assert few.error / many.error == pytest.approx(10, rel=1e-2)


def test_quantiles_lie_between_the_extremes() -> None:
    values = np.arange(1001.0)
    nothing = np.zeros(1001)
    found = statistics.compare(Scores(nothing + 1, nothing + 1, values, np.ones(1001, np.bool_)))
    assert found.kld_spread.at(0.99) == 990
    assert found.kld_spread.at(0.5) == 500
    assert (found.kld_spread.minimum, found.kld_spread.maximum) == (0, 1000)
    assert found.perplexity.value == pytest.approx(math.e)


def test_another_vocabulary_is_no_reference(measured: Callable[[str], Path], tmp_path: Path) -> None:
    larger = write_model(tmp_path / "larger.gguf", weights(), more_tokens=4)
    with pytest.raises(UsageError, match=r"2048 tokens, larger\.gguf has 2052"):
        diverge(measured("dense-f16"), larger, 1)
    swapped = write_model(tmp_path / "swapped.gguf", weights(), swapped=True)
    with pytest.raises(UsageError, match="different tokens"):
        diverge(measured("dense-f16"), swapped, 1)


def test_a_model_that_predicts_nothing(tmp_path: Path) -> None:
    tensors = weights()
    tensors["output_norm.weight"][7] = np.nan
    path = write_model(tmp_path / "nan.gguf", tensors)
    with pytest.raises(EngineError, match="predicts NaN"):
        measure(path, 64, 2048, 2)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="--ctx-size is 8"):
        ChunkParams(8)
    with pytest.raises(UsageError, match="--batch-size is 0"):
        ChunkParams(512, 0)
    assert ChunkParams(512, 2048).at_once == 4
    assert ChunkParams(512, 1100).tokens_at_once == 1024
    assert ChunkParams(512, 100).tokens_at_once == 100
    assert ChunkParams(16, 1 << 20).at_once == 256
