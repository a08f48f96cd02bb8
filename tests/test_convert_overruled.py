"""What llama.cpp decides by a text or a name: tokens, the splitting of words, attributes of a whole vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from typer.testing import CliRunner

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import Kind
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.app import app
from ggufrun.convert.metadata import rename_if_misread
from ggufrun.convert.vocab import readers
from ggufrun.convert.vocab.engine_tokenizer import CutOut, engine_tokenizer
from ggufrun.convert.vocab.proof import prove
from ggufrun.errors import UnsupportedError
from tests.support.checkpoints import write_llama
from tests.support.vocabularies import PUBLISHED, SIZE, added, byte_level, tokenizer_json, write_folder
from tests.test_convert_proof import read, sentencepiece_as_json, text_of

MARKUP = added("</s>", "<EOT>", "<b>", special=False, first=2045)
"""Tokens that Gemma 3's tokenizer cuts out of every text, as they are HTML; two look like ends to llama.cpp."""


def gemma_like() -> dict[str, object]:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    found = sentencepiece_as_json(normalizer=space, added_tokens=[*added("<unk>", "<s>", first=0), *MARKUP])
    model = dict(found["model"])
    texts = {number: text for text, number in model["vocab"].items()}
    for number, text in ((2, "</bos>"), *((token["id"], token["content"]) for token in MARKUP)):
        texts[number] = text
    vocab = {text: number for number, text in texts.items()}
    merges = [merge for merge in model["merges"] if all(part in vocab for part in (*merge, "".join(merge)))]
    return {**found, "model": {**model, "vocab": vocab, "merges": merges}}


def test_tokens_that_llama_cpp_takes_for_special_ones_by_their_text(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": gemma_like()})
    metadata, original = read(folder, readers.gemma2_vocabulary, vocab_size=2048)
    with engine_tokenizer(metadata) as engine:
        assert engine.overruled == dict.fromkeys(("</s>", "<EOT>"), (CutOut.ALWAYS, CutOut.PARSED))
        ids = dict(original.added)
        # to the original it is one token in any text, to llama.cpp only where special tokens are parsed
        assert engine.tokenize(b"</s>", True) == [ids["</s>"]] != engine.tokenize(b"</s>", False)
        assert engine.tokenize(b"<b>", False) == [ids["<b>"]]
    proof = prove(metadata, original)
    assert proof.overruled == ("</s>", "<EOT>") and proof.strings > 2000


def test_what_the_engine_does_not_overrule(tmp_path: Path) -> None:
    files = {
        "tokenizer.json": tokenizer_json(
            PUBLISHED["qwen2"], added("<|x|>") + added("<y>", special=False, first=SIZE + 1)
        )
    }
    metadata, original = read(write_folder(tmp_path / "m", {}, files))
    with engine_tokenizer(metadata) as engine:
        assert engine.overruled == {}
    assert prove(metadata, original).overruled == ()


def test_the_advice_fits_the_cause(tmp_path: Path) -> None:
    """--pretokenizer helps with words only."""
    tokens = added("<|x|>", "[INST]", special=False)
    files = {"tokenizer.json": tokenizer_json(PUBLISHED["qwen2"], tokens)}
    metadata, original = read(write_folder(tmp_path / "m", {}, files))
    kinds = text_of(metadata, "tokenizer.ggml.token_type")
    wrong = [1 if number >= SIZE else kind for number, kind in enumerate(kinds)]
    broken = metadata | {"tokenizer.ggml.token_type": file.encode(wrong, Kind.ARRAY, Kind.INT32)}
    with pytest.raises(UnsupportedError, match="cuts") as caught:
        prove(broken, original)
    assert "--pretokenizer" not in caught.value.todo and "token '[INST]'" in caught.value.todo
    wrong_words = metadata | {"tokenizer.ggml.pre": file.encode("starcoder", Kind.STRING)}
    with pytest.raises(UnsupportedError, match="cuts") as caught:
        prove(wrong_words, original)
    assert "--pretokenizer" in caught.value.todo


@pytest.mark.parametrize("whole", [True, False])
def test_smollm3_by_what_its_tokenizer_says(tmp_path: Path, whole: bool) -> None:
    """Not by the name of the architecture; and what begins a text is not what the name of the splitting makes of it."""
    rules = tokenizer_json(PUBLISHED["llama-3"], added("<|im_end|>"), ignore_merges=whole)
    folder = write_folder(tmp_path / "m", {}, {"tokenizer.json": rules})
    metadata, original = read(
        folder, readers.llama_vocabulary, architectures=["SmolLM3ForCausalLM"], vocab_size=SIZE + 1
    )
    assert text_of(metadata, "tokenizer.ggml.pre") == ("llama-bpe" if whole else "smaug-bpe")
    assert text_of(metadata, "tokenizer.ggml.add_bos_token") is (False if whole else None)
    prove(metadata, original)


def test_as_many_tokens_as_code_llama_and_another_vocabulary(tmp_path: Path) -> None:
    """A size says nothing of a token in the middle, nor does that of Granite of what begins a text."""
    folder = write_folder(tmp_path / "m", {}, {}, spm=True)
    metadata, _ = read(folder, readers.llama_vocabulary, vocab_size=32016)
    assert text_of(metadata, "tokenizer.ggml.eot_token_id") is None
    begins = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|x|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|x|>": {"id": "<|x|>", "ids": [SIZE], "tokens": ["<|x|>"]}},
    }
    rules = {**tokenizer_json(PUBLISHED["starcoder"], added("<|x|>")), "post_processor": begins}
    for template, expected in ((begins, True), (byte_level(), False)):
        files = {
            "tokenizer.json": {**rules, "post_processor": template},
            "tokenizer_config.json": {"bos_token": "<|x|>"},
        }
        folder = write_folder(tmp_path / str(expected), {}, files)
        metadata, _ = read(folder, readers.llama_vocabulary, vocab_size=49152)
        assert text_of(metadata, "tokenizer.ggml.add_bos_token") is expected


