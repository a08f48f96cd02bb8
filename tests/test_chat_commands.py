"""What can be typed after a slash."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.chat import commands
from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.formats.prompt import AffixPrompt
from ggufrun.chat.negative import Negative
from ggufrun.chat.reply import Text
from ggufrun.chat.session import Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.draft import DraftParams, Lookup, Speculation
from ggufrun.engine.guidance import Guidance
from ggufrun.engine.sampling.sampler import SamplingParams
from tests.support.poems import POEMS


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
    assert say(session, "/show info") == "there is no command /show; did you mean /model?"
    assert not set(commands.ELSEWHERE) & set(commands.BY_NAME)


def test_set(session: Session) -> None:
    assert say(session, "/set temp 0.25") == "temp is 0.25" and session.sampling.temp == 0.25
    assert "temp 0.25" in say(session, "/set")
    # as Ollama and the flags have it
    assert say(session, "/set parameter temperature 0.5") == "temp is 0.5" and session.sampling.temp == 0.5
    assert say(session, "/set num_predict 7") == "n is 7" and session.limit == 7
    assert say(session, "/set nothing 1").startswith("there is no setting nothing; choose from temp, ")


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
    path = tmp_path / "poem.txt"
    path.write_text("床前明月光\n", encoding="utf-8")
    outcome = commands.run(session, "read", f"{path} What is this?")
    assert outcome.message == "What is this?\n\n床前明月光" and outcome.lines == (f"read {path}: 5 characters",)
    outcome = commands.run(session, "read", f"{path}.none")
    assert outcome.message is None and "cannot be read" in outcome.lines[0]


def test_sessions_and_exports(session: Session, tmp_path: Path) -> None:
    list(session.ask("背一下静夜思"))
    assert "saved" in say(session, f"/save {tmp_path / 'talk'}")
    assert "wrote" in say(session, f"/export {tmp_path / 'talk.md'}")
    say(session, "/clear")
    shown = say(session, f"/load '{tmp_path / 'talk'}'")
    assert "1 question" in shown and "tokens ready" in shown
    assert session.past[0].answer == POEMS["静夜思"]
    assert "no such session" in say(session, f"/load {tmp_path / 'none'}")
    assert "not a session" in say(session, f"/load {tmp_path / 'talk.md'}")
    assert "says no format" in say(session, f"/export {tmp_path / 'talk.pdf'}")
    assert len(session.past) == 1


def test_other_files_are_not_written_over(session: Session, tmp_path: Path) -> None:
    notes, model = tmp_path / "notes.md", tmp_path / "model.gguf"
    notes.write_text("mine")
    model.write_bytes(b"GGUF")
    list(session.ask("背一下静夜思"))
    assert say(session, f"/export {notes}") == f"{notes} exists; choose another name"
    for path in (notes, model, tmp_path):
        assert say(session, f"/save {path}") == f"{path} exists and is not a session; choose another name"
    assert (notes.read_text(), model.read_bytes()) == ("mine", b"GGUF")
    # what this conversation was written to before, or another was saved in, is replaced
    for line in (f"/export {tmp_path / 'a.md'}", f"/save {tmp_path / 'a'}"):
        assert say(session, line) == say(session, line)
    assert "saved" in say(session, f"/save {tmp_path / 'a'}")
    say(session, "/clear")
    assert "exists" in say(session, f"/export {tmp_path / 'a.md'}")


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
