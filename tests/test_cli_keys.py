"""A terminal that goes away while a line is edited: the signal may come at any point of the editor's event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from ggufrun.cli.talk.keyboard import Hangup, TerminalGone


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(hang_up)


def while_it_waits() -> None:
    asyncio.get_running_loop().call_later(0.05, hang_up)


@pytest.mark.parametrize("when", [hang_up, in_a_callback, while_it_waits])
def test_the_editor_ends(when: Callable[[], None]) -> None:
    stopped: list[bool] = []
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        session: PromptSession[str] = PromptSession()
        with Hangup(lambda: stopped.append(True)) as hangup:
            with pytest.raises(TerminalGone), hangup.reading():
                session.prompt("> ", pre_run=when)
            assert hangup.happened and stopped == [True]
