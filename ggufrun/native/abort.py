"""The end of a process that the engine ends: what it says, and a last chance to keep what can be kept.

ggml ends the process by ``ggml_abort``, which tells a callback first. A C++ exception that nobody catches (Vulkan's way
to say that a card was lost) ends it by ``std::terminate``, which prints its words and raises SIGABRT: there the words
are caught in a pipe, and the signal takes the place of the callback. A mapped file that was cut short ends it by
SIGBUS, a fault of the engine's by SIGSEGV and its like: of those the name is all there is to say.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_say: list[Callable[[str], None]] = []

_library: ctypes.CDLL | None = None

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
    global _logged, _library
    _logged, _library = logged, library
    library.ggml_set_abort_callback(_abort)


@contextmanager
def aborts_thrown() -> Iterator[None]:
    """While this lasts, a broken invariant of the engine's is a C++ exception in place of the end of the process.

    Only for calls that compute nothing and that catch exceptions: loading a model, making a context. llama.cpp logs
    what it caught and returns nothing, which is an error like any other. Where the C++ library of this system is not
    known, the process ends as ever.
    """
    runtime = _runtime()
    throw = next((getattr(runtime, name) for name in THROW if hasattr(runtime, name)), None)
    if _library is None or throw is None:
        yield
        return
    _library.ggml_set_abort_callback(throw)
    try:
        yield
    finally:
        _library.ggml_set_abort_callback(_abort)


THROW = ("_ZSt21__throw_runtime_errorPKc", "_ZNSt3__121__throw_runtime_errorEPKc")
"""``std::__throw_runtime_error(const char *)`` of GNU's C++ library and of LLVM's: just what ``ggml_abort`` calls."""


def without_build_path(text: str) -> str:
    """A message of the engine's without the folders of the machine that it was built on.

    >>> without_build_path("/tmp/build/vendor/llama.cpp/ggml/src/ggml.c:12: GGML_ASSERT(a) failed")
    'ggml/src/ggml.c:12: GGML_ASSERT(a) failed'
    """
    return re.sub(r"(?<!\S)(?:\.\.)?/\S*?/(?=(?:ggml/)?src/[\w./-]+:\d+)", "", text)


def _tell(text: str) -> None:
    text = without_build_path("\n".join([text, *_logged()]))
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


CRASHES = tuple(getattr(signal, name) for name in ("SIGBUS", "SIGSEGV", "SIGFPE", "SIGILL") if hasattr(signal, name))


def _signalled(number: int) -> None:
    if _Exceptions.told:
        return
    if number in CRASHES:
        # a second one, on another thread or in what is done about the first, has nothing to add
        _Exceptions.told = True
        _tell(f"it crashed ({signal.Signals(number).name})")
        os._exit(1)
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
    """Hear of exceptions that nobody catches, and of crashes, where the C++ library of this system is known."""
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
    before = {number: library.signal(number, ctypes.cast(_on_signal, pointer)) for number in (signal.SIGABRT, *CRASHES)}
    try:
        yield
    finally:
        for number, handler in before.items():
            library.signal(number, handler)
        library._ZSt13set_terminatePFvvE(terminate)


def _runtime() -> ctypes.CDLL | None:
    """The C++ library, by which the C library's functions are found, too."""
    try:
        found = ctypes.CDLL("libc++.1.dylib" if sys.platform == "darwin" else "libstdc++.so.6")
        return found if hasattr(found, "_ZSt13set_terminatePFvvE") and hasattr(found, "signal") else None
    except OSError:
        return None
