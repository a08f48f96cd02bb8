"""Throws mutated files at every reader: ``make fuzz``, or ``python -m tests.fuzz --seconds 600 --only gguf``.

A target is a folder of sound files and the function that reads it. Each round changes one file a little and reads the
folder again: it may be read, or be refused with a GgufrunError; anything else is a finding: another exception, a
warning of Python, more than ten seconds, more than two gigabytes. A finding is kept under ``tests/corpus/TARGET`` as
the changed file, and ``test_fuzz.py`` reads every kept file from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.convert import pipeline
from ggufrun.convert.imatrix import load_imatrix
from ggufrun.convert.plan import Plan, Wishes, plan_convert, plan_quantize
from ggufrun.errors import GgufrunError
from ggufrun.quantize.types import FILE_TYPES
from tests import fuzz_adapters
from tests.families.family import VOCABULARY, no_vocabulary, replace_vocabulary, write
from tests.families.family_cases import CASES
from tests.oracles.quantized_samples import SAMPLES, WHOLES, Whole
from tests.oracles.rank_samples import tekken
from tests.support import torch_writer
from tests.support.checkpoints import encode, llama_config, llama_tensors, safetensors_bytes, write_llama
from tests.support.file_mutation import mutate, mutate_quantized
from tests.support.vocabularies import PUBLISHED, SIZE, TEKKEN, rank_table, slow_files, tokenizer_json, write_folder

CORPUS = Path(__file__).parent / "corpus"
SECONDS_PER_CASE = 10
MEMORY = 2 << 30
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 2100,
}


@dataclass(frozen=True)
class Target:
    """``make`` writes sound files into a folder, ``read`` reads them, ``names`` are those that are changed.

    ``change`` makes a changed file of a sound one, by its name; without it, bytes are changed anywhere.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    names: tuple[str, ...]
    change: Callable[[str, bytes, random.Random], bytes] | None = None


def taste(plan: Plan) -> None:
    """Read a little of every tensor."""
    try:
        for chunk in pipeline.chunks(plan):
            if chunk.start == 0:
                pipeline.encode_chunk(chunk)
    finally:
        plan.close()


def convert(folder: Path) -> None:
    """Plan, and read a little of every tensor."""
    plan = plan_convert(folder, [FILE_TYPES["F16"]], lambda kind: folder / "out.gguf")
    taste(plan)


def merge(folder: Path) -> None:
    """The same with an adapter."""
    plan = plan_convert(
        folder / "base", [FILE_TYPES["F16"]], lambda kind: folder / "out.gguf", adapters=[AdapterRequest(folder, 1.0)]
    )
    taste(plan)


def quantize(folder: Path) -> None:
    """Read the header, plan, and decode a little of every tensor."""
    path = folder / "model.gguf"
    source = GGUFSource(path)
    source.close()
    plan = plan_quantize(path, [FILE_TYPES["Q8_0"]], lambda kind: folder / "out.gguf")
    taste(plan)


def small_llama(folder: Path) -> None:
    write_llama(folder, **SMALL)
    settings = {"add_bos_token": True, "added_tokens_decoder": {"2060": {"content": "<x>", "special": True}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text('{"temperature": 0.5, "eos_token_id": [2, 3]}')
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: [zh, en]\ntags:\n- a\n---\n# x\n")


def torch_llama(folder: Path, legacy: bool = False) -> None:
    small_llama(folder)
    (folder / "model.safetensors").unlink()
    config = llama_config(**SMALL)
    stored = {name: ("F16", encode("F16", values)) for name, values in llama_tensors(config).items()}
    data = torch_writer.torch_legacy(stored) if legacy else torch_writer.torch_zip(stored)
    (folder / "pytorch_model.bin").write_bytes(data)


def bpe_llama(folder: Path, files: dict[str, Any] | None = None) -> None:
    files = files or {"tokenizer.json": tokenizer_json(PUBLISHED["qwen2"])}
    config = llama_config(**SMALL)
    write_folder(folder / "files", config, files)
    for path in (folder / "files").iterdir():
        path.rename(folder / path.name)
    stored = {name: ("F16", encode("F16", values)) for name, values in llama_tensors(config).items()}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))


