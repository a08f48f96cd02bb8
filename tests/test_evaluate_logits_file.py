"""Predictions in a file: llama-perplexity reads ours, we read its; and the older format of importance matrices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufrun.convert.imatrix import load_imatrix, save_legacy
from ggufrun.errors import FormatError
from ggufrun.evaluate.logits_file import HEAD, LogitsFile, packed
from tests.conftest import Oracle
from tests.test_cli_convert import fails, ggufrun

GOLDEN = Path(__file__).parent / "golden"
TEXT = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n" * 60
Gguf = Callable[[str], Path]


def test_a_row_keeps_what_is_probable() -> None:
    logits = np.random.default_rng(1).normal(0, 4, 1001).astype(np.float32)
    row = packed(logits)
    scale, least = row[:4].view("<f4")
    assert len(row) == 1006 and row[4:].max() == 65535
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    kept = logits > logits.max() - 16
    np.testing.assert_allclose((scale * row[4:1005] + least)[kept], exact[kept], atol=scale)


def test_saved_and_read(tmp_path: Path, demo_gguf: Gguf) -> None:
    """Against the file the figures are those of the two models side by side, but for its 16 bits."""
    saved = tmp_path / "f16.kld"
    text = tmp_path / "text.txt"
    text.write_text(TEXT, "utf-8")
    common = ("-f", text, "-c", "64", "--chunks", "3", "--json")
    first = ggufrun("perplexity", demo_gguf("f16"), *common, "--save-logits", saved)
    assert first.returncode == 0, first.stderr
    by_file = json.loads(ggufrun("perplexity", demo_gguf("q4_k_m"), "--reference", saved, "--json").stdout)
    beside = json.loads(ggufrun("perplexity", demo_gguf("q4_k_m"), "--reference", demo_gguf("f16"), *common).stdout)
    assert by_file["tokens"] == beside["tokens"] and by_file["context"] == 64
    assert by_file["perplexity"]["value"] == pytest.approx(beside["perplexity"]["value"], rel=1e-9)
    for name in ("kld", "perplexity_reference", "same_top"):
        assert by_file[name]["value"] == pytest.approx(beside[name]["value"], rel=1e-2), name
    fails(ggufrun("perplexity", demo_gguf("f16"), *common, "--save-logits", saved), "exists; pass --force")
    fails(ggufrun("perplexity", demo_gguf("f16"), "-f", "x", "--reference", saved), "leave -f", 2)


@pytest.mark.parametrize("size", [4, 20, 500, -1])
def test_a_damaged_file(tmp_path: Path, demo_gguf: Gguf, size: int) -> None:
    path = tmp_path / "x.kld"
    head = HEAD.pack(b"_logits_", 64, 32000, 3)
    path.write_bytes((head + bytes(600))[:size] if size > 0 else HEAD.pack(b"_logits_", 1 << 31, -5, 1 << 30))
    with pytest.raises(FormatError):
        LogitsFile(path)


def test_against_llama_perplexity(oracle: Oracle, tmp_path: Path, demo_gguf: Gguf) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, "utf-8")
    tool = oracle.binaries / "llama-perplexity"
    options = ("-c", "64", "--chunks", "4")
    theirs, ours = tmp_path / "theirs.kld", tmp_path / "ours.kld"
    oracle.run(tool, "-m", demo_gguf("f16"), "-f", text, *options, "--save-all-logits", theirs)
    assert ggufrun("perplexity", demo_gguf("f16"), "-f", text, *options, "--save-logits", ours).returncode == 0
    assert theirs.stat().st_size == ours.stat().st_size
    a, b = LogitsFile(theirs), LogitsFile(ours)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.rows(2, 32, 31), b.rows(2, 32, 31), atol=2e-2)
    said = oracle.run(tool, "-m", demo_gguf("q4_k_m"), "--kl-divergence", "--kl-divergence-base", ours, *options)
    kld = float(re.search(r"Mean +KLD: +([\d.]+)", said)[1])  # type: ignore[index]
    reference = float(re.search(r"Mean PPL\(base\) +: +([\d.]+)", said)[1])  # type: ignore[index]
    for file in (theirs, ours):
        mine = json.loads(ggufrun("perplexity", demo_gguf("q4_k_m"), "--reference", file, "--json").stdout)
        assert mine["kld"]["value"] == pytest.approx(kld, rel=1e-3)
        assert mine["perplexity_reference"]["value"] == pytest.approx(reference, rel=1e-4)


def test_the_older_imatrix_format_is_llama_imatrix_own(tmp_path: Path) -> None:
    """The golden files are of one run of llama-imatrix, in its two formats."""
    expected = load_imatrix(GOLDEN / "imatrix-moe.dat")
    save_legacy(tmp_path / "x.dat", load_imatrix(GOLDEN / "imatrix-moe.bin"))
    found = load_imatrix(tmp_path / "x.dat")
    assert found.entries.keys() == expected.entries.keys() and found.chunk_count == expected.chunk_count
    for name, entry in expected.entries.items():
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
        np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=1e-6)


def test_merge_writes_it(tmp_path: Path, demo_gguf: Gguf) -> None:
    fails(ggufrun("imatrix", demo_gguf("f16"), "-o", tmp_path / "x.dat"), "imatrix --merge FILE.gguf -o FILE.dat", 2)
    result = ggufrun("imatrix", "--merge", GOLDEN / "imatrix-moe.bin", "-o", tmp_path / "x.dat")
    assert result.returncode == 0, result.stderr
    assert load_imatrix(tmp_path / "x.dat").entries.keys() == load_imatrix(GOLDEN / "imatrix-moe.bin").entries.keys()
