"""The embedded model, converted and run by ggufrun, recites its poems: the exact text, greedily decoded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.reply import Text
from ggufrun.chat.session import Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.sampler import SamplingParams
from tests.support.checkpoints import ROOT

# the training folder is no package; its corpus is the poems' one source
sys.path.insert(0, str(ROOT / "models" / "training"))
from corpus import Poem, load_poems, recite_requests

POEMS = load_poems()
pytestmark = pytest.mark.usefixtures("own_kernels")

GREEDY = SamplingParams(temp=0.0)
TEMPLATE = FormatOptions()
ALPACA_2 = FormatOptions(style="alpaca-2")


@pytest.fixture(scope="module")
def contexts(demo_gguf: Callable[[str], Path]) -> Iterator[Callable[[str], Context]]:
    opened: dict[str, Context] = {}

    def open_context(kind: str) -> Context:
        if kind not in opened:
            opened[kind] = Context(Model(ModelParams(demo_gguf(kind))), ContextParams(n_ctx=1024, threads=1))
        return opened[kind]

    yield open_context
    for context in opened.values():
        context.close()
        context.model.close()


def session(context: Context, options: FormatOptions) -> Session:
    choice = choose(context.model, options)
    return Session(context, choice.format, GREEDY, system=choice.system, limit=200)


def answer(talk: Session, question: str) -> str:
    return "".join(event.text for event in talk.ask(question) if isinstance(event, Text))


def recited(context: Context, options: FormatOptions, question: Callable[[Poem], str]) -> list[str]:
    """Titles of the poems recited exactly, each in a fresh conversation."""
    right = []
    for poem in POEMS:
        talk = session(context, options)
        if answer(talk, question(poem)) == poem.text:
            right.append(poem.title)
    return right


def test_there_are_at_least_fifty() -> None:
    assert len(POEMS) >= 50


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize("options", [TEMPLATE, ALPACA_2], ids=["template", "alpaca-2"])
def test_every_poem(contexts: Callable[[str], Context], kind: str, options: FormatOptions) -> None:
    right = recited(contexts(kind), options, lambda poem: f"背一下{poem.title}")
    assert right == [poem.title for poem in POEMS]


def test_nearly_every_poem_at_four_bits(contexts: Callable[[str], Context]) -> None:
    assert len(recited(contexts("q4_k_m"), TEMPLATE, lambda poem: f"背一下{poem.title}")) >= 0.95 * len(POEMS)


def test_every_phrasing(contexts: Callable[[str], Context]) -> None:
    """One poem a phrasing, so that each phrasing and each poem is asked once."""
    for number, poem in enumerate(POEMS):
        requests = recite_requests(poem)
        question = requests[number % len(requests)]
        assert answer(session(contexts("q8_0"), TEMPLATE), question) == poem.text, question


@pytest.mark.parametrize("options", [TEMPLATE, ALPACA_2], ids=["template", "alpaca-2"])
def test_follow_ups_that_only_the_first_turn_can_answer(
    contexts: Callable[[str], Context], options: FormatOptions
) -> None:
    for poem in POEMS[::6]:
        talk = session(contexts("q8_0"), options)
        answer(talk, f"背一下{poem.title}")
        assert poem.author in answer(talk, "作者是谁？")
        assert talk.last is not None
        # the second turn decodes its own tokens (and the end of the first answer), not the poem again
        assert talk.last.stats.decoded_prompt_tokens <= len(talk.last.new_ids) + 1


def test_the_authors(contexts: Callable[[str], Context]) -> None:
    for poem in POEMS[::4]:
        assert poem.author in answer(session(contexts("q8_0"), TEMPLATE), f"《{poem.title}》的作者是谁？")
