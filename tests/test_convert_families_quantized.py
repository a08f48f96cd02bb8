"""Every family through the one-pass quantization against llama.cpp's own quantizer: header, and bytes where it is.

The heads of its files are recorded as digests in ``golden/families/quantized.json``. The widths of the tiny checkpoints
suit few types, so most matrices take a fallback; the encodings themselves are tested elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert import pipeline, plan
from ggufrun.quantize.types import FILE_TYPES, FileType
from tests.conftest import Oracle
from tests.families.family import replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES

GOLDEN = Path(__file__).parent / "golden" / "families" / "quantized.json"

TYPES = ("Q8_0", "Q4_K_M")
NAMES = tuple(name for name, case in CASES.items() if case.dtype == "BF16" and name != "gpt-oss")
"""All but the one whose experts are quantized already, which llama.cpp's tool turns down."""

PLAIN = {"falcon-h1": "F32", "baichuan2-7b": "F32", "ling-lite-normed-output": "F32"}
"""The file that llama.cpp's tool is given, where it is not one in BF16: what is quantized here are products, or a
normalized output matrix, in single precision."""


@pytest.fixture(autouse=True)
def with_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)


def namer(folder: Path, name: str) -> Callable[[FileType], Path]:
    return lambda kind: folder / f"{name}.{kind.name}.gguf"


def convert(folder: Path, name: str) -> None:
    """The plain file and the quantized ones, from one read of the checkpoint."""
    kinds = [FILE_TYPES[kind] for kind in (PLAIN.get(name, "BF16"), *TYPES)]
    planned = plan.plan_convert(
        write(folder / name, CASES[name]), kinds, namer(folder, name), wishes=plan.Wishes("tiny")
    )
    pipeline.run(planned, threads=2)
    planned.close()


def head(path: Path) -> str:
    """A digest of everything before the tensors' data."""
    data, header = path.read_bytes(), read_header(path)
    return hashlib.sha256(data[: len(data) - header.data_size]).hexdigest()[:16]


@pytest.mark.parametrize("name", NAMES)
def test_recorded_heads(tmp_path: Path, name: str) -> None:
    convert(tmp_path, name)
    golden = json.loads(GOLDEN.read_text())["heads"][name]
    assert {kind: head(tmp_path / f"{name}.{kind}.gguf") for kind in TYPES} == golden


def test_fresh_files(oracle: Oracle, tmp_path: Path, record: Path | None) -> None:
    heads: dict[str, dict[str, str]] = {}
    for name in NAMES:
        convert(tmp_path, name)
        heads[name] = {}
        for kind in TYPES:
            theirs = tmp_path / f"{name}.{kind}-theirs.gguf"
            plain = tmp_path / f"{name}.{PLAIN.get(name, 'BF16')}.gguf"
            oracle.run(oracle.binaries / "llama-quantize", plain, theirs, kind, "1")
            assert (tmp_path / f"{name}.{kind}.gguf").read_bytes() == theirs.read_bytes(), (name, kind)
            heads[name][kind] = head(theirs)
    if record is not None:
        command = "llama-quantize CASE.BF16.gguf OUT TYPE 1"
        (record / "families" / "quantized.json").write_text(
            json.dumps({"command": command, "heads": heads}, indent=1).replace('",\n   "', '", "') + "\n"
        )
