"""The demo model: its poems are the textbooks', its files are those of a small Llama.

Whether it recites them is tested elsewhere, through ggufrun itself.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
import struct
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

MODELS = Path(__file__).resolve().parent.parent / "models"
CHECKPOINT = MODELS / "tang-poet"


def _load_corpus() -> ModuleType:
    name = "ggufrun_models_corpus"
    spec = importlib.util.spec_from_file_location(name, MODELS / "training" / "corpus.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


corpus = _load_corpus()
POEMS: list[Any] = corpus.load_poems()

# form: (characters in a verse, couplets)
FORMS = {"五言绝句": (5, 2), "七言绝句": (7, 2), "五言律诗": (5, 4), "七言律诗": (7, 4), "五言古诗": (5, None)}


def _by_title(title: str) -> Any:
    return next(poem for poem in POEMS if poem.title == title)


# --- the poems -----------------------------------------------------------------------------------------------------


def test_there_are_at_least_fifty_poems() -> None:
    assert len(POEMS) >= 50


@pytest.mark.parametrize("field", ["title", "english", "text"])
def test_poems_are_distinct(field: str) -> None:
    assert max(Counter(getattr(poem, field) for poem in POEMS).values()) == 1


def test_no_alias_is_a_title() -> None:
    aliases = [alias for poem in POEMS for alias in poem.aliases]
    assert not set(aliases) & {poem.title for poem in POEMS}
    assert len(set(aliases)) == len(aliases)


@pytest.mark.parametrize("poem", POEMS, ids=lambda poem: poem.title)
def test_every_line_is_a_couplet_of_the_form(poem: Any) -> None:
    if poem.title == "咏鹅":  # begins with three calls, "鹅，鹅，鹅，"
        assert poem.verses == ("曲项向天歌", "白毛浮绿水", "红掌拨清波")
        return
    length, couplets = FORMS[poem.form]
    for line in poem.lines:
        # Two verses of equal length; the first ends in a comma (or asks), the second closes the sentence.
        assert re.fullmatch(rf"[\u4e00-\u9fff]{{{length}}}[，？][\u4e00-\u9fff]{{{length}}}[。？]", line), line
    assert couplets is None or len(poem.lines) == couplets
    assert len(poem.verses) == 2 * len(poem.lines)


def test_no_verse_occurs_twice() -> None:
    verses = Counter(verse for poem in POEMS for verse in poem.verses)
    assert [verse for verse, count in verses.items() if count > 1] == []


def test_an_author_has_one_spelling() -> None:
    assert len({(poem.author, poem.pinyin) for poem in POEMS}) == len({poem.author for poem in POEMS})
    assert all(re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", poem.pinyin) for poem in POEMS)


@pytest.mark.parametrize("poem", POEMS, ids=lambda poem: poem.title)
def test_no_rhyme_word_repeats(poem: Any) -> None:
    # None of these poems closes two couplets with the same character: it would be a slip of the pen.
    closing = [re.sub(r"[，。？]", "", line)[-1] for line in poem.lines]
    assert len(set(closing)) == len(closing)


@pytest.mark.parametrize(
    ("title", "author", "text"),
    [
        ("静夜思", "李白", "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"),
        ("春晓", "孟浩然", "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。"),
        ("登鹳雀楼", "王之涣", "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"),
        ("咏鹅", "骆宾王", "鹅，鹅，鹅，曲项向天歌。\n白毛浮绿水，红掌拨清波。"),
        ("悯农", "李绅", "锄禾日当午，汗滴禾下土。\n谁知盘中餐，粒粒皆辛苦。"),
        ("江雪", "柳宗元", "千山鸟飞绝，万径人踪灭。\n孤舟蓑笠翁，独钓寒江雪。"),
        ("枫桥夜泊", "张继", "月落乌啼霜满天，江枫渔火对愁眠。\n姑苏城外寒山寺，夜半钟声到客船。"),
        ("山行", "杜牧", "远上寒山石径斜，白云生处有人家。\n停车坐爱枫林晚，霜叶红于二月花。"),
        ("游子吟", "孟郊", "慈母手中线，游子身上衣。\n临行密密缝，意恐迟迟归。\n谁言寸草心，报得三春晖。"),
    ],
)
def test_known_poems_letter_by_letter(title: str, author: str, text: str) -> None:
    poem = _by_title(title)
    assert (poem.author, poem.text) == (author, text)


def test_a_broken_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "poems.txt"
    path.write_text("title: 无\nauthor: 无名\n一二三四五，一二三四五。\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks english, form, pinyin"):
        corpus.load_poems(path)
    path.write_text("title: 无\ntitel: 无\n", encoding="utf-8")
    with pytest.raises(ValueError, match="titel"):
        corpus.load_poems(path)


# --- the talk ------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_talk() -> None:
    one, other = (corpus.Speaker(POEMS, random.Random(7)) for _ in range(2))
    assert [one.dialogue(3) for _ in range(50)] == [other.dialogue(3) for _ in range(50)]


def test_recital_requests_name_the_poem() -> None:
    requests = corpus.recite_requests(_by_title("静夜思"))
    assert "背一下静夜思" in requests
    assert "请背诵李白的《静夜思》" in requests
    assert 'Recite "Quiet Night Thought"' in requests
    every = [request for poem in POEMS for request in corpus.recite_requests(poem)]
    assert len(set(every)) == len(every)


def test_training_never_sees_the_held_out_phrasings() -> None:
    trained = {*corpus.RECITE_ZH, *corpus.RECITE_EN, *corpus.RECITE_BY_VERSE}
    assert not trained & {*corpus.HELD_OUT_ZH, *corpus.HELD_OUT_EN}


def test_the_first_prompt_is_that_of_chat_sh() -> None:
    turns = (corpus.Turn("背一下静夜思", "…"), corpus.Turn("作者是谁？", "…"))
    texts = [fragment.text for fragment in corpus.render(turns, corpus.Format())]
    assert texts == [
        "<s>",
        "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n背一下静夜思 [/INST]",
        "…",
        "</s>",
        "<s>",
        " [INST] ",
        "作者是谁？",
        " [/INST]",
        "…",
        "</s>",
    ]


# --- the checkpoint ------------------------------------------------------------------------------------------------


def _json(name: str) -> Any:
    return json.loads((CHECKPOINT / name).read_text(encoding="utf-8"))


def _header() -> tuple[dict[str, Any], int]:
    data = (CHECKPOINT / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), 8 + length


def test_the_checkpoint_is_complete_and_small() -> None:
    names = {path.name for path in CHECKPOINT.iterdir()}
    assert names >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 8_000_000


def test_the_shape_suits_k_quants_and_groups_queries() -> None:
    config = _json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["torch_dtype"] == "bfloat16"
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0


def test_the_weights_are_those_of_the_config() -> None:
    config = _json("config.json")
    header, start = _header()
    assert header.pop("__metadata__") == {"format": "pt"}
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = width // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    expected: dict[str, list[int]] = {
        "model.embed_tokens.weight": [vocab, width],
        "model.norm.weight": [width],
        "lm_head.weight": [vocab, width],
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        expected |= {
            prefix + "input_layernorm.weight": [width],
            prefix + "post_attention_layernorm.weight": [width],
            prefix + "self_attn.q_proj.weight": [queries, width],
            prefix + "self_attn.k_proj.weight": [keys, width],
            prefix + "self_attn.v_proj.weight": [keys, width],
            prefix + "self_attn.o_proj.weight": [width, queries],
            prefix + "mlp.gate_proj.weight": [inner, width],
            prefix + "mlp.up_proj.weight": [inner, width],
            prefix + "mlp.down_proj.weight": [width, inner],
        }
    assert {name: entry["shape"] for name, entry in header.items()} == expected
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    assert all(shape[-1] % 256 == 0 for shape in expected.values())
    size = (CHECKPOINT / "model.safetensors").stat().st_size
    assert size == start + 2 * sum(math.prod(shape) for shape in expected.values())


def test_the_weights_are_finite_and_trained() -> None:
    header, start = _header()
    data = (CHECKPOINT / "model.safetensors").read_bytes()
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        halves = np.frombuffer(data[start + begin : start + end], dtype="<u2")
        values = (halves.astype(np.uint32) << 16).view(np.float32)
        assert np.isfinite(values).all(), name
        assert values.std() > 0, name


def test_the_tokenizer_files_speak_of_llama() -> None:
    tokenizer, config, generation = (
        _json("tokenizer_config.json"),
        _json("config.json"),
        _json("generation_config.json"),
    )
    assert tokenizer["tokenizer_class"] == "LlamaTokenizer"
    assert tokenizer["add_bos_token"] is True
    assert tokenizer["add_eos_token"] is False
    assert [tokenizer["added_tokens_decoder"][str(index)]["content"] for index in range(3)] == ["<unk>", "<s>", "</s>"]
    for settings in (config, generation):
        assert (settings["bos_token_id"], settings["eos_token_id"]) == (1, 2)
    assert "bos_token" in tokenizer["chat_template"]
    assert "eos_token" in tokenizer["chat_template"]
    assert corpus.SYSTEM in tokenizer["chat_template"]


def test_the_vocabulary_spells_every_poem() -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(CHECKPOINT / "tokenizer.model"))
    assert processor.vocab_size() == _json("config.json")["vocab_size"]
    assert [processor.id_to_piece(index) for index in range(4)] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert processor.is_byte(3 + 255)
    for poem in POEMS:
        ids = processor.encode(poem.text)
        assert processor.decode(ids) == poem.text, "normalization must leave full-width punctuation alone"
        # One piece a character: no title or verse is cut differently in another sentence.
        assert len(ids) == len(poem.text) + 1
    assert processor.decode(processor.encode("，😀  x")) == "，😀  x"
