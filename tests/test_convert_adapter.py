"""Adapters as GGUF files: the bytes of llama.cpp's ``convert_lora_to_gguf.py``, and what it gets wrong.

Its answers are recorded as SHA-256 in ``golden/adapter.json``, beside the command that made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.convert import pipeline
from ggufrun.convert.adapter import plan_adapter
from ggufrun.convert.plan import Plan, plan_convert
from ggufrun.engine import adapters as engine_adapters
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError, UsageError
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.families.family import replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES
from tests.support.checkpoints import llama_config, llama_tensors
from tests.test_checkpoint_adapters_merge import Arrays, low_rank, write_adapter
from tests.test_checkpoint_meta import write_meta

GOLDEN = Path(__file__).parent / "golden" / "adapter.json"
PEFT = GOLDEN.parent / "peft"

LAYER = "model.layers.1."


def attention(width: int = 256, keys: int = 64) -> Arrays:
    return (
        low_rank(f"{LAYER}self_attn.q_proj", width, width)
        | low_rank(f"{LAYER}self_attn.k_proj", keys, width, seed=1)
        | low_rank(f"{LAYER}mlp.down_proj", width, 512, seed=2)
    )


OTHERS: dict[str, Callable[[], Arrays]] = {
    "LlamaForCausalLM": attention,
    "Qwen2ForCausalLM": lambda: attention() | low_rank("lm_head", 3000, 256, seed=4),
    "Phi3ForCausalLM": lambda: (
        low_rank(f"{LAYER}self_attn.qkv_proj", 384, 256) | low_rank(f"{LAYER}mlp.gate_up_proj", 1024, 256)
    ),
}
RUNS = [
    *((f"peft/{case}", "f32") for case in ("plain", "bin", "embedding", "half")),
    ("peft/plain", "f16"),
    ("peft/plain", "bf16"),
    ("peft/half", "bf16"),
    *((name, "f32") for name in OTHERS),
    ("norms", "f16"),
]


def prepare(tmp_path: Path, name: str) -> tuple[Path, Path]:
    """Base and adapter folder."""
    if name.startswith("peft/"):
        return PEFT.parent / name, PEFT.parent / name
    architecture = name if name in OTHERS else "LlamaForCausalLM"
    base = tmp_path / "base"
    base.mkdir()
    extra: dict[str, Any] = {"pad_token_id": 0, "original_max_position_embeddings": 512} if "Phi3" in name else {}
    config = llama_config(architectures=[architecture], head_dim=32, **extra)
    (base / "config.json").write_text(json.dumps(config))
    tensors = OTHERS[architecture]()
    if name == "norms":
        tensors |= {f"{LAYER}input_layernorm.weight": np.linspace(0.5, 1.5, 256).astype(np.float32)}
    request = write_adapter(tmp_path / "an-adapter", tensors)
    return base, request.path


def ours(tmp_path: Path, base: Path, adapter: Path, kind: str = "f32", scale: float = 1.0) -> bytes:
    out = tmp_path / "ours.gguf"
    plan = plan_adapter(base, AdapterRequest(adapter, scale), out, [FILE_TYPES[kind.upper()]])
    pipeline.run(plan, threads=2)
    plan.close()
    data = out.read_bytes()
    out.unlink()
    return data


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_recorded_answers(tmp_path: Path, name: str, kind: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert (
        hashlib.sha256(ours(tmp_path, *prepare(tmp_path, name), kind)).hexdigest() == golden["sha256"][f"{name} {kind}"]
    )


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_fresh_answers(oracle: Oracle, tmp_path: Path, record: Path | None, name: str, kind: str) -> None:
    base, adapter = prepare(tmp_path, name)
    out = tmp_path / "theirs.gguf"
    script = oracle.convert.with_name("convert_lora_to_gguf.py")
    oracle.run(oracle.python, script, "--base", base, "--outtype", kind, "--outfile", out, adapter)
    theirs = out.read_bytes()
    if record is not None:
        golden = json.loads(GOLDEN.read_text())
        golden["sha256"][f"{name} {kind}"] = hashlib.sha256(theirs).hexdigest()
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    assert ours(tmp_path, base, adapter, kind) == theirs


def change(path: Path, name: str) -> Any:
    """What llama.cpp adds to a weight."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
    return reader.fields["adapter.lora.alpha"].contents() / b.shape[1] * (b @ a)


