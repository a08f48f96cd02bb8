"""A reader for the pickles inside PyTorch files that runs nothing.

A pickle is a program for a small stack machine, and Python's own machine calls whatever function the program names.
This one is a machine of its own: it knows the instructions that ``torch.save`` emits (protocol 2 and later), and the
only names it admits are those of the caller's table, which maps exact (module, name) pairs to functions of ours.
Anything else is an error. Memory and time are bounded by limits on the length of the program, its strings and numbers.

Instructions: the ``pickletools`` module of the standard library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError

MAX_PICKLE = 64 << 20
"""Bytes; a model of sixty thousand tensors needs a tenth of it."""
MAX_STEPS = 4_000_000
"""Instructions; a model of sixty thousand tensors needs some two and a half millions."""
MAX_STRING = 1 << 16
MAX_NAME = 256
MAX_LONG = 16
"""Bytes of a whole number: the magic number of old files has ten."""
BUFFER = 1 << 16

AGAIN = "download it again"

QUANTIZERS = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "hqq": "HQQ",
    "quanto": "quanto",
    "optimum": "quanto",
    "quark": "Quark",
    "eetq": "EETQ",
    "aqlm": "AQLM",
    "auto_gptq": "AutoGPTQ",
}
"""Packages whose objects some published files hold in place of tensors, such as Baichuan 2's of 4 bits."""


@dataclass(frozen=True)
class Symbol:
    """An admitted name: ``call`` is ours, or None for a name that only labels something."""

    name: str
    call: Callable[..., Any] | None = None


Table = Mapping[tuple[str, str], Symbol]


class Cursor:
    """Reads a range of a file from the front to the back, some kilobytes at once."""

    def __init__(self, file: RandomAccessFile, begin: int, end: int) -> None:
        self.name = file.path.name
        self.position = begin
        self._file, self._end = file, min(end, begin + MAX_PICKLE)
        self._buffer, self._offset = b"", 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self._end - self.position:
            raise FormatError(f"{self.name} is cut short or damaged: its pickle does not end", AGAIN)
        if count > len(self._buffer) - self._offset:
            size = min(max(count, BUFFER), self._end - self.position)
            self._buffer, self._offset = self._file.read(self.position, size).tobytes(), 0
        data = self._buffer[self._offset : self._offset + count]
        self._offset += count
        self.position += count
        return data

    def line(self) -> str:
        """The text up to the next line feed."""
        text = bytearray()
        while (byte := self.take(1)) != b"\n":
            text += byte
            if len(text) > MAX_NAME:
                raise FormatError(f"{self.name} names something of more than {MAX_NAME} letters", AGAIN)
        return text.decode()


