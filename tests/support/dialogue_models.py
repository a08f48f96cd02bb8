"""Models that need no training and say something all the same: a vocabulary in which each word has one that follows it.

Theirs are the vocabularies of `VOCABULARIES`, small and byte-level, made by our own converter from files as their
families publish them; or any that a GGUF holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from tests.support.vocabularies import PUBLISHED, SIZE, Json, added, tokenizer_json, write_folder


@dataclass(frozen=True)
class Vocabulary:
    """``tokens`` are its control tokens, ``bos`` and ``eos`` two of them; ``architecture`` is what the converter needs.

    ``style`` is what such models are talked to in here, ``builtin`` the template of llama.cpp that is the same.
    """

    tokens: tuple[str, ...]
    eos: str
    bos: str = ""
    architecture: str = "LlamaForCausalLM"
    style: str = ""
    builtin: str = ""


VOCABULARIES: dict[str, Vocabulary] = {
    # by the name of its splitting in PUBLISHED
    "qwen2": Vocabulary(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "", "Qwen2ForCausalLM", "chatml", "chatml"
    ),
    "llama-3": Vocabulary(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
        style="llama-3",
        builtin="llama3",
    ),
    "deepseek-v3": Vocabulary(
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
    ),
}


SEED = 12
"""With it nothing that is asked in the dialogues is answered by the end at once."""


def small_model(name: str, folder: Path) -> Path:
    """A model with one of `VOCABULARIES`, some 200 KiB."""
    from ggufrun.convert import pipeline
    from ggufrun.convert.plan import plan_vocabulary

    known = VOCABULARIES[name]
    tokens = added(*known.tokens)
    tokenizer = tokenizer_json(PUBLISHED[name], tokens, ignore_merges=name == "llama-3")
    config: Json = {
        "architectures": [known.architecture], "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "rope_theta": 10000.0, "vocab_size": SIZE + len(tokens),
        "eos_token_id": SIZE + known.tokens.index(known.eos),
    }  # fmt: skip
    settings: Json = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": known.eos}
    if known.bos:
        config["bos_token_id"] = SIZE + known.tokens.index(known.bos)
        settings |= {"bos_token": known.bos, "add_bos_token": True}
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}
    source = write_folder(folder / f"{name}-files", config, files)
    plan = plan_vocabulary(source, folder / f"{name}-vocabulary.gguf")
    pipeline.run(plan)
    plan.close()
    return with_vocabulary(folder / f"{name}-vocabulary.gguf", folder / f"{name}.gguf", SEED, known.eos)


def with_vocabulary(vocabulary: Path, path: Path, seed: int = 1, end: str = "") -> Path:
    """A model with another's vocabulary that says a few words and ends: each word has one that follows it.

    ``end`` is the token that ends an answer, where it is not the vocabulary's EOS.

    One layer, whose attention and feed-forward parts are zero; the row of the output matrix that a token's embedding
    fits best is that of its follower.
    """
    reader = gguf.GGUFReader(vocabulary)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[-1] if inner else None)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    last = tokens.index(end) if end else int(reader.fields["tokenizer.ggml.eos_token_id"].contents())
    width, count = 64, len(tokens)
    # whose numbers stay the same in every numpy
    random = np.random.RandomState(seed)
    embedding = random.standard_normal((count, width)).astype(np.float32)
    embedding[:, 0] = 0
    output = np.zeros((count, width), np.float32)
    normal = [token for token, kind in enumerate(kinds) if kind == gguf.TokenType.NORMAL and token != last]
    words = random.permutation(normal)
    follower = np.full(count, words[0])
    follower[words] = np.roll(words, -1)
    output[follower] = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    # The first number says that nothing follows: no answer is longer than six words.
    embedding[words[::6], 0] = 30
    output[last], output[last, 0] = 0, 30
    output_norm = np.ones(width, np.float32)
    writer.add_name(path.stem)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(count)
    writer.add_file_type(1)
    square = np.zeros((width, width), np.float16)
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", output_norm)
    writer.add_tensor("output_norm.weight", output_norm)
    writer.add_tensor("output.weight", output.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