NAMES = {
    "phi3": "Phi 3",
    "my-Phi-3-tune": "My Phi 3 Tune",
    "modern-bert-chat": "Modern Bert Chat",
    "tiny-llama": "Tiny Llama",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_change_a_vocabulary(tmp_path: Path, name: str) -> None:
    """llama.cpp reads phi3 in the name, looks for its tokens, and cannot load a model that lacks <|endoftext|>."""
    folder, out = tmp_path / name, tmp_path / "out.gguf"
    write_llama(folder, vocab_size=2048, hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    done = CliRunner().invoke(app, ["convert", str(folder), "-o", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    assert str(read_header(out).get("general.name")).replace("-", " ").title() == NAMES[name]
    renamed = name == "phi3"
    assert bool(json.loads(done.stdout)[0]["notes"]) == renamed == ("warning: the name in the GGUF is" in done.stderr)


def test_a_name_that_the_user_gives(tmp_path: Path) -> None:
    write_llama(tmp_path / "m", vocab_size=2048, hidden_size=64, num_hidden_layers=1, intermediate_size=64)
    out = tmp_path / "out.gguf"
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "m"), "-o", str(out), "--name", "My-PHI-3-Modern-BERT"])
    assert done.exit_code == 0 and "the name in the GGUF is 'My-PHI 3-Modern BERT'" in done.stderr
    assert read_header(out).get("general.name") == "My-PHI 3-Modern BERT"


def test_a_true_phi_3_keeps_its_name() -> None:
    for tokens, name in (([b"<unk>", b"<s>", b"</s>", b"<|endoftext|>"], "phi3"), ([b"<unk>", b"<s>"], "phi 3")):
        writer = gguf.GGUFWriter(None, "phi3")
        writer.add_name("phi3")
        writer.add_token_list(tokens)
        assert bool(rename_if_misread(writer)) == (name != "phi3")
        assert writer.kv_data[0]["general.name"].value == name
