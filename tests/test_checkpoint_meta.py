"""Meta folders: the same weights as in the Hugging Face layout give the same GGUF."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.convert import pipeline
from ggufrun.convert.plan import Wishes, plan_convert
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.support.checkpoints import DEMO, encode, llama_config, llama_tensors, safetensors_bytes
from tests.support.torch_writer import torch_legacy, torch_zip

Weights = dict[str, npt.NDArray[Any]]

SPLIT = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1}
"""Dimension along which Meta's model-parallel layers are split."""

NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def meta_weights(config: Mapping[str, Any], weights: Weights) -> Weights:
    """Hugging Face's layout turned into Meta's: other names, and the rows of wq and wk by rotation pair."""
    found: Weights = {}
    for name, values in weights.items():
        inner = name.removesuffix(".weight")
        layer = ""
        if inner.startswith("model.layers."):
            _, _, number, inner = inner.split(".", 3)
            layer = f"layers.{number}."
        heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}.get(inner)
        if heads:
            rows, columns = values.shape
            halves = values.reshape(config[heads], 2, rows // config[heads] // 2, columns)
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)
        found[f"{layer}{NAMES[inner]}.weight"] = values
    return found


def shards(weights: Weights, count: int, embedding_dimension: int) -> list[Weights]:
    """What each of ``count`` files holds."""
    parts: list[Weights] = [{} for _ in range(count)]
    for name, values in weights.items():
        stem = name.removesuffix(".weight").rsplit(".", 1)[-1]
        dimension = embedding_dimension if stem == "tok_embeddings" else SPLIT.get(stem)
        pieces = [values] * count if dimension is None else np.split(values, count, dimension)
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece
    return parts


def write_meta(
    folder: Path,
    config: Mapping[str, Any],
    weights: Weights,
    count: int = 1,
    embedding_dimension: int = 1,
    dtype: str = "F16",
    extra: Weights | None = None,
    **params: Any,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(shards(meta_weights(config, weights), count, embedding_dimension)):
        stored = {name: (dtype, encode(dtype, values)) for name, values in part.items()}
        stored |= {name: ("F32", values.astype(np.float32)) for name, values in (extra or {}).items()}
        writer = torch_legacy if number % 2 else torch_zip
        (folder / f"consolidated.{number:02}.pth").write_bytes(writer(stored))
    values = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "norm_eps": config["rms_norm_eps"],
        "vocab_size": -1,
        "multiple_of": 64,
    }
    if config["num_key_value_heads"] != config["num_attention_heads"]:
        values["n_kv_heads"] = config["num_key_value_heads"]
    values |= params
    (folder / "params.json").write_text(json.dumps({key: value for key, value in values.items() if value != "REMOVE"}))


def write_hf(folder: Path, config: Mapping[str, Any], weights: Weights, dtype: str = "F16") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(DEMO / "tokenizer.model", folder)
    (folder / "config.json").write_text(json.dumps(config))
    stored = {name: (dtype, encode(dtype, values)) for name, values in weights.items()}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))


def convert(folder: Path, out: Path, kind: str = "F16") -> tuple[dict[str, Any], bytes]:
    """Metadata, apart from what tells of the folder, and the bytes of all tensors in the file's order."""
    plan = plan_convert(folder, [FILE_TYPES[kind]], lambda file_type: out, wishes=Wishes("model"))
    pipeline.run(plan, threads=2)
    plan.close()
    header = read_header(out)
    told = {key: value.raw for key, value in header.metadata.items() if not key.startswith("tokenizer.ggml.")}
    told["tensors"] = repr([(info.name, info.shape, info.type, info.offset) for info in header.tensors]).encode()
    return told, out.read_bytes()[header.data_start :]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# 256 wide: two thirds of four widths are 682, which 64s round up to 704
RELEASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, Weights]] = {
    "llama-1": (
        {"num_key_value_heads": 8, "rms_norm_eps": 1e-6, "intermediate_size": 704, "max_position_embeddings": 2048},
        {},
        1,
        {f"layers.{layer}.attention.inner_attention.rope.freqs": np.ones(16) for layer in range(3)},
    ),
    "llama-1-65b": (
        {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "intermediate_size": 704, "max_position_embeddings": 2048},
        {},
        1,
        {f"layers.{layer}.attention.inner_attention.rope.freqs": np.ones(16) for layer in range(3)},
    ),
    "llama-2-70b": (
        {
            "num_key_value_heads": 8,
            "num_attention_heads": 16,
            "intermediate_size": 896,
            "max_position_embeddings": 4096,
        },
        {"ffn_dim_multiplier": 1.3},
        1,
        {"rope.freqs": np.ones(16)},
    ),
    "code-llama": (
        {
            "num_key_value_heads": 8,
            "intermediate_size": 704,
            "max_position_embeddings": 16384,
            "rope_theta": 1000000.0,
            "vocab_size": 3008,
        },
        {"rope_theta": 1000000.0, "vocab_size": 3008},
        1,
        {"rope.freqs": np.ones(16)},
    ),
    "llama-3": (
        {
            "num_key_value_heads": 8,
            "num_attention_heads": 16,
            "intermediate_size": 1024,
            "max_position_embeddings": 8192,
            "rope_theta": 500000.0,
        },
        {"rope_theta": 500000.0, "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "vocab_size": 3000},
        0,
        {},
    ),
    "llama-3.1": (
        {
            "num_key_value_heads": 8,
            "num_attention_heads": 16,
            "intermediate_size": 1024,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rope_scaling": LLAMA3,
        },
        {
            "rope_theta": 500000.0,
            "multiple_of": 1024,
            "ffn_dim_multiplier": 1.3,
            "vocab_size": 3000,
            "use_scaled_rope": True,
        },
        0,
        {},
    ),
}


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("release", RELEASES)
def test_the_same_weights_give_the_same_file(tmp_path: Path, release: str, count: int) -> None:
    changes, params, dimension, extra = RELEASES[release]
    config = llama_config(**changes)
    weights = llama_tensors(config, seed=5)
    write_hf(tmp_path / "hf", config, weights)
    write_meta(tmp_path / "meta", config, weights, count, dimension, extra=extra, **params)
    # beside the weights or one folder up
    shutil.copy(DEMO / "tokenizer.model", tmp_path / "meta" if count % 3 else tmp_path)
    assert convert(tmp_path / "meta", tmp_path / "b.gguf") == convert(tmp_path / "hf", tmp_path / "a.gguf")


def test_rows_in_any_slices(tmp_path: Path) -> None:
    config = llama_config(num_key_value_heads=4, intermediate_size=704)
    weights = llama_tensors(config, seed=6)
    write_meta(tmp_path, config, weights, 4, dtype="F32")
    source = open_checkpoint(tmp_path)
    assert list(source.tensors) == sorted(weights)
    for name, values in weights.items():
        table = values.reshape(-1, values.shape[-1])
        read = source.tensors[name]
        for start, stop in ((0, read.n_rows), (1, 2), (7, 150), (63, 65), (0, 0)):
            start, stop = min(start, read.n_rows), min(stop, read.n_rows)
            np.testing.assert_array_equal(read.rows(start, stop), table[start:stop])
    source.close()


@pytest.mark.parametrize("shared", [{}, {"output.weight": "tok_embeddings.weight"}])
def test_tied_embeddings(tmp_path: Path, shared: dict[str, str]) -> None:
    """Left out, or the very same bytes of the file."""
    config = llama_config(intermediate_size=704, tie_word_embeddings=True)
    weights = llama_tensors(config)
    write_meta(tmp_path, config, weights)
    stored = {name: ("F16", encode("F16", values)) for name, values in meta_weights(config, weights).items()}
    (tmp_path / "consolidated.00.pth").write_bytes(torch_zip(stored, shared))
    source = open_checkpoint(tmp_path)
    assert source.overrides["tie_word_embeddings"] and "lm_head.weight" not in source.tensors
    source.close()


@pytest.mark.parametrize(("width", "factor"), [(2048, 32.0), (256, 8.0)])
def test_llama_3_2_scales_by_32(tmp_path: Path, width: int, factor: float) -> None:
    config = llama_config(
        hidden_size=width, num_hidden_layers=1, vocab_size=8, intermediate_size=8, num_key_value_heads=8
    )
    write_meta(tmp_path, config, llama_tensors(config), multiple_of=8, rope_theta=500000.0, use_scaled_rope=True)
    source = open_checkpoint(tmp_path)
    assert source.overrides["rope_scaling"]["factor"] == factor
    source.close()


BASE = llama_config(intermediate_size=704)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"vocab_size": 2999}, FormatError, "2999.*3000"),
        ({"dim": 512}, FormatError, "512"),
        ({"n_heads": 7}, FormatError, "7"),
        ({"n_kv_heads": 3}, FormatError, "3"),
        ({"n_layers": "three"}, FormatError, "n_layers"),
        ({"n_layers": True}, FormatError, "n_layers"),
        ({"norm_eps": 0.5}, UnsupportedError, "no Llama release"),
        ({"rope_theta": 77.0}, UnsupportedError, "no Llama release"),
        ({"rope_theta": "hot"}, FormatError, "rope_theta"),
        ({"use_scaled_rope": 1}, FormatError, "use_scaled_rope"),
        ({"sliding_window": 4096}, UnsupportedError, "sliding_window"),
        ({"moe": {"num_experts": 8}}, UnsupportedError, "moe"),
        ({"dim": "REMOVE"}, FormatError, "dim"),
        ({"multiple_of": 256}, FormatError, "768"),
        ({"n_layers": 4}, NotFoundError, r"blk\.3"),
        ({"n_layers": 2}, GgufrunError, r"layers\.2|blk\.2"),
    ],
)
def test_params_that_do_not_fit(tmp_path: Path, params: dict[str, Any], error: type[GgufrunError], words: str) -> None:
    write_meta(tmp_path / "m", BASE, llama_tensors(BASE), **params)
    shutil.copy(DEMO / "tokenizer.model", tmp_path / "m")
    with pytest.raises(error, match=words):
        plan_convert(tmp_path / "m", [FILE_TYPES["F16"]], lambda file_type: tmp_path / "out.gguf")


