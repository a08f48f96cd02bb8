"""Small models to measure: random weights, written with the ``gguf`` package, so that no converter of ours is involved.

The output matrix is large enough that predictions are not even: divergences have something to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import sentencepiece

from ggufrun.native.library import llama, our_kernels
from tests.support.checkpoints import ROOT, TOKENIZER

WIDTH, INNER, LAYERS, HEADS, KV_HEADS = 256, 512, 2, 4, 2
EXPERTS, USED, EXPERT_INNER = 8, 2, 64
SAMPLE = ROOT / "ggufrun" / "data" / "sample.txt"


def weights(experts: bool = False, seed: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights of a small Llama, or of a mixture of experts in its manner."""
    random = np.random.default_rng(seed)

    def matrix(*shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = (random.standard_normal(shape) * scale / np.sqrt(shape[-1])).astype(
            np.float32
        )
        return values

    vocabulary, keys = vocabulary_size(), WIDTH // HEADS * KV_HEADS
    found = {"token_embd.weight": matrix(vocabulary, WIDTH, scale=8)}
    for layer in range(LAYERS):
        names = {
            "attn_norm": np.ones(WIDTH, np.float32),
            "attn_q": matrix(WIDTH, WIDTH),
            "attn_k": matrix(keys, WIDTH),
            "attn_v": matrix(keys, WIDTH),
            "attn_output": matrix(WIDTH, WIDTH),
            "ffn_norm": np.ones(WIDTH, np.float32),
        }
        if experts:
            names["ffn_gate_inp"] = matrix(EXPERTS, WIDTH)
            names["ffn_gate_exps"] = matrix(EXPERTS, EXPERT_INNER, WIDTH)
            names["ffn_up_exps"] = matrix(EXPERTS, EXPERT_INNER, WIDTH)
            names["ffn_down_exps"] = matrix(EXPERTS, WIDTH, EXPERT_INNER)
        else:
            names["ffn_gate"] = matrix(INNER, WIDTH)
            names["ffn_up"] = matrix(INNER, WIDTH)
            names["ffn_down"] = matrix(WIDTH, INNER)
        found |= {f"blk.{layer}.{name}.weight": array for name, array in names.items()}
    found["output_norm.weight"] = np.ones(WIDTH, np.float32)
    found["output.weight"] = matrix(vocabulary, WIDTH, scale=1.5)
    return found


def vocabulary_size() -> int:
    return int(sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER)).vocab_size())


def write_model(
    path: Path,
    tensors: dict[str, npt.NDArray[np.float32]],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
    more_tokens: int = 0,
    swapped: bool = False,
) -> Path:
    """Write ``tensors`` as a GGUF, matrices as ``kind``. ``more_tokens`` lengthens the vocabulary (and the matrices
    that go with it); ``swapped`` exchanges two pieces of it, so that texts are cut differently."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    mixture = any("exps" in name for name in tensors)
    writer.add_feed_forward_length(EXPERT_INNER if mixture else INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(1)
    if mixture:
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(USED)
    add_vocabulary(writer, more_tokens, swapped)
    for name, array in tensors.items():
        if name in ("token_embd.weight", "output.weight") and more_tokens:
            array = np.concatenate([array, array[:more_tokens]])
        if array.ndim == 1 or "gate_inp" in name:
            writer.add_tensor(name, array)
        elif kind is gguf.GGMLQuantizationType.F16:
            writer.add_tensor(name, array.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_vocabulary(writer: gguf.GGUFWriter, more: int, swapped: bool) -> None:
    pieces: Any = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER))
    size = pieces.vocab_size()
    tokens = [pieces.id_to_piece(i) for i in range(size)] + [f"<more{i}>" for i in range(more)]
    scores = [pieces.get_score(i) for i in range(size)] + [-1e4] * more
    if swapped:
        tokens[300], tokens[301] = tokens[301], tokens[300]
    types = []
    for i in range(size + more):
        kind = gguf.TokenType.NORMAL
        if i >= size:
            kind = gguf.TokenType.USER_DEFINED
        elif pieces.is_unknown(i):
            kind = gguf.TokenType.UNKNOWN
        elif pieces.is_control(i):
            kind = gguf.TokenType.CONTROL
        elif pieces.is_byte(i):
            kind = gguf.TokenType.BYTE
        types.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


@contextmanager
def kernels_in_use(*names: str) -> Iterator[None]:
    """Meanwhile the engine multiplies by the first of these kernels that the processor runs, if it has any."""
    llama()
    found = our_kernels()
    if found is None:
        yield
        return
    function = found.ggufrun_kernels
    before = function(None)
    any(function(name.encode()) == name.encode() for name in names)
    try:
        yield
    finally:
        function(before)


def stock_kernels() -> AbstractContextManager[None]:
    """Meanwhile the engine multiplies by llama.cpp's kernels."""
    return kernels_in_use("stock")
