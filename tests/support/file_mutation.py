"""Changes to files, for the fuzzers: of bytes anywhere, or of what a file says, which stays sound in form."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np

from ggufrun.checkpoint.tensor import STORAGE
from tests.support.json_mutation import mutate_json

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, ord("["), ord("{"), ord('"'), ord("-"), ord("9"), ord("}"), ord("e"))


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few changes, most of them near the start, where headers are."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        reach = max(1, min(len(changed), chance.choice((64, 1024, 8192, len(changed) or 1))))
        at = chance.randrange(reach)
        kind = chance.randrange(7)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + chance.randint(1, 16)]
        elif kind == 2:
            changed[at:at] = bytes(chance.choices(INTERESTING, k=chance.randint(1, 16)))
        elif kind == 3:
            changed[at : at + 8] = struct.pack("<q", chance.choice((-1, 0, 1 << 31, 1 << 40, (1 << 63) - 1)))
        elif kind == 4:
            piece = bytes(changed[at : at + chance.randint(1, 64)])
            changed[at:at] = piece * chance.choice((1, 2, 50))
        elif changed:
            changed[min(at, len(changed) - 1)] = chance.choice((*INTERESTING, chance.randrange(256)))
    return bytes(changed)


def mutate_quantized(name: str, data: bytes, chance: random.Random) -> bytes:
    """A change that leaves the file sound, but not what it says; once in four times, changes of bytes."""
    if not chance.randrange(4):
        return mutate(data, chance)
    if not name.endswith(".json"):
        return mutate_tensors(data, chance)
    return mutate_settings(data, chance) if chance.randrange(4) else mutate_json(data, chance)


HOSTILE: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    5,
    7,
    64,
    1 << 31,
    1 << 70,
    1e30,
    None,
    True,
    "",
    "x",
    "nan",
    [],
    {},
    [[]],
    {"a": {}},
    [0, 16],
)


SPELLINGS = (
    ("model.", "model.language_model."),
    ("model.model.", "model._orig_mod.model."),
    ("model.language_model.", "language_model.model."),
    ("layers.0.", "layers.00."),
    ("experts.0.", "experts.1."),
    ("base_model.model.", "base_model.model.base_model.model."),
    ("embed_tokens", "lm_head"),
    ("model.embed_tokens", "lm_head"),
    ("lora_A", "lora_B"),
    (".lora_A", ".base_layer.lora_A"),
    ("gate_proj", "up_proj"),
)
"""Other forms of a name, or names of other tensors."""


def mutate_settings(data: bytes, chance: random.Random) -> bytes:
    """Another value for some key, at some depth, or none."""
    config = json.loads(data)
    place = config["quantization_config"]
    while True:
        key = chance.choice(list(place))
        if not isinstance(place[key], dict) or not place[key] or not chance.randrange(4):
            break
        place = place[key]
    if chance.randrange(4):
        place[key] = chance.choice(HOSTILE)
    else:
        del place[key]
    return json.dumps(config).encode()


def mutate_tensors(data: bytes, chance: random.Random) -> bytes:
    """Tensors of other shapes, types, values and names, one less, or one under two names."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    tensors = {name: (entry, body[slice(*entry["data_offsets"])]) for name, entry in header.items() if name[0] != "_"}
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        name = chance.choice(list(tensors))
        entry, values = tensors.pop(name)
        shape, kind = list(entry["shape"]), chance.randrange(8)
        if kind == 0:
            continue
        if kind == 1:
            chance.shuffle(shape)
        elif kind == 2:
            shape.insert(chance.randrange(len(shape) + 1), chance.choice((0, 1, 2, 3, 32)))
        elif kind == 3 and shape:
            at = chance.randrange(len(shape))
            shape[at] = max(0, shape[at] + chance.choice((-1, 1, -shape[at], shape[at], 31, -8)))
        elif kind == 4:
            entry["dtype"] = chance.choice(list(STORAGE))
        elif kind == 5:
            values = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80", chance.randbytes(61))) * len(values)
        elif kind == 6:
            tensors[name] = ({"dtype": entry["dtype"], "shape": shape}, values)
            old, new = chance.choice(SPELLINGS)
            name = name.replace(old, new, 1)
        else:
            name = name + chance.choice(("x", ".weight", "_scale")) if chance.randrange(2) else name[:-1]
        size = np.dtype(STORAGE[entry["dtype"]]).itemsize * int(np.prod(shape, dtype=object))
        values = (values * (size // max(1, len(values)) + 1) or bytes(size))[:size]
        tensors[name] = ({"dtype": entry["dtype"], "shape": shape}, values)
    position, found, pieces = 0, {}, []
    for name, (entry, values) in tensors.items():
        found[name] = {**entry, "data_offsets": [position, position + len(values)]}
        position += len(values)
        pieces.append(values)
    text = json.dumps(found).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(pieces)
