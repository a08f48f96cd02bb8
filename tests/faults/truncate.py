"""Files cut short anywhere: never taken for whole ones."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import GgufrunError
from tests.fuzz import (
    adapter,
    bpe_llama,
    convert,
    gguf_file,
    merge,
    quantize,
    small_llama,
    torch_llama,
)


@dataclass(frozen=True)
class Kind:
    """``make`` writes sound files, ``read`` reads them; ``name`` is the one that is cut."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    name: str


KINDS: dict[str, Kind] = {
    "gguf": Kind(gguf_file, quantize, "model.gguf"),
    "safetensors": Kind(small_llama, convert, "model.safetensors"),
    "torch, zip": Kind(torch_llama, convert, "pytorch_model.bin"),
    "torch, before 1.6": Kind(lambda folder: torch_llama(folder, legacy=True), convert, "pytorch_model.bin"),
    "config.json": Kind(small_llama, convert, "config.json"),
    "tokenizer.model": Kind(small_llama, convert, "tokenizer.model"),
    "tokenizer.json": Kind(bpe_llama, convert, "tokenizer.json"),
    "adapter": Kind(adapter, merge, "adapter_model.safetensors"),
    "adapter_config.json": Kind(adapter, merge, "adapter_config.json"),
}


def run(rounds: int, seed: int) -> Iterator[tuple[str, str]]:
    """As `kill.run`: each kind cut at its ends, and at places by chance."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ggufrun-faults-") as temporary:
        for number, (name, kind) in enumerate(KINDS.items()):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            kind.make(folder)
            path = folder / kind.name
            whole = path.read_bytes()
            places = [0, 1, 7, 8, len(whole) // 2, len(whole) - 1]
            share = rounds // len(KINDS) + (number < rounds % len(KINDS))
            places = [*places, *(dice.randrange(len(whole)) for _ in range(share))][:share]
            for at in places:
                path.write_bytes(whole[:at])
                yield f"{name} cut at {at} of {len(whole)} bytes", _round(kind, folder)
            path.write_bytes(whole)


def _round(kind: Kind, folder: Path) -> str:
    try:
        kind.read(folder)
    except GgufrunError as error:
        return f"more than a line: {error}" if "\n" in str(error) else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it was taken for whole"
