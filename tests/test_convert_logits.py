"""Converted families in the engine: all load and compute, and where transformers knows them, what transformers does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufrun.convert import pipeline, plan
from ggufrun.quantize.types import FILE_TYPES, FileType
from tests.conftest import Oracle
from tests.families.family import replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES
from tests.oracles.family_logits import IDS

GOLDEN = Path(__file__).parent / "golden" / "families" / "logits.json"

OTHERWISE = {
    # llama.cpp ranks groups of experts by the best two of each, transformers by the best one
    "deepseek-v2",
    # transformers knows other names of these tensors only, and fills in random numbers
    "ernie-4.5-fused",
}
"""Checkpoints that llama.cpp computes in another way than transformers, whatever is converted."""

NEAR = 0.006
"""How near the largest difference is to come to the largest value; the engine's kernels round in other places."""

FARTHER = {"gemma-3n-text": 0.05, "gemma-3n-e2b": 0.05}
"""Where that adds up over twenty-five layers: rounding transformers' keys, values and activations to half precision,
as the engine does, moves it as far."""

RUN = """
import ctypes, json, sys
from ggufrun.native.library import llama
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from pathlib import Path
ids = json.loads(sys.argv[1])
for path in sys.argv[2:]:
    print(json.dumps(path), end=" ", flush=True)
    with Model(ModelParams(Path(path), gpu_layers=0)) as model:
        with Context(model, ContextParams(n_ctx=64, threads=1)) as context:
            context.feed(ids)
            logits = llama().llama_get_logits_ith(context.pointer, -1)
            print(json.dumps([logits[number] for number in range(320)]), flush=True)
"""


def namer(folder: Path, name: str) -> Callable[[FileType], Path]:
    return lambda kind: folder / f"{name}.{kind.name}.gguf"


def logits_of(paths: list[Path]) -> dict[str, list[float]]:
    """What the engine computes for each file; in a process of its own, which a fault in C would end."""
    command = [sys.executable, "-c", RUN, json.dumps(IDS), *map(str, paths)]
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert result.returncode == 0, (result.stdout.splitlines()[-1][:200], result.stderr[-2000:])
    decoder, found = json.JSONDecoder(), {}
    for line in result.stdout.splitlines():
        path, end = decoder.raw_decode(line)
        found[Path(path).stem] = json.loads(line[end:])
    return found


def test_the_engine_computes_what_transformers_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: Path | None, request: pytest.FixtureRequest
) -> None:
    """Every family loads and computes, as F32 and as Q4_K_M; where transformers knows it, the same numbers."""
    replace_vocabulary(monkeypatch, some_vocabulary)
    paths, folders = [], {}
    for name, case in CASES.items():
        folders[name] = write(tmp_path / name, case)
        kinds = [FILE_TYPES["F32"], FILE_TYPES["Q4_K_M"]]
        # some names make llama.cpp look for tokens of the model they belong to
        planned = plan.plan_convert(folders[name], kinds, namer(tmp_path, name), wishes=plan.Wishes("tiny"))
        pipeline.run(planned, threads=2)
        planned.close()
        paths += [target.path for target in planned.targets]
    if record is not None:
        oracle: Oracle = request.getfixturevalue("oracle")
        script = Path(__file__).parent / "oracles" / "family_logits.py"
        command = [str(oracle.python), str(script), *map(str, folders.values())]
        answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        answers = json.loads(answer)
        (record / "families" / "logits.json").write_text(
            json.dumps(
                {
                    "command": "$ORACLE_PYTHON tests/oracles/family_logits.py FOLDER...",
                    "every": 16,
                    "logits": {name: values[::16] for name, values in answers.items()},
                },
            ).replace("], ", "],\n ")
            + "\n"
        )
    computed = logits_of(paths)
    assert len(computed) == 2 * len(CASES)
    assert all(np.isfinite(values).all() for values in computed.values())
    golden = json.loads((GOLDEN).read_text())
    assert len(golden["logits"]) > 105
    for name, expected in golden["logits"].items():
        if name in OTHERWISE:
            continue
        values = np.array(computed[f"{name}.F32"])
        # a sixteenth of them, so that the file stays small
        error = np.abs(values[:: golden["every"]] - expected).max()
        assert error < FARTHER.get(name, NEAR) * np.abs(values).max(), (name, error)
