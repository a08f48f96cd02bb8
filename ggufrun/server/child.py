"""One child process: llama.cpp's server with one model, behind a Unix socket that nobody else can reach."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ggufrun.errors import EngineError
from ggufrun.native.environment import wanted
from ggufrun.native.parent import end_with
from ggufrun.server.upstream import Vanished, call

KEPT = (
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_",
    "NVIDIA_", "GGML_", "HIP_", "ROCR_", "HSA_", "VK_", "GPU_", "OMP_", "GOMP_", "LC_", "GGUFRUN_KERNELS",
    "ASAN_OPTIONS",
)  # fmt: skip
"""How the names of variables begin that a child may see. All others could change its options behind our back
(``LLAMA_ARG_*``, ``AIP_*``), or are secrets (keys, tokens).
"""

LINES = 200
"""Lines of a child's talk that are kept."""

READY_STEP = 0.05
STOP_SECONDS = 8.0


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What of our environment a child gets."""
    kept = {name: value for name, value in given.items() if name.startswith(KEPT)}
    return {**kept, "LC_ALL": "C.UTF-8", **wanted(kept)}


WATCHER = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:])
def watch():
    os.read(0, 1)
    child.kill()
threading.Thread(target=watch, daemon=True).start()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda n, f: child.send_signal(n))
sys.exit(child.wait())
"""
"""Where the system has no such wish, a process in between waits for the end of our pipe."""


class Child:
    """A child process. ``socket`` is where it listens once `start` has returned."""

    def __init__(self, command: Sequence[str | Path], socket: Path, heard: Callable[[str], None] | None = None) -> None:
        self.socket = str(socket)
        self._command = [str(part) for part in command]
        self._heard = heard
        self._lines: deque[str] = deque(maxlen=LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Is it running?"""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its number; 0 before it runs."""
        return self._process.pid if self._process else 0

    @property
    def last_words(self) -> str:
        """What it said about its end."""
        code = self._process.returncode if self._process else None
        for words in ("GGML_ASSERT", "error", "failed", "abort"):
            for line in reversed(self._lines):
                if words in line:
                    return line.strip()[-300:]
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"ended by {signal.Signals(-code).name}"
        return f"ended with status {code}"

    async def start(self, seconds: float = 900.0) -> None:
        """Run it and wait until it answers. Raises EngineError with its last words."""
        tie = end_with(os.getpid())
        command = self._command if tie else [sys.executable, "-c", WATCHER, *self._command]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment(os.environ),
            start_new_session=True,
            preexec_fn=tie,
            limit=1 << 20,
        )
        self._reading = asyncio.create_task(self._read())
        try:
            async with _timeout(seconds):
                while not await self._answers():
                    if not self.alive:
                        await asyncio.wait([self._reading], timeout=1)
                        raise EngineError(f"the model could not be loaded: {self.last_words}")
                    await asyncio.sleep(READY_STEP)
        except (TimeoutError, asyncio.TimeoutError):
            await self.stop()
            raise EngineError(f"the model was not loaded within {seconds:.0f} seconds") from None
        except BaseException:
            await self.stop()
            raise

    async def _answers(self) -> bool:
        if not Path(self.socket).exists():
            return False
        try:
            status, _ = await call(self.socket, "GET", "/health")
        except Vanished:
            return False
        return status == 200

    async def _read(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:
                continue
            if not line:
                break
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.append(text)
            if self._heard is not None:
                self._heard(text)
        await self._process.wait()

    async def ended(self) -> None:
        """Wait for its end."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """End it: by asking, then by force."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except (TimeoutError, asyncio.TimeoutError):
                self.kill()
                await process.wait()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=1)
            self._reading.cancel()
        with suppress(OSError):
            Path(self.socket).unlink()

    def kill(self) -> None:
        """End it by force."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()


def _timeout(seconds: float) -> _Timeout:
    return _Timeout(seconds)


class _Timeout:
    """``asyncio.timeout``, which Python has from 3.11 on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._late = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def late() -> None:
            self._late = True
            task.cancel()

        self._handle = asyncio.get_running_loop().call_later(self._seconds, late)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._handle.cancel()
        if self._late and kind is asyncio.CancelledError:
            raise TimeoutError