def family(folder: Path, name: str, files: dict[str, Any], size: int) -> None:
    """The tiny checkpoint ``name`` with a tokenizer of at most ``size`` tokens."""
    case = CASES[name]
    config = {**case.config, "vocab_size": size}
    shapes = {key: tuple(size if n == VOCABULARY else n for n in shape) for key, shape in case.shapes.items()}
    for path in (write(folder / "made", replace(case, config=config, shapes=shapes))).iterdir():
        path.rename(folder / path.name)
    write_folder(folder / "files", config, files)
    for path in (folder / "files").iterdir():
        path.rename(folder / path.name)


def adapter(folder: Path) -> None:
    small_llama(folder / "base")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    values = np.random.default_rng(0)
    prefix = "base_model.model.model.layers.0.self_attn."
    shapes = {"q_proj.lora_A": (4, 32), "q_proj.lora_B": (32, 4), "v_proj.lora_A": (4, 32), "v_proj.lora_B": (16, 4)}
    stored = {
        f"{prefix}{name}.weight": ("F32", values.standard_normal(shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(stored))


def gguf_file(folder: Path) -> None:
    small_llama(folder / "model")
    plan = plan_convert(folder / "model", [FILE_TYPES["F16"]], lambda kind: folder / "model.gguf")
    pipeline.run(plan)
    plan.close()


def legacy_imatrix(folder: Path) -> None:
    name, values = b"blk.0.ffn_up.weight", np.ones(32, np.float32).tobytes()
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii", 2, 32) + values
    (folder / "imatrix.dat").write_bytes(struct.pack("<i", 1) + entry + struct.pack("<ii", 5, 1) + b"x")


GPT2_CLASS = {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}}
CHECKPOINT_TEXTS = ("config.json", "tokenizer_config.json", "generation_config.json", "README.md")

QUANTIZED: dict[str, Whole] = {
    **{name: WHOLES[name] for name in ("llama-gptq", "qwen2-awq", "qwen2-nf4", "llama-8bit", "mixtral-ct-4bit")},
    **{name: WHOLES[name] for name in ("llama-ct-int8", "mixtral-fp8", "llama-bitnet")},
    **{
        name: Whole(
            {"model_type": "llama", "quantization_config": SAMPLES[name].settings},
            {},
            {f"model.layers.{layer}.mlp.up_proj.weight": SAMPLES[name] for layer in range(3)},
        )
        for name in (
            *("gptq-3bit-v1", "awq-gemv", "awq-gemv-fast", "bnb-nf4-crooked", "bnb-fp4-nested-f16", "ct-5bit-asym"),
            *("ct-fp8-block", "ct-nvfp4", "ct-mxfp4", "ct-mxfp8", "modelopt-nvfp4"),
        )
    },
}


def quantized_model(folder: Path, model: Whole) -> None:
    (folder / "config.json").write_text(json.dumps(model.config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(model.stored()))


def dequantize(folder: Path) -> None:
    """Open, and read some rows of every tensor, as they would be written."""
    source = open_checkpoint(folder)
    try:
        for tensor in source.tensors.values():
            for start, stop in ((0, 1), (1, 7), (tensor.n_rows - 1, tensor.n_rows)):
                start, stop = max(0, min(start, tensor.n_rows)), max(0, min(stop, tensor.n_rows))
                rows = tensor.rows(start, stop)
                assert len(rows) == stop - start
                assert tensor.dtype != "F32" or rows.size == (stop - start) * tensor.n_per_row
    finally:
        source.close()


def convert_quantized(folder: Path) -> None:
    """The same, and write what it becomes."""
    dequantize(folder)
    out = folder / "out.gguf"
    with pytest.MonkeyPatch.context() as patch:
        replace_vocabulary(patch, no_vocabulary)
        fuzz_adapters.write(plan_convert(folder, [FILE_TYPES["F16"]], lambda kind: out, wishes=Wishes(name="x")), out)


TARGETS: dict[str, Target] = {
    "safetensors": Target(small_llama, convert, ("model.safetensors",)),
    "texts": Target(small_llama, convert, CHECKPOINT_TEXTS),
    "sentencepiece": Target(small_llama, convert, ("tokenizer.model",)),
    "torch-zip": Target(torch_llama, convert, ("pytorch_model.bin",)),
    "torch-legacy": Target(lambda folder: torch_llama(folder, legacy=True), convert, ("pytorch_model.bin",)),
    "bpe": Target(bpe_llama, convert, ("tokenizer.json",)),
    "vocab-merges": Target(
        lambda folder: bpe_llama(folder, slow_files() | GPT2_CLASS),
        convert,
        ("vocab.json", "merges.txt", "tokenizer_config.json"),
    ),
    "tekken": Target(
        lambda folder: bpe_llama(folder, {"tekken.json": tekken(rank_table(), TEKKEN)}), convert, ("tekken.json",)
    ),
    "hybrid": Target(
        lambda folder: family(
            folder, "qwen3.5-text", {"tokenizer.json": tokenizer_json(PUBLISHED["qwen35"])}, SIZE + 4
        ),
        convert,
        ("config.json", "model.safetensors"),
    ),
    "ahead": Target(
        lambda folder: family(folder, "ling-mini-2", {"tokenizer.json": tokenizer_json(PUBLISHED["qwen2"])}, SIZE + 4),
        convert,
        ("config.json", "model.safetensors"),
    ),
    "hunyuan": Target(
        lambda folder: family(
            folder, "hunyuan-a13b", {"hy.tiktoken": rank_table()}, len(rank_table().splitlines()) + 9
        ),
        convert,
        ("config.json", "hy.tiktoken"),
    ),
    **{
        f"quantized-{name}": Target(
            lambda folder, model=model: quantized_model(folder, model),  # type: ignore[misc]
            convert_quantized if name in WHOLES else dequantize,
            ("config.json", "model.safetensors", "model.safetensors"),
            mutate_quantized,
        )
        for name, model in QUANTIZED.items()
    },
    "adapter": Target(adapter, merge, ("adapter_config.json", "adapter_model.safetensors")),
    **{
        f"adapter-{name.rpartition('/')[2]}": Target(
            partial(fuzz_adapters.make, case=name), fuzz_adapters.merge, fuzz_adapters.NAMES, fuzz_adapters.change
        )
        for name in fuzz_adapters.CASES
    },
    "gguf": Target(gguf_file, quantize, ("model.gguf",)),
    "imatrix": Target(legacy_imatrix, lambda folder: load_imatrix(folder / "imatrix.dat"), ("imatrix.dat",)),
}


class TooSlow(Exception):
    """A case took longer than it may."""


def attempt(target: Target, folder: Path) -> str | None:
    """Read the folder: None if all is well, otherwise what is not."""

    def stop(number: int, frame: object) -> None:
        raise TooSlow

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_PER_CASE)
    try:
        with warnings.catch_warnings():
            # they would be lines on the terminal that explain nothing
            warnings.simplefilter("error")
            target.read(folder)
    except GgufrunError:
        return None
    except TooSlow:
        return "too slow"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return None


def run(name: str, rounds: int, seed: int, until: float | None = None) -> tuple[int, dict[str, str]]:
    """Mutate and read; returns the rounds done and {kept file: what went wrong}. Keeps findings in the corpus."""
    target, chance = TARGETS[name], random.Random(f"{name} {seed}")
    findings: dict[str, str] = {}
    done = 0
    with tempfile.TemporaryDirectory(prefix="ggufrun-fuzz-") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        target.make(folder)
        while done < rounds and (until is None or time.monotonic() < until):
            path = folder / chance.choice(target.names)
            sound = path.read_bytes()
            data = target.change(path.name, sound, chance) if target.change else mutate(sound, chance)
            path.write_bytes(data)
            problem = attempt(target, folder)
            path.write_bytes(sound)
            done += 1
            if problem is not None:
                kept = CORPUS / name / f"{path.name}.{hashlib.sha256(data).hexdigest()[:12]}"
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(data)
                findings[str(kept)] = problem
    return done, findings


def replay(name: str, kept: Path) -> str | None:
    """Read a kept file in the place of the sound one."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="ggufrun-fuzz-") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        target.make(folder)
        shutil.copy(kept, folder / kept.name.rpartition(".")[0])
        return attempt(target, folder)


def main() -> None:
    """Fuzz every target in turn and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--rounds", type=int, default=1 << 40, help="a target")
    parser.add_argument("--only", nargs="*", default=[""], help="targets whose names begin so")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    names = [name for name in TARGETS if name.startswith(tuple(options.only))]
    bad = total = 0
    for name in names:
        until = time.monotonic() + options.seconds / len(names)
        done, findings = run(name, options.rounds, options.seed, until)
        bad, total = bad + len(findings), total + done
        sys.stdout.write(f"{name}: {done} cases, {len(findings)} findings (seed {options.seed})\n")
        for kept, problem in findings.items():
            sys.stdout.write(f"  {kept}: {problem.strip().splitlines()[-1]}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{total} cases, {bad} findings\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