def load(cursor: Cursor, table: Table, persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle at ``cursor``, which is left behind its end.

    ``persistent`` turns a persistent id into a value. Raises FormatError for a damaged pickle and UnsupportedError for
    one that names what ``table`` does not have.
    """
    try:
        return _Machine(cursor, table, persistent).run()
    except GgufrunError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise FormatError(f"the pickle in {cursor.name} is damaged: {str(error)[:100]}", AGAIN) from error


class _Mark:
    pass


MARK = _Mark()


class _Machine:
    def __init__(self, cursor: Cursor, table: Table, persistent: Callable[[Any], Any]) -> None:
        self._cursor, self._table, self._persistent = cursor, table, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        take = self._cursor.take
        for _ in range(MAX_STEPS):
            code = take(1)
            if code == b".":
                return self._stack.pop()
            step = STEPS.get(code)
            if step is None:
                raise FormatError(f"the pickle in {self._cursor.name} has the instruction {code!r}", AGAIN)
            step(self)
        raise FormatError(f"the pickle in {self._cursor.name} does not end", AGAIN)

    def number(self, code: str) -> Any:
        return struct.unpack(code, self._cursor.take(struct.calcsize(code)))[0]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is MARK:
            raise ValueError("a mark where a value is due")
        return value

    def since_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise ValueError("no mark")

    def top(self, kind: type) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise TypeError(f"{type(value).__name__} where a {kind.__name__} is due")
        return value

    def text(self, code: str) -> None:
        length = self.number(code)
        if not 0 <= length <= MAX_STRING:
            raise FormatError(f"the pickle in {self._cursor.name} has a string of {length} bytes", AGAIN)
        self.push(self._cursor.take(length).decode("utf-8", "surrogatepass"))

    def long(self) -> None:
        length = self.number("<B")
        if length > MAX_LONG:
            raise FormatError(f"the pickle in {self._cursor.name} has a number of {length} bytes", AGAIN)
        self.push(int.from_bytes(self._cursor.take(length), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def put(self, index: int) -> None:
        if self._stack[-1] is MARK:
            raise ValueError("a mark to remember")
        self._memo[index] = self._stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # nothing deep: hashing a tuple of tuples of tuples recurses in C
            if type(key) not in (str, int):
                raise TypeError(f"a key of type {type(key).__name__}")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def symbol(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is not text")
        found = self._table.get((module, name))
        if found is None and (library := QUANTIZERS.get(module.partition(".")[0])):
            raise UnsupportedError(
                f"{self._cursor.name} holds objects of {library} ({module[:60]}.{name[:60]}), so its weights are "
                "quantized in a form that ggufrun does not read",
                "download and convert the original model",
            )
        if found is None:
            raise UnsupportedError(
                f"{self._cursor.name} refers to {module[:60]}.{name[:60]}, which no weights need",
                "it may be an attack; nothing was run; look for the model as safetensors",
            )
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.symbol(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Symbol) or function.call is None or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is not a function")
        self.push(function.call(*arguments))

    def build(self) -> None:
        """Attributes of a dictionary, such as a state dict's ``_metadata``, say nothing of its tensors."""
        self.pop()
        self.top(dict)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda machine: machine.number("<B"),  # the protocol, which does not matter here
    b"\x95": lambda machine: machine.number("<Q"),  # a frame: nor does its length
    b"(": lambda machine: machine.push(MARK),
    b"0": lambda machine: machine.pop(),
    b"1": lambda machine: machine.since_mark(),
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b"J": lambda machine: machine.push(machine.number("<i")),
    b"K": lambda machine: machine.push(machine.number("<B")),
    b"M": lambda machine: machine.push(machine.number("<H")),
    b"\x8a": _Machine.long,
    b"G": lambda machine: machine.push(machine.number(">d")),
    b"T": lambda machine: machine.text("<i"),
    b"U": lambda machine: machine.text("<B"),
    b"X": lambda machine: machine.text("<I"),
    b"\x8c": lambda machine: machine.text("<B"),
    b"\x8d": lambda machine: machine.text("<Q"),
    b")": lambda machine: machine.push(()),
    b"\x85": lambda machine: machine.tuple_of(1),
    b"\x86": lambda machine: machine.tuple_of(2),
    b"\x87": lambda machine: machine.tuple_of(3),
    b"t": lambda machine: machine.push(tuple(machine.since_mark())),
    b"]": lambda machine: machine.push([]),
    b"a": lambda machine: machine.append([machine.pop()]),
    b"e": lambda machine: machine.append(machine.since_mark()),
    b"}": lambda machine: machine.push({}),
    b"s": _set_item,
    b"u": lambda machine: machine.set_items(machine.since_mark()),
    b"q": lambda machine: machine.put(machine.number("<B")),
    b"r": lambda machine: machine.put(machine.number("<I")),
    b"\x94": lambda machine: machine.put(len(machine._memo)),
    b"h": lambda machine: machine.push(machine._memo[machine.number("<B")]),
    b"j": lambda machine: machine.push(machine._memo[machine.number("<I")]),
    b"c": lambda machine: machine.symbol(machine._cursor.line(), machine._cursor.line()),
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": lambda machine: machine.push(machine._persistent(machine.pop())),
}
"""What each instruction does; those that are not here (instances, sets, buffers, extensions) no weights need."""
