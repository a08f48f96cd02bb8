"""A process of its own for chat templates: whatever a stranger's template does there, it can be ended.

One process lasts as long as this one and answers in a fraction of a millisecond. It is a fork, which takes a few
milliseconds, or a fresh interpreter where a fork would not be safe: in a process with threads, or not on Linux. It has
no file open but its end of a socket, and within a call its time and memory are bounded by the system: a call that does
not come back ends with the process, and the next one has a new process.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from ggufrun import jsontext
from ggufrun.chat.formats.limits import Bounds
from ggufrun.chat.formats.sandbox import (
    ADVICE,
    MAX_RENDERED,
    Compiled,
    TemplateExcess,
    TemplateRefusal,
    prepare_sandbox,
)
from ggufrun.errors import FormatError, GgufrunError

BOUNDS = Bounds()

GRACE = 1.0
"""Seconds of processor time for a call to notice by itself that it is out of time, and to say in which line."""

PATIENCE = 120.0
"""Seconds in which even a busy machine gives a template its few."""

MAX_ANSWER = 8 * MAX_RENDERED
"""Bytes of JSON that the longest text takes."""

ERRORS: dict[str, type[GgufrunError]] = {
    "refusal": TemplateRefusal,
    "excess": TemplateExcess,
    "format": FormatError,
}

ENDS: dict[int, str] = {
    signal.SIGPROF: "does not come to an end",
    signal.SIGVTALRM: "does not come to an end",
    signal.SIGKILL: "wants too much memory",
}
"""What it says of a template that the process rendering it ended by a signal."""

Answer = dict[str, Any]


def variables(source: str) -> frozenset[str]:
    """The names that a template asks for. Raises FormatError for one that is broken."""
    return frozenset(str(name) for name in _ask({"source": source})["variables"])


def render(source: str, values: Mapping[str, Any]) -> str:
    """The text that a template makes of ``values``. Raises TemplateRefusal, TemplateExcess, FormatError."""
    return str(_ask({"source": source, "values": dict(values)})["text"])


def prepare() -> None:
    """Begin the process, which is quickest and takes least memory before a model is loaded, and is ready when it is."""
    global _process
    with _lock:
        if _process is None or _process.owner != os.getpid():
            _process = Process()


def stop() -> None:
    """End the process; the next call begins a new one."""
    global _process
    with _lock:
        if _process is not None:
            _process.end()
        _process = None


_lock = threading.Lock()
_process: Process | None = None


def _ask(request: dict[str, Any]) -> Answer:
    global _process
    with _lock:
        if _process is not None and _process.owner != os.getpid():
            # a fork of ours must not talk into our conversation
            _process = None
        if _process is not None and _process.has_ended():
            # by nothing that a template did: none was being rendered
            _process.end()
            _process = None
        if _process is None:
            _process = Process()
        try:
            answer = _process.ask({**request, "bounds": BOUNDS})
        except BaseException:
            _process.end()
            _process = None
            raise
    if (kind := answer.get("error")) is not None:
        raise ERRORS[kind](str(answer["what"]), str(answer["todo"]))
    return answer


class Process:
    """The process, as seen from here. ``owner`` is the process that began it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._socket, theirs = socket.socketpair()
        try:
            alone = sys.platform == "linux" and threading.active_count() == 1
            self._pid = _fork(theirs) if alone else _spawn(theirs)
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._socket.settimeout(PATIENCE)
        self._ended = False

    def ask(self, request: dict[str, Any]) -> Answer:
        """Send a request and wait for its answer. TemplateExcess where the process ends over it, or does not answer."""
        try:
            _send(self._socket, pickle.dumps(request))
            found = jsontext.parse(_receive(self._socket, MAX_ANSWER), max_values=None, halves=True)
        except TimeoutError as error:
            raise TemplateExcess("the chat template does not come to an end", ADVICE) from error
        except (OSError, EOFError, ValueError) as error:
            why = ENDS.get(self._death(), "breaks the process that renders it")
            raise TemplateExcess(f"the chat template {why}", ADVICE) from error
        assert isinstance(found, dict)
        return found

    def has_ended(self) -> bool:
        """Has somebody ended it?"""
        if not self._ended:
            with suppress(ChildProcessError):
                self._ended = os.waitpid(self._pid, os.WNOHANG)[0] != 0
        return self._ended

    def _death(self) -> int:
        """The signal that ended the process, which has closed its end of the socket; 0 for none."""
        for _ in range(100):
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                self._ended = True
                return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            time.sleep(0.01)
        return 0

    def end(self) -> None:
        """End the process, if it has not ended."""
        self._socket.close()
        if not self._ended and self.owner == os.getpid():
            self._ended = True
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)


def _fork(theirs: socket.socket) -> int:
    with warnings.catch_warnings():
        # Python warns of threads that are not there after a fork; nothing here waits for one
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    # From here on in the new process, which never comes back.
    try:
        _alone(theirs.fileno())
        _serve(theirs)
    finally:
        os._exit(1)


def _spawn(theirs: socket.socket) -> int:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from ggufrun.chat.formats.template_process import serve; "
        f"serve({theirs.fileno()})"
    )
    theirs.set_inheritable(True)
    nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    return os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ, file_actions=nothing)


def serve(descriptor: int) -> None:
    """Be the process, in a fresh interpreter: answer what comes through a socket until it is closed."""
    try:
        _alone(descriptor)
        _serve(socket.socket(fileno=descriptor))
    finally:
        os._exit(1)


def _alone(descriptor: int) -> None:
    """Leave the terminal, and close every file but one: locks and pipes of ours are not to be held for long."""
    with suppress(OSError):
        os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError, RuntimeError):
            signal.signal(number, signal.SIG_DFL)
    with suppress(ValueError, OSError):
        signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(connection: socket.socket) -> None:
    prepare_sandbox()
    compiled = lru_cache(maxsize=8)(Compiled)
    while True:
        try:
            request = pickle.loads(_receive(connection))
        except (OSError, EOFError):
            # the one who asks has ended
            os._exit(0)
        # what no handler of Python's can stop is stopped by the system
        signal.setitimer(signal.ITIMER_PROF, request["bounds"].seconds + GRACE)
        answer = json.dumps(_answer(compiled, request)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(connection, answer)


def _answer(compiled: Callable[[str, Bounds], Compiled], request: dict[str, Any]) -> Answer:
    try:
        template = compiled(request["source"], request["bounds"])
        if "values" in request:
            return {"text": template.render(request["values"])}
        return {"variables": sorted(template.variables)}
    except GgufrunError as error:
        kind = next((name for name, known in ERRORS.items() if type(error) is known), "format")
        return {"error": kind, "what": error.what, "todo": error.todo}
    except Exception as error:
        # no template has been seen to do so; the process lives on
        return {"error": "format", "what": f"the chat template is broken: {type(error).__name__}", "todo": ADVICE}


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(struct.pack("<q", len(data)) + data)


def _receive(connection: socket.socket, most: int = 1 << 40) -> bytes:
    """One message. EOFError where the other side ends, ValueError for one that is longer than ``most`` bytes."""
    (length,) = struct.unpack("<q", _exactly(connection, 8))
    if not 0 <= length <= most:
        raise ValueError(f"a message of {length} bytes")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, n_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes:
        part = connection.recv(min(n_bytes - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
