"""Pickles that would run something: none does, and each is refused in one line."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.errors import GgufrunError
from tests.fuzz import SMALL
from tests.support import torch_writer
from tests.support.checkpoints import write_llama

NAMES = (
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"), ("os", "spawnv"),
    ("subprocess", "Popen"), ("subprocess", "call"), ("subprocess", "check_output"), ("subprocess", "run"),
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "open"), ("builtins", "compile"), ("builtins", "getattr"),
    ("builtins", "__import__"), ("builtins", "print"), ("builtins", "breakpoint"), ("builtins", "object"),
    ("__builtin__", "eval"), ("__builtin__", "file"), ("__builtin__", "getattr"), ("__main__", "run"),
    ("importlib", "import_module"), ("runpy", "run_path"), ("runpy", "_run_code"), ("code", "interact"), ("pdb", "run"),
    ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"), ("types", "FunctionType"), ("types", "CodeType"),
    ("ctypes", "CDLL"), ("_ctypes", "LoadLibrary"), ("shutil", "rmtree"), ("pathlib", "Path.unlink"), ("os", "remove"),
    ("socket", "create_connection"), ("urllib.request", "urlopen"), ("webbrowser", "open"), ("pty", "spawn"),
    ("asyncio", "run"), ("timeit", "timeit"), ("cProfile", "run"), ("operator", "attrgetter"),
    ("operator", "methodcaller"), ("functools", "partial"), ("itertools", "starmap"), ("numpy", "load"),
    ("numpy.testing._private.utils", "runstring"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.storage", "_load_from_bytes"), ("torch.jit", "load"),
    ("torch._utils", "os.system"), ("torch", "os.system"), ("collections", "OrderedDict.__class__"),
    ("collections", "abc.sys"), ("torch", "FloatStorage.__init__"), ("", "eval"), ("os\0x", "system"),
)  # fmt: skip

Way = Callable[[str, str, str], bytes]


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _short(value: str) -> bytes:
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


WAYS: dict[str, Way] = {
    "GLOBAL, REDUCE": lambda module, name, word: f"c{module}\n{name}\n".encode() + b"(" + _text(word) + b"tR",
    "STACK_GLOBAL, REDUCE": lambda module, name, word: _short(module) + _short(name) + b"\x93" + _text(word) + b"\x85R",
    "INST": lambda module, name, word: b"(" + _text(word) + f"i{module}\n{name}\n".encode(),
    "OBJ": lambda module, name, word: b"(" + f"c{module}\n{name}\n".encode() + _text(word) + b"o",
    "NEWOBJ": lambda module, name, word: f"c{module}\n{name}\n".encode() + _text(word) + b"\x85\x81",
    "NEWOBJ_EX": lambda module, name, word: f"c{module}\n{name}\n".encode() + _text(word) + b"\x85}\x92",
    "BUILD": lambda module, name, word: b"ccollections\nOrderedDict\n)R}" + _text("__reduce__")
    + f"c{module}\n{name}\n".encode() + b"sb",
    "a tensor's argument": lambda module, name, word: torch_writer.call(
        torch_writer.name("torch._utils", "_rebuild_tensor_v2"), f"c{module}\n{name}\n".encode(), _text(word)
    ),
    "a persistent id": lambda module, name, word: b"(" + _text("storage") + f"c{module}\n{name}\n".encode()
    + _text(word) + _text("cpu") + b"K\x01tQ",
    "memo": lambda module, name, word: f"c{module}\n{name}\n".encode() + b"q\x000" + b"h\x00" + _text(word) + b"\x85R",
    "EXT1": lambda module, name, word: b"\x82\x01" + _text(word) + b"\x85R",
    "PERSID": lambda module, name, word: f"P{module}.{name}\n".encode(),
}  # fmt: skip
"""Ways in which a pickle names something and has it called."""


def programs(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Every name in every way, in both of PyTorch's formats; what would run makes the canary."""
    word = f"touch {canary}"
    for module, name in NAMES:
        for way, make in WAYS.items():
            body = make(module, name, word)
            plain = b"\x80\x04" + body + b"."
            inner = torch_writer.program(b"}(" + _text("model.norm.weight") + body + b"u")
            yield f"{module}.{name} by {way}", torch_writer.archive(inner, {})
            yield f"{module}.{name} by {way}, old format", plain


def run(rounds: int, seed: int) -> Iterator[tuple[str, str]]:
    """As `kill.run`; ``rounds`` of the programs, in a seeded order."""
    with tempfile.TemporaryDirectory(prefix="ggufrun-faults-") as temporary:
        folder, canary = Path(temporary) / "model", Path(temporary) / "canary"
        folder.mkdir()
        write_llama(folder, **SMALL)
        (folder / "model.safetensors").unlink()
        chosen = list(programs(canary))
        random.Random(seed).shuffle(chosen)
        for what, data in chosen[:rounds]:
            (folder / "pytorch_model.bin").write_bytes(data)
            problem = ""
            try:
                source = open_checkpoint(folder)
                for name in source.tensors:
                    source.tensors[name].rows(0, 1)
                source.close()
                problem = "it was read"
            except GgufrunError as error:
                if "\n" in str(error):
                    problem = f"more than a line: {error}"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            yield what, "it ran" if canary.exists() else problem
            canary.unlink(missing_ok=True)
