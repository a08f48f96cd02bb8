"""What can be typed after a slash."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.chat import commands
from ggufrun.chat.choose import FormatOptions, choose
from ggufrun.chat.negative import Negative
from ggufrun.chat.prompt import AffixPrompt
from ggufrun.chat.reply import Text
from ggufrun.chat.session import Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.draft import DraftParams, Lookup, Speculation
from ggufrun.engine.guidance import Guidance
from ggufrun.engine.sampler import SamplingParams
from tests.poems import POEMS


@pytest.fixture
def session(demo_context: Context) -> Session:
    return Session(demo_context, choose(demo_context.model, FormatOptions()).format, SamplingParams(temp=0))


def say(session: Session, line: str) -> str:
    parsed = commands.parse(line)
    assert parsed is not None
    outcome = commands.run(session, *parsed)
    return "\n".join([*outcome.lines, *(" ".join(row) for row in outcome.rows)])


@pytest.mark.parametrize("line", ["hello", "", "/etc/hosts is a file", "//help", "/", "1/2", " /help"])
def test_messages_are_no_commands(line: str) -> None:
    assert commands.parse(line) is None


def test_commands_are_parsed() -> None:
    assert commands.parse("/HELP") == ("help", "")
    assert commands.parse("/set  temp 1 ") == ("set", "temp 1")


def test_names_are_unique_and_listed(session: Session) -> None:
    names = [name for command in commands.COMMANDS for name in command.names]
    assert len(names) == len(set(names)) == len(commands.BY_NAME)
    shown = say(session, "/help")
    assert all(f"/{command.names[0]}" in shown and command.help in shown for command in commands.COMMANDS)
    assert say(session, "/help /undo") == "/undo take back the last question and its answer"
    assert "no command /nothing" in say(session, "/help nothing")


def test_every_command_works_before_anything_was_said(session: Session) -> None:
    for command in commands.COMMANDS:
        outcome = commands.run(session, command.names[0], "")
        assert outcome.lines or outcome.rows or outcome.leave


def test_unknown(session: Session) -> None:
    assert say(session, "/nothing") == "there is no command /nothing; /help lists them"
    assert say(session, "/exprot x") == "there is no command /exprot; did you mean /export?"


def test_set(session: Session) -> None:
    say(session, "/set temp 0.25")
    say(session, "/set top-k=7")
    say(session, "/set n 3")
    assert (session.sampling.temp, session.sampling.top_k, session.limit) == (0.25, 7, 3)
    assert "temp 0.25" in say(session, "/set") and "n 3" in say(session, "/set")
    for line in ("/set temp hot", "/set top_p 7", "/set nothing 1", "/set top_k 1.5", "/set temp"):
        before = session.sampling
        assert say(session, line)
        assert session.sampling == before


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
    assert say(session, f"/set {typed}") == shown
    assert getattr(session.sampling, name) == value
    assert say(session, f"/set {name}") == shown


def test_settings_that_are_nothing(session: Session) -> None:
    before = session.sampling
    for typed, words in (
        ("ignore_eos maybe", "wants on or off"),
        ("samplers top_q", "no sampler 'top_q'"),
        ("logit_bias 5", "--logit-bias 5"),
    ):
        assert words in say(session, f"/set {typed}") and session.sampling == before


def test_the_conversation(session: Session) -> None:
    list(session.ask("背一下静夜思"))
    outcome = commands.run(session, "regen", "")
    assert outcome.answer is not None
    assert "".join(event.text for event in outcome.answer if isinstance(event, Text)) == POEMS["静夜思"]
    assert f"{len(session.ids)} of 512 tokens, 1 question" in say(session, "/stats")
    assert "2:'</s>'" in say(session, "/tokens")
    assert "背一下静夜思" in say(session, "/undo") and session.ids == []
    list(session.ask("背一下静夜思"))
    say(session, "/clear")
    assert session.past == [] and session.ids == []


def test_system(session: Session) -> None:
    list(session.ask("你好"))
    say(session, "/system Be kind.")
    assert session.system == "Be kind." and session.past == []
    assert say(session, "/system") == "Be kind."
    say(session, "/system -")
    assert session.system == ""
    session.use(AffixPrompt(session.context.model.vocab))
    assert "no system prompt" in say(session, "/system Be kind.") and session.system == ""


def test_style(session: Session) -> None:
    assert "template" in say(session, "/style")
    say(session, "/style alpaca-2")
    assert session.format.name == "alpaca-2" and "乐于助人" in session.system
    assert "choose from" in say(session, "/style nothing")
    assert session.format.name == "alpaca-2"


def test_a_file_becomes_a_message(session: Session, tmp_path: Path) -> None:
    path, spaced = tmp_path / "poem.txt", tmp_path / "a poem.txt"
    path.write_text("\ufeff床前明月光\n", encoding="utf-8")
    spaced.write_text("two\nlines\n")

    def read(argument: str) -> str | None:
        return commands.run(session, "read", argument).message

    assert read(str(path)) == "床前明月光"
    assert read(f"{path} What is this?") == "What is this?\n\n床前明月光"
    assert read(str(spaced)) == "two\nlines"
    assert read(f'"{spaced}" Why?') == "Why?\n\ntwo\nlines"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "zero").write_bytes(b"a\0b")
    (tmp_path / "empty").write_bytes(b" \n")
    for name, words in (("binary", "no UTF-8"), ("zero", "no text"), ("empty", "no text"), ("none", "cannot be read")):
        outcome = commands.run(session, "read", str(tmp_path / name))
        assert outcome.message is None and words in outcome.lines[0]
    assert commands.run(session, "read", str(tmp_path)).message is None


def test_reading_all_files_that_fit(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(1, 8):
        (tmp_path / f"{number}.py").write_text(f"line {number}\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "8.py").write_text("八")
    (tmp_path / "a[1].txt").write_text("name")
    outcome = commands.run(session, "read", "[12].py What is this?")
    assert outcome.message == "What is this?\n\n1.py:\n\nline 1\n\n2.py:\n\nline 2"
    assert outcome.lines == ("read 2 files: 12 characters", "1.py", "2.py")
    outcome = commands.run(session, "read", f"{tmp_path}/**/*.py")
    assert outcome.message is not None and outcome.message.endswith("in/8.py:\n\n八")
    assert outcome.lines[0] == "read 8 files: 43 characters" and outcome.lines[-1] == "and 3 more"
    # a file that is called so is meant itself
    assert commands.run(session, "read", "a[1].txt").message == "name"
    assert commands.run(session, "read", "*.md").lines == ("no file fits *.md",)
    (tmp_path / "9.py").write_bytes(b"\xff")
    assert commands.run(session, "read", "*.py").lines == ("9.py is no UTF-8 text",)
    (tmp_path / "9.py").unlink()
    monkeypatch.setattr(commands, "MAX_READ", 20)
    assert "larger than" in commands.run(session, "read", "*.py").lines[0]


def test_sessions_and_exports(session: Session, tmp_path: Path) -> None:
    list(session.ask("背一下静夜思"))
    assert "saved" in say(session, f"/save {tmp_path / 'talk'}")
    assert "wrote" in say(session, f"/export {tmp_path / 'talk.md'}")
    say(session, "/clear")
    shown = say(session, f"/load '{tmp_path / 'talk'}'")
    assert "1 question" in shown and "tokens ready" in shown
    assert session.past[0].answer == POEMS["静夜思"]
    assert "no such session" in say(session, f"/load {tmp_path / 'none'}")
    assert "no session" in say(session, f"/load {tmp_path / 'talk.md'}")
    assert "says no format" in say(session, f"/export {tmp_path / 'talk.pdf'}")
    assert len(session.past) == 1


def test_edit_and_copy(session: Session) -> None:
    list(session.ask("背一下静夜思"))
    assert commands.run(session, "copy", "").copy == POEMS["静夜思"]
    # Nothing is taken back before the new text is there.
    assert commands.run(session, "edit", "").edit == "背一下静夜思" and len(session.past) == 1
    assert commands.run(session, "edit", "other").message == "other" and not session.past


def test_what_guessing_and_guidance_did(demo_context: Context) -> None:
    params = ContextParams(n_ctx=512, threads=1, outputs=9)
    with Context(demo_context.model, params) as context:
        speculation = Speculation(context, Lookup(), DraftParams(most=8))
        format = choose(context.model, FormatOptions()).format
        talk = Session(context, format, SamplingParams(temp=0), speculation=speculation)
        for _ in range(2):
            list(talk.ask("背一下静夜思"))
        assert talk.last is not None and (stats := talk.last.stats).plain_pass > 0
        line = say(talk, "/stats").splitlines()[-1]
        assert line.startswith(f"guesses  {stats.accepted} of {stats.drafted} came true")
        assert line.endswith(f"{stats.speed_up:.2f} times as fast as without")
    params = ContextParams(n_ctx=512, threads=1, sequences=2, separate=True, outputs=2)
    with Context(demo_context.model, params) as context:
        negative = Negative(Guidance(context, 1.5), context.model.vocab, None)
        talk = Session(context, format, SamplingParams(temp=0), negative=negative)
        list(talk.ask("背一下静夜思"))
        assert "guidance away from the negative prompt, scale 1.5" in say(talk, "/stats")
