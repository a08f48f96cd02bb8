"""A conversation that goes on with another model: the same as if that had held it from the beginning."""

from __future__ import annotations

from dataclasses import replace

from ggufrun.chat.formats import styles
from ggufrun.chat.formats.prompt import AffixPrompt, Format, StylePrompt
from ggufrun.chat.session import Session
from ggufrun.chat.switch_model import carry, take_up
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.params import SamplingParams

GREEDY = SamplingParams(temp=0)


def start(model: Model, format: Format, **more: int) -> Session:
    context = Context(model, ContextParams(n_ctx=512, threads=1))
    return Session(context, format, GREEDY, system="usual", limit=more.get("limit", 512))


def ask(session: Session, text: str) -> str:
    list(session.ask(text))
    return session.past[-1].answer


def test_words_settings_and_the_next_answer(demo_model: Model) -> None:
    style = StylePrompt(demo_model.vocab, styles.STYLES["alpaca-2"])
    session, other = start(demo_model, style), start(demo_model, style)
    ask(session, "背一下静夜思")
    session.sampling = replace(session.sampling, top_k=7, logit_bias=((5, 1.0),))
    carried = carry(session, GREEDY, "usual")
    assert (carried.system, carried.settings, carried.limit) == (None, {"top_k": 7}, None)
    take_up(other, carried)
    assert other.sampling == replace(GREEDY, top_k=7) and other.limit == 512 and other.system == "usual"
    assert [(one.user, one.answer) for one in other.past] == [(one.user, one.answer) for one in session.past]
    assert ask(other, "这首诗是谁写的？") == ask(session, "这首诗是谁写的？")
    session.system, session.limit = "mine", 9
    carried = carry(session, GREEDY, "usual")
    assert (carried.system, carried.limit) == ("mine", 9)


def test_a_text_that_was_no_question(demo_model: Model) -> None:
    affixes = AffixPrompt(demo_model.vocab, prefix=" [INST] ", suffix=" [/INST]", prefix_bos=True)
    session, other = start(demo_model, affixes), start(demo_model, affixes)
    list(session.open("[INST] 背一下静夜思 [/INST]"))
    take_up(other, carry(session, GREEDY, "usual"))
    assert other.past[0].opened and other.ids == session.ids
