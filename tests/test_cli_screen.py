"""Conversations as they look: a pseudo-terminal drives the program, and its screen is asserted."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)

import termios

from ggufrun.checkpoint.gguf.file import Header, Kind, encode, serialize
from ggufrun.convert import pipeline
from ggufrun.convert.plan import plan_vocabulary
from tests.support.checkpoints import DEMO
from tests.support.hubserver import Repo, running
from tests.support.poems import POEMS
from tests.support.terminal import PATIENCE, Screen

POEM = POEMS["静夜思"].splitlines()
Open = Callable[..., Screen]


@pytest.fixture
def model(demo_gguf: Callable[[str], Path]) -> str:
    return str(demo_gguf("q8_0"))


@pytest.fixture
def open_chat(model: str, tmp_path: Path) -> Open:
    def start(*args: str, **options: int) -> Screen:
        env = {"XDG_DATA_HOME": str(tmp_path / "data"), "EDITOR": "true", "VISUAL": ""}
        return Screen("chat", model, *args, "-t", "1", "--temp", "0", env=env, **options)

    return start


def test_a_conversation(open_chat: Open, tmp_path: Path) -> None:
    """Header, prompt, answer, status line; commands, completion and history; sessions, edits and exports."""
    file, exported = tmp_path / "talk.json", tmp_path / "talk.md"
    screen = open_chat("--session", str(file), columns=90)
    text = screen.until("context 0/")
    # No word is broken at the right margin.
    assert "Ctrl+D leaves" in " ".join(text.split())
    screen.say("背一下静夜思")
    screen.until(POEM[1])
    screen.until("tokens/s")
    assert file.exists()
    # Tab completes a command, then a file.
    screen.type("/exp")
    screen.until("/export")
    screen.type("\t")
    screen.until("> /export")
    screen.type(f" {exported}\r")
    screen.until("wrote")
    assert POEM[0] in exported.read_text("utf-8")
    # The last question comes back to be changed.
    screen.say("/edit")
    screen.until("> 背一下静夜思", times=2)
    screen.type("\x01\x0b背一下登鹳雀楼\r")
    screen.until("欲穷千里目")
    screen.say("/copy")
    screen.until("clipboard")
    screen.prompt()
    copied = screen.raw.rpartition(b"\x1b]52;c;")[2].partition(b"\x07")[0]
    assert base64.b64decode(copied).decode() == POEMS["登鹳雀楼"]
    # The arrow recalls what was typed.
    screen.type("\x1b[A")
    screen.until("> /copy", times=2)
    screen.type("\x15\x04")
    assert screen.leave() == 0
    turns = json.loads(file.read_bytes())["turns"]
    assert [turn["user"] for turn in turns] == ["背一下登鹳雀楼"]

    again = open_chat("--session", str(file))
    again.until("1 question, ")
    again.say("/undo")
    again.until("taken back")
    # From the other conversation.
    again.type("\x1b[A\x1b[A")
    again.until("> /copy")
    again.type("\x15/exit\r")
    assert again.leave() == 0


def test_several_lines_are_one_message(open_chat: Open, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    screen = open_chat("--session", str(file), "-n", "1")
    screen.prompt()
    screen.type("\x1b[200~one\ntwo\x1b[201~")
    screen.until("two")
    screen.type("\r")
    screen.until("token limit")
    screen.prompt()
    screen.type('"""three\r')
    screen.until("…")
    screen.type('four"""\r')
    screen.until("token limit", times=2)
    screen.prompt()
    screen.type("five\x1b\rsix\\\rseven\r")
    screen.until("token limit", times=3)
    screen.prompt()
    screen.type("/exit\r")
    assert screen.leave() == 0
    users = [turn["user"] for turn in json.loads(file.read_bytes())["turns"]]
    assert users == ["one\ntwo", "three\nfour", "five\nsix\nseven"]


def rescued(tmp_path: Path) -> list[Path]:
    """The conversations that were kept when they were cut off."""
    return sorted((tmp_path / "data" / "ggufrun").glob("chat_hangup*.json"))


def test_a_terminal_that_goes_away(open_chat: Open, tmp_path: Path) -> None:
    # two at once, and neither takes the other's place
    screens = [open_chat(), open_chat()]
    for screen, question in zip(screens, ("背一下静夜思", "背一下春晓"), strict=True):
        screen.until("context 0/")
        screen.say(question)
        screen.until(POEMS[question.removeprefix("背一下")].splitlines()[1])
    for screen in screens:
        assert screen.hang_up() == 129
    kept = [json.loads(path.read_bytes())["turns"][0]["answer"] for path in rescued(tmp_path)]
    assert sorted(kept) == sorted(POEMS[name] for name in ("静夜思", "春晓"))
    # In the middle of an answer.
    file = tmp_path / "talk.json"
    screen = open_chat("背一下静夜思", "--ignore-eos", "-c", "100000", "--session", str(file))
    screen.until(POEM[1])
    assert screen.hang_up() == 129
    assert json.loads(file.read_bytes())["turns"][0]["answer"].startswith(POEMS["静夜思"])


