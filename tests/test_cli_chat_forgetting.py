"""What a conversation that outgrows its context says, and an answer that is cut before it begins."""

from __future__ import annotations

import pytest

from tests.test_cli_chat import Run, model, run

__all__ = ["model", "run"]

QUESTION = "背一下静夜思\n"
LIST = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
SHORT = ("-c", "256", "--temp", "0", "-n", "20", "-i")


@pytest.mark.parametrize("template", [(), ("--chat-template", LIST)], ids=["style", "template"])
def test_forgetting_is_told_once(run: Run, model: str, template: tuple[str, ...]) -> None:
    done = run(model, *SHORT, "--context-shift", *template, stdin=QUESTION * 20 + "/stats\n")
    assert done.status == 0 and done.err.count("the conversation has outgrown its context") == 1
    [line] = [line for line in done.err.splitlines() if line.startswith("forgotten ")]
    assert ("questions, with the answers" if template else "tokens of the oldest") in line


def test_nothing_is_forgotten_of_a_short_conversation(run: Run, model: str) -> None:
    done = run(model, *SHORT, "--context-shift", stdin=QUESTION + "/stats\n")
    assert done.status == 0 and "outgrown" not in done.err and "forgotten" not in done.err
    # what was begun again has forgotten nothing
    done = run(model, *SHORT, "--context-shift", stdin=QUESTION * 20 + "/clear\n" + QUESTION + "/stats\n")
    assert done.status == 0 and "forgotten " not in done.err[done.err.index("outgrown") :].partition("\n")[2]


def test_an_answer_that_was_cut_among_its_thoughts_says_so(run: Run, model: str) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    done = run(model, "--temp", "0", "-n", "8", "--chat-template", template, stdin=QUESTION)
    assert (done.status, done.out) == (0, "")
    assert done.err.splitlines()[-1] == (
        "no answer: cut at the token limit (-n) while the model was thinking (--no-think, or a higher -n or -c)"
    )
