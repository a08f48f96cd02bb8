"""Templates that attack: everything that Jinja's sandbox offers is tried with values that one call chokes on.

Each attack ends within the bounds with an error in one line, or with a text; the process that asked lives on, and
renders the next template.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufrun.chat.formats import template_process
from ggufrun.chat.formats.limits import Bounds
from ggufrun.chat.formats.sandbox import _environment
from ggufrun.chat.formats.template import ChatTemplate, TemplateExcess, TemplateRefusal
from ggufrun.errors import FormatError
from ggufrun.filelock import claimed
from tests.support.template_attacks import ATTACKS, FILTERS, GLOBALS, METHODS, TESTS

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bounds that make a test short."""
    monkeypatch.setattr(template_process, "BOUNDS", Bounds(seconds=0.05, n_bytes=64 << 20))
    monkeypatch.setattr(template_process, "GRACE", 0.1)
    template_process.stop()
    yield
    template_process.stop()


def attempt(source: str) -> str:
    """What became of it: the error, or nothing. Raises what is not an error in one line."""
    try:
        ChatTemplate(source).render(MESSAGES, prompt=True)
    except FormatError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 700
        return text
    return ""


def test_every_filter_test_and_global_is_attacked() -> None:
    environment = _environment()
    assert set(FILTERS) == set(environment.filters)
    assert set(TESTS) == set(environment.tests)
    assert set(GLOBALS) == set(environment.globals)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_end(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    attempt(ATTACKS[name])
    after = resource.getrusage(resource.RUSAGE_SELF)
    # whatever was computed, it was not here: neither time nor memory of this process
    assert after.ru_maxrss - before.ru_maxrss < 200 << 10
    assert ChatTemplate("{{ messages[0].content }}").render(MESSAGES, prompt=True) == "hi"


def render_hi() -> str:
    return ChatTemplate("{{ messages[0].content }}").render(MESSAGES, prompt=True)


def child() -> int:
    assert template_process._process is not None
    return template_process._process._pid


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_methods_are_attacked() -> None:
    """Every method of a text, list, object or number that the sandbox lets a template call and that makes something of
    another size, or compares.
    """
    named = {name.split(" ")[0] for name in METHODS}
    quick = {
        "str": "capitalize endswith index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric "
        "isprintable isspace istitle isupper lower lstrip maketrans partition removeprefix removesuffix rfind rindex "
        "rpartition rstrip split startswith strip swapcase title upper",
        "list": "append clear extend insert pop remove reverse sort",
        "tuple": "count",
        "dict": "clear copy keys pop popitem setdefault values",
        "int": "as_integer_ratio bit_length conjugate is_integer",
        "float": "conjugate hex is_integer",
    }
    for kind in (str, list, tuple, dict, int, float):
        methods = {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
        known = {name.partition(".")[2] for name in named if name.startswith(f"{kind.__name__}.")}
        assert methods - known <= set(quick[kind.__name__].split()), f"attack these of {kind.__name__} too"


def test_one_process_serves_all() -> None:
    assert render_hi() == render_hi() == "hi"
    first = child()
    assert attempt("{{ 1/0 }}") and render_hi() == "hi" and child() == first
    assert attempt("{{ 1|round(-999999999) }}") and render_hi() == "hi" and child() != first
    assert not alive(first)


def test_one_that_was_killed_is_replaced() -> None:
    render_hi()
    first = child()
    os.kill(first, signal.SIGKILL)
    time.sleep(0.05)
    assert render_hi() == "hi" and child() != first


def test_one_that_crashes_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "_answer", lambda *_: os.abort())
    with pytest.raises(TemplateExcess, match="breaks the process that renders it; use --style"):
        render_hi()


def test_an_answer_that_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a process that a template has taken over."""
    monkeypatch.setattr(template_process, "_answer", lambda *_: {"text": "x" * 999})
    monkeypatch.setattr(template_process, "MAX_ANSWER", 99)
    with pytest.raises(TemplateExcess, match="breaks the process"):
        render_hi()


def test_ctrl_c_while_it_renders() -> None:
    template_process.BOUNDS = Bounds(seconds=20)
    template = ChatTemplate("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    first = child()
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        template.render(MESSAGES, prompt=True)
    assert not alive(first) and render_hi() == "hi"


@pytest.mark.parametrize("why", ["another system", "threads"])
def test_a_fresh_interpreter(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a fork would not be safe; its bounds are the same."""
    forked: list[int] = []
    monkeypatch.setattr(template_process, "_fork", lambda theirs: forked.append(1))
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    if why == "threads":
        thread.start()
    else:
        monkeypatch.setattr(sys, "platform", "other")
    try:
        assert render_hi() == "hi" and not forked
        assert "does not come to an end" in attempt("{{ 1|round(-999999999) }}")
        with pytest.raises(TemplateRefusal, match="not like this"):
            ChatTemplate("{{ raise_exception('not like this') }}").render(MESSAGES, prompt=True)
    finally:
        waiting.set()
        thread.join() if why == "threads" else None


ALONE = """
import sys
from pathlib import Path
from ggufrun.chat.formats import template_process
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.filelock import claimed
with claimed(Path(sys.argv[1]), ""):
    ChatTemplate("x")
    print(template_process._process._pid, flush=True)
    sys.stdin.readline()
    ChatTemplate("{{ 1|round(-999999999) }}").render([], prompt=True)
"""


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_the_one_who_asks(busy: bool, tmp_path: Path) -> None:
    """Also where that one is killed in the middle; nothing stays locked, and nobody waits for a pipe to be closed."""
    command = [sys.executable, "-c", ALONE, str(tmp_path / "x")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        pid = int(process.stdout.readline())
        if busy:
            process.stdin.write(b"\n")
            process.stdin.flush()
            time.sleep(0.3)
        process.kill()
        assert process.stdout.read() == b"" and process.wait() == -signal.SIGKILL
    with claimed(tmp_path / "x", ""):
        pass
    if not busy:
        until = time.monotonic() + 10
        while alive(pid) and time.monotonic() < until:
            time.sleep(0.01)
        assert not alive(pid)
    else:
        # it has its seconds of processor time, and no more
        os.kill(pid, signal.SIGKILL)


def test_values_come_through_as_they_are() -> None:
    messages = [{"role": "user", "content": "字\ud800\0😀", "tools": ({"a": 1.5},), "none": None}]
    text = ChatTemplate("{{ messages[0].content }}{{ messages[0].tools }}{{ messages[0].none is defined }}{{ x }}")
    assert text.render(messages, prompt=True, variables={"x": {"y": [1]}}) == "字\ud800\0😀({'a': 1.5},)False{'y': [1]}"
