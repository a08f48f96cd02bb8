"""Importance matrices, chosen types and pruned layers: the library's bytes, and clear refusals."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggufrun.checkpoint.gguf.file import Header, Kind, encode, layout, serialize
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert import pipeline
from ggufrun.convert.imatrix import load_imatrix
from ggufrun.convert.plan import plan_quantize
from ggufrun.errors import FormatError, UsageError
from ggufrun.quantize.plan import QuantizeOptions, parse_override, parse_tensor_type, requires_imatrix
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.support.library import library_quantize

TYPES = gguf.GGMLQuantizationType
EXPERTS, WIDTH, INNER = 4, 256, 512


def moe_model(path: Path) -> Path:
    """A Llama with experts, as Mixtral has them, with random weights and no vocabulary worth the name."""
    random = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_vocab_size(64)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (64, WIDTH), "output": (64, WIDTH), "output_norm": (WIDTH,)}
    for layer in range(3):
        shapes |= {
            f"blk.{layer}.attn_norm": (WIDTH,),
            f"blk.{layer}.ffn_norm": (WIDTH,),
            f"blk.{layer}.attn_q": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k": (WIDTH // 2, WIDTH),
            f"blk.{layer}.attn_v": (WIDTH // 2, WIDTH),
            f"blk.{layer}.attn_output": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_gate_inp": (EXPERTS, WIDTH),
            f"blk.{layer}.ffn_gate_exps": (EXPERTS, INNER, WIDTH),
            f"blk.{layer}.ffn_up_exps": (EXPERTS, INNER, WIDTH),
            f"blk.{layer}.ffn_down_exps": (EXPERTS, WIDTH, INNER),
        }
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        matrix = len(shape) > 1 and not name.endswith("gate_inp")
        writer.add_tensor(name + ".weight", values.astype(np.float16) if matrix else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def matrix_file(path: Path, model: Path, skip: str = "", wider: int = 0) -> Path:
    """A random importance matrix for every matrix of ``model``, in llama-imatrix's GGUF format."""
    random = np.random.default_rng(9)
    arrays: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    for info in read_header(model).tensors:
        if len(info.shape) < 2 or info.name == "token_embd.weight" or (skip and skip in info.name):
            continue
        n_mat = info.shape[0] if len(info.shape) > 2 else 1
        sums = random.gamma(0.5, 40.0, (n_mat, info.shape[-1] + wider)).astype(np.float32)
        counts = np.full((n_mat, 1), 200, np.float32)
        # an expert that no token was sent to
        counts[-1] = 0 if n_mat > 1 else 200
        arrays[info.name + ".in_sum2"], arrays[info.name + ".counts"] = sums, counts
    metadata = {
        "general.type": encode("imatrix", Kind.STRING),
        "imatrix.datasets": encode(["text.txt"], Kind.ARRAY),
        "imatrix.chunk_count": encode(7, Kind.UINT32),
        "imatrix.chunk_size": encode(512, Kind.UINT32),
    }
    infos = layout([(name, array.shape, TYPES.F32) for name, array in arrays.items()], 32)
    header = Header(metadata, tuple(infos))
    data = b"".join(array.tobytes().ljust(-(-array.nbytes // 32) * 32, b"\0") for array in arrays.values())
    path.write_bytes(serialize(header) + data)
    return path


def legacy_file(path: Path, matrix: Path) -> Path:
    """The same values in the older binary format."""
    found = load_imatrix(matrix)
    data = struct.pack("<i", len(found.entries))
    for name, entry in found.entries.items():
        values = (entry.importance() * np.float32(3)).astype(np.float32).reshape(-1)
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 3, values.size) + values.tobytes()
    path.write_bytes(data + struct.pack("<ii", 7, 8) + b"text.txt")
    return path


def tensor_data(path: Path) -> dict[str, bytes]:
    header, data = read_header(path), path.read_bytes()
    return {
        f"{info.name} {info.type.name} {info.shape}": data[header.data_start + info.offset :][: info.n_bytes]
        for info in header.tensors
    }


def ours(source: Path, target: Path, name: str, options: QuantizeOptions, matrix: Path | None = None) -> Path:
    loaded = load_imatrix(matrix) if matrix else None
    plan = plan_quantize(source, [FILE_TYPES[name]], lambda kind: target, options, loaded)
    pipeline.run(plan, threads=3)
    plan.close()
    return target


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moe_model(tmp_path_factory.mktemp("moe") / "moe.gguf")


@pytest.fixture(scope="module")
def matrix(model: Path) -> Path:
    return matrix_file(model.parent / "imatrix.gguf", model)


@pytest.mark.parametrize("name", ["Q4_K_M", "Q2_K_S", "IQ2_XXS", "IQ1_S", "IQ1_M", "IQ3_XXS", "Q4_0", "Q5_1", "IQ4_XS"])
def test_an_importance_matrix(model: Path, matrix: Path, tmp_path: Path, name: str) -> None:
    assert library_quantize(model, tmp_path / "theirs", name, QuantizeOptions(), matrix)
    theirs = tensor_data(tmp_path / "theirs")
    assert tensor_data(ours(model, tmp_path / "ours", name, QuantizeOptions(), matrix)) == theirs
    header = read_header(tmp_path / "ours")
    assert header.get("quantize.imatrix.dataset") == "text.txt"
    assert header.get("quantize.imatrix.chunks_count") == 7


def test_the_matrix_matters(model: Path, matrix: Path, tmp_path: Path) -> None:
    with_matrix = tensor_data(ours(model, tmp_path / "with", "Q4_K_M", QuantizeOptions(), matrix))
    without = tensor_data(ours(model, tmp_path / "without", "Q4_K_M", QuantizeOptions()))
    key = f"blk.1.ffn_up_exps.weight Q4_K {(EXPERTS, INNER, WIDTH)}"
    assert with_matrix[key] != without[key]


def test_the_older_format_says_the_same(model: Path, matrix: Path, tmp_path: Path) -> None:
    old, new = load_imatrix(legacy_file(tmp_path / "old.dat", matrix)), load_imatrix(matrix)
    assert (old.datasets, old.chunk_count) == (new.datasets, new.chunk_count)
    for name, entry in new.entries.items():
        np.testing.assert_allclose(
            old.entries[name].importance().reshape(-1), entry.importance().reshape(-1), rtol=1e-6
        )
    ours(model, tmp_path / "x", "IQ2_XXS", QuantizeOptions(), tmp_path / "old.dat")


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(tensor_types=(("ffn_down", "q8_0"), ("blk\\.1\\..*", "q6_k"))),
        QuantizeOptions(output_type="q8_0", embedding_type="q5_0"),
        QuantizeOptions(prune=(1,)),
        QuantizeOptions(prune=(0, 2), tensor_types=(("attn_v", "f16"),)),
        QuantizeOptions(pure=True),
    ],
    ids=["tensor-type", "output-embedding", "prune", "prune-two", "pure"],
)
def test_options(model: Path, tmp_path: Path, options: QuantizeOptions) -> None:
    assert library_quantize(model, tmp_path / "theirs", "Q4_K_M", options, None)
    made = ours(model, tmp_path / "ours", "Q4_K_M", options)
    assert made.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert tensor_data(made) != tensor_data(ours(model, tmp_path / "plain", "Q4_K_M", QuantizeOptions()))


