"""Recorded checkpoints, written again without torch, and what the engine computes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.layouts.patterns import expand
from tests.support.checkpoints import safetensors_bytes
from tests.writers.tensors import stored

GOLDEN = Path(__file__).parent.parent / "golden" / "writers.json"

RUN = """
import ctypes, json, sys
from ggufrun.native.library import llama
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from pathlib import Path
ids, count = json.loads(sys.argv[1])
params = ContextParams(n_ctx=64, threads=1, flash_attention="off", type_k="f32", type_v="f32")
for path in sys.argv[2:]:
    print(json.dumps(path), end=" ", flush=True)
    with Model(ModelParams(Path(path), gpu_layers=0)) as model:
        with Context(model, params) as context:
            context.feed(ids)
            logits = llama().llama_get_logits_ith(context.pointer, -1)
            print(json.dumps([logits[number] for number in range(count)]), flush=True)
"""


def write(folder: Path, recorded: Mapping[str, Any]) -> Path:
    """The checkpoint as transformers wrote it, with the values that it was recorded with."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(recorded["config"]))
    entries = sorted(expand(recorded["tensors"]))
    tensors = {name: (dtype, stored(dtype, name, shape)) for name, dtype, shape in entries}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def logits_of(paths: Sequence[Path], ids: Sequence[int], count: int) -> dict[str, list[float]]:
    """What the engine computes for each file, without rounding to half precision where it can be told not to; in a
    process of its own, which a fault in C would end."""
    command = [sys.executable, "-c", RUN, json.dumps([list(ids), count]), *map(str, paths)]
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert result.returncode == 0, (result.stdout.splitlines()[-1][:200], result.stderr[-2000:])
    decoder, found = json.JSONDecoder(), {}
    for line in result.stdout.splitlines():
        path, end = decoder.raw_decode(line)
        found[Path(path).stem] = json.loads(line[end:])
    return found
