"""Plain conversions against llama.cpp's own ``convert_hf_to_gguf.py``: the whole file, metadata included.

Its answers are recorded as SHA-256 in ``golden/convert.json``, beside the command that made them; where the tools are
on the machine they are asked again. There is no deliberate difference: the files are the same to the last byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggufrun.convert import pipeline
from ggufrun.convert.plan import plan_convert
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.support.checkpoints import DEMO, write_llama

GOLDEN = Path(__file__).parent / "golden" / "convert.json"

YARN = {
    "type": "yarn",
    "factor": 16.0,
    "original_max_position_embeddings": 4096,
    "attention_factor": 0.75,
    "beta_fast": 24.0,
    "beta_slow": 2.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
TOKENS = {
    "add_bos_token": True,
    "add_eos_token": False,
    "add_prefix_space": False,
    "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "added_tokens_decoder": {
        "2500": {"content": "<|user|>", "special": False},
        "2501": {"content": "<eot>", "special": True},
        "2502": {"content": "▁▁x", "special": False},
    },
}

CASES: dict[str, dict[str, Any]] = {
    "tied-embeddings": {"tie_word_embeddings": True, "num_key_value_heads": 8},
    "odd-heads": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 192, "head_dim": 48},
    "linear-rope": {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 16384},
    "yarn-rope": {"rope_scaling": YARN, "max_position_embeddings": 65536},
    "llama3-rope": {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "max_position_embeddings": 4096},
}
RUNS = [
    *((name, "f16", "BF16") for name in CASES),
    ("tied-embeddings", "f32", "F16"),
    ("odd-heads", "bf16", "F32"),
    ("added-tokens", "f16", "F16"),
    ("tang-poet", "f16", "BF16"),
    ("tang-poet", "bf16", "BF16"),
    ("tang-poet", "f32", "BF16"),
]
"""(folder, type, precision of the checkpoint)."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str, str], Path]:
    def make(name: str, dtype: str) -> Path:
        folder = tmp_path / name
        if name == DEMO.name:
            shutil.copytree(DEMO, folder)
        elif name == "added-tokens":
            write_llama(folder, dtype=dtype)
            (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
            (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 2400}))
            (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "repetition_penalty": 1.1}))
        else:
            write_llama(folder, dtype=dtype, **CASES[name])
        return folder

    return make


def ours(folder: Path, outtype: str) -> bytes:
    out = folder.parent / "ours.gguf"
    plan = plan_convert(folder, [FILE_TYPES[outtype.upper()]], lambda kind: out)
    pipeline.run(plan, threads=2)
    plan.close()
    return out.read_bytes()


@pytest.mark.parametrize(("name", "outtype", "dtype"), RUNS)
def test_recorded_answers(checkpoint: Callable[[str, str], Path], name: str, outtype: str, dtype: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert hashlib.sha256(ours(checkpoint(name, dtype), outtype)).hexdigest() == golden["sha256"][f"{name} {outtype}"]


@pytest.mark.parametrize(("name", "outtype", "dtype"), RUNS)
def test_fresh_answers(
    oracle: Oracle, checkpoint: Callable[[str, str], Path], record: Path | None, name: str, outtype: str, dtype: str
) -> None:
    folder = checkpoint(name, dtype)
    out = folder.parent / "theirs.gguf"
    oracle.run(oracle.python, oracle.convert, folder, "--outtype", outtype, "--outfile", out)
    theirs = out.read_bytes()
    if record is not None:
        golden = json.loads(GOLDEN.read_text())
        golden["sha256"][f"{name} {outtype}"] = hashlib.sha256(theirs).hexdigest()
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    assert ours(folder, outtype) == theirs
