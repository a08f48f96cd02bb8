"""Small random models whose memory is no plain cache: a sliding window, recurrent states, and both a state and a cache.

Written with the ``gguf`` package. ``python -m tests.support.memories FOLDER`` writes them all; with COMPLETION after
the folder it records what ``llama-completion`` makes of them in ``golden/memories.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from tests.support import llamacpp
from tests.support.measured import add_vocabulary, vocabulary_size

WIDTH, INNER, LAYERS, HEADS, KV_HEADS = 64, 128, 4, 4, 2
STATE, CONVOLUTION, RANK = 8, 4, 4
WINDOW = 32

Arrays = dict[str, npt.NDArray[np.float32]]


class _Weights:
    """Random matrices, large enough for the text to wander."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.found: Arrays = {"token_embd.weight": self.matrix(vocabulary_size(), WIDTH, scale=8.0)}
        self.ones("output_norm.weight", WIDTH)
        self.found["output.weight"] = self.matrix(vocabulary_size(), WIDTH, scale=2.0)

    def matrix(self, *shape: int, scale: float = 1.5) -> npt.NDArray[np.float32]:
        values = self._random.standard_normal(shape) * scale / np.sqrt(shape[-1])
        result: npt.NDArray[np.float32] = values.astype(np.float32)
        return result

    def ones(self, name: str, *shape: int) -> None:
        self.found[name] = np.ones(shape, np.float32)

    def add(self, name: str, *shape: int) -> None:
        self.found[name] = self.matrix(*shape)


def _feed_forward(weights: _Weights, block: str) -> None:
    weights.ones(block + "ffn_norm.weight", WIDTH)
    weights.add(block + "ffn_gate.weight", INNER, WIDTH)
    weights.add(block + "ffn_up.weight", INNER, WIDTH)
    weights.add(block + "ffn_down.weight", WIDTH, INNER)


def _attention(weights: _Weights, block: str) -> None:
    keys = WIDTH // HEADS * KV_HEADS
    for name, rows in (("attn_q", WIDTH), ("attn_k", keys), ("attn_v", keys), ("attn_output", WIDTH)):
        weights.add(f"{block}{name}.weight", rows, WIDTH)


def _state_space(weights: _Weights, block: str, norms: bool) -> None:
    inner = 2 * WIDTH
    weights.add(block + "ssm_in.weight", 2 * inner, WIDTH)
    weights.add(block + "ssm_conv1d.weight", inner, CONVOLUTION)
    weights.found[block + "ssm_conv1d.bias"] = weights.matrix(inner, scale=0.1)
    weights.add(block + "ssm_x.weight", RANK + 2 * STATE, inner)
    weights.add(block + "ssm_dt.weight", inner, RANK)
    weights.found[block + "ssm_dt.bias"] = weights.matrix(inner, scale=0.1) - 2
    # as trained ones: slow and fast decays
    weights.found[block + "ssm_a"] = -np.tile(np.arange(1, STATE + 1, dtype=np.float32), (inner, 1))
    weights.ones(block + "ssm_d", inner)
    weights.add(block + "ssm_out.weight", WIDTH, inner)
    if norms:
        for name, size in (("dt", RANK), ("b", STATE), ("c", STATE)):
            weights.ones(f"{block}ssm_{name}_norm.weight", size)


def _mamba(writer: gguf.GGUFWriter) -> Arrays:
    _state_space_sizes(writer)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    weights = _Weights(1)
    for layer in range(LAYERS):
        weights.ones(f"blk.{layer}.attn_norm.weight", WIDTH)
        _state_space(weights, f"blk.{layer}.", norms=False)
    return weights.found


def _state_space_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(CONVOLUTION)
    writer.add_ssm_inner_size(2 * WIDTH)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)


def _jamba(writer: gguf.GGUFWriter) -> Arrays:
    _state_space_sizes(writer)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([KV_HEADS if layer % 2 else 0 for layer in range(LAYERS)])
    weights = _Weights(2)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        weights.ones(block + "attn_norm.weight", WIDTH)
        if layer % 2:
            _attention(weights, block)
        else:
            _state_space(weights, block, norms=True)
        _feed_forward(weights, block)
    return weights.found


