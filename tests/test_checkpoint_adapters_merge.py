"""Merging adapters: what PEFT's ``merge_and_unload`` gives, within one rounding; and what must not be merged.

``golden/peft`` was written by ``python tests/oracles/peft_samples.py tests/golden/peft`` with PEFT 0.21, torch 2.13.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from ggufrun.checkpoint.adapters import merge
from ggufrun.checkpoint.adapters.adapter import AdapterRequest, split_request
from ggufrun.checkpoint.adapters.merge import merged
from ggufrun.checkpoint.folder import FolderSource
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.patterns import matches_end
from ggufrun.checkpoint.quantized import as_float32
from ggufrun.checkpoint.safetensors import SAFETENSORS
from ggufrun.checkpoint.tensor import Checkpoint
from ggufrun.convert import pipeline
from ggufrun.convert.plan import Wishes, plan_convert
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError, UsageError
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.support.checkpoints import DEMO, bf16, llama_config, llama_tensors, write_llama
from tests.test_checkpoint_meta import write_meta

GOLDEN = Path(__file__).parent / "golden" / "peft"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())

Arrays = dict[str, npt.NDArray[Any]]


def values(source: Checkpoint) -> Arrays:
    """Every tensor as float32, read in two pieces."""
    found: Arrays = {}
    for name, tensor in source.tensors.items():
        middle = tensor.n_rows // 2
        rows = np.concatenate([tensor.rows(0, middle), tensor.rows(middle, tensor.n_rows)])
        found[name] = as_float32(tensor.dtype, rows).reshape(tensor.shape)
    return found


def assert_merged(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape
        np.testing.assert_allclose(ours[name], expected, rtol=2e-6, atol=2e-7, err_msg=name)
        for bits in (
            lambda array: array.astype(np.float16).view(np.int16).astype(int),
            lambda array: bf16(array).view(np.int16).astype(int),
        ):
            # neighbours at most, and those are rare
            steps = np.abs(bits(ours[name]) - bits(expected))[np.abs(expected) > 1e-5]
            assert (steps <= 1).all() and (steps > 0).sum() <= max(1, 0.02 * steps.size), name


def merge_case(folder: Path, tmp_path: Path) -> Arrays:
    adapter = tmp_path / "adapter"
    shutil.copytree(folder, adapter)
    if folder.name == "grown":
        (adapter / "tokenizer.model").touch()
    source = merged(FolderSource(folder, [folder / "base.safetensors"], SAFETENSORS), [AdapterRequest(adapter)])
    found = values(source)
    assert source.overrides == ({"vocab_size": 14} if folder.name == "grown" else {})
    source.close()
    return found


@pytest.mark.parametrize("case", CASES)
def test_equals_pefts_merge(tmp_path: Path, case: str) -> None:
    ours = merge_case(GOLDEN / case, tmp_path)
    assert_merged(ours, load_file(GOLDEN / case / "merged.safetensors"))


@pytest.mark.parametrize("case", CASES)
def test_the_comparison_would_notice(case: str) -> None:
    """The adapter does something, and to more than rounding."""
    if case != "half":
        base = load_file(GOLDEN / case / "base.safetensors")
        theirs = load_file(GOLDEN / case / "merged.safetensors")
        with pytest.raises(AssertionError):
            assert_merged(base, theirs)


def test_equals_pefts_merge_made_here(oracle: Oracle, tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    oracle.run(oracle.python, Path(__file__).parent / "oracles" / "peft_samples.py", samples)
    for case in CASES:
        (tmp_path / case).mkdir()
        ours = merge_case(samples / case, tmp_path / case)
        assert_merged(ours, load_file(samples / case / "merged.safetensors"))


def test_a_stack_of_two(tmp_path: Path) -> None:
    folder = GOLDEN / "plain"
    requests = [AdapterRequest(folder), AdapterRequest(folder / "second")]
    source = merged(FolderSource(folder, [folder / "base.safetensors"], SAFETENSORS), requests)
    assert_merged(values(source), load_file(folder / "second" / "merged.safetensors"))
    assert len(source.files) == 5
    source.close()


def test_a_scale_is_a_factor_on_the_change() -> None:
    folder = GOLDEN / "plain"
    base = load_file(folder / "base.safetensors")
    full = load_file(folder / "merged.safetensors")
    source = merged(FolderSource(folder, [folder / "base.safetensors"], SAFETENSORS), [AdapterRequest(folder, 0.25)])
    assert_merged(values(source), {name: base[name] + (full[name] - base[name]) / 4 for name in base})
    source.close()


def test_scales_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert split_request("some/adapter=0.5") == ("some/adapter", 0.5)
    assert split_request("hf://some/adapter@v1") == ("hf://some/adapter@v1", 1.0)
    assert split_request(str(tmp_path / "a=b")) == (str(tmp_path / "a=b"), 1.0)
    for text in ("adapter=", "adapter=much", "adapter=nan", "adapter=inf"):
        with pytest.raises(UsageError, match="--lora"):
            split_request(text)


def test_columns_measured_in_several_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "NORM_CHUNK", 16)
    for case in ("dora", "fan-dora"):
        (tmp_path / case).mkdir()
        assert_merged(merge_case(GOLDEN / case, tmp_path / case), load_file(GOLDEN / case / "merged.safetensors"))


def write_adapter(
    folder: Path, tensors: Mapping[str, npt.NDArray[Any]], tokenizer: bool = False, **settings: Any
) -> AdapterRequest:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{name}": array for name, array in tensors.items()}, folder / "adapter_model.safetensors"
    )
    if tokenizer:
        shutil.copy(DEMO / "tokenizer.model", folder)
    return AdapterRequest(folder)


def low_rank(module: str, out: int = 256, inner: int = 256, rank: int = 4, seed: int = 0) -> Arrays:
    chance = np.random.default_rng(seed)
    return {
        f"{module}.lora_A.weight": chance.standard_normal((rank, inner)).astype(np.float32) * np.float32(0.02),
        f"{module}.lora_B.weight": chance.standard_normal((out, rank)).astype(np.float32) * np.float32(0.02),
    }


QUERY = "model.layers.1.self_attn.q_proj"


def converted(folder: Path, out: Path, *requests: AdapterRequest) -> bytes:
    plan = plan_convert(folder, [FILE_TYPES["F32"]], lambda kind: out, wishes=Wishes("x"), adapters=requests)
    pipeline.run(plan, threads=2)
    plan.close()
    return out.read_bytes()


def test_a_merged_conversion_is_that_of_the_merged_checkpoint(tmp_path: Path) -> None:
    """The rotary order too: an adapter's rows are in the Hugging Face order, those of a GGUF are not."""
    weights = write_llama(tmp_path / "base", dtype="F32")
    change = low_rank(QUERY)
    request = write_adapter(tmp_path / "adapter", change)
    a, b = change.values()
    weights[f"{QUERY}.weight"] = (b * np.float32(2)) @ a + weights[f"{QUERY}.weight"]
    shutil.copytree(tmp_path / "base", tmp_path / "merged" / "base")
    save_file(weights, tmp_path / "merged" / "base" / "model.safetensors")
    ours = converted(tmp_path / "base", tmp_path / "a.gguf", request)
    theirs = converted(tmp_path / "merged" / "base", tmp_path / "b.gguf")
    assert len(ours) == len(theirs) and ours != converted(tmp_path / "base", tmp_path / "c.gguf")
    # rows are multiplied in other numbers than here, so sums may differ in the last place
    start = len(ours) - sum(array.nbytes for array in weights.values())
    np.testing.assert_allclose(
        np.frombuffer(ours[start:], np.float32), np.frombuffer(theirs[start:], np.float32), rtol=1e-6, atol=1e-8
    )


