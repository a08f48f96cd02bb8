"""Styles, held against llama.cpp's own list of chat formats and, token for token, against its interactive program."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.chat.formats import stylebook, styles
from ggufrun.chat.formats.history import Exchange, Step
from ggufrun.chat.formats.prompt import AffixPrompt, StylePrompt
from ggufrun.engine.model import Model
from ggufrun.errors import UsageError
from ggufrun.native.bindings import bindings
from tests.conftest import Oracle
from tests.oracles import chat_oracle

SYSTEM, USER, ANSWER, AGAIN = "Be kind.", "你好 {u}", "Hi {s} there", "再说一遍"

LLAMA_CPP = {
    "chatml": "chatml",
    "llama-3": "llama3",
    "mistral": "mistral-v1",
    "gemma": "gemma",
    "phi-3": "phi3",
    "chatglm3": "chatglm3",
    "deepseek": "deepseek2",
    "llama-2": "llama2-sys",
}
"""Style -> the name of the same format in llama.cpp."""


def llama_cpp_format(name: str, messages: list[tuple[str, str]]) -> str:
    """What ``llama_chat_apply_template`` makes of the messages, ready for an answer."""
    api = bindings()
    chat = (api.llama_chat_message * len(messages))(*[(role.encode(), text.encode()) for role, text in messages])
    buffer = ctypes.create_string_buffer(4096)
    length = api.llama_chat_apply_template(name.encode(), chat, len(messages), True, buffer, len(buffer))
    assert 0 < length < len(buffer)
    return buffer.raw[:length].decode()


@pytest.mark.parametrize("name", LLAMA_CPP)
def test_first_turn(name: str) -> None:
    style = styles.STYLES[name]
    for system, pattern in ((SYSTEM, style.first), ("", style.bare)):
        messages = [("system", system)] if system else []
        wanted = llama_cpp_format(LLAMA_CPP[name], [*messages, ("user", USER)])
        shown = styles.render(pattern, user=USER, system=system)
        # llama.cpp's Mistral begins with the space that a SentencePiece vocabulary adds by itself.
        assert shown.strip() == wanted.strip()


@pytest.mark.parametrize("name", ["chatml", "llama-3", "gemma", "phi-3"])
def test_second_turn(name: str) -> None:
    style = styles.STYLES[name]
    turns = [("system", SYSTEM), ("user", USER), ("assistant", ANSWER), ("user", AGAIN)]
    shown = styles.render(style.first, user=USER, system=SYSTEM) + ANSWER
    shown += styles.render(style.end) + styles.render(style.later, user=AGAIN)
    assert shown == llama_cpp_format(LLAMA_CPP[name], turns)


def test_every_style_has_its_places() -> None:
    for style in styles.STYLES.values():
        assert "{s}" in style.first and all("{u}" in part for part in (style.first, style.bare, style.later))
        assert "{s}" not in style.bare + style.later
        for control in style.controls:
            assert control in style.first + style.bare + style.later + style.end


def golden_conversation(model: Model, format_name: str) -> list[list[int]]:
    """The ids that each turn of the recorded conversation adds, in one of our formats. Answers are a lone EOS."""
    vocab = model.vocab
    ids: list[int] = []
    past: list[Exchange] = []
    added = []
    style = StylePrompt(vocab, styles.STYLES["alpaca-2"])
    affixes = AffixPrompt(vocab, prefix=" [INST] ", suffix=" [/INST]", prefix_bos=True)
    for user in (chat_oracle.INSTRUCTION, *chat_oracle.LATER):
        if format_name == "alpaca-2":
            prompt = style.turn(past, ids, styles.ALPACA_2_SYSTEM, user)
        elif past:
            prompt = affixes.turn(past, ids, "", user)
        else:
            prompt = affixes.opening(chat_oracle.CHAT_SH[chat_oracle.CHAT_SH.index("-p") + 1])
        added.append(prompt.ids[len(ids) :])
        after = [*prompt.ids, vocab.eos]
        past.append(Exchange(user, "", Step.between(ids, after)))
        ids = after
    return added


@pytest.mark.parametrize("format_name", ["alpaca-2", "affixes"])
def test_chat_sh_token_for_token(demo_model: Model, format_name: str) -> None:
    golden = chat_oracle.read("chat_sh.json")
    assert golden_conversation(demo_model, format_name) == [golden["prompt"], *golden["turns"]]


def test_chat_sh_today(oracle: Oracle, demo_gguf: Callable[[str], Path]) -> None:
    """The recorded ids are still those of llama-completion."""
    fresh = chat_oracle.record_chat_sh(oracle.binaries / "llama-completion", demo_gguf("q8_0"))
    assert fresh == chat_oracle.read("chat_sh.json")


def test_what_a_user_types_is_never_a_control_token(demo_model: Model) -> None:
    vocab = demo_model.vocab
    ids = styles.encode(vocab, styles.STYLES["alpaca-2"], "{bos}{u}{eos}", user="</s><s>{bos}{eos}")
    assert ids[0] == vocab.bos and ids[-1] == vocab.eos
    assert not {vocab.bos, vocab.eos} & set(ids[1:-1])


def test_control_texts_that_the_vocabulary_does_not_have_are_text(demo_model: Model) -> None:
    vocab, style = demo_model.vocab, styles.STYLES["chatml"]
    ids = styles.encode(vocab, style, style.bare, user="hi")
    assert ids == vocab.tokenize(styles.render(style.bare, user="hi"), special=False)


def test_an_answer_cut_short_is_closed(demo_model: Model) -> None:
    vocab = demo_model.vocab
    style = StylePrompt(vocab, styles.STYLES["alpaca-2"])
    past = [Exchange("a", "b", Step())]
    assert style.turn(past, [1, 5], "", "c").ids[:4] == [1, 5, vocab.eos, vocab.bos]
    assert style.turn(past, [1, vocab.eos], "", "c").ids[:3] == [1, vocab.eos, vocab.bos]


def test_affixes(demo_model: Model) -> None:
    vocab = demo_model.vocab
    plain = AffixPrompt(vocab, reverse=["User:"])
    reverse = vocab.tokenize("User:", special=True)
    hello = vocab.tokenize("hi", special=False)
    # The model's end of text is followed by the first reverse prompt; an answer cut short is not.
    assert plain.turn([], [1, 9, vocab.eos], "", "hi").ids == [1, 9, vocab.eos, *reverse, *hello]
    assert plain.turn([], [1, 9], "", "hi").ids == [1, 9, *hello]
    # A context that begins with a message begins with BOS, once.
    assert plain.turn([], [], "", "hi").ids == [vocab.bos, *hello]
    assert AffixPrompt(vocab, prefix_bos=True).turn([], [], "", "hi").ids == [vocab.bos, *hello]
    # An empty line adds nothing but BOS, where one is wanted.
    assert AffixPrompt(vocab, prefix="x", suffix="y").turn([], [1, 9], "", "").ids == [1, 9]
    assert AffixPrompt(vocab, prefix="x", prefix_bos=True).turn([], [1, 9], "", "").ids == [1, 9, vocab.bos]


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("Chinese-Alpaca-2-7B", "alpaca-2"),
        ("chinese_alpaca2", "alpaca-2"),
        ("chinese-alpaca-plus-7b", "alpaca"),
        ("Llama-2-7b-chat-hf", "llama-2"),
        ("Atom-7B-Chat", "atom"),
        ("Atom-7B", None),
        ("Llama-2-7b", None),
        ("Mistral-7B-Instruct-v0.1", "mistral"),
        ("Tang Poet", None),
    ],
)
def test_guessing(demo_model: Model, name: str, style: str | None) -> None:
    found = stylebook.guess(name, demo_model.vocab)
    assert (found[0].name if found else None) == style


def test_no_such_style() -> None:
    assert stylebook.find("Alpaca_2").name == "alpaca-2"
    with pytest.raises(UsageError, match="choose from alpaca-2, llama-2"):
        stylebook.find("nothing")


def test_a_system_prompt_beside_affixes(demo_model: Model) -> None:
    """It goes where the style that the affixes belong to has it."""
    vocab = demo_model.vocab
    affixes = AffixPrompt(vocab, prefix=" [INST] ", suffix=" [/INST]", prefix_bos=True)
    assert affixes.with_system("[INST] hi [/INST]", "Be kind.") == "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nhi [/INST]"
    assert affixes.with_system("[INST] <<SYS>>\nx\n<</SYS>>\n\nhi", "Be kind.") is None
    assert affixes.with_system("Once upon a time [INST]", "Be kind.") is None
    apart = [" [INST] ", "<<SYS>>\nBe kind.\n<</SYS>>\n\nhi", " [/INST]"]
    expected = [vocab.bos, *(token for text in apart for token in vocab.tokenize(text, special=False))]
    assert affixes.turn([], [], "Be kind.", "hi").ids == expected
    # Only once, at the beginning.
    assert affixes.turn([], expected, "Be kind.", "hi").ids == [*expected, *affixes.turn([], [], "", "hi").ids]
    chatml = AffixPrompt(vocab, prefix="<|im_start|>user\n", suffix="<|im_end|>\n<|im_start|>assistant\n")
    assert chatml.with_system("hi", "Be kind.") == "<|im_start|>system\nBe kind.<|im_end|>\nhi"
    assert chatml.takes_system and not AffixPrompt(vocab, prefix="Q: ").takes_system
    text = "".join(vocab.text(token) for token in chatml.turn([], [], "Be kind.", "hi").ids).replace("▁", " ")
    assert "system" in text and text.index("system") < text.index("Be kind.") < text.index("user")