@pytest.mark.parametrize("case", ["rslora", "patterns"])
def test_scales_that_a_file_cannot_tell_go_into_the_matrices(tmp_path: Path, case: str) -> None:
    """The reference converter drops them; PEFT's merge is the truth here."""
    folder = PEFT / case
    (tmp_path / "out.gguf").write_bytes(ours(tmp_path, folder, folder))
    base, merged = load_file(folder / "base.safetensors"), load_file(folder / "merged.safetensors")
    for module, name in (
        ("mlp.gate_proj", "ffn_gate"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.v_proj", "attn_v"),
    ):
        for layer in (0, 1):
            weight = f"model.layers.{layer}.{module}.weight"
            found = change(tmp_path / "out.gguf", f"blk.{layer}.{name}.weight")
            np.testing.assert_allclose(found, merged[weight] - base[weight], rtol=1e-4, atol=1e-6)


def test_a_scale_goes_into_the_matrices(tmp_path: Path) -> None:
    folder = PEFT / "plain"
    name = "blk.0.attn_v.weight"
    (tmp_path / "one.gguf").write_bytes(ours(tmp_path, folder, folder))
    (tmp_path / "half.gguf").write_bytes(ours(tmp_path, folder, folder, scale=0.5))
    np.testing.assert_allclose(change(tmp_path / "half.gguf", name), change(tmp_path / "one.gguf", name) / 2, rtol=1e-6)


def test_a_base_in_metas_files(tmp_path: Path) -> None:
    base, adapter = prepare(tmp_path, "LlamaForCausalLM")
    config = llama_config(intermediate_size=512, max_position_embeddings=4096)
    write_meta(tmp_path / "meta", config, llama_tensors(config), multiple_of=2, ffn_dim_multiplier=0.7510)
    assert ours(tmp_path, tmp_path / "meta", adapter) == ours(tmp_path, base, adapter)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("dora", "DoRA"),
        ("fan", "transposed"),
        ("saved", "replaces"),
        ("grown", "replaces"),
        ("bias", "replaces"),
        ("lora-bias", "bias"),
    ],
)
def test_what_llama_cpp_cannot_add(tmp_path: Path, case: str, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        ours(tmp_path, PEFT / case, PEFT / case)


@pytest.mark.parametrize(
    ("module", "changes", "error", "words"),
    [
        ("model.layers.9.mlp.up_proj", {}, FormatError, "no model.layers.9"),
        ("vision.patch", {}, FormatError, "no vision.patch"),
        ("lm_head", {"tie_word_embeddings": True}, FormatError, "no lm_head"),
        (f"{LAYER}mlp.up_proj", {"architectures": ["MambaForCausalLM"]}, UnsupportedError, "Mamba"),
    ],
)
def test_adapters_of_another_base(
    tmp_path: Path, module: str, changes: dict[str, Any], error: type[GgufrunError], words: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(llama_config(**changes)))
    request = write_adapter(tmp_path / "adapter", low_rank(module))
    with pytest.raises(error, match=words):
        ours(tmp_path, tmp_path, request.path)


def for_case(case: str, *modules: str) -> Arrays:
    """Changes to modules of one of the tiny checkpoints of all families."""
    shapes = CASES[case].shapes
    tensors: Arrays = {}
    for module in modules:
        tensors |= low_rank(module, *shapes.get(f"{module}.weight", (48, 48)))
    return tensors


def plan_for_case(tmp_path: Path, case: str, tensors: Arrays) -> Plan:
    request = write_adapter(tmp_path / "adapter", tensors)
    return plan_adapter(write(tmp_path / case, CASES[case]), request, tmp_path / "adapter.gguf")


LEFT_OUT = {
    # kept in the GGUF, but not loaded
    "glm-4.5-air": ("model.layers.2.self_attn.o_proj", "model.layers.3.self_attn.q_proj", "model.layers.3.eh_proj"),
    "qwen3.5-text": ("model.layers.3.self_attn.o_proj", "mtp.layers.0.mlp.up_proj", "mtp.fc"),
    # not kept
    "deepseek-r1": ("model.layers.1.self_attn.o_proj", "model.layers.2.self_attn.q_a_proj"),
    "qwen2.5-vl": ("model.language_model.layers.1.self_attn.o_proj", "visual.blocks.0.attn.proj"),
}
"""Modules of a checkpoint that an adapter changes; all but the first are no layers of the text."""


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_llama_cpp_would_refuse_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """It knows no layers that predict further tokens, nor eyes; it takes the rest."""
    replace_vocabulary(monkeypatch, some_vocabulary)
    plan = plan_for_case(tmp_path, case, for_case(case, *LEFT_OUT[case]))
    assert sorted(plan.left_out) == sorted(LEFT_OUT[case][1:])
    base = plan_convert(tmp_path / case, [FILE_TYPES["F32"]], lambda kind: tmp_path / "base.gguf")
    for each in (plan, base):
        pipeline.run(each, threads=1)
        each.close()
    with Model(ModelParams(tmp_path / "base.gguf", gpu_layers=0)) as model:
        adapters = (engine_adapters.Adapter(tmp_path / "adapter.gguf"),)
        with Context(model, ContextParams(n_ctx=64, threads=1, adapters=adapters)) as context:
            context.feed([1, 5, 17])


def test_an_adapter_of_nothing_that_llama_cpp_adds_to(tmp_path: Path) -> None:
    tensors = for_case("glm-4.5-air", "model.layers.3.self_attn.q_proj")
    with pytest.raises(UnsupportedError, match=r"only model\.layers\.3\.self_attn\.q_proj"):
        plan_for_case(tmp_path, "glm-4.5-air", tensors)


def test_an_output_that_a_family_ties_itself(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no lm_head"):
        plan_for_case(tmp_path, "hunyuan-1.8b", low_rank("lm_head", 320, 48))


def test_a_type_of_blocks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Q4_K_M"):
        ours(tmp_path, PEFT / "plain", PEFT / "plain", "q4_k_m")