def test_a_base_in_metas_files(tmp_path: Path) -> None:
    config = llama_config(num_key_value_heads=4, intermediate_size=704, max_position_embeddings=4096)
    weights = llama_tensors(config)
    write_llama(
        tmp_path / "hf" / "m", dtype="F32", num_key_value_heads=4, intermediate_size=704, max_position_embeddings=4096
    )
    write_meta(tmp_path / "meta" / "m", config, weights, 2, dtype="F32")
    shutil.copy(DEMO / "tokenizer.model", tmp_path / "meta" / "m")
    change = low_rank(QUERY) | low_rank("model.layers.0.self_attn.k_proj", out=128, seed=1)
    request = write_adapter(tmp_path / "adapter", change)
    hf, meta = (open_checkpoint(tmp_path / kind / "m", [request]) for kind in ("hf", "meta"))
    ours, theirs = values(meta), values(hf)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_array_equal(ours[name], expected)
    assert (theirs[f"{QUERY}.weight"] != weights[f"{QUERY}.weight"]).any()
    hf.close()
    meta.close()


def whole(rows: int, seed: int = 3) -> Arrays:
    chance = np.random.default_rng(seed)
    return {
        name: chance.standard_normal((rows, 256)).astype(np.float16)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }


def test_a_table_that_old_adapters_carry(tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)}
    request = write_adapter(tmp_path / "adapter", low_rank(QUERY) | table)
    source = open_checkpoint(tmp_path / "base", [request])
    assert not [name for name in source.tensors if "inv_freq" in name]
    source.close()


