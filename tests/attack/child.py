"""One case: a command run on a file in a child with limits, forked from a process that has everything loaded."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import select
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

import ggufrun

CPU_SECONDS = 15
WALL_SECONDS = 90
"""A hang that computes, and one that waits. The second is generous: the machine may be busy."""

MEMORY = 1 << 30
"""Bytes resident that no tiny model has a reason to take. A warm child begins with some 150 MB."""
ADDRESSES = 8 << 30
FILE = 1 << 28
"""Limits that protect the machine, not the judgement."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit status or, negative, its signal; what it printed; ``seconds`` of CPU, ``memory`` in
    bytes resident at most; ``late``: it had to be ended.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    memory: int
    late: bool = False

    @property
    def verdict(self) -> str | None:
        """What is wrong, in a word; None for a run that succeeded or was refused in one line."""
        last = (self.stderr.strip().splitlines() or [""])[-1]
        if self.late or self.status == -signal.SIGXCPU:
            return "hang"
        if self.status < 0:
            return signal.Signals(-self.status).name
        if self.memory > MEMORY:
            return "memory"
        if "Traceback" in self.stderr or "Exception ignored" in self.stderr:
            return "traceback"
        if "the engine crashed" in self.stderr:
            return "crash"
        if "the engine gave up" in self.stderr:
            return "abort"
        if self.status not in (0, 1, 2):
            return f"status {self.status}"
        if self.status and not last.startswith("ggufrun: ") and "bad" not in self.stdout:
            return "no reason"
        return None


LOADED = ".loaded"
"""Written by a child that is asked for it: the modules that it has loaded."""


def warm() -> None:
    """Load the engine and all of ggufrun. No threads are started: a fork would lack them."""
    for module in pkgutil.walk_packages(ggufrun.__path__, "ggufrun."):
        if module.name != "ggufrun.__main__":
            importlib.import_module(module.name)
    from ggufrun.cli import app
    from ggufrun.cli.commands import doctor
    from ggufrun.evaluate import machine
    from ggufrun.native.library import ggml, llama

    llama()
    ggml()
    # Typer makes all commands anew whenever it is called, which is most of what a case would cost
    app.app = typer.main.get_command(app.app)  # type: ignore[assignment]
    facts = doctor.collect()
    # what they ask of this machine takes longer than a case, and is the same for all
    doctor.collect = lambda rpc="": facts
    machine.nvidia_present = lambda *_: False


def run(arguments: Sequence[str], folder: Path, seconds: int = CPU_SECONDS) -> Outcome:
    """``ggufrun`` with ``arguments`` in ``folder``, in a forked child."""
    out, err = folder / ".stdout", folder / ".stderr"
    pid = os.fork()
    if pid == 0:
        _child(arguments, folder, out, err, seconds)
    late = not _wait(pid, WALL_SECONDS)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    number = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    texts = [path.read_text("utf-8", "replace") if path.exists() else "" for path in (out, err)]
    return Outcome(number, texts[0], texts[1], usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, late)


def learn(commands: Iterable[Sequence[str]], folder: Path) -> None:
    """Run commands once, and load the modules that they load late; then a fork is all that a case costs."""
    (folder / LOADED).touch()
    for command in commands:
        run(command, folder)
        for name in (folder / LOADED).read_text().split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    (folder / LOADED).unlink()
    gc.collect()
    gc.freeze()


def _wait(pid: int, seconds: float) -> bool:
    """Does it end in time?"""
    if hasattr(os, "pidfd_open"):
        descriptor = os.pidfd_open(pid)
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(0.005)
    return False


def _child(arguments: Sequence[str], folder: Path, out: Path, err: Path, seconds: int) -> None:
    """Never returns."""
    status = 99
    try:
        os.chdir(folder)
        for number, name, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            descriptor = os.open(name, flags, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform != "darwin":
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        sys.argv = ["ggufrun", *arguments]
        from ggufrun.cli.app import main

        main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        if Path(LOADED).exists():
            Path(LOADED).write_text("\n".join(sys.modules))
        os._exit(status)
