"""Every family against llama.cpp's own converter: the data of all tensors, and all metadata but the tokenizer's.

Its answers are recorded in ``golden/families``, a file a family; where the tools are on the machine they are asked
again. Deliberate differences are listed in ``BETTER``, with what the converter's answer would do.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert import arch, pipeline, plan
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.families.family import no_vocabulary, replace_vocabulary, write
from tests.families.family_cases import CASES

GOLDEN = Path(__file__).parent / "golden" / "families"

BETTER: dict[str, dict[str, Any]] = {
    # a name with phi3 in it makes llama.cpp look for tokens that not every vocabulary has, and end the process
    "phi3": {"general.name": "Phi 3"},
    "phi3-su": {"general.name": "Phi 3 Su"},
    # llama.cpp refuses to load a Qwen 1 without it
    "qwen1": {"qwen.attention.layer_norm_rms_epsilon": 1e-6},
    # the converter reads keys that only the older form of the checkpoint has: a context of 48, another epsilon
    "glm-transformers": {"chatglm.context_length": 512, "chatglm.attention.layer_norm_rms_epsilon": 1.5625e-7},
    # the converter counts layers that predict a second token where fine-tuning has left none
    "glm-4.5-no-predictor": {"glm4moe.block_count": 3, "glm4moe.nextn_predict_layers": None},
    "glm-4.5-groups": {"glm4moe.block_count": 3, "glm4moe.nextn_predict_layers": None},
    "glm-4.7-flash-yarn": {
        "deepseek2.block_count": 3,
        "deepseek2.nextn_predict_layers": None,
        "deepseek2.expert_gating_func": 2,
    },
    # llama.cpp reads sizes that its converter takes for granted: four times the width, as many key heads as query heads
    "phi2-wide": {"phi2.feed_forward_length": 112, "phi2.attention.head_count_kv": 2},
    "gpt2-wide": {"gpt2.feed_forward_length": 112},
    "falcon-wide": {"falcon.feed_forward_length": 112},
    # llama.cpp knows how experts are chosen by the size of the published vocabulary alone
    "glm-4.7-flash": {"deepseek2.expert_gating_func": 2},
}
"""Keys that are not as llama.cpp's converter writes them, and their values here; None stands for no such key."""


OTHER_VALUES = {
    # the converter leaves to the user that the model normalizes this when it runs
    "baichuan2-7b": ("output.weight",),
    # the last bit: the lengths of columns are added up in another order
    "ling-lite-normed-output": ("output.weight",),
}
"""Tensors whose values are not those of llama.cpp's converter. What the engine computes with them is compared with
transformers (see test_convert_logits.py)."""


def family_of(name: str) -> str:
    """The golden file of a case."""
    architectures = CASES[name].config["architectures"]
    return str(architectures[0])


def summary(path: Path) -> dict[str, Any]:
    """What is compared of a GGUF: order matters, of keys and of tensors."""
    header, data = read_header(path), path.read_bytes()
    start = len(data) - header.data_size
    return {
        "metadata": {key: header.get(key) for key in header.metadata if not key.startswith("tokenizer.")},
        "tensors": {
            info.name: [
                info.type.name,
                "x".join(map(str, info.shape)),
                hashlib.sha256(data[start + info.offset : start + info.offset + info.n_bytes]).hexdigest()[:16],
            ]
            for info in header.tensors
        },
    }


@pytest.fixture(autouse=True)
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)


def ours(folder: Path, out: Path, outtype: str) -> dict[str, Any]:
    planned = plan.plan_convert(folder, [FILE_TYPES[outtype.upper()]], lambda kind: out)
    pipeline.run(planned, threads=2)
    planned.close()
    return summary(out)