def test_a_program_that_is_told_to_end(open_chat: Open, tmp_path: Path) -> None:
    """At the prompt and in the middle of an answer, and what was said is kept."""
    for flags in ([], ["--ignore-eos", "-c", "100000"]):
        screen = open_chat("背一下静夜思", *flags)
        screen.until(POEM[1])
        if not flags:
            screen.prompt()
        screen.process.send_signal(signal.SIGTERM)
        assert screen.leave() == 130 and "leaves" not in screen.text.partition(POEM[1])[2]
        (kept,) = rescued(tmp_path)
        assert json.loads(kept.read_bytes())["turns"][0]["answer"].startswith(POEMS["静夜思"])
        again = open_chat()
        again.until("was cut off is kept: /load")
        again.say(f"/load {kept}")
        again.until("1 question")
        again.prompt()
        again.type("/exit\r")
        assert again.leave() == 0
        # continued, it is still there, but needs no mention
        again = open_chat()
        again.prompt()
        assert "cut off" not in again.text and kept.exists()
        again.type("/exit\r")
        assert again.leave() == 0
        kept.unlink()


def test_a_window_resized_in_the_middle_of_an_answer(open_chat: Open) -> None:
    """Nothing is lost, written twice or written over, whatever the size becomes; and it is drawn again afterwards."""
    lines = [f"{number:03} **月光** text" for number in range(150)]
    grammar = "root ::= " + json.dumps("\n".join(lines), ensure_ascii=False)
    screen = open_chat("背一下静夜思", "--grammar", grammar, columns=100)
    screen.until("010 ")
    screen.resize(40, 12)
    screen.until("060 ")
    screen.resize(70, 30)
    screen.until("149 ")
    screen.prompt()
    shown = [line.rstrip() for line in screen.text.splitlines() if line[:3].isdigit()]
    # What the emulator drops when it shrinks is lost, and nothing else.
    numbers = [int(line[:3]) for line in shown]
    assert numbers == sorted(set(numbers)) and set(range(60, 150)) <= set(numbers)
    whole = [f"{number:03} 月光 text" for number in range(150)]
    marked = [line for line in shown if line not in whole]
    # The line that was on its way when the size changed stays as it came (the emulator may drop its end).
    assert len(marked) <= 4 and all(any(line.startswith(shown) for line in lines) for shown in marked)
    screen.type("\x03")
    screen.until("leaves")
    screen.say("/clear")
    screen.until("starts again")
    screen.prompt()
    screen.type("/exit\r")
    assert screen.leave() == 0


def test_thoughts_are_dim_and_can_be_hidden(open_chat: Open) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<a>"
    grammar = 'root ::= "<think>\\nhm\\n</think>\\n\\n**你好**"'
    screen = open_chat("hi", "--chat-template", template, "--grammar", grammar)
    screen.until("你好")
    screen.prompt()
    lines = [line.rstrip() for line in screen.screen.display]
    assert lines[lines.index("hm") : lines.index("hm") + 3] == ["hm", "", "你好"]
    assert b"\x1b[2mh" in screen.raw and b"\x1b[22m" in screen.raw and b"<think>" not in screen.raw
    screen.say("/think hide")
    screen.until("is hidden")
    screen.say("again")
    screen.until("thought for")
    screen.prompt()
    assert screen.text.count("hm\n") == 1 and "thinking …" not in screen.text
    screen.say("/think off")
    screen.until("no switch")
    screen.type("/exit\r")
    assert screen.leave() == 0


