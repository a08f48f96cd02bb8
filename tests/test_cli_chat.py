"""The command as people and scripts run it: pipes, flags, terminals, and everything that can be wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from ggufrun.chat import store
from ggufrun.cli import app
from ggufrun.cli.commands.chat import joined
from ggufrun.cli.flags.chat import WITHOUT_EFFECT, complete
from ggufrun.cli.talk import input as chat_input
from ggufrun.cli.talk.conversation import join_lines
from ggufrun.cli.talk.screen import CONTROLS
from ggufrun.cli.terminal import console
from ggufrun.errors import UsageError
from tests.oracles import chat_oracle
from tests.support.checkpoints import ROOT
from tests.support.poems import POEMS

POEM = POEMS["静夜思"] + "\n"


@pytest.fixture
def model(demo_gguf: Callable[[str], Path]) -> str:
    return str(demo_gguf("q8_0"))


class Result:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``ggufrun chat ...`` in this process, with ``stdin`` piped in."""

    def call(*args: str, stdin: str | bytes = "") -> Result:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        # Consoles are made once a process and keep the streams that they were made with.
        console.err.cache_clear()
        console.out.cache_clear()
        monkeypatch.setattr(sys, "argv", ["ggufrun", "chat", *args, "-t", "1"])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as exit:
            app.main()
        out, err = capfd.readouterr()
        assert isinstance(exit.value.code, int)
        return Result(exit.value.code, out, err)

    return call


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
def test_a_pipe_gets_the_poem_and_nothing_else(demo_gguf: Callable[[str], Path], kind: str) -> None:
    """As a shell runs it, in the plainest of locales."""
    result = subprocess.run(
        [sys.executable, "-m", "ggufrun", "chat", demo_gguf(kind), "-t", "1"],
        input="背一下静夜思\n".encode(),
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": ""},
        check=True,
    )
    assert result.stdout.decode() == POEM
    assert result.stderr == b""


