"""``ggufrun convert`` from the shell, where the vocabulary is at stake."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import write_llama
from tests.support.vocabularies import PUBLISHED, SIZE, added, tokenizer_json, write_folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_llama(folder, tokenizer=False, vocab_size=SIZE + 1, hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    files = {"tokenizer.json": tokenizer_json(PUBLISHED["qwen2"], added("<|x|>"), nfc=True)}
    shutil.copytree(
        write_folder(tmp_path / "files", {}, files), folder, dirs_exist_ok=True, ignore=lambda *_: ["config.json"]
    )
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "ggufrun",
        "convert",
        str(folder),
        "-t",
        "f16",
        "-o",
        str(folder.parent / "o.gguf"),
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_the_result_is_printed(checkpoint: Path) -> None:
    done = run(checkpoint)
    assert done.returncode == 0, done.stderr
    assert "test strings tokenize exactly as with tokenizer.json" in done.stderr
    assert "warning: tokenizer.json brings text to Unicode's composed form (NFC)" in done.stderr


def test_a_wrong_splitting_writes_nothing(checkpoint: Path) -> None:
    done = run(checkpoint, "--pretokenizer", "starcoder")
    assert done.returncode == 1
    assert done.stderr.startswith("ggufrun: the GGUF's vocabulary cuts ") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["files", "model"]


def test_no_verify_writes_it_all_the_same(checkpoint: Path) -> None:
    done = run(checkpoint, "--pretokenizer", "starcoder", "--no-verify")
    assert done.returncode == 0 and "vocabulary" not in done.stderr
    assert (checkpoint.parent / "o.gguf").exists()


def test_an_unknown_pretokenizer(checkpoint: Path) -> None:
    done = run(checkpoint, "--pretokenizer", "nothing")
    assert done.returncode == 2 and "llama-bpe" in done.stderr
