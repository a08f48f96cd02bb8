"""Settings of a conversation, typed."""

from __future__ import annotations

import pytest

from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.session import Session
from ggufrun.chat.set_command import change, listed
from ggufrun.engine.context import Context
from ggufrun.engine.sampling.params import SamplingParams
from ggufrun.errors import GgufrunError, UsageError


@pytest.fixture
def session(demo_context: Context) -> Session:
    return Session(demo_context, choose(demo_context.model, FormatOptions()).format, SamplingParams(temp=0))


def test_set(session: Session) -> None:
    change(session, "temp 0.25")
    change(session, "top-k=7")
    change(session, "n 3")
    assert (session.sampling.temp, session.sampling.top_k, session.limit) == (0.25, 7, 3)
    assert ("temp", "0.25") in listed(session) and listed(session)[-1] == ("n", "3")
    for typed, words in (
        ("temp hot", "temp wants a number, not 'hot'"),
        ("top_p 7", "top_p is 7"),
        ("nothing 1", "no setting nothing; choose from temp, "),
        ("top_k 1.5", "top_k wants a number"),
        ("n many", "n wants a number"),
    ):
        before = session.sampling
        with pytest.raises(GgufrunError, match=words):
            change(session, typed)
        assert session.sampling == before and session.limit == 3


def test_looking_changes_nothing(session: Session) -> None:
    before = session.sampling
    assert change(session, "temp") == "temp is 0" and session.sampling == before


@pytest.mark.parametrize(
    ("typed", "name", "value", "shown"),
    [
        ("ignore_eos on", "ignore_eos", True, "ignore_eos is on"),
        ("ignore_eos off", "ignore_eos", False, "ignore_eos is off"),
        ("samplers top_k;temp", "samplers", ("top_k", "temperature"), "samplers is top_k;temperature"),
        ("logit_bias 5+1.5 7-inf", "logit_bias", ((5, 1.5), (7, float("-inf"))), "logit_bias is 5+1.5 7-inf"),
        ("logit_bias -", "logit_bias", (), "logit_bias is -"),
        ("dry_breakers \\n 。", "dry_breakers", ("\n", "。"), "dry_breakers is \\n 。"),
        ("grammar root ::= [a-z]+", "grammar", "root ::= [a-z]+", "grammar is root ::= [a-z]+"),
        ("seed -1", "seed", -1, "seed is -1 (a new one every time)"),
    ],
)
def test_settings_that_are_no_numbers(session: Session, typed: str, name: str, value: object, shown: str) -> None:
    assert change(session, typed) == shown
    assert getattr(session.sampling, name) == value
    assert change(session, name) == shown


def test_settings_that_are_nothing(session: Session) -> None:
    before = session.sampling
    for typed, words in (
        ("ignore_eos maybe", "wants on or off"),
        ("samplers top_q", "no sampler 'top_q'"),
        ("logit_bias 5", "--logit-bias 5"),
    ):
        with pytest.raises(UsageError, match=words):
            change(session, typed)
        assert session.sampling == before
