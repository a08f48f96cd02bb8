"""Checkpoints in PyTorch files, and merging, from the command to the file.

The reference converter's files are recorded as SHA-256 in ``golden/torch.json``, beside the command that made them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert import pipeline
from ggufrun.convert.plan import plan_convert
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.support.checkpoints import DEMO, encode, llama_config, llama_tensors, write_llama
from tests.support.torch_writer import torch_legacy, torch_zip
from tests.test_checkpoint_adapters_merge import QUERY, low_rank, whole, write_adapter

GOLDEN = Path(__file__).parent / "golden" / "torch.json"
RUNS = [("zip", "BF16", "f16"), ("legacy", "F16", "bf16"), ("shards", "F32", "f32"), ("f64", "F64", "f16")]


def write_bin(folder: Path, layout: str, dtype: str) -> None:
    """A Llama in ``pytorch_model*.bin``, its tensors in no particular order."""
    folder.mkdir()
    config = llama_config(num_hidden_layers=2)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(DEMO / "tokenizer.model", folder)
    weights: dict[str, Any] = {name: (dtype, encode(dtype, v)) for name, v in llama_tensors(config, seed=4).items()}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = ("F32", np.ones(16, np.float32))
    names = sorted(weights, key=lambda name: hashlib.sha256(name.encode()).digest())
    if layout != "shards":
        writer = torch_legacy if layout == "legacy" else torch_zip
        (folder / "pytorch_model.bin").write_bytes(writer({name: weights[name] for name in names}))
        return
    weight_map: dict[str, str] = {}
    for number in range(3):
        file = f"pytorch_model-{number + 1:05}-of-00003.bin"
        weight_map |= dict.fromkeys(names[number::3], file)
        (folder / file).write_bytes(torch_zip({name: weights[name] for name in names[number::3]}))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def ours(folder: Path, out: Path, kind: str) -> bytes:
    plan = plan_convert(folder, [FILE_TYPES[kind.upper()]], lambda file_type: out)
    pipeline.run(plan, threads=2)
    plan.close()
    return out.read_bytes()


@pytest.mark.parametrize(("layout", "dtype", "kind"), RUNS)
def test_recorded_answers(tmp_path: Path, layout: str, dtype: str, kind: str) -> None:
    write_bin(tmp_path / "model", layout, dtype)
    found = hashlib.sha256(ours(tmp_path / "model", tmp_path / "out.gguf", kind)).hexdigest()
    assert found == json.loads(GOLDEN.read_text())["sha256"][f"{layout} {kind}"]


@pytest.mark.parametrize(("layout", "dtype", "kind"), RUNS)
def test_fresh_answers(oracle: Oracle, tmp_path: Path, record: Path | None, layout: str, dtype: str, kind: str) -> None:
    write_bin(tmp_path / "model", layout, dtype)
    out = tmp_path / "theirs.gguf"
    if layout == "legacy":
        # which the reference converter gives up on: it gets the same tensors in the newer format
        (tmp_path / "ours").mkdir()
        shutil.move(tmp_path / "model", tmp_path / "ours")
        write_bin(tmp_path / "model", "zip", dtype)
    oracle.run(oracle.python, oracle.convert, tmp_path / "model", "--outtype", kind, "--outfile", out)
    theirs = out.read_bytes()
    if record is not None:
        golden = json.loads(GOLDEN.read_text())
        golden["sha256"][f"{layout} {kind}"] = hashlib.sha256(theirs).hexdigest()
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    own = tmp_path / "ours" / "model" if layout == "legacy" else tmp_path / "model"
    assert ours(own, tmp_path / "ours.gguf", kind) == theirs


def shell(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ggufrun", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=folder
    )


def test_merging_from_the_shell(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", vocab_size=2000)
    write_adapter(tmp_path / "first", whole(3000) | low_rank(QUERY), tokenizer=True)
    write_adapter(tmp_path / "second", low_rank("model.layers.0.mlp.up_proj", out=512))
    done = shell("convert", "base", "--lora", "first", "--lora", "second=0.5", "-t", "f16", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "base-second-F16.gguf"
    header = read_header(tmp_path / "base-second-F16.gguf")
    assert header.get("llama.vocab_size") == 3000
    assert header.get("general.name") == "base-second"
    # the precision of the base, whatever merging computes in
    write_llama(tmp_path / "other")
    done = shell("convert", "other", "--lora", "second", "--dry-run", folder=tmp_path)
    assert "other-second-BF16.gguf" in done.stdout


def test_an_adapter_of_its_own_from_the_shell(tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    write_adapter(tmp_path / "adapter", low_rank(QUERY))
    done = shell("convert", "base", "--lora", "adapter", "--lora-out", "a.gguf", folder=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "a.gguf"), done.stderr
    header = read_header(tmp_path / "a.gguf")
    assert header.get("general.type") == "adapter" and len(header.tensors) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("base", "--lora", "nowhere"), 1, "no such file or folder: nowhere"),
        (("base", "--lora", "adapter=much"), 2, "DIR=0.5"),
        (("base", "--lora-out", "a.gguf"), 2, "give one --lora"),
        (("base", "--lora", "adapter", "--lora-out", "a.gguf", "-t", "q4_k_m"), 2, "F32, F16, BF16"),
        (("base", "--lora", "adapter", "--lora-out", "a.gguf", "-o", "b.gguf"), 2, "no -o"),
    ],
)
def test_what_the_shell_refuses(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    write_llama(tmp_path / "base")
    write_adapter(tmp_path / "adapter", low_rank(QUERY))
    done = shell("convert", *arguments, folder=tmp_path)
    assert done.returncode == status and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.gguf"))


def test_an_attack_from_the_shell(tmp_path: Path) -> None:
    from tests.test_checkpoint_torchfile import attacks, holding

    write_llama(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    mark = tmp_path / "it-ran"
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(holding(attacks(mark)["os.system"]))
    done = shell("convert", "base", folder=tmp_path)
    assert done.returncode == 1 and "os.system" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not mark.exists() and not list(tmp_path.glob("*.gguf"))