def assert_same(name: str, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for tensor in OTHER_VALUES.get(name, ()):
        assert mine["tensors"][tensor][-1] != theirs["tensors"][tensor][-1]
        mine["tensors"][tensor][-1] = theirs["tensors"][tensor][-1]
    assert mine["tensors"] == theirs["tensors"]
    assert list(mine["tensors"]) == list(theirs["tensors"])
    changes = BETTER.get(name, {})
    better = {
        key: value if isinstance(value, str) else pytest.approx(value, rel=1e-6)
        for key, value in changes.items()
        if value is not None
    }
    left = {key: value for key, value in theirs["metadata"].items() if changes.get(key, 0) is not None}
    assert mine["metadata"] == left | better
    assert [key for key in mine["metadata"] if key not in better] == [key for key in left if key not in better]


@pytest.mark.parametrize("name", CASES)
def test_recorded_answers(tmp_path: Path, name: str) -> None:
    theirs = json.loads((GOLDEN / f"{family_of(name)}.json").read_text())["cases"][name]
    assert_same(name, ours(write(tmp_path / name, CASES[name]), tmp_path / "ours.gguf", CASES[name].outtype), theirs)


def test_fresh_answers(oracle: Oracle, tmp_path: Path, record: Path | None) -> None:
    """All in one run of the converter: importing torch takes longer than the conversions."""
    script = Path(__file__).parent / "oracles" / "family_oracle.py"
    folders = {name: write(tmp_path / name, case) for name, case in CASES.items()}
    jobs = [f"{folder}:{CASES[name].outtype}:{tmp_path / name}.gguf" for name, folder in folders.items()]
    oracle.run(oracle.python, script, oracle.convert, *jobs)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.error")} == {}
    answers = {name: summary(tmp_path / f"{name}.gguf") for name in CASES}
    if record is not None:
        for family in sorted({family_of(name) for name in CASES}):
            golden = {
                "command": "$ORACLE_PYTHON tests/oracles/family_oracle.py $ORACLE_CONVERT FOLDER:TYPE:OUT",
                "cases": {name: answers[name] for name in CASES if family_of(name) == family},
            }
            text = json.dumps(golden, indent=1).replace("[\n     ", "[").replace(",\n     ", ", ")
            (record / "families" / f"{family}.json").write_text(text.replace("\n    ]", "]") + "\n")
    for name, folder in folders.items():
        assert_same(name, ours(folder, tmp_path / f"{name}-ours.gguf", CASES[name].outtype), answers[name])


def test_every_family_is_compared() -> None:
    compared = {name for case in CASES.values() for name in case.config["architectures"]}
    assert all(compared & set(family.names) for family in arch.families().values())


def test_the_base_of_rotation_is_told_where_the_reference_forgets_it(tmp_path: Path) -> None:
    """Falcon 2 rotates with another base than 10000; llama.cpp reads the key, its converter does not write it."""
    case = CASES["falcon-40b"]
    folder = write(tmp_path / "falcon-40b", replace(case, config={**case.config, "rope_theta": 500042.0}))
    planned = plan.plan_convert(folder, (), lambda kind: tmp_path / "out.gguf")
    planned.close()
    assert planned.targets[0].header.get("falcon.rope.freq_base") == 500042.0


def test_masks_and_tied_outputs_that_old_checkpoints_carry(tmp_path: Path) -> None:
    """The first GPT-2 files have a causal mask in every layer, and names without a prefix."""
    case = CASES["gpt2"]
    shapes = {name.removeprefix("transformer."): shape for name, shape in case.shapes.items()}
    shapes |= {f"h.{layer}.attn.bias": (1, 1, 64, 64) for layer in range(2)}
    folder = write(tmp_path / "gpt2", replace(case, shapes=shapes))
    planned = plan.plan_convert(folder, (), lambda kind: tmp_path / "out.gguf")
    planned.close()
    golden = json.loads((GOLDEN / "GPT2LMHeadModel.json").read_text())["cases"]["gpt2"]
    assert {info.name for info in planned.targets[0].header.tensors} == set(golden["tensors"])


def test_experts_that_lie_straight_are_those_that_lie_transposed(tmp_path: Path) -> None:
    """transformers 5 keeps the experts of Qwen3-VL otherwise than they were published; the shapes tell."""
    case = replace(CASES["qwen3-vl-moe"], dtype="F32")
    turned = write(tmp_path / "turned", case)
    tensors = load_file(turned / "model.safetensors")
    for name in tensors:
        if ".mlp.experts." in name:
            tensors[name] = np.ascontiguousarray(tensors[name].swapaxes(1, 2))
    straight = write(tmp_path / "straight", case)
    save_file(tensors, straight / "model.safetensors")
    results = [ours(folder, folder.with_suffix(".gguf"), "f16")["tensors"] for folder in (turned, straight)]
    assert results[0] == results[1]


def test_layers_ahead_are_counted_by_what_is_there(tmp_path: Path) -> None:
    """Fine-tuning with transformers leaves none, whatever config.json still says; and it may say nothing at all."""
    for name, arch_name, ahead in (("qwen3.5-text", "qwen35", 1), ("qwen3-next-80b", "qwen3next", 1)):
        for keeps in (True, False):
            case = CASES[name]
            shapes = {key: shape for key, shape in case.shapes.items() if keeps or not key.startswith("mtp.")}
            folder = write(tmp_path / f"{name}-{keeps}", replace(case, shapes=shapes))
            planned = plan.plan_convert(folder, (), lambda kind: tmp_path / "out.gguf")
            planned.close()
            header = planned.targets[0].header
            assert header.get(f"{arch_name}.block_count") == 4 + ahead * keeps
            assert header.get(f"{arch_name}.nextn_predict_layers") == (ahead if keeps else None)
            recurrent = header.get(f"{arch_name}.attention.recurrent_layers")
            assert recurrent == [True, True, True, False] + [False] * (ahead * keeps)