@pytest.fixture
def folder(demo_gguf: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder of models."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("q8_0", "q4_k_m"):
        (models / f"poet-{name.upper()}.gguf").symlink_to(demo_gguf(name))
    return models


def start(folder: Path, *args: str, **environment: str) -> Screen:
    data = str(folder.parent / "data")
    env = {"GGUFRUN_MODELS": str(folder), "XDG_DATA_HOME": data, "XDG_CONFIG_HOME": data, **environment}
    return Screen("chat", *args, "-t", "1", "--temp", "0", env=env)


def test_a_model_is_picked(folder: Path) -> None:
    # what lies beside models and is none is not offered
    (folder / "text.gguf").write_text("hello")
    (folder / "gone.gguf").symlink_to("nowhere")
    matrix = Header({"general.type": encode("imatrix", Kind.STRING)}, ())
    (folder / "poet-imatrix.gguf").write_bytes(serialize(matrix))
    screen = start(folder)
    text = screen.until("Enter talks")
    assert "❯ poet-Q4_K_M" in text and "  poet-Q8_0" in text
    assert not any(name in text for name in ("text", "gone", "imatrix"))
    screen.type("\x1b[B")
    screen.until("❯ poet-Q8_0")
    screen.type("q4")
    screen.until("❯ poet-Q4_K_M")
    screen.type("x")
    screen.until("none is called so")
    screen.type("\x7f\r")
    screen.prompt()
    # The menu is gone, and those who are new here are told the keys.
    assert "Which model" not in screen.text and "· Q4_K" in screen.text and "Alt+Enter" in screen.text
    screen.type("/exit\r")
    assert screen.leave() == 0
    screen = start(folder)
    screen.until("Enter talks")
    screen.type("\x1b")
    assert screen.leave() == 130


def test_a_model_is_picked_by_its_number(folder: Path) -> None:
    screen = start(folder, "--plain")
    screen.until("(1-2)?")
    screen.type("7\n")
    screen.until("(1-2)?", times=2)
    screen.type("2\n")
    screen.until(">")
    screen.type("背一下静夜思\n/exit\n")
    screen.until(POEM[1])
    assert screen.leave() == 0


def test_the_only_model_and_none(folder: Path) -> None:
    (folder / "poet-Q4_K_M.gguf").unlink()
    screen = start(folder)
    screen.prompt()
    assert "the only model" in screen.text
    screen.type("/exit\r")
    assert screen.leave() == 0
    (folder / "poet-Q8_0.gguf").unlink()
    screen = start(folder)
    screen.until("there is no GGUF model in")
    screen.until("ggufrun pull org/name")
    assert screen.leave() == 1


def test_a_model_comes_from_the_hub_if_one_likes(folder: Path, demo_gguf: Callable[[str], Path]) -> None:
    with running() as server:
        server.repos["org/poet-GGUF"] = Repo(
            {"poet-Q8_0.gguf": demo_gguf("q8_0").read_bytes(), "poet-F16.gguf": demo_gguf("f16").read_bytes()}
        )
        server.repos["org/poet"] = Repo({"model.safetensors": b"x"})
        hub = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder.parent / "hf"), "NO_PROXY": "*"}
        screen = start(folder, "org/poet-GGUF:q8_0", **hub)
        screen.until("[Y/n]")
        assert "Fetch poet-Q8_0.gguf, 3.5 MiB" in screen.text
        screen.type("n\r")
        screen.until("is not here; fetch it later")
        assert screen.leave() == 1 and not (folder / "org").exists()
        screen = start(folder, "org/poet-GGUF:q8_0", **hub)
        screen.until("[Y/n]")
        screen.type("\r")
        screen.prompt()
        screen.type("/exit\r")
        assert screen.leave() == 0 and (folder / "org" / "poet-GGUF" / "poet-Q8_0.gguf").exists()
        # Now it is here, and so is what links to it.
        link = "https://huggingface.co/org/poet-GGUF/blob/main/poet-Q8_0.gguf"
        for name in ("org/poet-GGUF", "hf.co/org/poet-GGUF:Q8_0", link):
            screen = start(folder, name, **hub)
            screen.prompt()
            assert "[Y/n]" not in screen.text
            screen.type("/exit\r")
            assert screen.leave() == 0
        for name, words in (("org/poet", "ggufrun convert org/poet"), ("org/poet-GGUF:q2_k", "there are F16, Q8_0")):
            screen = start(folder, name, **hub)
            screen.until("ggufrun: ")
            assert screen.leave() == 1 and words.replace(" ", "") in "".join(screen.text.split())


