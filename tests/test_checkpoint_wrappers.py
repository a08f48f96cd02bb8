"""Checkpoints that were saved through torch.compile, DDP, FSDP or peft: the same GGUF as without the wrapper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ggufrun.checkpoint.wrappers import plain_names
from ggufrun.cli.app import app
from ggufrun.convert.plan import plan_convert
from ggufrun.errors import FormatError, UnsupportedError
from tests.support.checkpoints import encode, llama_config, llama_tensors, safetensors_bytes, write_llama

WRAPPED: dict[str, tuple[Callable[[str], str], str]] = {
    "torch.compile": (lambda name: f"_orig_mod.{name}", "_orig_mod"),
    "DDP": (lambda name: f"module.{name}", "module"),
    "DDP of a compiled model": (lambda name: f"module._orig_mod.{name}", "_orig_mod, module"),
    "a compiled model in DDP in DeepSpeed": (lambda name: f"_forward_module.module.{name}", "_forward_module, module"),
    "FSDP around layers": (
        lambda name: name.replace("model.layers.0.", "model.layers.0._fsdp_wrapped_module."),
        "_fsdp_wrapped_module",
    ),
    "compiled layers": (lambda name: name.replace("self_attn.", "_orig_mod.self_attn."), "_orig_mod"),
    "FSDP and checkpointing": (
        lambda name: "_fsdp_wrapped_module." + name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        "_fsdp_wrapped_module, _checkpoint_wrapped_module",
    ),
    "peft": (lambda name: f"base_model.model.{name}", "base_model.model"),
    "peft, not unloaded": (
        lambda name: "base_model.model." + name.replace("q_proj.", "q_proj.base_layer."),
        "base_model.model",
    ),
    "peft in DDP": (lambda name: f"module.base_model.model.{name}", "module, base_model.model"),
}


def write_renamed(folder: Path, rename: Callable[[str], str], *more: str) -> Path:
    """A small Llama whose tensors are called otherwise."""
    write_llama(folder, num_hidden_layers=1, vocab_size=2048)
    weights = llama_tensors(llama_config(num_hidden_layers=1, vocab_size=2048))
    stored = {rename(name): ("BF16", encode("BF16", values)) for name, values in weights.items()}
    stored |= dict.fromkeys(more, next(iter(stored.values())))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapper_changes_nothing(tmp_path: Path, kind: str) -> None:
    rename, wrappers = WRAPPED[kind]
    runner, heads = CliRunner(), []
    for folder in (write_renamed(tmp_path / "plain" / "m", str), write_renamed(tmp_path / "wrapped" / "m", rename)):
        done = runner.invoke(app, ["convert", str(folder), "-o", str(folder / "m.gguf"), "--json"])
        assert done.exit_code == 0, done.stderr
        heads.append((folder / "m.gguf").read_bytes())
    assert heads[0] == heads[1]
    assert f"warning: the names of the tensors are read without {wrappers}, left there" in done.stderr
    (note,) = json.loads(done.stdout)[0]["notes"]
    assert wrappers in note


def test_names_that_only_some_tensors_begin_with() -> None:
    names = ("module.a.weight", "b.weight")
    assert plain_names(names) == ({name: name for name in names}, [])
    assert plain_names(()) == ({}, [])
    assert plain_names(("my_orig_mod.weight",))[1] == []


def test_two_names_that_become_one(tmp_path: Path) -> None:
    folder = write_renamed(tmp_path, str, "_orig_mod.model.norm.weight")
    with pytest.raises(FormatError, match=r"holds model\.norm\.weight twice, as _orig_mod\.m.* and as model\.norm"):
        plan_convert(folder, (), lambda kind: tmp_path / "m.gguf")


@pytest.mark.parametrize("more", ["self_attn.q_proj.lora_A.default.weight", "lm_head.modules_to_save.default.weight"])
def test_an_adapter_that_is_not_merged(tmp_path: Path, more: str) -> None:
    folder = write_renamed(tmp_path, lambda name: f"base_model.model.{name}", f"base_model.model.{more}")
    with pytest.raises(UnsupportedError, match="not merged into its base") as caught:
        plan_convert(folder, (), lambda kind: tmp_path / "m.gguf")
    assert "merge_and_unload" in caught.value.todo


def test_a_class_that_fsdp_has_renamed(tmp_path: Path) -> None:
    write_llama(tmp_path, architectures=["FSDPLlamaForCausalLM"])
    plan_convert(tmp_path, (), lambda kind: tmp_path / "m.gguf").close()
