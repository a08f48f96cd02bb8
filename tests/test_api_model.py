"""``ggufrun.load``: the embedded model recites its poems to Python as it does at a terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ggufrun
from ggufrun.errors import EngineError, FormatError, NotFoundError, UsageError
from tests.support.checkpoints import DEMO
from tests.support.poems import POEMS

TITLE = "静夜思"
QUESTION = f"背诵《{TITLE}》"


@pytest.fixture(scope="module")
def model(demo_gguf: Callable[[str], Path]) -> Iterator[ggufrun.Model]:
    with ggufrun.load(demo_gguf("q8_0"), n_ctx=1024, n_threads=1) as opened:
        yield opened


def test_an_answer_is_its_text(model: ggufrun.Model) -> None:
    answer = model.chat(QUESTION, temperature=0)
    assert str(answer) == answer.text == POEMS[TITLE]
    assert answer.finish_reason == "stop" and answer.reasoning == ""
    assert 0 < answer.completion_tokens < 200 and answer.prompt_tokens > 0 and answer.tokens_per_second > 0


def test_pieces_make_the_same_answer(model: ggufrun.Model) -> None:
    with model.chat(QUESTION, stream=True, temperature=0) as stream:
        pieces = [piece.text for piece in stream]
    assert "".join(pieces) == POEMS[TITLE] and len(pieces) > 5
    assert stream.answer == model.chat(QUESTION, temperature=0).__class__(
        POEMS[TITLE],
        prompt_tokens=stream.answer.prompt_tokens,
        cached_tokens=stream.answer.cached_tokens,
        completion_tokens=stream.answer.completion_tokens,
        seconds=stream.answer.seconds,
    )


def test_messages_are_a_conversation(model: ggufrun.Model) -> None:
    """What a session has asked and heard, given as messages, is answered the same."""
    session = model.session(temperature=0)
    first, second = QUESTION, "背诵《登鹳雀楼》"
    assert str(session.ask(first)) == POEMS[TITLE]
    heard = str(session.ask(second))
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": POEMS[TITLE]},
        {"role": "user", "content": [{"type": "text", "text": second}]},
    ]
    assert str(model.chat(messages, temperature=0)) == heard == POEMS["登鹳雀楼"]
    assert [message["role"] for message in session.messages][-4:] == ["user", "assistant"] * 2


def test_what_was_computed_is_not_computed_again(model: ggufrun.Model) -> None:
    model.chat(QUESTION, temperature=0)
    again = model.chat(QUESTION, temperature=0)
    assert again.cached_tokens >= again.prompt_tokens - 1


def test_an_answer_ends_where_it_is_told_to(model: ggufrun.Model) -> None:
    line = POEMS[TITLE].split("，")[0]
    assert str(model.chat(QUESTION, temperature=0, stop="，")) == line
    assert str(model.chat(QUESTION, temperature=0, stop=["月光", "，"])) == line.partition("月光")[0]
    short = model.chat(QUESTION, temperature=0, max_tokens=3)
    assert short.finish_reason == "length" and short.completion_tokens == 3
    assert POEMS[TITLE].startswith(str(short)) and str(short)


def test_seeds(model: ggufrun.Model) -> None:
    one, same, other = (
        str(model.complete("我", seed=seed, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, max_tokens=12))
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_structured_answers(model: ggufrun.Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    found = json.loads(str(model.chat("一", json_schema=schema, temperature=0, max_tokens=60)))
    assert isinstance(found["n"], int)
    assert str(model.chat("一", grammar='root ::= "床" | "疑"', temperature=0)) in ("床", "疑")


def test_complete_continues(model: ggufrun.Model) -> None:
    text = model.complete("床前", temperature=0, max_tokens=4)
    assert text.completion_tokens == 4 and str(text)
    pieces = [piece.text for piece in model.complete("床前", stream=True, temperature=0, max_tokens=4)]
    assert "".join(pieces) == str(text)


def test_tokens(model: ggufrun.Model) -> None:
    ids = model.tokenize("床前明月光 hello")
    assert model.detokenize(ids).strip() == "床前明月光 hello"
    assert model.tokenize("</s>", special=True) != model.tokenize("</s>")
    with pytest.raises(UsageError, match="token id"):
        model.detokenize([-1])


def test_sessions(model: ggufrun.Model, tmp_path: Path) -> None:
    session = model.session(system="", temperature=0)
    session.ask(QUESTION)
    session.ask("背诵《登鹳雀楼》")
    assert session.undo() == "背诵《登鹳雀楼》"
    assert str(session.regenerate()) == POEMS[TITLE]
    session.save(tmp_path / "talk.json")
    other = model.session(temperature=0)
    other.load(tmp_path / "talk.json")
    assert other.messages == session.messages and str(other.regenerate()) == POEMS[TITLE]
    other.clear()
    assert other.messages == [] and other.undo() is None
    assert str(session.ask("背诵《登鹳雀楼》", max_tokens=2)) != POEMS["登鹳雀楼"]
    # options of one answer do not stay
    assert str(session.regenerate()) == POEMS["登鹳雀楼"]
    with pytest.raises(NotFoundError):
        session.load(tmp_path / "none.json")


def test_a_stream_that_is_closed_leaves_the_model_usable(model: ggufrun.Model) -> None:
    session = model.session(temperature=0)
    stream = session.ask(QUESTION, stream=True)
    first = next(stream).text
    with pytest.raises(EngineError, match="still answering"):
        model.chat("x")
    stream.close()
    assert stream.answer.finish_reason == "interrupted" and stream.answer.text.startswith(first)
    assert POEMS[TITLE].startswith(session.messages[-1]["content"])
    assert str(model.chat(QUESTION, temperature=0)) == POEMS[TITLE]


def test_a_stream_that_nobody_reads_gives_the_model_back(model: ggufrun.Model) -> None:
    next(model.chat(QUESTION, stream=True, temperature=0))
    assert str(model.chat(QUESTION, temperature=0)) == POEMS[TITLE]


def test_an_interrupt_leaves_the_model_usable(model: ggufrun.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from ggufrun.chat import reply

    feed = reply.Reply.feed
    pieces = 0

    def interrupted(self: Any, piece: bytes) -> Any:
        nonlocal pieces
        pieces += 1
        if pieces == 4:
            raise KeyboardInterrupt
        return feed(self, piece)

    monkeypatch.setattr(reply.Reply, "feed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.chat(QUESTION, temperature=0)
    assert str(model.chat(QUESTION, temperature=0)) == POEMS[TITLE]


def test_threads_take_turns(model: ggufrun.Model) -> None:
    titles = list(POEMS)[:4]
    found: dict[str, str] = {}

    def ask(title: str) -> None:
        found[title] = str(model.chat(f"背诵《{title}》", temperature=0))

    threads = [threading.Thread(target=ask, args=(title,)) for title in titles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {title: POEMS[title] for title in titles}


def test_two_models_at_once(model: ggufrun.Model, demo_gguf: Callable[[str], Path]) -> None:
    with ggufrun.load(demo_gguf("q4_k_m"), n_ctx=512, n_threads=1) as other:
        assert other.path != model.path
        stream = model.chat(QUESTION, stream=True, temperature=0)
        next(stream)
        assert str(other.chat(QUESTION, temperature=0)) == POEMS[TITLE]
        for _ in stream:
            pass
        assert str(stream.answer) == POEMS[TITLE]


def test_guessing_changes_nothing(demo_gguf: Callable[[str], Path]) -> None:
    with ggufrun.load(demo_gguf("q8_0"), n_ctx=512, n_threads=1, lookup=True) as opened:
        assert str(opened.chat(QUESTION, temperature=0)) == POEMS[TITLE]
    with ggufrun.load(demo_gguf("q8_0"), n_ctx=512, n_threads=1, draft=demo_gguf("q4_k_m")) as opened:
        assert str(opened.chat(QUESTION, temperature=0)) == POEMS[TITLE]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 1}, "no option 'temprature'"),
        ({"top_p": 7}, "top_p is 7"),
        ({"temperature": "hot"}, "temperature = 'hot'"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"grammar": "root ::=", "json_schema": {}}, "give one of them"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_options_that_make_no_sense(model: ggufrun.Model, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        model.chat("x", **options)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user"}],
        ["x"],
        [{"role": "system", "content": "x"}],
    ],
)
def test_messages_that_make_no_sense(model: ggufrun.Model, messages: Any) -> None:
    with pytest.raises(UsageError):
        model.chat(messages)


def test_a_question_longer_than_the_context(model: ggufrun.Model) -> None:
    with pytest.raises(ggufrun.GgufrunError, match="context"):
        model.chat("明月" * 4000)
    assert str(model.chat(QUESTION, temperature=0)) == POEMS[TITLE]


def test_a_closed_model(demo_gguf: Callable[[str], Path]) -> None:
    model = ggufrun.load(demo_gguf("q8_0"), n_ctx=512, n_threads=1)
    model.close()
    model.close()
    for use in (lambda: model.chat("x"), lambda: model.tokenize("x"), lambda: model.complete("x")):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        ggufrun.load(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(40))
    with pytest.raises(FormatError):
        ggufrun.load(tmp_path / "bad.gguf")
    with pytest.raises(NotFoundError, match="convert"):
        ggufrun.load(DEMO)