def _gemma(writer: gguf.GGUFWriter) -> Arrays:
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(WINDOW)
    weights = _Weights(3)
    del weights.found["output.weight"]
    # The same matrix reads and writes, and is multiplied on the way in.
    weights.found["token_embd.weight"] /= 20
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_norm", "post_attention_norm", "post_ffw_norm"):
            weights.ones(f"{block}{name}.weight", WIDTH)
        _attention(weights, block)
        _feed_forward(weights, block)
    return weights.found


def _rwkv(writer: gguf.GGUFWriter) -> Arrays:
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(0)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(WIDTH)
    writer.add_decay_lora_rank(RANK)
    writer.add_iclr_lora_rank(RANK)
    writer.add_value_residual_mix_lora_rank(RANK)
    writer.add_gate_lora_rank(RANK)
    weights = _Weights(4)
    weights.found["output_norm.bias"] = np.zeros(WIDTH, np.float32)
    weights.ones("token_embd_norm.weight", WIDTH)
    weights.found["token_embd_norm.bias"] = np.zeros(WIDTH, np.float32)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            weights.ones(f"{block}{name}.weight", WIDTH)
            weights.found[f"{block}{name}.bias"] = np.zeros(WIDTH, np.float32)
        for name in "wavg":
            if name != "g":
                weights.found[f"{block}time_mix_{name}0.weight"] = weights.matrix(WIDTH, scale=0.5)
            weights.add(f"{block}time_mix_{name}1.weight", RANK, WIDTH)
            weights.add(f"{block}time_mix_{name}2.weight", WIDTH, RANK)
        weights.found[block + "time_mix_lerp_fused.weight"] = np.full((6, 1, 1, WIDTH), 0.5, np.float32)
        for name in ("k_k", "k_a"):
            weights.ones(f"{block}time_mix_{name}.weight", WIDTH)
        weights.found[f"{block}time_mix_r_k.weight"] = weights.matrix(WIDTH, scale=0.5)
        for name in ("key", "value", "receptance", "output"):
            weights.add(f"{block}time_mix_{name}.weight", WIDTH, WIDTH)
        weights.found[block + "channel_mix_lerp_k.weight"] = np.full((1, 1, WIDTH), 0.5, np.float32)
        weights.add(block + "channel_mix_key.weight", INNER, WIDTH)
        weights.add(block + "channel_mix_value.weight", WIDTH, INNER)
    return weights.found


MODELS: dict[str, Callable[[gguf.GGUFWriter], Arrays]] = {
    "gemma2": _gemma,
    "mamba": _mamba,
    "jamba": _jamba,
    "rwkv7": _rwkv,
}
"""Architectures: a sliding window in every other layer, recurrent, both, recurrent."""

PROMPT = "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 8
"""Longer than the window, and than the cache that llama.cpp makes for it."""


def write(folder: Path, name: str) -> Path:
    """One of `MODELS` as a GGUF."""
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, name)
    writer.add_name(name)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_file_type(0)
    add_vocabulary(writer, 0, False)
    for tensor, array in MODELS[name](writer).items():
        writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def record(completion: Path, model: Path) -> dict[str, Any]:
    """The greedy text of ``llama-completion``."""
    command = [completion, "-m", model, "-p", PROMPT, "-n", "48", "--temp", "0", "--ignore-eos", "-no-cnv", "-t", "1"]
    flags = ["--no-escape", "--simple-io", "--no-display-prompt", "-c", "1024", "-ub", "32", "-b", "32", "--no-warmup"]
    return {"text": llamacpp.run(*command, *flags)[0]}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    answers = {}
    for model_name in MODELS:
        file = write(target, model_name)
        if len(sys.argv) > 2:
            answers[model_name] = record(Path(sys.argv[2]), file)
    if answers:
        golden = Path(__file__).parent.parent / "golden" / "memories.json"
        golden.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