def test_a_vocabulary_that_grows_twice(tmp_path: Path) -> None:
    """As LLaMA, then Chinese-LLaMA (17,953 tokens more), then Chinese-Alpaca (one more)."""
    write_llama(tmp_path / "base", vocab_size=2000, tokenizer=False)
    first = write_adapter(tmp_path / "first", whole(2999) | low_rank(QUERY), tokenizer=True)
    second = write_adapter(tmp_path / "second", whole(3000, seed=4), tokenizer=True)
    source = open_checkpoint(tmp_path / "base", [first, second])
    assert source.overrides == {"vocab_size": 3000}
    assert source.tokenizer == tmp_path / "second"
    found = values(source)
    np.testing.assert_array_equal(found["lm_head.weight"], whole(3000, seed=4)["lm_head.weight"].astype(np.float32))
    source.close()
    data = converted(tmp_path / "base", tmp_path / "out.gguf", first, second)
    from gguf import GGUFReader

    reader = GGUFReader(tmp_path / "out.gguf")
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == 3000 and len(data) > 3000 * 256 * 8
    assert reader.fields["llama.vocab_size"].contents() == 3000
    # the other way round, the second would cut tokens off
    with pytest.raises(FormatError, match=r"2999.*3000"):
        open_checkpoint(tmp_path / "base", [second, first])


