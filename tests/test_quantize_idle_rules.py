"""An expression of --tensor-type that matches nothing is warned about; a tensor that stays needs no importance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import DEMO
from tests.test_cli_convert import ggufrun


@pytest.mark.parametrize("command", ["quantize", "convert"])
def test_a_rule_that_matches_nothing(tmp_path: Path, demo_gguf: Callable[[str], Path], command: str) -> None:
    source: list[str | Path] = [demo_gguf("f16"), "q4_0"] if command == "quantize" else [DEMO, "-t", "q4_0"]
    rules = ["--tensor-type", "ffn_dwon=q6_k", "--tensor-type", "attn_[vk]=q8_0"]
    result = ggufrun(command, *source, *rules, "-o", tmp_path)
    assert result.returncode == 0
    assert "--tensor-type ffn_dwon=q6_k matches no tensor; `ggufrun inspect --tensors` lists" in result.stderr
    assert "attn_[vk]" not in result.stderr


def test_what_stays_needs_no_importance_matrix(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    made = ggufrun("quantize", demo_gguf("f16"), "iq2_xs", "--imatrix", "auto", "-o", tmp_path / "a.gguf")
    assert made.returncode == 0, made.stderr
    again = ggufrun("quantize", tmp_path / "a.gguf", "iq2_xs", "-o", tmp_path / "b.gguf")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "b.gguf").stat().st_size == (tmp_path / "a.gguf").stat().st_size
    refused = ggufrun("quantize", tmp_path / "a.gguf", "iq2_xxs", "--allow-requantize", "-o", tmp_path / "c.gguf")
    assert refused.returncode == 2 and "needs an importance matrix (blk." in refused.stderr
