"""A grammar begins after the thoughts of a model that thinks, with every published way to mark them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ggufrun.chat.formats.reasoning import MARKS, THINK, Marks, thinking_of
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.grammar import Grammar
from ggufrun.engine.sampling.thinking import Gate, Span, Thinking
from ggufrun.engine.vocabulary import Vocab
from ggufrun.native.library import llama

OBJECT = 'root ::= "{" [^{}]* "}"'


@pytest.fixture(scope="module")
def vocab(demo_gguf: Callable[[str], Path]) -> Iterator[Vocab]:
    with Model(ModelParams(demo_gguf("q8_0"), vocab_only=True)) as model:
        yield model.vocab


def span(mark: Marks) -> Span:
    return Span(mark.opening.encode(), mark.closing.encode(), tuple(text.encode() for text in mark.before))


def plain(vocab: Vocab, text: str) -> list[int]:
    """The tokens of ``text`` without the space that this vocabulary puts in front of all."""
    ids = vocab.tokenize(f"\n{text}", special=False)
    return ids[next(place for place, token in enumerate(ids, 1) if vocab.piece(token) == b"\n") :]


def written(vocab: Vocab, wanted: str, thinking: Thinking | None, grammar: str = OBJECT, most: int = 0) -> str:
    """What comes of a model that wants to write ``wanted`` and then to end, token by token, under a grammar."""
    api = llama()
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
    kept = Grammar(vocab, grammar, thinking)
    script = [*plain(vocab, wanted), vocab.eos]
    said: list[int] = []
    try:
        while len(said) < (most or len(script)):
            logits = np.zeros(vocab.size, np.float32)
            logits[vocab.eos] = 1
            logits[script[len(said)] if said == script[: len(said)] else vocab.eos] = 9
            token = kept.sample(chain, logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
            said.append(token)
            if vocab.is_eog(token):
                break
    finally:
        kept.close()
        api.llama_sampler_free(chain)
    return b"".join(vocab.piece(token) for token in said).decode("utf-8", "replace")


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark.opening)
def test_thoughts_are_free_and_the_answer_is_not(vocab: Vocab, mark: Marks) -> None:
    thinking = Thinking((span(mark),))
    for before in ("", *mark.before):
        said = f'{mark.opening} Let me see: {{"a" or "b"?\n{mark.closing}\n\n{before}{{"a": 1}}'
        assert written(vocab, said, thinking) == said
        # after the object nothing fits but the end
        assert written(vocab, f"{said} and more", thinking) == said


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark.opening)
def test_a_prompt_has_opened_the_thoughts(vocab: Vocab, mark: Marks) -> None:
    said = f"Let me see.{mark.closing}{{}}"
    assert written(vocab, said, Thinking((span(mark),), span(mark))) == said


def test_an_answer_without_thoughts(vocab: Vocab) -> None:
    thinking = Thinking((span(THINK),))
    assert written(vocab, "{1}", thinking) == "{1}"
    # a model that wants to chat has to answer
    assert written(vocab, "Sure!", thinking, 'root ::= "{" "}"', most=8) == "{}"


def test_no_thinking_is_a_grammar_from_the_first_token(vocab: Vocab) -> None:
    assert written(vocab, "<think>", None, 'root ::= "{" "}"', most=8) == "{}"


def test_an_answer_that_looks_like_a_mark_at_first(vocab: Vocab) -> None:
    thinking = Thinking((span(THINK),))
    assert written(vocab, "<that>", thinking, 'root ::= "<" [a-z]+ ">"') == "<that>"
    # no answer begins so: the mark has to be written
    assert written(vocab, "<that>", thinking, OBJECT, most=12).startswith("<think>")


def test_an_end_within_the_thoughts_ends_the_answer(vocab: Vocab) -> None:
    assert written(vocab, "<think>Hm", Thinking((span(THINK),))) == "<think>Hm"


def test_white_space_after_thoughts_is_bounded() -> None:
    gate = Gate(Thinking((span(THINK),), span(THINK)))
    gate.see(b"so</think>")
    count = 0
    while gate.admits(b"\n"):
        gate.see(b"\n")
        count += 1
    assert count == 16 and not gate.thinks


def test_a_grammar_that_describes_the_thoughts_has_the_whole_answer(vocab: Vocab) -> None:
    thinking = Thinking((span(THINK),), span(THINK))
    assert written(vocab, "and so on", thinking, 'root ::= "yes</think>" "{}"', most=20) == "yes</think>{}"


def test_only_marks_that_a_model_knows(vocab: Vocab) -> None:
    assert thinking_of(vocab, (THINK,), None) is None
    assert thinking_of(vocab, (THINK,), None, "{{ '<think>' }}") == Thinking((span(THINK),))
    assert thinking_of(vocab, (THINK,), THINK) == Thinking((span(THINK),), span(THINK))
