"""The memory that `inspect` tells, by the arithmetic of the model's own numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.file import Header, Kind, encode, serialize
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.commands.inspect import engine_plan
from ggufrun.convert import pipeline, plan
from ggufrun.convert.describe import describe
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES
from tests.test_cli_convert import ggufrun

F16, F32 = 2, 4
"""Bytes of what is kept: keys and values, and states."""


def cells(tokens: int) -> int:
    """llama.cpp keeps multiples of 256."""
    return -(-tokens // 256) * 256


EXPECTED = {
    # a window of 128 and a micro-batch of 512; 4 layers, all with windows; 1 head, 16 wide
    "gemma3": lambda context: min(cells(context), cells(128 + 512)) * 4 * 1 * (16 + 16) * F16,
    # of 6 layers the last 3 share keys; 2 heads, 16 wide with a window, 32 in the one that looks at everything
    "gemma-4-e2b-text": lambda context: (
        (min(cells(context), cells(128 + 512)) * 2 * 2 * (16 + 16) + cells(context) * 2 * (32 + 32)) * F16
    ),
    # 1 of 4 layers attends, with latent keys 24 wide; 3 keep a state of 6 heads of 16 x 16 and 3 x 3 inputs of each
    "kimi-linear": lambda context: cells(context) * 24 * F16 + 3 * (6 * 16 * 16 + 3 * 3 * 6 * 16) * F32,
    # 2 of 3 layers (one predicts further tokens) with latent keys 24 wide, and an index 64 wide
    "deepseek-v3.2": lambda context: cells(context) * 2 * (24 + 64) * F16,
    # of 4 layers 3 have an index of their own
    "glm-5": lambda context: cells(context) * (4 * 24 + 3 * 64) * F16,
    # every layer attends and has a state: 64 x 16, and 3 inputs of 64 + 2 x 16
    "falcon-h1": lambda context: cells(context) * 2 * 2 * (16 + 16) * F16 + 2 * (64 * 16 + 3 * (64 + 2 * 16)) * F32,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_cache_of_every_kind_of_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of the GGUF, and of the checkpoint before it is one."""
    replace_vocabulary(monkeypatch, some_vocabulary)
    folder, out = write(tmp_path / name, CASES[name]), tmp_path / "m.gguf"
    planned = plan.plan_convert(folder, [FILE_TYPES["F16"]], lambda kind: out)
    pipeline.run(planned, threads=1)
    planned.close()
    for context in (512, 1000, 4096):
        for path in (out, folder):
            use, _ = engine_plan(path, describe(path)[1], context)
            assert use is not None and use.cache == EXPECTED[name](context), (context, path)


def test_what_the_engine_cannot_open_has_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)
    planned = plan.plan_convert(write(tmp_path / "q", CASES["qwen2"]), [FILE_TYPES["F16"]], lambda kind: tmp_path / "m")
    header = planned.targets[0].header
    planned.close()
    assert engine_plan(tmp_path / "nothing", header, 512)[0] is not None
    header.metadata.pop("qwen2.block_count")
    assert engine_plan(tmp_path / "nothing", header, 512)[0] is None


def test_why_a_model_cannot_be_run(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    good, bad = demo_gguf("f16"), tmp_path / "bad.gguf"
    header = read_header(good)
    changed = Header(dict(header.metadata) | {"tokenizer.ggml.model": encode("rwkv", Kind.STRING)}, header.tensors)
    bad.write_bytes(serialize(changed) + good.read_bytes()[header.data_start :])
    for path, said in ((good, None), (bad, "kind rwkv, but the byte .. begins a token and is none by itself")):
        result = ggufrun("inspect", path, "--json")
        assert result.returncode == 0, result.stderr
        refused = json.loads(result.stdout)["refused"]
        assert refused is None if said is None else re.search(said, refused)
    assert re.search(r"refused +bad\.gguf says its\s+vocabulary is of the kind rwkv", ggufrun("inspect", bad).stdout)
    result = ggufrun("verify", bad)
    assert result.returncode == 1 and "kind rwkv" in " ".join(result.stdout.split())
