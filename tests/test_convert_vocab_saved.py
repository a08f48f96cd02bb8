"""Tokenizer files in the forms that transformers 5 saves, and Gemma's: small ones, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufrun.convert.plan import plan_vocabulary
from ggufrun.convert.vocab.proof import prove
from tests.support.checkpoints import llama_config
from tests.support.vocabularies import PUBLISHED, added, tokenizer_json
from tests.test_convert_proof import METASPACE, sentencepiece_as_json

TEXT_ALONE = [{"Sequence": {"id": "A", "type_id": 0}}]
NOTHING_ADDED = {"type": "TemplateProcessing", "single": TEXT_ALONE, "pair": TEXT_ALONE, "special_tokens": {}}
WITH_BOS = NOTHING_ADDED | {"single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, *TEXT_ALONE]}


def header_of(folder: Path, tokenizer: dict[str, Any], settings: dict[str, Any], prove_it: bool = True) -> Any:
    """The header of a vocabulary with these files, proved."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(llama_config()))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    planned = plan_vocabulary(folder, folder / "out.gguf")
    planned.close()
    header = planned.targets[0].header
    assert planned.original is not None
    prove(header.metadata, planned.original)
    return header


@pytest.mark.parametrize(
    ("processor", "said", "adds"),
    [
        (NOTHING_ADDED, None, False),
        (NOTHING_ADDED, True, True),
        (WITH_BOS, None, True),
        (WITH_BOS, False, True),
        (None, False, False),
    ],
)
def test_bos_is_added_as_the_saved_template_says(tmp_path: Path, processor: Any, said: Any, adds: bool) -> None:
    """transformers 5 says it in tokenizer.json alone; without the key llama.cpp adds BOS to such a vocabulary."""
    settings = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "TokenizersBackend"}
    if said is not None:
        settings["add_bos_token"] = said
    tokenizer = sentencepiece_as_json(post_processor=processor, normalizer=None, pre_tokenizer=METASPACE)
    assert header_of(tmp_path / "model", tokenizer, settings).get("tokenizer.ggml.add_bos_token") is adds


def test_nothing_is_added_to_a_saved_byte_level_vocabulary(tmp_path: Path) -> None:
    """llama.cpp adds BOS to those that split text as Llama 3 does."""
    tokens = added("<s>", "</s>")
    tokenizer = tokenizer_json(PUBLISHED["llama-3"], tokens, ignore_merges=True) | {"post_processor": NOTHING_ADDED}
    header = header_of(tmp_path / "model", tokenizer, {"bos_token": "<s>", "eos_token": "</s>"})
    assert header.get("tokenizer.ggml.pre") == "llama-bpe"
    assert header.get("tokenizer.ggml.add_bos_token") is False
    assert header.get("tokenizer.ggml.add_eos_token") is False


def test_a_character_in_place_of_its_byte(tmp_path: Path) -> None:
    """Gemma's tokenizer.json has the tab where its SentencePiece model has <0x09>."""
    tokenizer = sentencepiece_as_json()
    ids = tokenizer["model"]["vocab"]
    number = ids["<0x09>"]
    tokenizer["model"]["vocab"] = {"\t" if text == "<0x09>" else text: token for text, token in ids.items()}
    header = header_of(tmp_path / "model", tokenizer, {})
    assert header.get("tokenizer.ggml.tokens")[number] == "<0x09>"
    assert header.get("tokenizer.ggml.token_type")[number] == 6


def test_added_tokens_that_are_looked_for_before_spaces_are_replaced(tmp_path: Path) -> None:
    """They are found by their merges only: a run of spaces is cut up as those do it."""
    tokenizer = sentencepiece_as_json()
    ids = tokenizer["model"]["vocab"]
    runs = [text for text in ids if len(text) > 1 and not text.strip("\u2581")]
    for text in runs:
        tokenizer["added_tokens"] += added(text, special=False, first=ids[text])
    kinds = header_of(tmp_path / "model", tokenizer, {}).get("tokenizer.ggml.token_type")
    assert runs
    assert {kinds[ids[text]] for text in runs} == {1}
