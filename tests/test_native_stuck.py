"""A second signal ends a process whose engine does not come back; one that reacts to the first is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")

STUCK = """
import ctypes, signal
from ggufrun.cli.terminal.abort import guarded
from ggufrun.native.signals import note_signals
signal.signal(signal.SIGTERM, signal.default_int_handler)
with guarded(lambda: "the words are kept"):
    with note_signals(lambda: None):
        mutex = ctypes.create_string_buffer(256)
        library = ctypes.CDLL(None)
        library.pthread_mutex_lock(mutex)
        print("ready", flush=True)
        library.pthread_mutex_lock(mutex)
"""
"""Waits in C for what never comes, as a computation that never ends: no handler of Python's is called."""

BUSY = """
import time
from ggufrun.cli.terminal.abort import guarded
from ggufrun.native.signals import note_signals
count = 0
with guarded():
    print("ready", flush=True)
    while count < 3:
        try:
            with note_signals(lambda: None):
                pass
            time.sleep(60)
        except KeyboardInterrupt:
            count += 1
            print(count, flush=True)
"""
"""Goes on after each Ctrl+C, as a conversation does."""


def start(code: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_ends_what_does_not_come_back(second: signal.Signals) -> None:
    child = start(STUCK)
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(second)
    assert child.wait(30) == 130
    assert child.stderr is not None and child.stderr.read() == "ggufrun: interrupted; the words are kept\n"


def test_two_at_once_count() -> None:
    child = start(STUCK)
    child.send_signal(signal.SIGINT)
    # of two signals of the same number the system may make one
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 130


def test_a_program_that_reacts_goes_on() -> None:
    child = start(BUSY)
    assert child.stdout is not None
    for number in range(1, 4):
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == f"{number}\n"
        if number == 2:
            # longer than a process that does not react is given
            time.sleep(1.5)
    assert child.wait(30) == 0
