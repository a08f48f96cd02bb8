"""``convert``, ``quantize`` and ``inspect`` as a shell sees them: exit status, one line of error, clean pipes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from tests.support.checkpoints import DEMO, write_llama


def ggufrun(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufrun", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, stdin=subprocess.DEVNULL)


def fails(result: subprocess.CompletedProcess[str], words: str, status: int = 1) -> None:
    """One line on stderr with ``words`` in it, nothing on stdout."""
    assert result.returncode == status, result.stderr
    assert re.search(words, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    if status == 1:
        assert len(result.stderr.splitlines()) == 1, result.stderr


def test_several_types_in_one_call(tmp_path: Path) -> None:
    result = ggufrun("convert", DEMO, "-t", "f16", "-t", "Q4_K_M", "-t", "q8-0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = [f"{DEMO.name}-{kind}.gguf" for kind in ("F16", "Q4_K_M", "Q8_0")]
    # stdout is data: the files, one a line
    assert result.stdout.split() == names
    assert "\x1b" not in result.stdout + result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    reader = gguf.GGUFReader(tmp_path / names[1])
    assert reader.fields["general.file_type"].contents() == 15


def test_without_a_type_the_checkpoints_own_precision(tmp_path: Path) -> None:
    result = ggufrun("convert", DEMO, "-o", tmp_path / "x.gguf", "--json")
    assert result.returncode == 0, result.stderr
    (made,) = json.loads(result.stdout)
    assert made["type"] == "BF16"
    assert made["bytes"] == (tmp_path / "x.gguf").stat().st_size


def test_quantize_names_its_targets_after_the_model(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    source = tmp_path / "poet-f16.gguf"
    source.symlink_to(demo_gguf("f16"))
    result = ggufrun("quantize", source, "q4_k_m", "q8_0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["poet-Q4_K_M.gguf", "poet-Q8_0.gguf"]
    # from F16, not from BF16: the values differ where F16 could not hold them, so only the size is compared
    assert (tmp_path / "poet-Q8_0.gguf").stat().st_size == demo_gguf("q8_0").stat().st_size


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_a_dry_run_writes_nothing(tmp_path: Path, demo_gguf: Callable[[str], Path], command: str) -> None:
    source = (DEMO, "-t", "q4_k_m") if command == "convert" else (demo_gguf("f16"), "q4_k_m")
    result = ggufrun(command, *source, "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    assert re.search(r"blk\.2\.ffn_down\.weight .* q6_k", result.stdout)
    assert "nothing was written" in result.stdout
    as_json = ggufrun(command, *source, "--dry-run", "--json", cwd=tmp_path)
    planned = json.loads(as_json.stdout)
    if command == "convert":
        (planned,) = planned
    assert planned["bytes"] == demo_gguf("q4_k_m").stat().st_size
    assert {tensor["to"] for tensor in planned["tensors"]} == {"f32", "q4_k", "q6_k"}


def test_name_goes_into_the_file_and_its_name(tmp_path: Path) -> None:
    result = ggufrun("convert", DEMO, "-t", "f16", "--name", "诗人", cwd=tmp_path)
    assert result.stdout.strip() == "诗人-F16.gguf"
    shown = ggufrun("inspect", tmp_path / "诗人-F16.gguf", "--json")
    assert json.loads(shown.stdout)["name"] == "诗人"


def test_unknown_types_suggest_the_nearest(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    fails(ggufrun("convert", DEMO, "-t", "q4km", cwd=tmp_path), r"unknown type 'q4km'.*Q4_K_M", 2)
    fails(ggufrun("quantize", demo_gguf("f16"), "q9", cwd=tmp_path), r"unknown type 'q9'", 2)


def test_wrong_usage(tmp_path: Path) -> None:
    fails(ggufrun("convert", cwd=tmp_path), "Missing argument", 2)
    fails(ggufrun("convert", DEMO, "--nonsense", cwd=tmp_path), "--nonsense", 2)
    fails(ggufrun("nonsense", cwd=tmp_path), "nonsense", 2)
    fails(ggufrun("convert", DEMO, "-t", "f16", "-t", "q8_0", "-o", tmp_path / "x.gguf"), "one file, 2 types", 2)


def test_bad_sources(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    fails(ggufrun("convert", tmp_path / "nowhere"), "no such file or folder")
    fails(ggufrun("convert", tmp_path), "holds no model")
    fails(ggufrun("convert", demo_gguf("f16")), "quantize")
    fails(ggufrun("quantize", tmp_path / "nothing.gguf", "q8_0"), "no such file")
    fails(ggufrun("quantize", DEMO, "q8_0"), "is a folder")
    fails(ggufrun("inspect", tmp_path / "nothing.gguf"), "no such file")
    short = tmp_path / "short.gguf"
    short.write_bytes(demo_gguf("q8_0").read_bytes()[:-5000])
    for command in (("quantize", short, "q4_0"), ("inspect", short)):
        fails(ggufrun(*command, cwd=tmp_path), "cut short")
    fails(ggufrun("quantize", demo_gguf("q8_0"), "q4_0", cwd=tmp_path), "--allow-requantize", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["short.gguf"]


def test_a_target_that_stands(tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_text("precious")
    fails(ggufrun("convert", DEMO, "-t", "q8_0", "-o", target), "exists.*--force")
    assert target.read_text() == "precious"
    assert ggufrun("convert", DEMO, "-t", "q8_0", "-o", target, "--force").returncode == 0
    assert target.read_bytes()[:4] == b"GGUF"


def test_what_it_is_made_from_is_not_replaced(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(demo_gguf("f16").read_bytes())
    (tmp_path / "link.gguf").symlink_to(model)
    before = model.read_bytes()
    for source, target in ((model, model), (tmp_path / "link.gguf", model), (model, tmp_path / "link.gguf")):
        fails(ggufrun("quantize", source, "q8_0", "-o", target, "--force"), "is what it would be made from.*-o")
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DEMO, checkpoint)
    weights = checkpoint / "model.safetensors"
    fails(ggufrun("convert", checkpoint, "-t", "q8_0", "-o", weights, "--force"), "is what it would be made from")
    assert model.read_bytes() == before
    assert weights.read_bytes() == (DEMO / "model.safetensors").read_bytes()


def test_a_slash_says_folder(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    model = demo_gguf("f16")
    for command in (("convert", DEMO, "-t", "q8_0"), ("quantize", model, "q8_0"), ("imatrix", model)):
        fails(ggufrun(*command, "-o", f"{tmp_path}/out/"), "no such folder.*make it first")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    fails(ggufrun("convert", DEMO, "-t", "q8_0", "-o", "/proc/x.gguf"), "-o")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a Linux /dev/full to fill")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["inspect", "MODEL"], ["list", "--json"], ["--version"], ["verify", "MODEL"]])
def test_a_full_output_pipe_is_one_line(demo_gguf: Callable[[str], Path], command: list[str], unbuffered: str) -> None:
    """Whether it is noticed while a command writes, or only at its end."""
    words = [str(demo_gguf("f16")) if word == "MODEL" else word for word in command]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "ggufrun", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert result.returncode == 1
    assert re.fullmatch("(.*\n)*ggufrun: no space left on device; free some space.*\n", result.stderr)
    assert "Exception" not in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    # IQ4_XS is slow enough to be caught in the middle
    write_llama(tmp_path / "model", hidden_size=1024, intermediate_size=4096, num_hidden_layers=4)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "ggufrun", "convert", str(tmp_path / "model"), "-t", "iq4_xs", "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 150
    while not list(out.glob(".*.part")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(out.glob(".*.part")), "the job ended before it could be interrupted"
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 130
    assert errors == "ggufrun: interrupted\n"
    assert list(out.iterdir()) == []


def test_inspect_shows_what_a_gguf_and_a_checkpoint_hold(demo_gguf: Callable[[str], Path]) -> None:
    shown = ggufrun("inspect", demo_gguf("q4_k_m"), "--tensors")
    assert shown.returncode == 0, shown.stderr
    for words in ("llama", "Q4_K_M", "blk.3.attn_v.weight", "chat template", "bos 1 <s>"):
        assert words in shown.stdout
    facts = json.loads(ggufrun("inspect", demo_gguf("q4_k_m"), "--json", "-c", "1024").stdout)
    reader = gguf.GGUFReader(demo_gguf("q4_k_m"))
    assert facts["parameters"] == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert facts["tensor_bytes"] == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert facts["vocabulary"]["size"] == len(reader.fields["tokenizer.ggml.tokens"].data)
    config = json.loads((DEMO / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    cache = 1024 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head * 2
    memory = facts["memory"]
    assert (memory["context"], memory["weights"], memory["cache"]) == (1024, facts["tensor_bytes"], cache)
    assert memory["bytes"] == facts["tensor_bytes"] + cache + memory["buffers"] and memory["buffers"] > 0
    assert facts["prompt_format"] == {"name": "template", "why": "the model file has a chat template"}
    assert "template: the model file has a chat template" in shown.stdout
    folder = json.loads(ggufrun("inspect", DEMO, "--json").stdout)
    assert folder["kind"] == "checkpoint" and folder["prompt_format"] is None
    assert folder["parameters"] == facts["parameters"]
    template = json.loads((DEMO / "tokenizer_config.json").read_text())["chat_template"]
    assert ggufrun("inspect", DEMO, "--template").stdout == template + "\n"


def test_the_flags_of_llamas_converter(tmp_path: Path) -> None:
    result = ggufrun("convert", DEMO, "--outtype", "q8_0", "--outfile=x.gguf", "--model-name", "Someone", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout == "x.gguf\n", result.stderr
    assert "Someone" in ggufrun("inspect", "x.gguf", cwd=tmp_path).stdout


def test_a_folder_that_is_missing_for_several_types(tmp_path: Path) -> None:
    result = ggufrun("convert", DEMO, "-t", "f16", "-t", "q8_0", "-o", "build/demo", cwd=tmp_path)
    fails(result, "there is no folder build/demo, and 2 types are asked for; mkdir -p build/demo", 2)
    (tmp_path / "x.gguf").touch()
    result = ggufrun("convert", DEMO, "-t", "f16", "-t", "q8_0", "-o", "x.gguf", cwd=tmp_path)
    fails(result, "x.gguf is one file, 2 types are asked for", 2)