def test_a_missing_shard(tmp_path: Path) -> None:
    write_meta(tmp_path, BASE, llama_tensors(BASE), 4)
    (tmp_path / "consolidated.02.pth").unlink()
    with pytest.raises(NotFoundError, match=r"consolidated\.02\.pth"):
        open_checkpoint(tmp_path)


def test_the_last_shard_is_missing(tmp_path: Path) -> None:
    write_meta(tmp_path, BASE, llama_tensors(BASE), 4)
    (tmp_path / "consolidated.03.pth").unlink()
    with pytest.raises(FormatError, match="missing"):
        open_checkpoint(tmp_path)


def test_shards_of_two_models(tmp_path: Path) -> None:
    write_meta(tmp_path, BASE, llama_tensors(BASE), 2)
    write_meta(tmp_path / "other", BASE, llama_tensors(BASE, seed=9), 2)
    shutil.copy(tmp_path / "other" / "consolidated.01.pth", tmp_path)
    source = open_checkpoint(tmp_path)
    with pytest.raises(FormatError, match="not the same in all files"):
        source.tensors["model.norm.weight"].rows(0, 1)
    source.close()


def test_shards_that_hold_different_tensors(tmp_path: Path) -> None:
    write_meta(tmp_path, BASE, llama_tensors(BASE), 2)
    small = llama_config(intermediate_size=704, num_hidden_layers=2)
    write_meta(tmp_path / "other", small, llama_tensors(small), 2)
    shutil.copy(tmp_path / "other" / "consolidated.01.pth", tmp_path)
    with pytest.raises(FormatError, match="some of its files only"):
        open_checkpoint(tmp_path)


def test_a_tensor_no_llama_has(tmp_path: Path) -> None:
    write_meta(tmp_path, BASE, llama_tensors(BASE), extra={"vision_model.patch.weight": np.ones(4)})
    with pytest.raises(UnsupportedError, match="vision_model"):
        open_checkpoint(tmp_path)


TORCH_SCRIPT = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file
folder, count = Path(sys.argv[1]), int(sys.argv[2])
weights = load_file(folder / "hf" / "model.safetensors")
names = json.loads(sys.argv[3])
parts = [{} for _ in range(count)]
for name, values in weights.items():
    inner, layer = name.removesuffix(".weight"), ""
    if inner.startswith("model.layers."):
        _, _, number, inner = inner.split(".", 3)
        layer = f"layers.{number}."
    if inner.endswith(("q_proj", "k_proj")):
        values = values.view(8, 2, -1, values.shape[1]).transpose(1, 2).reshape(values.shape)
    final = names[inner]
    stem = final.rsplit(".", 1)[-1]
    dimension = 1 if stem in ("wo", "w2", "tok_embeddings") else 0
    pieces = [values] * count if values.dim() == 1 else values.chunk(count, dimension)
    for part, piece in zip(parts, pieces):
        # chunks along dimension 1 are views with gaps, all of one storage
        part[f"{layer}{final}.weight"] = piece
for number, part in enumerate(parts):
    torch.save(part, folder / "meta" / f"consolidated.{number:02}.pth")
"""


def test_what_torch_shards_and_the_reference_converter_makes(oracle: Oracle, tmp_path: Path) -> None:
    """Shards written by torch itself, held against the reference converter's file of the Hugging Face layout."""
    config = llama_config(num_key_value_heads=8, intermediate_size=704, max_position_embeddings=4096)
    weights = llama_tensors(config, seed=7)
    write_hf(tmp_path / "hf", config, weights)
    write_meta(tmp_path / "meta", config, weights)
    oracle.run(oracle.python, "-c", TORCH_SCRIPT, tmp_path, "4", json.dumps(NAMES))
    theirs = tmp_path / "theirs.gguf"
    oracle.run(oracle.python, oracle.convert, tmp_path / "hf", "--outtype", "f16", "--outfile", theirs)
    shutil.copy(DEMO / "tokenizer.model", tmp_path)
    header = read_header(theirs)
    told, data = convert(tmp_path / "meta", tmp_path / "ours.gguf")
    assert data == theirs.read_bytes()[header.data_start :]
    tensors = [(info.name, info.shape, info.type, info.offset) for info in header.tensors]
    assert told["tensors"] == repr(tensors).encode()
    for key, value in header.metadata.items():
        if key.startswith("llama."):
            assert told[key] == value.raw, key
