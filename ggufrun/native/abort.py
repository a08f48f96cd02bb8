"""The end of a process that the engine ends: what it says, and a last chance to keep what can be kept.

ggml ends the process by ``ggml_abort``, which tells a callback first. A C++ exception that nobody catches (Vulkan's way
to say that a card was lost) ends it by ``std::terminate``, which prints its words and raises SIGABRT: there the words
are caught in a pipe, and the signal takes the place of the callback.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_say: list[Callable[[str], None]] = []

_logged: Callable[[], list[str]] = list
"""The engine's last lines about errors: a card's error is named there only, the message is ``CUDA error``."""


@contextmanager
def last_words(say: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, ``say`` is called with the reason when the engine is about to end the process: a broken
    invariant, a worker that died, a card that failed. The process cannot be saved, but its work can; ``say`` leaves by
    ``os._exit``.

    It may run on a thread of the engine's, while Python waits for the engine: it must not call the engine.
    """
    _say.append(say)
    try:
        with _exceptions():
            yield
    finally:
        _say.remove(say)


def install(library: ctypes.CDLL, logged: Callable[[], list[str]]) -> None:
    """Hear of the end of ``library``, libllama with its ggml; ``logged`` are the last errors of its log."""
    global _logged
    _logged = logged
    library.ggml_set_abort_callback(_abort)


def _tell(text: str) -> None:
    text = "\n".join([text, *_logged()])
    try:
        for say in reversed(_say):
            say(text)
    finally:
        # nobody left: what llama.cpp would have said
        os.write(2, f"{text}\n".encode())


def _aborting(message: bytes | None) -> None:
    # the signal that comes after this has nothing to add
    _Exceptions.told = True
    _tell((message or b"").decode("utf-8", "replace").strip())


_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_aborting)

# --- C++ exceptions ---------------------------------------------------------------------------------------------------


class _Exceptions:
    """What happens between ``std::terminate`` and the signal."""

    told = False
    words = -1
    stderr = -1
    before: int | None = None


def _terminating() -> None:
    """Send what the C++ library prints, a line or two, into a pipe, and let it print."""
    _Exceptions.words, writing = os.pipe()
    _Exceptions.stderr = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    if _Exceptions.before:
        ctypes.CFUNCTYPE(None)(_Exceptions.before)()
    os.abort()


def _signalled(_: int) -> None:
    if _Exceptions.told:
        return
    said = b""
    if _Exceptions.words >= 0:
        # takes the place of the pipe's other end
        os.dup2(_Exceptions.stderr, 2)
        said = os.read(_Exceptions.words, 1 << 16)
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    # "terminate called after throwing an instance of 'x'", "what():  why"
    words = [line.removeprefix("what():").strip() for line in lines if line.startswith("what():")]
    _tell("\n".join(words or lines) or "it ended the process (SIGABRT)")


_terminate = ctypes.CFUNCTYPE(None)(_terminating)
_on_signal = ctypes.CFUNCTYPE(None, ctypes.c_int)(_signalled)


@contextmanager
def _exceptions() -> Iterator[None]:
    """Hear of exceptions that nobody catches, where the C++ library of this system is known."""
    library = _runtime()
    if library is None:
        yield
        return
    pointer = ctypes.c_void_p
    library.signal.restype, library.signal.argtypes = pointer, [ctypes.c_int, pointer]
    library._ZSt13set_terminatePFvvE.restype, library._ZSt13set_terminatePFvvE.argtypes = pointer, [pointer]
    terminate = library._ZSt13set_terminatePFvvE(ctypes.cast(_terminate, pointer))
    if terminate != ctypes.cast(_terminate, pointer).value:
        _Exceptions.before = terminate
    handler = library.signal(signal.SIGABRT, ctypes.cast(_on_signal, pointer))
    try:
        yield
    finally:
        library.signal(signal.SIGABRT, handler)
        library._ZSt13set_terminatePFvvE(terminate)


def _runtime() -> ctypes.CDLL | None:
    """The C++ library, by which the C library's functions are found, too."""
    try:
        found = ctypes.CDLL("libc++.1.dylib" if sys.platform == "darwin" else "libstdc++.so.6")
        return found if hasattr(found, "_ZSt13set_terminatePFvvE") and hasattr(found, "signal") else None
    except OSError:
        return None
