"""How splitting rules are recognized, and the special tokens and templates beyond what the reference reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import Kind
from ggufrun.convert.config import Config
from ggufrun.convert.vocab import pretokenizers, proof, readers
from ggufrun.convert.vocab.splitting import Splitting, check_name, pretokenizer_name, splitting_of
from ggufrun.errors import UnsupportedError, UsageError
from tests.support.vocabularies import (
    DIGITS,
    GPT4O,
    LLAMA3,
    PUBLISHED,
    QWEN2,
    SIZE,
    added,
    byte_level,
    split,
    steps,
    tokenizer_json,
    write_folder,
)

CL100K = (
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
"""Llama 3's rule as tiktoken writes it."""


def name_of(tokenizer: dict[str, Any], architecture: str = "", *tokens: str) -> str:
    return pretokenizer_name(splitting_of(tokenizer), [architecture], dict.fromkeys(tokens))


@pytest.mark.parametrize(
    ("rules", "model", "architecture", "tokens", "name"),
    [
        ("gpt-2", {}, "GPT2LMHeadModel", (), "gpt-2"),
        ("gpt-2", {}, "PhiForCausalLM", (), "phi-2"),
        ("gpt-2", {}, "GPTNeoXForCausalLM", (), "olmo"),
        ("starcoder", {}, "Starcoder2ForCausalLM", (), "starcoder"),
        ("starcoder", {}, "CohereForCausalLM", (), "command-r"),
        ("starcoder", {}, "GraniteForCausalLM", (), "refact"),
        ("starcoder", {}, "LlamaForCausalLM", ("<fim_prefix>",), "refact"),
        ("starcoder", {}, "LlamaForCausalLM", (), "smollm"),
        ("llama-3", {"ignore_merges": True}, "LlamaForCausalLM", (), "llama-bpe"),
        ("llama-3", {}, "Olmo2ForCausalLM", (), "dbrx"),
        ("llama-3", {"ignore_merges": True}, "SmolLM3ForCausalLM", (), "llama-bpe"),
        ("llama-3", {}, "SmolLM3ForCausalLM", (), "smaug-bpe"),
        ("llama-3", {"ignore_merges": True}, "Glm4ForCausalLM", (), "glm4"),
        ("llama-3", {}, "Glm4ForCausalLM", (), "chatglm-bpe"),
        ("llama-3", {}, "ChatGLMModel", (), "chatglm-bpe"),
        ("llama-3", {"ignore_merges": True}, "ChatGLMModel", (), "glm4"),
        ("qwen2", {}, "Qwen3ForCausalLM", (), "qwen2"),
        ("qwen2", {}, "StableLmForCausalLM", (), "stablelm2"),
        ("qwen2", {}, "Qwen2ForCausalLM", ("<｜begin▁of▁sentence｜>",), "deepseek-r1-qwen"),
        ("gpt-4o", {}, "Phi3ForCausalLM", (), "gpt-4o"),
        ("tekken", {"ignore_merges": True}, "MistralForCausalLM", (), "tekken"),
        ("deepseek-coder", {}, "LlamaForCausalLM", (), "deepseek-coder"),
        ("deepseek-v3", {}, "DeepseekV3ForCausalLM", (), "deepseek-v3"),
        ("bloom", {}, "BloomForCausalLM", (), "bloom"),
    ],
)
def test_names_of_published_rules(
    rules: str, model: dict[str, Any], architecture: str, tokens: tuple[str, ...], name: str
) -> None:
    """The names that llama.cpp's converter gives these models (``conversion/base.py``)."""
    assert name_of(tokenizer_json(PUBLISHED[rules], **model), architecture, *tokens) == name


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (split(CL100K), "llama-bpe"),
        (split(LLAMA3.replace("\\r", "\r").replace("\\n", "\n")), "llama-bpe"),
        (split(LLAMA3, "Removed", True), "llama-bpe"),
        (steps(split(QWEN2)), "qwen2"),
        (split(GPT4O), "gpt-4o"),
    ],
)
def test_other_spellings(rule: dict[str, Any], name: str) -> None:
    assert name_of(tokenizer_json(steps(rule, byte_level(False)), ignore_merges=True)) == name