def test_another_model_goes_on(open_chat: Open, demo_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    """With what was said and set; one that cannot be run, or is not there, ends nothing."""
    weightless, file, exported = tmp_path / "v.gguf", tmp_path / "talk.json", tmp_path / "talk.json.md"
    plan = plan_vocabulary(DEMO, weightless)
    pipeline.run(plan)
    plan.close()
    screen = open_chat("--session", str(file), columns=100)
    screen.say("背一下静夜思")
    screen.until(POEM[1])
    screen.say("/set top_k 7")
    screen.until("top_k is 7")
    screen.say("/model no-such-model")
    screen.until("no such file, and no model in")
    screen.say(f"/model {weightless}")
    screen.until("cannot be loaded")
    screen.until("/help lists", times=2)
    screen.say(f"/model {demo_gguf('q4_k_m')}")
    screen.until("Q4_K - Medium")
    screen.say("/set top_k")
    screen.until("top_k is 7", times=2)
    screen.say("作者是谁？")
    screen.until("李白")
    screen.say("/model")
    screen.until("q4_k_m.gguf")
    screen.say(f"/export {exported}")
    screen.until("wrote")
    screen.prompt()
    screen.type("\x04")
    assert screen.leave() == 0
    value = json.loads(file.read_bytes())
    assert [turn["user"] for turn in value["turns"]] == ["背一下静夜思", "作者是谁？"]
    assert value["turns"][0]["answer"].splitlines() == POEM and value["sampling"]["top_k"] == 7


def test_rows_of_measurements_stand_by_themselves(demo_gguf: Callable[[str], Path]) -> None:
    """No row of `bench` behind what its status line says; a name in brackets is no markup."""
    model = demo_gguf("q8_0")
    named = model.with_name("[x] [bold].gguf")
    named.symlink_to(model)
    screen = Screen("bench", str(named), "-r", "2", "-p", "16", "-n", "4", "-t", "1", columns=130)
    assert screen.leave() == 0
    rows = [line for line in screen.text.splitlines() if "±" in line]
    assert len(rows) == 2 and all(row.startswith("| llama") for row in rows)
    assert b"[x] [bold].gguf: pp16" in screen.raw
    screen = Screen("chat", str(named), "你是谁", "-st", "-t", "1", columns=130)
    assert screen.leave() == 0 and b"loading [x] [bold].gguf" in screen.raw


def test_a_measurement_that_is_interrupted_ends_its_line(demo_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(POEMS["静夜思"] * 20_000)
    screen = Screen("perplexity", str(demo_gguf("q8_0")), "-f", str(tmp_path / "long.txt"), "-t", "1")
    screen.until("[2]")
    screen.type("\x03")
    assert screen.leave() == 130
    assert "ggufrun: interrupted" in screen.text.splitlines()


def test_what_is_typed_while_a_question_is_edited(open_chat: Open) -> None:
    """A command is one there too, Ctrl+C leaves the question alone, and two slashes are one."""
    screen = open_chat()
    screen.say("//help is what I type")
    screen.until("72")
    screen.say("/edit")
    screen.until("> //help is what I type", times=2)
    screen.type("\x03")
    screen.until("nothing was changed")
    screen.say("/edit")
    screen.until("> //help is what I type", times=3)
    screen.type("\x01\x0b/stats\r")
    screen.until("1 question")
    screen.say("/edit")
    screen.until("> //help is what I type", times=3)
    screen.type("\x01\x0b背一下静夜思\r")
    screen.until(POEM[1])
    screen.prompt()
    # nothing of a prompt that was left stays, and a tab is no ^I
    screen.type("\x1b[200~a\tb\x1b[201~")
    screen.until("> a   b")
    screen.type("\x15\x1a")
    screen.until("> Write a message")
    screen.type("\x03")
    screen.until("Ctrl+C again")
    screen.until("> Write a message")
    screen.type("\x04")
    assert screen.leave() == 0
    assert "Write a message" not in screen.text and "^Z" not in screen.text and "^I" not in screen.text


def test_after_suspension_nothing_is_echoed(open_chat: Open) -> None:
    """Ctrl+Z and `fg` in the middle of an answer: the shell has switched the echo on."""
    screen = open_chat("--ignore-eos", "-n", "-1")
    screen.say("背一下静夜思")
    screen.until(POEM[1])

    def echoes() -> bool:
        return bool(termios.tcgetattr(screen.ours)[3] & termios.ECHO)

    assert not echoes()
    attributes = termios.tcgetattr(screen.ours)
    attributes[3] |= termios.ECHO
    termios.tcsetattr(screen.ours, termios.TCSANOW, attributes)
    assert echoes()
    os.kill(screen.process.pid, signal.SIGCONT)
    end = time.monotonic() + PATIENCE
    while echoes():
        assert time.monotonic() < end
        screen.look()
    screen.type("\x03")
    screen.until("stopped")
    screen.prompt()
    screen.type("\x04")
    assert screen.leave() == 0


def test_names_of_models_stay_whole(folder: Path, demo_gguf: Callable[[str], Path]) -> None:
    """Where there is no room for all columns, some go, and no name is broken."""
    place = folder / "someone" / "Another-Model-7B-Instruct-GGUF"
    place.mkdir(parents=True)
    (place / "Another-Model-Q8_0.gguf").symlink_to(demo_gguf("q8_0"))
    for columns, gone in ((200, ""), (120, "modified"), (100, "architecture"), (85, "parameters")):
        screen = Screen("list", str(folder), columns=columns)
        assert screen.leave() == 0
        assert "someone/Another-Model-7B-Instruct-GGUF/Another-Model-Q8_0" in screen.text
        head = next(line for line in screen.text.splitlines() if "name" in line)
        assert gone == "" or gone not in head, columns
        assert "size" in head and ("modified" in head) == (columns == 200)
