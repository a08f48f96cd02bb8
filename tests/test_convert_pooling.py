"""How an embedding model pools, from the files of sentence-transformers. What llama.cpp's converter writes for
Qwen3-Embedding is compared in test_convert_layouts.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from ggufrun.convert.arch.shared.pooling import pooling_type
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}


def write(folder: Path, pooling: Any, path: Any = "1_Pooling") -> Path:
    modules = [TRANSFORMER, {"idx": 1, "path": path, "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "kind"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, gguf.PoolingType.CLS),
        ({"pooling_mode_mean_tokens": True}, gguf.PoolingType.MEAN),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": False}, gguf.PoolingType.LAST),
        ({"pooling_mode": "lasttoken"}, gguf.PoolingType.LAST),
    ],
)
def test_ways_that_llama_cpp_knows(tmp_path: Path, pooling: dict[str, Any], kind: gguf.PoolingType) -> None:
    assert pooling_type(write(tmp_path, pooling)) == kind


@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode_weightedmean_tokens": True, "pooling_mode_cls_token": False}, "weightedmean"),
        ({"pooling_mode": "max"}, "max"),
        ({}, "null"),
    ],
)
def test_other_ways(tmp_path: Path, pooling: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"pools by .*{name}.*mean, cls or lasttoken only"):
        pooling_type(write(tmp_path, pooling))


def test_no_pooling(tmp_path: Path) -> None:
    assert pooling_type(tmp_path) is None
    (tmp_path / "modules.json").write_text(json.dumps([TRANSFORMER]))
    assert pooling_type(tmp_path) is None


@pytest.mark.parametrize("path", ["../other", "/etc", 3, None, "a/../../b", "\0", "absent"])
def test_paths_that_lead_elsewhere(tmp_path: Path, path: Any) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"pooling_mode": "mean"}')
    write(folder, {"pooling_mode": "mean"}, path)
    if path is None:
        assert pooling_type(folder) is None
        return
    with pytest.raises(GgufrunError):
        pooling_type(folder)


@pytest.mark.parametrize("text", ["{}", "[1]", "null", "[", '["x"]'])
def test_modules_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(FormatError):
        pooling_type(tmp_path)
