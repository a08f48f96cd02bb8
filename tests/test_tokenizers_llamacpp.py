"""Published vocabularies that lie in llama.cpp's source, with the ids that transformers gave some texts: put back into
the tokenizer.json that they were made from, converted, and held against both."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from ggufrun.checkpoint.gguf import file
from ggufrun.convert.plan import plan_vocabulary
from ggufrun.native.bindings import bindings
from tests.conftest import Oracle
from tests.support.vocabularies import DIGITS, PUBLISHED, byte_level, steps

NFC = {"type": "NFC"}
VOCABULARIES: dict[str, tuple[str, Any, Any]] = {
    "gpt-2": ("GPT2LMHeadModel", PUBLISHED["gpt-2"], None),
    "llama-bpe": ("LlamaForCausalLM", PUBLISHED["llama-3"], None),
    "qwen2": ("Qwen2ForCausalLM", PUBLISHED["qwen2"], NFC),
    "qwen35": ("Qwen3_5ForCausalLM", PUBLISHED["qwen35"], NFC),
    "deepseek-coder": ("LlamaForCausalLM", PUBLISHED["deepseek-coder"], None),
    "starcoder": ("Starcoder2ForCausalLM", PUBLISHED["starcoder"], None),
    "refact": ("LlamaForCausalLM", PUBLISHED["starcoder"], None),
    "command-r": ("CohereForCausalLM", steps(DIGITS, byte_level()), NFC),
}
"""Name -> architecture, splitting and normalizer, as they were published."""

SEPARATOR = "\n__ggml_vocab_test__\n"


def restored(path: Path, splitting: Any, normalizer: Any) -> dict[str, Any]:
    """The tokenizer.json that the vocabulary was made from, as far as the text needs it."""
    fields = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if "tokenizer" in key}
    texts, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    added = [
        {"id": number, "content": text, "special": kind == gguf.TokenType.CONTROL, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for number, (text, kind) in enumerate(zip(texts, kinds, strict=True))
        if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": splitting,
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": fields["tokenizer.ggml.merges"],
            "ignore_merges": path.stem.endswith("llama-bpe"),
        },
    }


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vocabulary_of_llama_cpp(oracle: Oracle, tmp_path: Path, name: str) -> None:
    architecture, splitting, normalizer = VOCABULARIES[name]
    path = oracle.convert.parent / "models" / f"ggml-vocab-{name}.gguf"
    tokenizer = restored(path, splitting, normalizer)
    size = len(tokenizer["model"]["vocab"])
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "vocab_size": size}))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    planned = plan_vocabulary(tmp_path, tmp_path / "out.gguf")
    planned.close()
    header = planned.targets[0].header
    api, made = bindings(), tmp_path / "vocabulary.gguf"
    made.write_bytes(file.serialize(file.Header(header.metadata, ())))
    params = api.llama_model_default_params()
    params.vocab_only = True
    model = api.llama_model_load_from_file(str(made).encode(), params)
    vocab, buffer = api.llama_model_get_vocab(model), (ctypes.c_int32 * 4096)()
    texts = Path(f"{path}.inp").read_text("utf-8").split(SEPARATOR)
    answers = Path(f"{path}.out").read_text("utf-8").splitlines()
    compared = 0
    for text, answer in zip(texts, answers, strict=False):
        data = text.encode()
        count = api.llama_tokenize(vocab, data, len(data), buffer, len(buffer), False, False)
        assert buffer[:count] == [int(number) for number in answer.split()], text
        compared += 1
    api.llama_model_free(model)
    assert compared > 40