@pytest.mark.parametrize(
    "rule",
    [
        steps(split(QWEN2.replace("\\p{N}|", "\\p{N}{1,2}|")), byte_level(False)),
        steps(split(QWEN2), byte_level()),
        steps(split(QWEN2, "Removed"), byte_level(False)),
        steps(split(QWEN2), DIGITS, byte_level(False)),
        byte_level(False),
        {**byte_level(), "add_prefix_space": True},
    ],
)
def test_a_small_change_is_another_rule(rule: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="no pretokenizer of llama") as caught:
        name_of(tokenizer_json(rule))
    assert "--pretokenizer NAME" in caught.value.todo


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="no such pretokenizer: gpt-5") as caught:
        check_name("gpt-5")
    assert "llama-bpe" in caught.value.todo and "qwen2" in caught.value.todo
    assert pretokenizer_name(Splitting((), ("Magic",), False), [], {}, "qwen2") == "qwen2"


def test_llama_cpp_knows_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "probe", lambda: ("a 1",))
    assert {rule.name for rule in pretokenizers.RULES} | pretokenizers.APPROXIMATE.keys() <= set(pretokenizers.NAMES)
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": tokenizer_json(PUBLISHED["gpt-2"])})
    writer = gguf.GGUFWriter(None, "llama")
    original = readers.add_vocabulary(folder, Config(folder / "config.json", {}), writer)
    keys = {key: file.encode(v.value, v.type, v.sub_type) for key, v in writer.kv_data[0].items()}
    for name in pretokenizers.NAMES:
        keys["tokenizer.ggml.pre"] = file.encode(name, Kind.STRING)
        try:
            proof.prove(keys, original)
        except UnsupportedError as error:
            # loaded, and splits in another way
            assert "cuts" in error.what, name


ENDS = added("<|a|>", "<|b|>", "<|c|>", "<|im_end|>")


def special(tmp_path: Path, settings: dict[str, Any] | None, **files: Any) -> dict[str, Any]:
    content = {f"{name}.json": value for name, value in files.items() if name != "config"}
    content["tokenizer.json"] = tokenizer_json(PUBLISHED["gpt-2"], ENDS)
    if settings is not None:
        content["tokenizer_config.json"] = settings
    folder = write_folder(tmp_path / "m", files.get("config", {}), content)
    writer = gguf.GGUFWriter(None, "llama")
    readers.add_vocabulary(folder, Config(folder / "config.json", {}), writer)
    found = {key.removeprefix("tokenizer."): entry.value for key, entry in writer.kv_data[0].items()}
    return {key: value for key, value in found.items() if "token_id" in key or "template" in key}


def test_ends_of_a_generation_that_only_a_list_tells(tmp_path: Path) -> None:
    listed = [SIZE + 3, SIZE + 1, SIZE + 2]
    found = special(tmp_path, {"eos_token": "<|a|>"}, generation_config={"eos_token_id": [SIZE, *listed, 1 << 40, "x"]})
    # <|im_end|> is known to llama.cpp by its text
    assert found == {"ggml.eos_token_id": SIZE, "ggml.eot_token_id": SIZE + 1, "ggml.eom_token_id": SIZE + 2}


def test_an_end_that_no_file_names_is_the_first_of_the_list(tmp_path: Path) -> None:
    assert special(tmp_path, None, config={"eos_token_id": [SIZE + 3]}) == {"ggml.eos_token_id": SIZE + 3}


def test_a_template_without_a_tokenizer_config(tmp_path: Path) -> None:
    found = special(tmp_path, None, chat_template={"chat_template": "T"})
    assert found == {"chat_template": "T"}


def test_named_templates_keep_their_order(tmp_path: Path) -> None:
    names = ["zeta", "default", "alpha", "tool use"]
    found = special(tmp_path, {"chat_template": [{"name": name, "template": name.upper()} for name in names]})
    assert found["chat_templates"] == ["zeta", "alpha", "tool_use"]
    assert found["chat_template"] == "DEFAULT" and found["chat_template.tool_use"] == "TOOL USE"


def test_the_readers_do_not_change_what_they_read() -> None:
    tokenizer = tokenizer_json(PUBLISHED["qwen2"], nfc=True)
    before = json.dumps(tokenizer)
    splitting_of(tokenizer)
    assert json.dumps(tokenizer) == before
