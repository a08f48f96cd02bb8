"""Every command that takes a model, given files that are none: one line with the next step, and no native crash.

Then streams that are closed, and folders that cannot be written to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.file import Header, Kind, encode, serialize
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.flags import measuring, settings
from ggufrun.convert.writer import check_targets
from ggufrun.errors import GgufrunError, TargetError
from ggufrun.workflows.open_model import check_file
from tests.support.checkpoints import DEMO, safetensors_bytes
from tests.test_cli_convert import fails, ggufrun

LOW_RANK = (("A", (4, 256)), ("B", (256, 4)))

COMMANDS = (
    ("chat", "MODEL", "-p", "hi"),
    ("complete", "MODEL", "-p", "hi"),
    ("perplexity", "MODEL"),
    ("imatrix", "MODEL"),
    ("compare", "GOOD", "MODEL"),
    ("compare", "MODEL", "GOOD"),
    ("bench", "MODEL"),
    ("doctor", "MODEL"),
    ("inspect", "MODEL", "--fit"),
    ("quantize", "MODEL", "q4_0"),
)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, demo_gguf: Callable[[str], Path]) -> dict[str, Path]:
    """Files by what is wrong with them."""
    folder = tmp_path_factory.mktemp("damaged")
    good = demo_gguf("f16")
    data, header = good.read_bytes(), read_header(good)
    (folder / "short.gguf").write_bytes(data[:3_000_000])
    (folder / "text.gguf").write_text("hello")
    (folder / "empty.gguf").touch()
    (folder / "folder.gguf").mkdir()
    # llama.cpp has an assertion for this one
    many = Header(dict(header.metadata) | {"llama.block_count": encode(4000, Kind.UINT32)}, header.tensors)
    (folder / "layers.gguf").write_bytes(serialize(many) + data[len(serialize(header)) :])
    (folder / "loop.gguf").symlink_to("loop.gguf")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short", "cut short.*again"),
        ("text", "not a GGUF file"),
        ("empty", "is empty; "),
        ("folder", "folder|holds no"),
        ("layers", "block_count = 4000.*again"),
        ("loop", "no such file.*check the path"),
    ],
)
def test_one_line(
    tmp_path: Path,
    demo_gguf: Callable[[str], Path],
    damaged: dict[str, Path],
    command: tuple[str, ...],
    name: str,
    words: str,
) -> None:
    meant = {"MODEL": damaged[name], "GOOD": demo_gguf("f16")}
    fails(ggufrun(*(meant.get(word, word) for word in command), cwd=tmp_path), words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "command",
    [
        ("convert", DEMO, "-t", "q8_0", "-o", "x.gguf"),
        ("inspect", "MODEL", "--json"),
        ("perplexity", "MODEL", "--chunks", "1"),
        ("chat", "MODEL", "-p", "你是谁", "-n", "2"),
        ("list",),
    ],
    ids=lambda command: command[0],
)
def test_a_closed_stream(
    tmp_path: Path, demo_gguf: Callable[[str], Path], command: tuple[str | Path, ...], closed: str
) -> None:
    """Nothing is read from it, what is written to it goes nowhere, and no file takes its number."""
    words = [str(demo_gguf("f16")) if word == "MODEL" else str(word) for word in command]
    script = f'exec "$0" -m ggufrun "$@" {closed}'
    result = subprocess.run(
        ["sh", "-c", script, sys.executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert bool(result.stdout) == (closed in ("<&-", "2>&-") and (command[0] != "list"))
    if command[0] == "convert":
        assert (tmp_path / "x.gguf").read_bytes() == demo_gguf("q8_0").read_bytes()


def test_any_part_means_the_model_and_all_have_to_be_there(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    result = ggufrun("quantize", demo_gguf("f16"), "q8_0", "--split-max-size", "2M", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = sorted(tmp_path.glob("*-0000[12]-of-*.gguf"))
    assert settings.local_model(str(second)) == measuring.find(second) == first
    assert "pp4" in ggufrun("bench", second, "-p", "4", "-n", "0", "-r", "1").stdout
    data = second.read_bytes()
    for content, words in ((data[:-40_000], "cut short"), (first.read_bytes(), "is not part 2 of"), (None, "missing")):
        second.unlink()
        if content is not None:
            second.write_bytes(content)
        with pytest.raises(GgufrunError, match=words):
            check_file(first)
    second.write_bytes(data)
    first.unlink()
    fails(
        ggufrun("complete", second, "-p", "hi"), f"1 of . parts are missing, such as .*{first.name}; download the rest"
    )


def unprivileged() -> list[str]:
    """What starts a program that obeys permissions; skips where root has no such way."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("root reads and writes everything here")
    return command


