"""Adapters and pulled checkpoints by name, as a shell sees them, with the real client and a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.checkpoints import DEMO
from tests.support.hubserver import Repo, running
from tests.test_checkpoint_adapters_merge import low_rank, write_adapter
from tests.test_cli_hub import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    config = json.loads((DEMO / "config.json").read_text())
    width = config["hidden_size"]
    adapter = write_adapter(tmp_path / "adapter", low_rank("model.layers.0.self_attn.q_proj", width, width)).path
    checkpoint = {path.name: path.read_bytes() for path in DEMO.iterdir() if path.is_file()}
    files = {path.name: path.read_bytes() for path in adapter.iterdir()}
    with running() as server:
        server.repos["org/tang-poet"] = Repo(checkpoint, branches={"other": checkpoint | {"LICENSE": b"other"}})
        server.repos["org/poet-lora"] = Repo(files | {"README.md": b"# poet", "optimizer.pt": b"x" * 5000})
        found = Shell(server, tmp_path / "home")
        found.home.mkdir()
        found.models.mkdir()
        yield found


def merged(shell: Shell, *arguments: str | Path) -> bytes:
    printed = shell.does("convert", DEMO, *arguments, "-t", "f16", "--force", "--no-verify")
    return (shell.home / printed.strip()).read_bytes()


def test_an_adapter_on_the_hub(shell: Shell) -> None:
    assert shell.does("convert", DEMO, "--lora", "org/poet-lora", "-t", "f16") == "tang-poet-poet-lora-F16.gguf\n"
    assert set(shell.server.received()) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    found = (shell.home / "tang-poet-poet-lora-F16.gguf").read_bytes()
    assert found != (shell.home / shell.does("convert", DEMO, "-t", "f16").strip()).read_bytes()
    assert merged(shell, "--name", "tang-poet-poet-lora", "--lora", shell.home.parent / "adapter") == found
    shell.server.close()
    again = shell("convert", DEMO, "--lora", "hf://org/poet-lora", "-t", "f16", "--force", HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and "using the copy of org/poet-lora in the cache" in again.stderr
    assert (shell.home / "tang-poet-poet-lora-F16.gguf").read_bytes() == found


def test_a_pulled_adapter_by_its_name(shell: Shell) -> None:
    full = merged(shell, "--lora", "org/poet-lora", "--name", "x")
    half = merged(shell, "--lora", "org/poet-lora=0.5", "--name", "x")
    assert shell.does("pull", "org/poet-lora") == "models/org/poet-lora\n"
    shell.server.close()
    for name in ("org/poet-lora", "poet-lora"):
        assert merged(shell, "--lora", name, "--name", "x") == full
        assert merged(shell, "--lora", f"{name}=0.5", "--name", "x") == half != full
    shell.fails("is a LoRA adapter, not a GGUF; merge it .* --lora models/org/poet-lora", "chat", "poet-lora", "hi")
    shell.fails("is a LoRA adapter, not a whole model; merge it", "convert", "models/org/poet-lora")


def test_a_pulled_checkpoint_is_not_fetched_again(shell: Shell) -> None:
    shell.does("pull", "org/tang-poet")
    shell.server.seen.clear()
    first = shell("convert", "org/tang-poet", "-t", "q8_0")
    assert first.returncode == 0 and first.stdout == "tang-poet-Q8_0.gguf\n"
    assert "taking models/org/tang-poet, pulled at commit" in first.stderr
    found = (shell.home / "tang-poet-Q8_0.gguf").read_bytes()
    assert not shell.server.seen and not (shell.home / "hf" / "hub").exists()
    for name in ("tang-poet", "Org/Tang-Poet"):
        shell.does("convert", name, "-t", "q8_0", "--force")
        assert (shell.home / "tang-poet-Q8_0.gguf").read_bytes() == found
    # another revision, or the hub itself when it is asked for by name
    assert not shell.server.seen
    shell.does("convert", "org/tang-poet@other", "-t", "q8_0", "--force")
    shell.does("convert", "hf://org/tang-poet", "-t", "q8_0", "--force")
    assert "model.safetensors" in shell.server.received()
    for command in ("chat", "complete"):
        shell.fails(
            "is a checkpoint, not a GGUF; convert it: ggufrun convert models/org/tang-poet",
            command,
            "org/tang-poet",
            "-p",
            "x",
        )


def test_a_pulled_checkpoint_at_its_commit(shell: Shell) -> None:
    commit = json.loads(shell.does("pull", "org/tang-poet", "--json"))["commit"]
    shell.server.seen.clear()
    shell.does("convert", f"org/tang-poet@{commit}", "-t", "f16")
    assert not shell.server.seen


def test_a_pull_that_did_not_end(shell: Shell) -> None:
    shell.does("pull", "org/tang-poet")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (shell.models / "org" / "tang-poet" / "model.safetensors.index.json").write_text(json.dumps(index))
    shell.fails(
        r"lacks model-00002\.safetensors \(1 such\); complete it: ggufrun pull org/tang-poet",
        "convert",
        "org/tang-poet",
    )


def test_what_is_no_adapter(shell: Shell) -> None:
    shell.server.repos["org/empty"] = Repo({"README.md": b"nothing"})
    shell.server.repos["org/config"] = Repo({"adapter_config.json": b"{}"})
    shell.fails("org/tang-poet: it holds a whole model, not a LoRA adapter", "convert", DEMO, "--lora", "org/tang-poet")
    for name in ("org/empty", "org/config"):
        shell.fails(f"{name}: it holds no LoRA adapter", "convert", DEMO, "--lora", name)
    shell.fails("no such file or folder: nowhere", "convert", DEMO, "--lora", "nowhere")
    shell.fails("has no number after the =", "convert", DEMO, "--lora", "org/poet-lora=much", status=2)


def test_a_gguf_adapter_needs_no_weights_of_the_base(shell: Shell) -> None:
    arguments = ("--lora", "org/poet-lora", "--lora-out", "poet.gguf", "-t", "f16")
    assert shell.does("convert", "org/tang-poet", *arguments) == "poet.gguf\n"
    assert "model.safetensors" not in shell.server.received()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(shell.home / "poet.gguf").tensors}
    assert sorted(tensors) == ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]
    assert np.abs(tensors["blk.0.attn_q.weight.lora_b"].data).max() > 0
