"""Adapters of today's peft with their bases, for the fuzzer: merged and written, and as adapters of their own.

The sound ones are those of ``golden/peft-experts`` (``target_parameters``), ``peft-tokens`` (embeddings, outputs and
rows of tokens, tied or not) and ``peft-vision`` (bases that also see), each in one folder with its base.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import gguf
import pytest

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.convert import pipeline
from ggufrun.convert.adapter import plan_adapter
from ggufrun.convert.plan import Plan, Wishes, plan_convert
from ggufrun.errors import GgufrunError
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import replace_vocabulary
from tests.support.file_mutation import mutate, mutate_tensors
from tests.support.json_mutation import mutate_json

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors")

CASES: dict[str, dict[str, Any]] = {
    "peft-experts/qwen3-moe": {"norm_topk_prob": True},
    "peft-experts/mixtral": {},
    "peft-experts/llama-4": {},
    "peft-experts/deepseek-v3": {},
    "peft-experts/gpt-oss-mxfp4": {"num_experts_per_tok": 2},
    "peft-tokens/tied-tokens-both": {},
    "peft-tokens/tied-grown-tokens": {},
    "peft-tokens/tied-lora-head": {},
    "peft-tokens/tied-dora-embedding": {},
    "peft-tokens/tied-saved-embedding": {},
    "peft-tokens/apart-grown-saved-both": {},
    "peft-vision/gemma-3": {},
    "peft-vision/qwen2.5-vl": {},
    "peft-vision/qwen3-vl": {},
}
"""Folders, and what their config.json must say so that llama.cpp can run the base."""


def make(folder: Path, case: str) -> None:
    """The sound files of a case, with a tokenizer that only is there."""
    for name in NAMES:
        (folder / name).write_bytes((GOLDEN / case / name).read_bytes())
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | CASES[case]))
    (folder / "tokenizer.model").touch()


def _vocabulary(writer: gguf.GGUFWriter) -> None:
    """As many tokens as the largest of the adapters needs."""
    writer.add_token_types([gguf.TokenType.NORMAL] * 12)


def merge(folder: Path) -> None:
    """Merge and write; then write the adapter alone, where a GGUF can express it."""
    with pytest.MonkeyPatch.context() as patch:
        replace_vocabulary(patch, _vocabulary)
        out = folder / "out.gguf"
        request, kinds, wishes = AdapterRequest(folder), [FILE_TYPES["F16"]], Wishes(name="x")
        try:
            write(plan_convert(folder, kinds, lambda kind: out, wishes=wishes, adapters=[request]), out)
        except GgufrunError:
            write(plan_adapter(folder, request, out), out)
            raise
        try:
            write(plan_adapter(folder, request, out), out)
        except GgufrunError:
            # the sound ones as well, where a GGUF cannot say it
            return


def write(plan: Plan, out: Path) -> None:
    """Write the one file of a plan: whole or not at all."""
    try:
        pipeline.run(plan, threads=1)
        assert out.is_file()
    except GgufrunError:
        assert not out.exists()
        raise
    finally:
        plan.close()
        for path in out.parent.glob("*out.gguf*"):
            path.unlink()


def change(name: str, data: bytes, chance: random.Random) -> bytes:
    """Once in four times bytes, otherwise what the file says."""
    if not chance.randrange(4):
        return mutate(data, chance)
    return mutate_json(data, chance) if name.endswith(".json") else mutate_tensors(data, chance)
