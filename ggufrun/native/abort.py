"""The end of a process that the engine ends: what it says, and a last chance to keep what can be kept.

ggml ends the process by ``ggml_abort``, which tells a callback first. A C++ exception that nobody catches (Vulkan's way
to say that a card was lost) ends it by ``std::terminate``, which prints its words and raises SIGABRT: there the words
are caught in a pipe, and the signal takes the place of the callback. A mapped file that was cut short ends it by
SIGBUS, a fault of the engine's by SIGSEGV and its like: of those the name is all there is to say.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from ggufrun.native.binding import bind_if_exported
from ggufrun.native.log import last_errors, without_build_path
from ggufrun.native.signatures import CppRuntime, Ggml
from ggufrun.native.structures import AbortCallback, SignalHandler, TerminateHandler

_say: list[Callable[[str], None]] = []

_library: Ggml | None = None


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


def install(library: Ggml) -> None:
    """Hear of the end of ``library``. What is said of it is the message and the last errors in the log: a card's error
    is named there only, the message is ``CUDA error``.
    """
    global _library
    _library = library
    library.ggml_set_abort_callback(_abort)


@contextmanager
def aborts_thrown() -> Iterator[None]:
    """While this lasts, a broken invariant of the engine's is a C++ exception in place of the end of the process.

    Only for calls that compute nothing and that catch exceptions: loading a model, making a context. llama.cpp logs
    what it caught and returns nothing, which is an error like any other. Where the C++ library of this system is not
    known, the process ends as ever.
    """
    library = _runtime_library()
    throw = next((getattr(library, name) for name in THROW if hasattr(library, name)), None)
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


def _tell(text: str) -> None:
    text = without_build_path("\n".join([text, *last_errors()]))
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


_abort = AbortCallback(_aborting)

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
        TerminateHandler(_Exceptions.before)()
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


_terminate = TerminateHandler(_terminating)
_on_signal = SignalHandler(_signalled)


@contextmanager
def _exceptions() -> Iterator[None]:
    """Hear of exceptions that nobody catches, and of crashes, where the C++ library of this system is known."""
    library = _runtime()
    if library is None:
        yield
        return
    terminate = library._ZSt13set_terminatePFvvE(_terminate)
    if terminate != ctypes.cast(_terminate, ctypes.c_void_p).value:
        _Exceptions.before = terminate
    before = {number: library.signal(number, _on_signal) for number in (signal.SIGABRT, *CRASHES)}
    try:
        yield
    finally:
        for number, handler in before.items():
            library.signal(number, handler)
        library._ZSt13set_terminatePFvvE(terminate)


@cache
def _runtime_library() -> ctypes.CDLL | None:
    """The C++ library, by which the C library's functions are found, too."""
    try:
        return ctypes.CDLL("libc++.1.dylib" if sys.platform == "darwin" else "libstdc++.so.6")
    except OSError:
        return None


@cache
def _runtime() -> CppRuntime | None:
    """Its functions by which an end is heard of."""
    library = _runtime_library()
    return None if library is None else bind_if_exported(CppRuntime, library)
