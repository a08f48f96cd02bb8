"""Every file type of the library over many architectures: its whole file, header and data, byte for byte.

What a plan says and what the library does are thereby the same too: the types stand in the header.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.tensor_types import BLOCKS, TensorType
from ggufrun.convert import pipeline
from ggufrun.convert.imatrix import load_imatrix
from ggufrun.convert.plan import plan_quantize, split_plan
from ggufrun.errors import EngineError, UsageError
from ggufrun.quantize import ggml
from ggufrun.quantize.plan import QuantizeOptions
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.families.architectures import ARCHITECTURES, write, write_imatrix
from tests.support.library import library_quantize, llama_cpp, run_quantizer


def differences(
    source: Path, folder: Path, names: Sequence[str], options: QuantizeOptions, matrix: Path | None = None
) -> list[str]:
    """The types for which we write other tensors than the library, or refuse what it does not, or the reverse."""
    found = []
    loaded = load_imatrix(matrix) if matrix else None
    theirs, ours = folder / "theirs", folder / "ours"
    for name in names:
        possible = library_quantize(source, theirs, name, options, matrix)
        try:
            plan = plan_quantize(source, [FILE_TYPES[name]], lambda kind: ours, options, loaded)
        except (UsageError, EngineError) as error:
            if possible:
                found.append(f"{name}: refused: {error}")
            continue
        pipeline.run(plan, threads=2, force=True)
        plan.close()
        if not possible:
            found.append(f"{name}: the library refuses")
        elif _tensors(ours) != _tensors(theirs) or (matrix is None and ours.read_bytes() != theirs.read_bytes()):
            # with a matrix, llama-quantize adds keys that the library's function does not
            found.append(f"{name}: other bytes")
    return found


def _tensors(path: Path) -> tuple[Any, bytes]:
    header = read_header(path)
    return header.tensors, path.read_bytes()[header.data_start :]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """``made("mamba", "f16")``."""
    folder = tmp_path_factory.mktemp("architectures")

    def path(name: str, kind: str) -> Path:
        file = folder / f"{name}-{kind}.gguf"
        return file if file.exists() else write(file, ARCHITECTURES[name], TensorType[kind.upper()])

    return path


@pytest.mark.parametrize("matrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_type_of_every_architecture(
    made: Callable[[str, str], Path], tmp_path: Path, name: str, matrix: bool
) -> None:
    source = made(name, "f16")
    file = write_imatrix(tmp_path / "imatrix", source) if matrix else None
    assert differences(source, tmp_path, list(FILE_TYPES), QuantizeOptions(), file) == []


@pytest.mark.parametrize("matrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("name", ["llama", "mixture", "rows-of-96"])
def test_every_type_from_every_plain_type(
    made: Callable[[str, str], Path], tmp_path: Path, name: str, kind: str, matrix: bool
) -> None:
    source = made(name, kind)
    file = write_imatrix(tmp_path / "imatrix", source) if matrix else None
    assert differences(source, tmp_path, list(FILE_TYPES), QuantizeOptions(), file) == []


@pytest.mark.parametrize("before", [name for name, kind in FILE_TYPES.items() if not kind.plain])
def test_requantizing_every_type(made: Callable[[str, str], Path], tmp_path: Path, before: str) -> None:
    source, quantized = made("mixture", "f32"), tmp_path / "quantized.gguf"
    matrix = write_imatrix(tmp_path / "imatrix", source)
    assert library_quantize(source, quantized, before, QuantizeOptions(), matrix)
    options = QuantizeOptions(allow_requantize=True)
    names = ["F16", "Q8_0", "Q5_K_M", "Q4_0", "IQ4_XS", "Q3_K_S", "MXFP4_MOE", "TQ2_0", "Q2_0"]
    assert differences(quantized, tmp_path, names, options) == []
    assert differences(quantized, tmp_path, ["Q4_K_M", "IQ2_XS", "IQ1_M"], options, matrix) == []


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(pure=True),
        QuantizeOptions(leave_output=True),
        QuantizeOptions(output_type="q8_0", embedding_type="q5_0"),
        QuantizeOptions(tensor_types=(("ffn_down", "q8_0"), (r"blk\.[13]\.", "q6_k"))),
        QuantizeOptions(tensor_types=(("attn_v", "iq2_xs"),)),
        QuantizeOptions(prune=(0, 4, 5)),
    ],
    ids=["pure", "leave-output", "output-embedding", "tensor-type", "needs-imatrix", "prune"],
)
@pytest.mark.parametrize("name", ["llama", "mixture", "deepseek2", "rows-of-96"])
def test_options(made: Callable[[str, str], Path], tmp_path: Path, name: str, options: QuantizeOptions) -> None:
    source = made(name, "f16")
    names = ["BF16", "Q8_0", "Q6_K", "Q5_K_S", "Q4_K_M", "Q4_1", "IQ4_NL", "IQ3_M", "Q3_K_L", "Q2_K", "TQ1_0", "Q1_0"]
    assert differences(source, tmp_path, names, options) == []
    matrix = write_imatrix(tmp_path / "imatrix", source)
    # the library aborts where the embeddings, which have no entry, become IQ2 or IQ1
    names = ["Q4_K_M", "IQ3_XXS", "Q2_K_S"] + ([] if options.pure else ["IQ2_S", "IQ1_S"])
    assert differences(source, tmp_path, names, options, matrix) == []


@pytest.mark.parametrize(
    ("name", "options", "with_matrix"),
    [
        ("IQ2_S", QuantizeOptions(pure=True), True),
        ("Q4_K_M", QuantizeOptions(embedding_type="iq2_xs"), False),
        ("Q4_K_M", QuantizeOptions(embedding_type="iq1_s"), True),
        ("Q4_K_M", QuantizeOptions(output_type="iq2_xxs"), False),
    ],
)
def test_what_would_abort_the_library_is_refused_before_any_work(
    made: Callable[[str, str], Path], tmp_path: Path, name: str, options: QuantizeOptions, with_matrix: bool
) -> None:
    source = made("llama", "f16")
    matrix = load_imatrix(write_imatrix(tmp_path / "imatrix", source)) if with_matrix else None
    with pytest.raises(UsageError, match=r"needs an importance; choose another type .*-type q4_k"):
        plan_quantize(source, [FILE_TYPES[name]], lambda kind: tmp_path / "x", options, matrix)


def test_split_input(made: Callable[[str, str], Path], tmp_path: Path) -> None:
    source = made("mixture", "f16")
    whole = plan_quantize(source, [FILE_TYPES["F16"]], lambda kind: tmp_path / "parts.gguf")
    parts = split_plan(whole, 1 << 19)
    pipeline.run(parts)
    assert len(parts.targets) >= 3
    for part in (parts.targets[0].path, parts.targets[2].path):
        if part == parts.targets[0].path:
            assert differences(part, tmp_path, list(FILE_TYPES), QuantizeOptions()) == []
        # any part stands for the model
        plan = plan_quantize(part, [FILE_TYPES["Q4_K_M"]], lambda kind: tmp_path / "joined")
        pipeline.run(plan, force=True)
        assert library_quantize(parts.targets[0].path, tmp_path / "theirs", "Q4_K_M", QuantizeOptions(), None)
        assert (tmp_path / "joined").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_list_of_types_is_the_tools(oracle: Oracle) -> None:
    """``llama-quantize`` lists what it offers; COPY is no type, and the aliases are ours too."""
    shown = subprocess.run([oracle.binaries / "llama-quantize", "--help"], capture_output=True, text=True, check=False)
    offered = {int(number): name for number, name in re.findall(r"^ +(\d+) +or +(\w+)", shown.stdout, re.MULTILINE)}
    assert len(offered) > 30
    assert set(offered) == {kind.ftype for kind in FILE_TYPES.values()}


def test_the_list_of_types_is_the_librarys(made: Callable[[str, str], Path], tmp_path: Path) -> None:
    """A number that the library takes for a file type has a name here; asked of the library itself."""
    source = made("llama", "f16")
    known = {kind.ftype for kind in FILE_TYPES.values()}
    params = llama_cpp.llama_model_quantize_default_params()
    params.dry_run = True
    taken = set()
    for number in range(64):
        params.ftype = number
        if run_quantizer(source, tmp_path / "none", params):
            taken.add(number)
    assert taken == known


@pytest.mark.parametrize("kind", [kind for kind in TensorType if kind is not TensorType.Q8_1])
def test_blocks_are_the_librarys(kind: TensorType) -> None:
    block = ggml.block_type(int(kind))
    assert (block.name.upper(), block.block, block.size) == (kind.name, *BLOCKS[kind])
