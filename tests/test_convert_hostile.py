"""Conversions that must not happen: each ends in one clear error and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert import pipeline
from ggufrun.convert.plan import Plan, plan_convert, plan_quantize
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, TargetError, UnsupportedError
from ggufrun.quantize.types import FILE_TYPES
from tests.support.checkpoints import DEMO, bf16, encode, llama_config, llama_tensors, safetensors_bytes, write_llama

F16, Q4 = FILE_TYPES["F16"], FILE_TYPES["Q4_K_M"]


def plan(folder: Path, out: Path, kind: Any = F16) -> Plan:
    return plan_convert(folder, [kind], lambda file_type: out)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "REMOVE"}))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"architectures": ["MambaForCausalLM"]}, UnsupportedError, "LlamaForCausalLM"),
        ({"architectures": []}, FormatError, "no architecture"),
        ({"architectures": "LlamaForCausalLM"}, FormatError, "no architecture"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act"),
        ({"num_hidden_layers": "three"}, FormatError, "num_hidden_layers"),
        ({"num_hidden_layers": True}, FormatError, "num_hidden_layers"),
        ({"num_hidden_layers": 1 << 40}, FormatError, "num_hidden_layers"),
        ({"num_hidden_layers": 4}, NotFoundError, "blk.3"),
        ({"num_hidden_layers": 2}, UnsupportedError, "no place"),
        ({"num_attention_heads": 7}, FormatError, "do not divide"),
        ({"num_key_value_heads": 4}, FormatError, "attn_k"),
        ({"rms_norm_eps": "small"}, FormatError, "rms_norm_eps"),
        ({"rope_scaling": {"type": "mystery", "factor": 2.0}}, UnsupportedError, "mystery"),
        ({"rope_scaling": {"type": "linear"}}, FormatError, "factor"),
        ({"tie_word_embeddings": "yes"}, FormatError, "tie_word_embeddings"),
    ],
)
def test_configs_that_do_not_fit(
    tmp_path: Path, changes: dict[str, Any], error: type[GgufrunError], words: str
) -> None:
    write_llama(tmp_path / "model")
    change_config(tmp_path / "model", **changes)
    with pytest.raises(error, match=words):
        plan(tmp_path / "model", tmp_path / "out.gguf")


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", "[" * 100_000])
def test_a_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    write_llama(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(FormatError, match=r"config\.json"):
        plan(tmp_path / "model", tmp_path / "out.gguf")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_llama(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        plan(tmp_path / "model", tmp_path / "out.gguf")


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_tokenizer_that_is_none(tmp_path: Path, data: bytes) -> None:
    write_llama(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.model").write_bytes(data)
    with pytest.raises(FormatError, match="SentencePiece"):
        plan(tmp_path / "model", tmp_path / "out.gguf")


@pytest.mark.parametrize(
    "settings",
    [
        {"added_tokens_decoder": {"x": {"content": "<a>"}}},
        {"added_tokens_decoder": {"-1": {"content": "<a>"}}},
        {"added_tokens_decoder": {"2999": {}}},
        {"added_tokens_decoder": [1]},
    ],
)
def test_added_tokens_that_make_no_sense(tmp_path: Path, settings: dict[str, Any]) -> None:
    write_llama(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(FormatError, match="token"):
        plan(tmp_path / "model", tmp_path / "out.gguf")


def test_a_broken_model_card(tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\n{a: [}\n---\n")
    with pytest.raises(FormatError, match="model card"):
        plan(tmp_path / "model", tmp_path / "out.gguf")


@pytest.mark.parametrize("name", ["model.extra.weight", "model.layers.9.mlp.up_proj.weight", "vision.patch.weight"])
def test_an_unknown_tensor(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    write_llama(folder)
    stored = {key: ("BF16", bf16(value)) for key, value in llama_tensors(llama_config()).items()}
    stored[name] = ("BF16", bf16(np.zeros((4, 256), np.float32)))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    with pytest.raises(UnsupportedError, match=name):
        plan(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [F16, Q4])
def test_a_value_that_is_no_number_names_its_tensor(tmp_path: Path, value: float, kind: Any) -> None:
    folder = tmp_path / "model"
    write_llama(folder)
    weights = llama_tensors(llama_config())
    weights["model.layers.2.mlp.up_proj.weight"][300, 17] = value
    (folder / "model.safetensors").write_bytes(
        safetensors_bytes({key: ("BF16", encode("BF16", array)) for key, array in weights.items()})
    )
    made = plan(folder, tmp_path / "out.gguf", kind)
    with pytest.raises(FormatError, match=r"blk\.2\.ffn_up\.weight"):
        pipeline.run(made, threads=2)
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*"))


def test_a_value_beyond_f16_is_not_made_infinite(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_llama(folder)
    weights = llama_tensors(llama_config())
    weights["lm_head.weight"][0, 0] = 1e6
    (folder / "model.safetensors").write_bytes(
        safetensors_bytes({key: ("BF16", encode("BF16", array)) for key, array in weights.items()})
    )
    with pytest.raises(FormatError, match=r"output\.weight.*BF16"):
        pipeline.run(plan(folder, tmp_path / "out.gguf"))
    pipeline.run(plan(folder, tmp_path / "out.gguf", FILE_TYPES["BF16"]))


def test_a_corrupt_block_in_a_quantized_input(
    tmp_path: Path, demo_gguf: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "q8.gguf"
    shutil.copy(demo_gguf("q8_0"), path)
    header = read_header(path)
    info = next(info for info in header.tensors if info.name == "blk.1.ffn_up.weight")
    with path.open("r+b") as file:
        file.seek(header.data_start + info.offset + 34 * 5)
        file.write(np.array([np.nan], np.float16).tobytes())
    made = plan_quantize(path, [FILE_TYPES["Q8_0"]], lambda kind: tmp_path / "out.gguf")
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_up\.weight holds values that are not finite"):
        pipeline.run(made)
    # the library would add a line of its own
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("kind", ["F16", "F32", "BF16", "Q8_0"])
@pytest.mark.parametrize("name", ["blk.1.attn_norm.weight", "blk.2.ffn_up.weight"])
def test_a_value_that_is_no_number_in_a_gguf(
    tmp_path: Path, demo_gguf: Callable[[str], Path], capfd: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    path = tmp_path / "f16.gguf"
    shutil.copy(demo_gguf("f16"), path)
    header = read_header(path)
    info = next(info for info in header.tensors if info.name == name)
    with path.open("r+b") as file:
        file.seek(header.data_start + info.offset + 8)
        file.write(np.array([-np.inf], np.float16 if "ffn" in name else np.float32).tobytes())
    made = plan_quantize(path, [FILE_TYPES[kind]], lambda kind: tmp_path / "out.gguf")
    with pytest.raises(FormatError, match=f"{re.escape(name)} holds values that are not finite; download it again"):
        pipeline.run(made)
    assert capfd.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["f16.gguf"]


def test_a_disk_that_fills_while_it_is_written(
    tmp_path: Path, demo_gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pwrite fails after some megabytes: the error names the file, and nothing is left."""
    write, written = os.pwrite, 0

    def full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    made = plan_quantize(demo_gguf("f16"), [FILE_TYPES["Q8_0"]], lambda kind: tmp_path / "out.gguf")
    with pytest.raises(OSError, match="No space left") as caught:
        pipeline.run(made, threads=2)
    assert caught.value.filename == str(tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_alone_cannot_be_quantized(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    from ggufrun.checkpoint.gguf.file import Header, serialize

    header = read_header(demo_gguf("f16"))
    (tmp_path / "vocab.gguf").write_bytes(serialize(Header(header.metadata, ())))
    with pytest.raises(FormatError, match="no tensors"):
        plan_quantize(tmp_path / "vocab.gguf", [Q4], lambda kind: tmp_path / "out.gguf")


def test_an_architecture_llama_cpp_does_not_know(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    from ggufrun.checkpoint.gguf.file import Header, Kind, serialize
    from ggufrun.checkpoint.gguf.file import encode as encode_value

    path = demo_gguf("f16")
    header = read_header(path)
    metadata = header.metadata | {"general.architecture": encode_value("nonsuch", Kind.STRING)}
    data = path.read_bytes()[header.data_start :]
    (tmp_path / "x.gguf").write_bytes(serialize(Header(metadata, header.tensors)) + data)
    with pytest.raises(UnsupportedError, match="nonsuch"):
        plan_quantize(tmp_path / "x.gguf", [Q4], lambda kind: tmp_path / "out.gguf")


def test_a_target_that_stands(tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("precious")
    with pytest.raises(TargetError, match="--force"):
        pipeline.run(plan(DEMO, tmp_path / "out.gguf"))
    assert (tmp_path / "out.gguf").read_text() == "precious"
    pipeline.run(plan(DEMO, tmp_path / "out.gguf"), force=True)
    assert read_header(tmp_path / "out.gguf").architecture == "llama"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    made = plan(DEMO, tmp_path / "out.gguf")

    def appear(n_bytes: int) -> None:
        (tmp_path / "out.gguf").write_text("precious")

    with pytest.raises(TargetError, match="exists"):
        pipeline.run(made, on_progress=appear)
    assert (tmp_path / "out.gguf").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    made = plan_convert(DEMO, [F16, Q4], lambda kind: tmp_path / "out.gguf")
    with pytest.raises(TargetError, match="two outputs"):
        pipeline.run(made)


def test_a_missing_target_folder(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such folder"):
        pipeline.run(plan(DEMO, tmp_path / "nowhere" / "out.gguf"))


def test_too_little_space_is_found_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(TargetError, match="no space left"):
        pipeline.run(plan(DEMO, tmp_path / "out.gguf"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = os.pwrite, 0

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 2_000_000:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        pipeline.run(plan(DEMO, tmp_path / "out.gguf"))
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()

    def interrupt(n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(plan(DEMO, tmp_path / "out.gguf"), threads=3, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before
