"""The memory of a context in a file: what a conversation has computed, to go on from without computing it again.

The file is llama.cpp's own (``llama_state_seq_save_file``) with a seal behind it: a JSON object, its length and a magic
number. llama.cpp reads no further than its own end. Nothing goes to llama.cpp that the seal does not vouch for, because
a damaged state can make it write where it should not.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

from ggufrun import jsontext
from ggufrun.atomicfile import appearing
from ggufrun.engine.context import SEQUENCE, Context
from ggufrun.engine.rope import RopeParams
from ggufrun.errors import EngineError, FormatError
from ggufrun.native.library import llama
from ggufrun.native.log import forget_log, reason
from ggufrun.regularfile import open_regular

MAGIC = b"ggufrun1"
EDGE = 1 << 20
"""Bytes of a model's beginning and of its end that tell it from others, beside its size."""

IRRELEVANT = frozenset({"n_ctx", "n_batch", "n_ubatch", "threads", "threads_batch", "outputs", "sequences"})
"""Settings of a context that leave what it holds as it is."""


def identity(context: Context) -> str:
    """A digest of what a context's contents depend on: the model's file, the engine, the cache's settings."""
    path = context.model.path
    params = {name: value for name, value in asdict(context.params).items() if name not in IRRELEVANT}
    if context.params.rope != RopeParams():
        # How far positions are stretched may follow from the context's length.
        params["n_ctx"] = context.n_ctx
    files = [path, *(adapter.path for adapter in context.params.adapters)]
    digests = [model_digest(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    parts = [digests, importlib.metadata.version("llama-cpp-python"), sorted(params.items())]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@cache
def model_digest(path: Path, size: int, changed: int) -> str:
    """A digest of a file's size, beginning and end: its metadata, vocabulary and last weights."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open_regular(path) as file:
        digest.update(file.read(EDGE))
        file.seek(max(0, size - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()


def state_size(context: Context) -> int:
    """Bytes that `save_state` would write now, about."""
    return int(llama().llama_state_seq_get_size(context.pointer, SEQUENCE))


def save_state(context: Context, path: Path) -> None:
    """Write what ``context`` holds; the file appears whole or not at all. Raises EngineError, OSError."""
    ids = (ctypes.c_int32 * max(1, len(context.held)))(*context.held)
    forget_log()
    # Readable by its owner only, as the words are. It can be computed again, and its seal tells a damaged one: it need
    # not be waited for until it is on the disk.
    with appearing(path, 0o600, durable=False) as temporary:
        done = llama().llama_state_seq_save_file(
            context.pointer, os.fsencode(temporary), SEQUENCE, ids, len(context.held)
        )
        if not done:
            raise EngineError(f"{path.name} cannot be written: {reason('llama.cpp gave no reason')}", "free some space")
        seal = json.dumps({"identity": identity(context), "digest": _digest(temporary, temporary.stat().st_size)})
        with temporary.open("ab") as file:
            file.write(seal.encode() + len(seal).to_bytes(4, "little") + MAGIC)


def load_state(context: Context, path: Path) -> int:
    """Fill ``context`` with what `save_state` wrote; returns the number of tokens. Raises FormatError when the file is
    damaged, of another model or of other settings, or too long; the context is empty then. Raises OSError.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        file.seek(max(0, size - 4 - len(MAGIC)))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or length > 1024 or length + len(tail) > size:
            raise FormatError(f"{path.name} is damaged")
        end = size - len(tail) - length
        file.seek(end)
        try:
            seal = jsontext.parse(file.read(length))
            known, digest = seal["identity"], seal["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path.name} is damaged") from error
    if known != identity(context):
        raise FormatError(f"{path.name} belongs to another model, or to other settings")
    if digest != _digest(path, end):
        raise FormatError(f"{path.name} is damaged")
    ids = (ctypes.c_int32 * context.n_ctx)()
    count = ctypes.c_size_t(0)
    context.clear()
    forget_log()
    if not llama().llama_state_seq_load_file(
        context.pointer, os.fsencode(path), SEQUENCE, ids, context.n_ctx, ctypes.byref(count)
    ):
        context.clear()
        raise FormatError(f"{path.name} does not fit: {reason('llama.cpp gave no reason')}")
    context.adopt(ids[: count.value])
    return count.value


def _digest(path: Path, size: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open_regular(path) as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