def test_a_larger_vocabulary_needs_its_tokenizer(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", vocab_size=2000)
    request = write_adapter(tmp_path / "adapter", whole(3000))
    with pytest.raises(NotFoundError, match="brings no tokenizer"):
        open_checkpoint(tmp_path / "base", [request])


def test_the_tokenizer_of_before_is_not_padded(tmp_path: Path) -> None:
    """A last adapter that brings the base's tokenizer, as many do, to a vocabulary that an earlier one enlarged."""
    write_llama(tmp_path / "base", vocab_size=2048)
    first = write_adapter(tmp_path / "first", whole(2100), tokenizer=True)
    with pytest.raises(FormatError, match=r"beyond 2048.*has 2048 tokens"):
        plan_convert(tmp_path / "base", [], lambda kind: tmp_path / "out.gguf", adapters=[first])
    added = {f"<new{number}>": 2048 + number for number in range(50)}
    (first.path / "added_tokens.json").write_text(json.dumps(added))
    plan_convert(tmp_path / "base", [], lambda kind: tmp_path / "out.gguf", adapters=[first]).close()


def test_only_one_of_two_tensors_grows(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", vocab_size=2000)
    tensors = {"lm_head.weight": whole(3000)["lm_head.weight"]}
    request = write_adapter(tmp_path / "adapter", tensors, tokenizer=True)
    with pytest.raises(FormatError, match=r"2000 rows.*3000|3000.*2000"):
        open_checkpoint(tmp_path / "base", [request])


REFUSED: dict[str, tuple[dict[str, Any], Callable[[], Arrays], type[GgufrunError], str]] = {
    "ia3": ({"peft_type": "IA3"}, dict, UnsupportedError, "IA3"),
    "loha": ({"peft_type": "LOHA"}, dict, UnsupportedError, "LOHA"),
    "no type": ({"peft_type": None}, dict, UnsupportedError, "None"),
    "pissa": ({"init_lora_weights": "pissa_niter_16"}, lambda: low_rank(QUERY), UnsupportedError, "pissa"),
    "olora": ({"init_lora_weights": "olora"}, lambda: low_rank(QUERY), UnsupportedError, "olora"),
    "replication": ({"layer_replication": [[0, 2]]}, lambda: low_rank(QUERY), UnsupportedError, "repeats layers"),
    "activated": ({"alora_invocation_tokens": [1, 2]}, lambda: low_rank(QUERY), UnsupportedError, "aLoRA"),
    "tomorrow": ({"use_quantum": True}, lambda: low_rank(QUERY), UnsupportedError, "use_quantum"),
    "experts": (
        {"target_parameters": ["experts.down_proj"]},
        lambda: low_rank("model.layers.0.mlp.experts"),
        FormatError,
        r"no model\.layers\.0\.mlp\.experts",
    ),
    "parameters of nothing": (
        {"target_parameters": "experts.down_proj"},
        lambda: low_rank(QUERY),
        FormatError,
        "target_parameters = experts",
    ),
    "rank": ({"r": 8}, lambda: low_rank(QUERY), FormatError, "rank 4.* 8"),
    "rank is text": ({"r": "4"}, lambda: low_rank(QUERY), FormatError, "r = 4"),
    "rank is zero": ({"r": 0}, lambda: low_rank(QUERY), FormatError, "r = 0"),
    "alpha": ({"lora_alpha": None}, lambda: low_rank(QUERY), FormatError, "lora_alpha"),
    "alpha is true": ({"lora_alpha": True}, lambda: low_rank(QUERY), FormatError, "lora_alpha"),
    "dora without lengths": ({"use_dora": True}, lambda: low_rank(QUERY), FormatError, "DoRA"),
    "half of it": ({}, lambda: dict(list(low_rank(QUERY).items())[:1]), FormatError, "half"),
    "no tensors": ({}, dict, FormatError, "no tensors"),
    "too wide": ({}, lambda: low_rank(QUERY, out=512), FormatError, r"512, 256.*256, 256"),
    "too deep": ({}, lambda: low_rank(QUERY, inner=300), FormatError, r"256, 300.*256, 256"),
    "another model": ({}, lambda: low_rank("model.layers.77.self_attn.q_proj"), FormatError, "no model.layers.77"),
    "whole of another shape": ({}, lambda: {"model.norm.weight": np.ones(17, np.float32)}, FormatError, r"17.*256"),
    "narrow embeddings": (
        {},
        lambda: {"model.embed_tokens.weight": np.ones((3000, 100), np.float32)},
        FormatError,
        r"3000, 100.*3000, 256",
    ),
    "unknown tensor": ({}, lambda: {f"{QUERY}.lora_C.weight": np.ones((2, 2), np.float32)}, UnsupportedError, "lora_C"),
    "ia3's tensor": ({}, lambda: {f"{QUERY}.ia3_l": np.ones((2, 2), np.float32)}, UnsupportedError, "ia3_l"),
    "whole numbers": ({}, lambda: {"model.norm.weight": np.ones(256, np.int64)}, UnsupportedError, "not a tensor of a"),
    "two ranks": (
        {},
        lambda: {
            f"{QUERY}.lora_A.weight": np.ones((4, 256), np.float32),
            f"{QUERY}.lora_B.weight": np.ones((256, 3), np.float32),
        },
        FormatError,
        "4 and 3",
    ),
    "convolution": (
        {},
        lambda: {
            f"{QUERY}.lora_A.weight": np.ones((4, 256, 1), np.float32),
            f"{QUERY}.lora_B.weight": np.ones((256, 4, 1), np.float32),
        },
        UnsupportedError,
        "convolution",
    ),
    "experts, of which one factor tells": (
        {},
        lambda: {
            f"{QUERY}.lora_A.weight": np.ones((4, 256), np.float32),
            f"{QUERY}.lora_B.weight": np.ones((2, 256, 4), np.float32),
        },
        UnsupportedError,
        "has experts",
    ),
    "nothing in it": ({}, lambda: {"model.norm.weight": np.ones(0, np.float32)}, UnsupportedError, "not a tensor of a"),
    "bias without bias": (
        {},
        lambda: low_rank(QUERY) | {f"{QUERY}.lora_B.bias": np.ones(256, np.float32)},
        FormatError,
        "q_proj.bias",
    ),
    "pattern": ({"rank_pattern": {"(?P<x>a)": 4}}, lambda: low_rank(QUERY), UnsupportedError, "pattern"),
    "patterns are a list": ({"alpha_pattern": [1]}, lambda: low_rank(QUERY), FormatError, "alpha_pattern"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_must_not_be_merged(tmp_path: Path, kind: str) -> None:
    settings, tensors, error, words = REFUSED[kind]
    write_llama(tmp_path / "base")
    request = write_adapter(tmp_path / "adapter", tensors(), **settings)
    with pytest.raises(error, match=words):
        open_checkpoint(tmp_path / "base", [request])


def test_whole_tensors_have_no_scale(tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    request = write_adapter(tmp_path / "adapter", {"model.norm.weight": np.ones(256, np.float32)})
    with pytest.raises(UsageError, match="cannot be scaled"):
        open_checkpoint(tmp_path / "base", [AdapterRequest(request.path, 0.5)])


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("adapter_config.json", "adapter_config"),
        ("adapter_model.safetensors", "adapter_model"),
        ("", "no such adapter"),
    ],
)
def test_folders_that_are_no_adapter(tmp_path: Path, remove: str, words: str) -> None:
    write_llama(tmp_path / "base")
    request = write_adapter(tmp_path / "adapter", low_rank(QUERY))
    if remove:
        (request.path / remove).unlink()
    else:
        shutil.rmtree(request.path)
    with pytest.raises(NotFoundError, match=words):
        open_checkpoint(tmp_path / "base", [request])


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"peft_type": {}}', '{"peft_type": "LORA"}'])
def test_configs_that_are_none(tmp_path: Path, text: str) -> None:
    write_llama(tmp_path / "base")
    request = write_adapter(tmp_path / "adapter", low_rank(QUERY))
    (request.path / "adapter_config.json").write_text(text)
    with pytest.raises((FormatError, UnsupportedError)):
        open_checkpoint(tmp_path / "base", [request])


def test_mutated_configs_end_in_clean_errors(tmp_path: Path) -> None:
    chance = random.Random(5)
    folder = GOLDEN / "patterns"
    shutil.copytree(folder, tmp_path / "adapter")
    text = (folder / "adapter_config.json").read_bytes()
    refused = 0
    for _ in range(1500):
        data = bytearray(text)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = chance.choice(
                [b"(", b"*", b"+", b"{", b"}", b"1", b"-", b"e9", b'"', b"null", b"[", b"\\", b".", b"\xff", b"9" * 30]
            )
        (tmp_path / "adapter" / "adapter_config.json").write_bytes(bytes(data))
        base = FolderSource(folder, [folder / "base.safetensors"], SAFETENSORS)
        try:
            merged(base, [AdapterRequest(tmp_path / "adapter")]).close()
        except GgufrunError:
            refused += 1
        finally:
            base.close()
    assert refused > 700


NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.12.mlp.gate_proj", "lm_head", "q_proj", "xq_proj", ""]
PATTERNS = [
    "q_proj", "roj", "self_attn.q_proj", r"layers\.\d+\.mlp.*", r"model\.layers\.(0|12)\..*", "^model.*", "^q_proj",
    ".*", "", "(lm_)?head", "[a-q]_proj", "[^x]q_proj", r"[\d]+", "q_proj$", "q_proj|lm_head",
    r"layers.1[0-9].*gate_proj", "(?:q|k)_proj", "x?q_proj", r"\w+", "[ab-]*", "m.{3}l.*", "mo{1,2}del.*",
    "l{1}m_head", ".*?proj", "a||b", "()*", "(a*)*b",
]  # fmt: skip


def test_patterns_match_as_pythons_do() -> None:
    hits = 0
    for pattern in PATTERNS:
        for name in NAMES:
            expected = re.match(rf"(.*\.)?({pattern})$", name) is not None
            assert matches_end(pattern, name) == expected, (pattern, name)
            hits += expected
    assert hits > 30


@pytest.mark.parametrize(
    "pattern", ["(a*)*" * 199, "((((a{1000}){1000}){1000}){1000})", "(" * 500, "a" * 2000, "a{1,", "[a"]
)
def test_patterns_that_take_for_ever_are_refused_or_quick(pattern: str) -> None:
    with contextlib.suppress(UnsupportedError):
        assert not matches_end(pattern, "a" * 200 + "b")