def test_files_that_may_not_be_read(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    """One line, not the command's usage; and what is to be removed need not be read."""
    model = demo_gguf("q8_0")
    for name in ("text.txt", "model.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
        (tmp_path / name).chmod(0)
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "x.gguf").touch()
    closed.chmod(0)
    less = unprivileged()

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*less, sys.executable, "-m", "ggufrun", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    for command in ("perplexity", "chat", "complete"):
        fails(run(command, model, "-f", "text.txt"), r"permission denied \(text.txt\); check the permissions")
    fails(run("list", "closed"), r"permission denied \(closed\)")
    fails(run("inspect", "closed/x.gguf"), "closed/x.gguf: permission denied; check the permissions of its folder")
    fails(run("inspect", "model.gguf"), r"permission denied \(model.gguf\)")
    assert run("rm", "-y", "model.gguf").stdout == "model.gguf\n"
    closed.chmod(0o755)


def test_a_folder_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known before anything is measured, not after."""
    # root, who may be running this, can write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(TargetError, match=r"cannot write to .*permissions"):
        check_targets([(tmp_path / "x", 1)], force=True)


def test_a_disk_with_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is more than what is free, to the reader too: some megabytes are left alone."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=120_000_000))
    check_targets([(tmp_path / "x", 100_000_000)], force=False)
    with pytest.raises(TargetError, match=r"126.8 MB needed, 120.0 MB free; free some or write elsewhere"):
        check_targets([(tmp_path / "x", 110_000_000)], force=False)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_names_that_are_no_text(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    model = tmp_path / os.fsdecode(b"bad\xff.gguf")
    model.write_bytes(demo_gguf("f16").read_bytes())
    text = tmp_path / os.fsdecode(b"text\xff.txt")
    text.write_text("床前明月光，疑是地上霜。" * 200, encoding="utf-8")
    svg = tmp_path / os.fsdecode(b"sizes\xff.svg")
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for command in (
        ("quantize", model, "q8_0"),
        ("quantize", model, "q4_0", "--json"),
        ("inspect", model),
        ("imatrix", model, "-f", text, "--chunks", "1"),
        ("compare", model, demo_gguf("q8_0"), "--chunks", "1", "--svg", svg),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "ggufrun", *command], capture_output=True, check=False, cwd=tmp_path, env=strict
        )
        assert result.returncode == 0, result.stderr
        if "--json" in command:
            made = json.loads(result.stdout)
            assert (tmp_path / made["path"]).is_file()
        else:
            assert b"bad\xff" in result.stdout
    assert (tmp_path / os.fsdecode(b"bad\xff-Q8_0.gguf")).read_bytes() == demo_gguf("q8_0").read_bytes()
    assert svg.read_text("utf-8").startswith("<svg")


def test_a_terminal_that_knows_ascii_only(demo_gguf: Callable[[str], Path]) -> None:
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    files = [str(demo_gguf("f16")), str(demo_gguf("q8_0"))]
    command = [sys.executable, "-m", "ggufrun", "compare", *files, "--chunks", "1"]
    for arguments, words in (((), "tokens +--"), (("--json",), '"kld"')):
        result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=plain)
        assert result.returncode == 0, result.stderr
        assert " ".join(words.split()) in " ".join(result.stdout.split())


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_pipes_in_the_place_of_models(tmp_path: Path) -> None:
    """Nobody writes to them: opening one as a file would wait for ever."""
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "checkpoint").mkdir()
    os.mkfifo(tmp_path / "checkpoint" / "model.safetensors")
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    for command in COMMANDS:
        words = [{"MODEL": "pipe.gguf", "GOOD": "pipe.gguf"}.get(word, word) for word in command]
        fails(ggufrun(*words, cwd=tmp_path), "not a regular file")
    fails(ggufrun("convert", "checkpoint", cwd=tmp_path), "not a regular file")
    result = ggufrun("list", ".", cwd=tmp_path)
    assert result.returncode == 0 and "not a regular file" in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_targets_that_are_no_files(tmp_path: Path) -> None:
    """As root, --force would put a model in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    for target in ("pipe", "/dev/null"):
        result = ggufrun("convert", DEMO, "-t", "q8_0", "-o", target, "--force", cwd=tmp_path)
        fails(result, "not a regular file.*name a file")
    assert (tmp_path / "pipe").is_fifo()
    fails(ggufrun("convert", DEMO, "-t", "q8_0", "-o", "-", cwd=tmp_path), "-o - names no file", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_texts_from_pipes(demo_gguf: Callable[[str], Path]) -> None:
    """``-f <(command)`` and ``-f -`` as anywhere else; a text without an end is not read to its end."""
    model = str(demo_gguf("q8_0"))

    def run(script: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-c", script, sys.executable, model]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)

    want = run('"$0" -m ggufrun chat "$1" 背一下静夜思 --temp 0 < /dev/null').stdout
    assert len(want) > 20
    for flag in ("-f <(echo 背一下静夜思) < /dev/null", "-f - < <(echo 背一下静夜思)"):
        found = run(f'"$0" -m ggufrun chat "$1" {flag} --temp 0')
        assert (found.stdout, found.returncode) == (want, 0), found.stderr
    for command in ("chat", "complete"):
        found = run(f'yes | "$0" -m ggufrun {command} "$1"')
        assert found.returncode == 1 and "stdin holds more than 64 MiB" in found.stderr
    fails(run('"$0" -m ggufrun chat "$1" -f /dev/zero'), "-f /dev/zero holds NUL bytes")
    fails(run('"$0" -m ggufrun chat "$1" -f /'), "-f /: a folder")


def test_a_name_in_brackets_is_no_markup(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    model = tmp_path / "[x] [bold].gguf"
    model.symlink_to(demo_gguf("f16"))
    result = ggufrun("quantize", model.name, "q8_0", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0 and "[x] [bold]-Q8_0.gguf (Q8_0)" in result.stdout, result.stderr
    result = ggufrun("quantize", model.name, "nothing", "q8_0", cwd=tmp_path)
    assert "1 file written from 1 of 2 inputs" in result.stderr and "[x] [bold].gguf" in result.stderr
    result = ggufrun("compare", model.name, "[x] [bold]-Q8_0.gguf", "--chunks", "1", cwd=tmp_path)
    assert result.returncode == 0 and "[x] [bold]-Q8_0.gguf" in result.stdout


def test_other_things_than_models(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    """Adapters and importance matrices are called what they are, and it is said what they are for."""
    weights = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight": shape for side, shape in LOW_RANK
    }
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}'
    )
    stored = {name: ("F32", np.ones(shape, np.float32)) for name, shape in weights.items()}
    (adapter / "adapter_model.safetensors").write_bytes(safetensors_bytes(stored))
    fails(
        ggufrun("convert", adapter),
        "is a LoRA adapter, not a whole model; merge it into its base: ggufrun convert BASE",
    )
    result = ggufrun("convert", DEMO, "--lora", "adapter", "--lora-out", "low.gguf", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    fails(ggufrun("chat", "low.gguf", "hi", cwd=tmp_path), "is a LoRA adapter, not a model; give it with --lora")
    model = demo_gguf("q8_0")
    fails(
        ggufrun("chat", model, "hi", "--lora", adapter),
        "is a folder, not a GGUF adapter; make a GGUF of it: .*--lora-out",
    )
    (tmp_path / "eyes.gguf").write_bytes(serialize(Header({"general.architecture": encode("clip", Kind.STRING)}, ())))
    fails(ggufrun("chat", "eyes.gguf", "hi", cwd=tmp_path), "sees or hears, not a model; name the GGUF with the rest")
    shown = ggufrun("inspect", "low.gguf", cwd=tmp_path).stdout
    assert "a LoRA adapter: give it with --lora" in shown and "chat template" not in shown
    rows = json.loads(ggufrun("list", ".", "--json", cwd=tmp_path).stdout)["models"]
    assert {row["name"]: (row["type"], row["problem"]) for row in rows} == {
        "adapter": ("adapter", None),
        "low": ("adapter", None),
        "eyes": ("mmproj", None),
    }
