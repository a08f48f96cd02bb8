"""``inspect --diff``: keys, types and values; errors of values against what gguf's own dequantizer computes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggufrun.convert.difference import Difference, bytes_to_read, compare, opened
from tests.support.checkpoints import DEMO
from tests.test_cli_convert import fails, ggufrun


def write(path: Path, tensors: dict[str, np.ndarray[Any, Any]], **values: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in values.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key.replace("_", "."), value)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def difference(left: Path, right: Path) -> Difference:
    with opened(left) as one, opened(right) as two:
        return compare(one, two, threads=2)


def values_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_errors_are_those_of_gguf(demo_gguf: Callable[[str], Path], kind: str) -> None:
    found = difference(demo_gguf("f16"), demo_gguf(kind))
    assert [item.key for item in found.keys if item.key != "general.quantization_version"] == ["general.file_type"]
    left, right = values_of(demo_gguf("f16")), values_of(demo_gguf(kind))
    expected = {
        name: math.sqrt(float(((left[name] - right[name]) ** 2).sum()) / float((left[name] ** 2).sum()))
        for name in left
        if "norm" not in name
    }
    assert {item.name: item.error for item in found.tensors} == pytest.approx(expected, rel=1e-4)
    assert found.same_tensors == len(left) - len(expected)


def test_a_model_and_itself(demo_gguf: Callable[[str], Path]) -> None:
    found = difference(demo_gguf("q4_k_m"), demo_gguf("q4_k_m"))
    assert found.none and found.same_tensors == 39


def test_a_checkpoint_and_its_gguf(demo_gguf: Callable[[str], Path]) -> None:
    found = difference(DEMO, demo_gguf("f16"))
    assert [item.key for item in found.keys] == ["general.file_type"]
    # F16 holds what BF16 does, but for the smallest values
    assert max(item.error or 0.0 for item in found.tensors) < 1e-7


def test_every_sort_of_difference(tmp_path: Path) -> None:
    ones, big = np.ones((300, 2048), np.float32), np.ones((2, 3), np.float32)
    changed = ones.copy()
    # in the second chunk of rows only
    changed[299, 5] = 3.0
    left = write(tmp_path / "a.gguf", {"x": ones, "y": big, "z": ones}, a_one="1", a_kind="7", a_same="s")
    right = write(tmp_path / "b.gguf", {"x": changed, "y": big.T.copy(), "w": ones}, a_one="2", a_kind=7, a_same="s")
    found = difference(left, right)
    assert [(item.key, item.left, item.right) for item in found.keys] == [
        ("a.one", "1", "2"),
        ("a.kind", "7 (string)", "7 (uint32)"),
    ]
    assert [(item.name, item.left, item.right) for item in found.tensors] == [
        ("x", ("F32", (300, 2048)), ("F32", (300, 2048))),
        ("y", ("F32", (2, 3)), ("F32", (3, 2))),
        ("z", ("F32", (300, 2048)), None),
        ("w", None, ("F32", (300, 2048))),
    ]
    assert found.tensors[0].error == pytest.approx(2 / math.sqrt(300 * 2048))
    assert [item.error for item in found.tensors[1:]] == [None, None, None]
    with opened(left) as one, opened(right) as two:
        read: list[int] = []
        compare(one, two, on_progress=read.append)
        assert sum(read) == bytes_to_read(one, two) == 2 * ones.nbytes


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    nan = np.full((2, 32), np.nan, np.float32)
    left = write(tmp_path / "a.gguf", {"x": np.ones((2, 32), np.float32), "n": nan})
    right = write(tmp_path / "b.gguf", {"x": nan, "n": nan})
    (found,) = difference(left, right).tensors
    assert found.name == "x" and found.error is not None and math.isnan(found.error)
    result = ggufrun("inspect", left, "--diff", right)
    assert "not finite" in result.stdout


def test_on_the_command_line(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    left, right = demo_gguf("f16"), demo_gguf("q8_0")
    result = ggufrun("inspect", left, "--diff", right)
    assert result.returncode == 0, result.stderr
    assert "token_embd.weight" in result.stdout and "Q8_0" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("keys: ")
    assert "10 tensors that differ less" in result.stderr
    assert len(ggufrun("inspect", left, "--diff", right, "--tensors").stdout.splitlines()) > 30
    data = json.loads(ggufrun("inspect", left, "--diff", right, "--json").stdout)
    assert not data["same"] and data["same_tensors"] == 9 and len(data["tensors"]) == 30
    assert "to the last bit" in ggufrun("inspect", left, "--diff", left).stdout
    fails(ggufrun("inspect", left, "--diff", tmp_path / "none.gguf"), "none.gguf")
