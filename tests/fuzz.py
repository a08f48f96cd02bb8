"""Throws mutated files at every reader: ``make fuzz``, or ``python -m tests.fuzz --seconds 600 --only gguf``.

A target is a folder of sound files and the function that reads it. Each round changes one file a little and reads the
folder again: it may be read, or be refused with a GgufrunError; anything else is a finding: another exception, more
than ten seconds, more than two gigabytes. A finding is kept under ``tests/corpus/TARGET`` as the changed file, and
``test_fuzz.py`` reads every kept file from then on.
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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.tensor import STORAGE
from ggufrun.convert import pipeline
from ggufrun.convert.imatrix import load_imatrix
from ggufrun.convert.plan import Plan, plan_convert, plan_quantize
from ggufrun.errors import GgufrunError
from ggufrun.quantize.types import FILE_TYPES
from tests import torch_writer
from tests.checkpoints import encode, llama_config, llama_tensors, safetensors_bytes, write_llama
from tests.families import VOCABULARY, write
from tests.family_cases import CASES
from tests.quantized_samples import SAMPLES, WHOLES, Whole
from tests.rank_samples import tekken
from tests.vocabularies import PUBLISHED, SIZE, TEKKEN, rank_table, slow_files, tokenizer_json, write_folder

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
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, ord("["), ord("{"), ord('"'), ord("-"), ord("9"), ord("}"), ord("e"))


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few changes, most of them near the start, where headers are."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        reach = max(1, min(len(changed), chance.choice((64, 1024, 8192, len(changed) or 1))))
        at = chance.randrange(reach)
        kind = chance.randrange(7)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + chance.randint(1, 16)]
        elif kind == 2:
            changed[at:at] = bytes(chance.choices(INTERESTING, k=chance.randint(1, 16)))
        elif kind == 3:
            changed[at : at + 8] = struct.pack("<q", chance.choice((-1, 0, 1 << 31, 1 << 40, (1 << 63) - 1)))
        elif kind == 4:
            piece = bytes(changed[at : at + chance.randint(1, 64)])
            changed[at:at] = piece * chance.choice((1, 2, 50))
        elif changed:
            changed[min(at, len(changed) - 1)] = chance.choice((*INTERESTING, chance.randrange(256)))
    return bytes(changed)


def mutate_quantized(name: str, data: bytes, chance: random.Random) -> bytes:
    """A change that leaves the file sound, but not what it says; once in four times, changes of bytes."""
    if not chance.randrange(4):
        return mutate(data, chance)
    return mutate_settings(data, chance) if name.endswith(".json") else mutate_tensors(data, chance)


HOSTILE: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    5,
    7,
    64,
    1 << 31,
    1 << 70,
    1e30,
    None,
    True,
    "",
    "x",
    "nan",
    [],
    {},
    [[]],
    {"a": {}},
    [0, 16],
)


def mutate_settings(data: bytes, chance: random.Random) -> bytes:
    """Another value for some key, at some depth, or none."""
    config = json.loads(data)
    place = config["quantization_config"]
    while True:
        key = chance.choice(list(place))
        if not isinstance(place[key], dict) or not place[key] or not chance.randrange(4):
            break
        place = place[key]
    if chance.randrange(4):
        place[key] = chance.choice(HOSTILE)
    else:
        del place[key]
    return json.dumps(config).encode()


def mutate_tensors(data: bytes, chance: random.Random) -> bytes:
    """Tensors of other shapes, types, values and names, or without one."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    tensors = {name: (entry, body[slice(*entry["data_offsets"])]) for name, entry in header.items() if name[0] != "_"}
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        name = chance.choice(list(tensors))
        entry, values = tensors.pop(name)
        shape, kind = list(entry["shape"]), chance.randrange(7)
        if kind == 0:
            continue
        if kind == 1:
            chance.shuffle(shape)
        elif kind == 2:
            shape.insert(chance.randrange(len(shape) + 1), chance.choice((0, 1, 2, 3, 32)))
        elif kind == 3 and shape:
            at = chance.randrange(len(shape))
            shape[at] = max(0, shape[at] + chance.choice((-1, 1, -shape[at], shape[at], 31, -8)))
        elif kind == 4:
            entry["dtype"] = chance.choice(list(STORAGE))
        elif kind == 5:
            values = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80", chance.randbytes(61))) * len(values)
        else:
            name = name + chance.choice(("x", ".weight", "_scale")) if chance.randrange(2) else name[:-1]
        size = np.dtype(STORAGE[entry["dtype"]]).itemsize * int(np.prod(shape, dtype=object))
        values = (values * (size // max(1, len(values)) + 1) or bytes(size))[:size]
        tensors[name] = ({"dtype": entry["dtype"], "shape": shape}, values)
    position, found, pieces = 0, {}, []
    for name, (entry, values) in tensors.items():
        found[name] = {**entry, "data_offsets": [position, position + len(values)]}
        position += len(values)
        pieces.append(values)
    text = json.dumps(found).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(pieces)


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
            dequantize,
            ("config.json", "model.safetensors", "model.safetensors"),
            mutate_quantized,
        )
        for name, model in QUANTIZED.items()
    },
    "adapter": Target(adapter, merge, ("adapter_config.json", "adapter_model.safetensors")),
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
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    names = [options.only] if options.only else list(TARGETS)
    bad = 0
    for name in names:
        until = time.monotonic() + options.seconds / len(names)
        done, findings = run(name, options.rounds, options.seed, until)
        bad += len(findings)
        sys.stdout.write(f"{name}: {done} cases, {len(findings)} findings (seed {options.seed})\n")
        for kept, problem in findings.items():
            sys.stdout.write(f"  {kept}: {problem.strip().splitlines()[-1]}\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