def test_pruning_with_a_matrix_uses_the_layers_own_entries(model: Path, matrix: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(prune=(0,))
    assert library_quantize(model, tmp_path / "theirs", "Q4_K_M", options, matrix)
    assert tensor_data(ours(model, tmp_path / "ours", "Q4_K_M", options, matrix)) == tensor_data(tmp_path / "theirs")


def test_the_tool_writes_the_same_file(
    oracle: Oracle, model: Path, matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs.gguf"
    # the tool keeps the path that it is given, ours the name only
    monkeypatch.chdir(matrix.parent)
    oracle.run(oracle.binaries / "llama-quantize", "--imatrix", matrix.name, model, theirs, "IQ2_XXS", "2")
    assert ours(model, tmp_path / "ours", "IQ2_XXS", QuantizeOptions(), matrix).read_bytes() == theirs.read_bytes()


def test_which_tensors_need_an_entry() -> None:
    low, lower = FILE_TYPES["Q2_K_S"], FILE_TYPES["IQ2_XXS"]
    assert requires_imatrix("blk.0.ffn_up.weight", "iq2_xxs", lower)
    assert requires_imatrix("blk.0.ffn_up.weight", "q2_k", low)
    assert not requires_imatrix("blk.0.ffn_up.weight", "q2_k", FILE_TYPES["Q2_K"])
    assert not requires_imatrix("token_embd.weight", "iq2_xxs", lower)


def test_matrices_that_do_not_fit(model: Path, matrix: Path, tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    def attempt(found: Path, name: str = "IQ2_XXS", source: Path = model) -> None:
        ours(source, tmp_path / "x", name, QuantizeOptions(), found)

    stranger = matrix_file(tmp_path / "stranger", model, skip="attn")
    with pytest.raises(UsageError, match=r"no entry for blk\.\d\.attn"):
        attempt(stranger)
    with pytest.raises(UsageError, match="264 values for"):
        attempt(matrix_file(tmp_path / "wider", model, wider=8))
    only_experts = matrix_file(tmp_path / "experts", model, skip="attn")
    data = only_experts.read_bytes().replace(b"blk.", b"abc.").replace(b"output.", b"eutput.")
    only_experts.write_bytes(data)
    with pytest.raises(UsageError, match="another model"):
        attempt(only_experts)
    with pytest.raises(FormatError, match="not an importance matrix"):
        attempt(demo_gguf("f16"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("data", [b"", b"\x01\x00\x00\x00", struct.pack("<ii", 1, -5), struct.pack("<ii", 1, 1 << 30)])
def test_damaged_matrices(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(FormatError):
        load_imatrix(tmp_path / "x")


def test_a_matrix_that_is_no_number(matrix: Path, tmp_path: Path) -> None:
    header = read_header(matrix)
    data = bytearray(matrix.read_bytes())
    data[header.data_start : header.data_start + 4] = np.array([np.nan], np.float32).tobytes()
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(FormatError, match="no sum of squares"):
        load_imatrix(tmp_path / "x")


def test_flags() -> None:
    assert parse_override("FFN_Down=q6-K") == ("ffn_down", "q6-K")
    assert parse_override("a=b=q8_0") == ("a=b", "q8_0")
    assert parse_tensor_type("Q6_K").id == TYPES.Q6_K
    for text in ("ffn_down", "=q8_0", "ffn_down=q99"):
        with pytest.raises(UsageError):
            parse_override(text)
    with pytest.raises(UsageError, match="q6_k"):
        parse_tensor_type("q6k")


def test_a_broken_expression_is_an_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--tensor-type: .*regular expression"):
        ours(model, tmp_path / "x", "Q4_K_M", QuantizeOptions(tensor_types=(("(", "q8_0"),)))


@pytest.mark.parametrize("layers", [(3,), (-1,), (0, 1, 2)])
def test_layers_that_cannot_go(model: Path, tmp_path: Path, layers: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cannot be left out"):
        ours(model, tmp_path / "x", "Q4_K_M", QuantizeOptions(prune=layers))
