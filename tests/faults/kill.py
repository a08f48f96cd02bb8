"""Signals at any moment of a job: its result is whole or not there, and a killed job can be continued."""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.jobs import JOBS, RESUMABLE, Workplace, last_line, prepare

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
TIMEOUT = 120.0


def run(rounds: int, seed: int, jobs: tuple[str, ...] = tuple(JOBS)) -> Iterator[tuple[str, str]]:
    """What was done in each round, and what is wrong with how it ended; an empty text where nothing is."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ggufrun-faults-") as temporary:
        places = prepare(Path(temporary), jobs)
        usual = {job: _duration(place, job) for job, place in places.items()}
        for number in range(rounds):
            job = jobs[number % len(jobs)]
            what, delay = dice.choice(SIGNALS), dice.random() * usual[job] * 1.1
            yield f"{what.name} into {job} after {delay:.2f} s", _round(places[job], job, what, delay)


def _duration(place: Workplace, job: str) -> float:
    place.fresh()
    begin = time.monotonic()
    subprocess.run(place.command(job, place.out), check=True, capture_output=True)
    return time.monotonic() - begin


def _round(place: Workplace, job: str, what: signal.Signals, delay: float) -> str:
    place.fresh()
    child = subprocess.Popen(
        place.command(job, place.out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # as from a shell: what is ignored here would be ignored there
        preexec_fn=_usual_signals,
    )
    time.sleep(delay)
    child.send_signal(what)
    try:
        said = child.communicate(timeout=TIMEOUT)[1]
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return f"it did not end in {TIMEOUT:.0f} s"
    expected, found = place.results(place.expected), place.results(place.out)
    if child.returncode == 0:
        return "" if found == expected else "it succeeded, and its files are not those of an undisturbed run"
    if "Traceback" in said and not _at_start(said):
        return f"a traceback: {last_line(said)}"
    wrong = [name for name, data in found.items() if not name.startswith(".") and data != expected.get(name)]
    if wrong:
        return f"{wrong} is not whole"
    if what is not signal.SIGKILL:
        # Before Python has begun, a signal has the system's effect. Where it struck inside of code that Python made at
        # run time, as for a dataclass, Python ends by SIGINT in the end, which a shell calls 130, too.
        usual = (130, -what, -signal.SIGINT, 1 if _at_start(said) else 130)
        if child.returncode not in usual or not (said or child.returncode < 0):
            return f"status {child.returncode}: {last_line(said)}"
        if any(name.startswith(".") for name in found):
            return f"it left {sorted(found)}"
        return ""
    return _continued(place, job, expected)


def _at_start(said: str) -> bool:
    """Did the signal come while Python itself began, before the program could say anything about it?"""
    return said.rstrip().endswith("KeyboardInterrupt") and "ggufrun/cli" not in said


def _continued(place: Workplace, job: str, expected: dict[str, bytes]) -> str:
    """A killed job begun again: by --resume where there is such a thing, otherwise from the start."""
    more = ("--resume",) if job in RESUMABLE else ("--force",)
    done = subprocess.run(place.command(job, place.out, *more), capture_output=True, text=True, check=False)
    if done.returncode:
        return f"begun again: status {done.returncode}: {last_line(done.stderr)}"
    found = place.results(place.out)
    if found != expected:
        return f"begun again, its files are {sorted(found)}, and not the bytes of an undisturbed run"
    return ""


def _usual_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
