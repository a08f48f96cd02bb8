"""Ctrl+C at moments at which Python would lose it, or strike too early. Each is sent there, none is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from ggufrun.engine.batch import Batch, Task
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.decoder import Decoder
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.sampler import SamplingParams
from ggufrun.native.signals import defer_signals, note_signals

PROMPT = 200


def test_a_signal_stops_at_once_and_has_its_effect_at_the_end() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt), note_signals(lambda: steps.append("stop")):
        signal.raise_signal(signal.SIGINT)
        steps.append("end")
    assert steps == ["stop", "end"]


def test_a_handler_of_the_programs_own_is_called_later() -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with defer_signals():
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize("kind", [Context, Batch])
def test_inside_the_engines_callback(
    demo_model: Model, monkeypatch: pytest.MonkeyPatch, kind: type[Context] | type[Batch]
) -> None:
    """An exception that a callback raises is printed by ctypes and forgotten; the prompt was read to its end."""
    calls = 0
    real: Any = Decoder._asked_to_stop

    def interrupted(self: Any, data: object) -> bool:
        nonlocal calls
        calls += 1
        if calls == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return bool(real(self, data))

    monkeypatch.setattr(Decoder, "_asked_to_stop", interrupted)
    ids = [demo_model.vocab.bos, *range(300, 300 + PROMPT)]
    with Context(demo_model, ContextParams(n_ctx=512, threads=1)) as context:
        with pytest.raises(KeyboardInterrupt):
            if kind is Context:
                context.feed(ids)
            else:
                list(Batch(context).run([Task(0, ids, SamplingParams(temp=0), lambda _: False, 1, 256)]))
        assert calls == 10, "it went on computing"


def test_while_the_program_loads() -> None:
    code = """
import builtins
real = builtins.__import__
def load(name, *rest):
    if name == "ggufrun.cli.app":
        raise KeyboardInterrupt
    return real(name, *rest)
from ggufrun.__main__ import main
builtins.__import__ = load
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ggufrun: interrupted\n")