def test_where_the_message_comes_from(run: Run, model: str, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("背一下静夜思\n", encoding="utf-8")
    for args, stdin in (
        ((model, "背一下静夜思"), ""),
        (("-m", model, "背一下静夜思"), ""),
        ((model, "-p", "背一下静夜思"), ""),
        ((model, "-f", str(prompt)), ""),
        ((model, "--prompt", r"\xe8\x83\x8c一下静夜思"), ""),
        ((model, "-e"), r"\xe8\x83\x8c一下静夜思"),
        (("--model", model, "-st"), "背一下静夜思\r\n"),
        ((model, "--once", "--temp", "0", "--top_k", "1", "-s", "1"), "背一下静夜思"),
        ((model, "--style", "alpaca-2", "-ngl", "99", "-fa", "--mlock", "--no-mmap"), "背一下静夜思"),
    ):
        result = run(*args, stdin=stdin)
        assert (result.status, result.out, result.err) == (0, POEM, ""), args


def test_stdin_goes_after_the_instruction() -> None:
    assert joined("Translate:", None, "hello") == ("Translate:\nhello", None)
    assert joined("Translate:", None, "") == ("Translate:", None)
    assert joined(None, None, "hello") == ("hello", None)
    assert joined(None, "raw", "more") == (None, "raw\nmore")
    assert joined(None, "raw", "") == (None, "raw")
    with pytest.raises(UsageError):
        joined(None, None, " \n")


def test_chat_sh_runs_unmodified(run: Run, model: str) -> None:
    """The script's own command line, every line of stdin a message: llama-completion's ids and its answers."""
    golden = chat_oracle.read("chat_sh.json")
    script = list(chat_oracle.CHAT_SH)
    result = run(*script, "-m", model, "-s", "42", "--show-tokens", stdin="\n".join([*chat_oracle.LATER, ""]))
    fed = [[int(token) for token in line.split()] for line in re.findall(r"^fed: (.*)$", result.err, re.MULTILINE)]
    assert fed == [golden["prompt"], *golden["turns"]]
    assert result.out == "".join(answer + "\n" for answer in golden["answers"])
    assert result.status == 0


def test_flags_by_either_spelling(run: Run, model: str) -> None:
    for flags in (
        ["--presence_penalty", "99", "--repeat_last_n=-1"],
        ["--presence-penalty=99", "--repeat-last-n", "-1"],
    ):
        result = run(model, "背一下静夜思", "--temp", "0", *flags)
        assert result.status == 0 and result.out != POEM


def test_missing_values_are_put_in() -> None:
    assert complete(["--color", "-i", "-fa"]) == ["--color", "on", "-i", "-fa", "on"]
    assert complete(["--color", "off", "-fa", "auto"]) == ["--color", "off", "-fa", "auto"]
    assert complete(["--", "--color", "x"]) == ["--", "--color", "x"]


def test_a_limit_and_a_reverse_prompt(run: Run, model: str) -> None:
    assert run(model, "背一下静夜思", "-n", "0").out == ""
    assert run(model, "背一下静夜思", "-r", "疑是").out == "床前明月光，\n"


def test_guessing_ahead_changes_nothing(run: Run, model: str, demo_gguf: Callable[[str], Path]) -> None:
    for flags in (["--lookup"], ["-md", str(demo_gguf("q4_k_m")), "--draft-max", "8", "--draft-min", "1"]):
        assert run(model, "背一下静夜思", *flags).out == POEM


def test_a_draft_model_by_its_name(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFRUN_MODELS", str(Path(model).parent))
    assert run(Path(model).name, "背一下静夜思", "-md", Path(model).stem).out == POEM
    result = run(model, "背一下静夜思", "-md", "org/name:q4_0")
    assert result.status == 1 and "ggufrun pull org/name:q4_0" in result.err and result.err.count("\n") == 1


def test_figures(run: Run, model: str) -> None:
    result = run(model, "-i", "--stats", stdin="背一下静夜思\n作者是谁？\n")
    assert result.out.startswith(POEM)
    assert result.err.count("context  ") == 2 and result.err.count("tokens decoded in") == 2
    assert re.search(r"^answer   27 tokens in .* tokens/s \(end of text\)$", result.err, re.MULTILINE)


def test_verbose_prompt(run: Run, model: str) -> None:
    result = run(model, "你好", "--verbose-prompt")
    assert re.search(r"^ {5}1 -> '<s>'$", result.err, re.MULTILINE)


def test_lines_joined_by_a_backslash() -> None:
    assert list(join_lines(["a\\\n", "b\n", "\n", "c"])) == ["a\nb", "", "c"]
    assert list(join_lines(["a\\\n"])) == ["a"]
    assert list(join_lines(["http://x/\n"])) == ["http://x/"]


def test_a_message_of_several_lines_by_mli(run: Run, model: str, tmp_path: Path) -> None:
    assert list(join_lines(["a\n", "b/\n", "c\\\n", "d"], multiline=True)) == ["a\nb", "c", "d"]
    file = tmp_path / "talk.json"
    assert run(model, "-i", "-mli", "-n", "1", "--session", str(file), stdin="a\nb/\nc\\\n").status == 0
    assert [turn["user"] for turn in json.loads(file.read_bytes())["turns"]] == ["a\nb", "c"]


def test_a_session_in_a_pipe(run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "talk.json"
    flags = (model, "--session", str(file), "--temp", "0")
    assert run(*flags, stdin="背一下静夜思").out == POEM
    result = run(*flags, stdin="这首诗是谁写的？")
    assert result.status == 0 and "李白" in result.out and "1 question" in result.err
    file.write_text("{}")
    result = run(*flags, stdin="hi")
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1) and "not a session" in result.err
    assert file.read_text() == "{}"
    assert run(model, "--session", str(tmp_path / "no" / "x"), "hi").status == 1

    # what cannot be kept fails a script, which would go on without it; the answer is there all the same
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "appearing", full)
    result = run(model, "--session", str(tmp_path / "full.json"), "背一下静夜思", "-n", "3", "--temp", "0")
    assert result.status == 1 and result.out.startswith("床前") and result.err.count("\n") == 1
    assert "the session cannot be saved in" in result.err


def test_what_enter_sends() -> None:
    for text, alone, multiline in (
        ("a", True, False),
        ("a\\", False, True),
        ("a/", True, True),
        ("/help", True, True),
        ('"""a', False, False),
        ('"""', False, False),
        ('"""a\nb"""', True, True),
        ('a """', True, False),
    ):
        assert chat_input.complete(text) is alone, text
        assert chat_input.complete(text, multiline=True) is multiline, text
    assert chat_input.unquoted('"""a\nb"""') == "a\nb" and chat_input.unquoted('"""\na\n"""') == "a"
    assert chat_input.unquoted("a") == "a"


def test_a_text_in_the_users_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sed -i s/old/new/")
    assert chat_input.edited("old 诗\n") == "new 诗"
    for broken in ("false", "no-such-editor-here"):
        monkeypatch.setenv("EDITOR", broken)
        assert chat_input.edited("old") == ""


def test_a_system_prompt_beside_affixes_is_not_ignored_in_silence(run: Run, model: str) -> None:
    result = run(model, "-sys", "Be kind.", "--in-prefix", "Q: ", "--in-suffix", " A: ", "背一下静夜思", "-n", "3")
    assert result.status == 0 and "system prompt is not used" in result.err
    affixes = ["--in-prefix", " [INST] ", "--in-suffix", " [/INST]", "-n", "3", "--verbose-prompt"]
    for message in (["背一下静夜思"], ["-p", "[INST] 背一下静夜思 [/INST]"]):
        result = run(model, "-sys", "Be kind.", *affixes, *message)
        assert result.status == 0 and "not used" not in result.err and "SYS" in result.err
    result = run(model, "-sys", "Be kind.", *affixes, "-p", "[INST] <<SYS>>\nx\n<</SYS>>\n\nhi [/INST]")
    assert result.status == 0 and "not used" in result.err


USAGE: list[tuple[list[str], str]] = [
    (["--no-such-flag"], "No such option"),
    (["a", "b"], "unexpected argument: a b"),
    (["--temp", "hot"], "Invalid value"),
    (["--temp", "nan"], "temp is nan"),
    (["--top_p", "1.5"], "top_p is 1.5"),
    (["-c", "-5"], "-c/--ctx-size"),
    (["-b", "0"], "-b/--batch-size"),
    (["-tb", "100000"], "-tb"),
    (["-n", "-7"], "-n is -7"),
    (["-ctk", "q9"], "not a cache type"),
    (["-ctv", "q8_0", "-fa", "off"], "wants flash attention"),
    (["-ngl", "many"], "-ngl many"),
    (["--style", "nothing"], "there is no style"),
    (["--samplers", "top_q"], "no sampler"),
    (["--draft-max", "4"], "add --lookup or -md"),
    (["--lookup", "--draft-max", "0"], "--draft-max is 0"),
    (["--lookup", "-md", "x"], "give one of them"),
    (["--ntk-alpha", "0"], "--ntk-alpha is"),
    (["--ntk-alpha", "much"], "--ntk-alpha much"),
    (["--rope-scaling", "cubic"], "--rope-scaling cubic"),
    (["--rope-scale", "0"], "--rope-scale"),
    (["--lora-scaled", "x"], "FILE:SCALE"),
    (["--samplers", "top_k", "--sampler-seq", "k"], "give one of them"),
    (["--grammar", "x", "-j", "{}"], "give one of them"),
    (["-l", "x"], "--logit-bias x"),
    (["-l", "99999+1"], "not in the vocabulary"),
    (["--style", "chatml", "--in-prefix", "x"], "give one of them"),
    (["-p", "x"], "give one of them"),
    (["--chat-template", "{{x}}", "--chat-template-file", "x"], "give one of them"),
]


@pytest.mark.parametrize(("flags", "words"), USAGE)
def test_wrong_usage(run: Run, model: str, flags: list[str], words: str) -> None:
    result = run(model, "hi", *flags)
    assert (result.status, result.out) == (2, "")
    assert words in result.err and "Traceback" not in result.err


def test_no_model_and_no_message(run: Run, model: str) -> None:
    assert run().status == 2
    assert run(model).status == 2
    assert run("-m", model, "a", "b").status == 2
    assert run(model, "a", "-p", "b").status == 2


FAILURES: list[tuple[list[str], str]] = [
    (["-f", "no-such-file"], "no-such-file: no such file"),
    (["hi", "--chat-template", "{% if %}"], "broken in line 1"),
    (["hi", "--chat-template", "{{ raise_exception('no') }}"], "does not accept these messages: no"),
    (["hi", "--chat-template", "{{ 1/0 }}"], "fails in line 1"),
    (["hi", "--chat-template", "nothing-like-it"], "no style of this name"),
    (["春" * 600, "-c", "256"], "the context has 256"),
    (["hi", "-c", "99999999"], "GiB"),
    (["hi", "-md", "no-draft.gguf"], "no such file, and no model in"),
    (["hi", "--lora", "no-adapter.gguf"], "no-adapter.gguf: no such file"),
    (["hi", "--grammar", "root ::= x"], "line 1: Undefined rule"),
    (["hi", "-j", '{"uniqueItems": true}'], "'uniqueItems' cannot be kept to"),
]


@pytest.mark.parametrize(("flags", "words"), FAILURES)
def test_one_line_that_says_what(run: Run, model: str, flags: list[str], words: str) -> None:
    result = run(model, *flags)
    assert (result.status, result.out) == (1, "")
    assert words in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(model: str, tmp_path: Path, closed: str) -> None:
    """As services start programs; what would be open under their numbers would be written into."""
    script = f'exec "$0" -m ggufrun chat "$1" 背一下静夜思 --temp 0 --session "$2" {closed}'
    session = tmp_path / "s.json"
    command = ["sh", "-c", script, sys.executable, model, str(session)]
    result = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=150)
    assert result.returncode == 0 and result.stderr == b""
    assert result.stdout.decode() == ("" if ">&-" in closed.split() else POEM)
    assert json.loads(session.read_bytes())["turns"][0]["answer"] == POEM.rstrip("\n")
    assert Path(model).read_bytes()[:4] == b"GGUF"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_names_that_are_no_utf8(model: str, tmp_path: Path) -> None:
    """Disks that are older than UTF-8 have them. What is told of them has their bytes."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    there, session = str(folder / os.fsdecode(b"\xe9.gguf")), str(folder / os.fsdecode(b"\xe9.json"))
    shutil.copy(model, there)

    def chat(*args: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "ggufrun", "chat", *args, "-t", "1", "--temp", "0"]
        return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=150)

    assert chat(there, "背一下静夜思", "-md", there, "--session", session).stdout.decode() == POEM
    assert b"/\xe9.json: 1 question, " in chat(there, "作者是谁？", "--session", session).stderr
    missing = chat(there + "x", "hi")
    assert missing.returncode == 1 and b"no such file" in missing.stderr and b"/\xe9.ggufx" in missing.stderr


def test_half_a_character(run: Run, model: str, tmp_path: Path) -> None:
    """JSON can hold it, and UTF-8 cannot."""
    schema = run(model, "hi", "-j", '{"const": "\\ud800"}')
    assert schema.status == 1 and "half a character" in schema.err
    session = tmp_path / "s.json"
    assert run(model, "hi", "-n", "1", "--session", str(session)).status == 0
    session.write_bytes(session.read_bytes().replace(b'"user":"hi"', b'"user":"\\ud800"'))
    damaged = run(model, "hi", "--session", str(session))
    assert damaged.status == 1 and "is not a session, or damaged" in damaged.err and damaged.err.count("\n") == 1


def damage(kind: str, data: bytes) -> bytes:
    if kind == "cut in the tensors":
        return data[: len(data) // 2]
    if kind == "cut in the header":
        return data[:3000]
    if kind == "newer":
        return data[:4] + struct.pack("<I", 9) + data[8:]
    if kind == "empty":
        return b""
    return b"hello, world\n" * 100


@pytest.mark.parametrize("kind", ["cut in the tensors", "cut in the header", "newer", "empty", "no gguf"])
def test_a_file_that_is_no_model(run: Run, model: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage(kind, Path(model).read_bytes()))
    result = run(str(path), "hi")
    assert (result.status, result.out) == (1, "")
    assert "broken.gguf" in result.err and result.err.count("\n") == 1


def test_no_file(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.gguf", tmp_path):
        result = run(str(path), "hi")
        assert result.status == 1 and result.err.count("\n") == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_in_a_pipe(run: Run, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """The answer stops, what came is shown and kept, and the status is that of an interrupted program."""
    from ggufrun.cli.talk.screen import Screen

    answer = Screen.answer

    def press(self: Screen, text: str) -> None:
        answer(self, text)
        if "，" in text:
            signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(Screen, "answer", press)
    session = str(tmp_path / "talk.json")
    result = run(model, "背一下静夜思", "--session", session)
    monkeypatch.undo()
    assert result.status == 130
    assert json.loads(Path(session).read_bytes())["turns"][0]["answer"] == result.out.rstrip("\n")
    assert result.out.endswith("\n") and POEM.startswith(result.out.rstrip("\n")) and result.out != POEM


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    assert "a\x1b[31mb\x07\r\x9b\tc\n诗".translate(CONTROLS) == "a[31mb\tc\n诗"


THINKS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>{% if enable_thinking is defined "
    "and not enable_thinking %}<think></think>{% endif %}"
)
SAYS = 'root ::= "<think>\\nhm\\n</think>\\n\\n你好！"'


def test_thoughts_and_answers_go_apart(run: Run, model: str, tmp_path: Path) -> None:
    flags = (model, "hi", "--chat-template", THINKS, "--grammar", SAYS)
    result = run(*flags)
    assert (result.status, result.out, result.err) == (0, "你好！\n", "(thinking)\nhm\n\n")
    result = run(*flags, "--hide-thinking")
    assert (result.status, result.out, result.err) == (0, "你好！\n", "")
    # Beside affixes nothing is told apart, as in llama.cpp.
    result = run(model, "hi", "--in-prefix", "x", "--grammar", SAYS)
    assert (result.out, result.err) == ("<think>\nhm\n</think>\n\n你好！\n", "")
    for switch in (["--no-think"], ["--reasoning", "off"], ["--chat-template-kwargs", '{"enable_thinking": false}']):
        fed = run(*flags, *switch, "--verbose-prompt", "-n", "1").err
        assert "".join(re.findall(r"-> '(.*)'$", fed, re.MULTILINE)).endswith("<a><think></think>")
    assert "no switch" in run(model, "hi", "--no-think", "-n", "1").err
    for wrong in (["--think", "--reasoning", "on"], ["--chat-template-kwargs", "{"], ["--chat-template-kwargs", "5"]):
        assert run(*flags, *wrong).status == 2


class Terminal:
    """A program on a pseudo-terminal, driven like a person would."""

    def __init__(self, *args: str) -> None:
        pty = pytest.importorskip("pty")
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ggufrun", "chat", *args, "-t", "1"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=_make_controlling,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, words: str, patience: float = 150.0) -> str:
        """Everything up to ``words``; fails when they do not come."""
        end = time.monotonic() + patience
        while words not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"waited for {words!r}, saw {self.seen!r}"
            try:
                data = os.read(self.ours, 65536)
            except OSError:
                data = b""
            assert data, f"ended before {words!r}, after {self.seen!r}"
            self.seen += data.decode(errors="replace")
        found, _, self.seen = self.seen.partition(words)
        return found + words

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def leave(self) -> int:
        status = self.process.wait(60)
        os.close(self.ours)
        return status


def _make_controlling() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_conversation_at_a_terminal(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    screen = Terminal(model, "背一下静夜思", "--plain")
    screen.until(POEM.splitlines()[-1])
    screen.until("> ")
    screen.type("这首诗是谁写的？\n")
    screen.until("李白")
    screen.until("> ")
    screen.type("/stats\n")
    screen.until("2 questions")
    screen.until("> ")
    # Ctrl+C once does not leave; the prompt comes back.
    screen.type("\x03")
    screen.until("leaves")
    screen.type("/exit\n")
    assert screen.leave() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_ctrl_c_stops_the_answer_and_not_the_conversation(model: str) -> None:
    screen = Terminal(model, "背一下静夜思", "--plain", "--ignore-eos", "-c", "100000", "--temp", "0")
    screen.until(POEM.splitlines()[-1])
    # What is typed while the answer comes waits for the prompt.
    screen.type("/stats\n")
    screen.type("\x03/stats\n/exit\n")
    screen.until("(interrupted)")
    assert screen.leave() == 0


def test_the_documentation_names_what_there_is(run: Run) -> None:
    from ggufrun.chat.commands import COMMANDS
    from ggufrun.chat.formats.styles import STYLES

    text = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    flags = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", run("--help").out))
    named = {flag for code in re.findall(r"`([^`\n]*)`", text) for flag in re.findall(r"(?<!\S)--?[a-z][\w-]*", code)}
    # --echo is of `complete`, which the page describes too
    assert len(named) > 20 and named <= flags | WITHOUT_EFFECT | {"--echo"}
    assert set(re.findall(r"^\| `/(\w+)", text, re.MULTILINE)) == {command.names[0] for command in COMMANDS}
    listed = re.search(r"\*\*Styles\*\*: (.*?)\. A style", text, re.DOTALL)
    assert listed is not None and re.findall(r"`([^`]+)`", listed.group(1)) == list(STYLES)
