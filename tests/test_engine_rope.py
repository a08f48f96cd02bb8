"""Stretched positions and adapters: the formulas, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufrun.engine.adapters import Adapter, scaled
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model
from ggufrun.engine.rope import RopeParams, auto_alpha, rotary_dimension, stretched_base
from ggufrun.errors import EngineError, NotFoundError, UsageError
from ggufrun.native.library import llama
from tests.oracles import completion_oracle


def test_the_ntk_factor(demo_model: Model) -> None:
    assert [auto_alpha(n, 4096) for n in (1000, 4096, 8192, 16384)] == [1.0, 1.0, 3.0, 7.0]
    # 4 heads in a width of 256, and the usual base
    assert rotary_dimension(demo_model) == 64
    assert stretched_base(demo_model, 1.0) == 10000.0
    # 10000 * 2 ** (64 / 62)
    assert stretched_base(demo_model, 2.0) == pytest.approx(20452.229, abs=0.01)


def test_ntk_is_a_frequency_base(demo_model: Model) -> None:
    """The same logits as with the base worked out by hand, and others than without."""
    ids = demo_model.vocab.tokenize("床前明月光", special=False, bos=True)
    seen: list[Any] = []
    base = 10000.0 * 3.0 ** (64 / 62)
    n_ctx = 2 * demo_model.train_context
    for rope in (RopeParams(ntk_alpha=3.0), RopeParams(ntk_alpha=0.0), RopeParams(freq_base=base), RopeParams()):
        with Context(demo_model, ContextParams(n_ctx=n_ctx, threads=1, rope=rope)) as context:
            context.feed(ids)
            seen.append(llama().llama_get_logits_ith(context.pointer, -1)[: demo_model.vocab.size])
    assert seen[0] == seen[1] == seen[2] != seen[3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"scaling": "cubic"},
        {"freq_base": 0},
        {"freq_scale": -1.0},
        {"yarn_orig_ctx": -1},
        {"yarn_beta_fast": float("nan")},
        {"ntk_alpha": 0.5},
        {"ntk_alpha": 2.0, "freq_base": 1e4},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RopeParams(**wrong)


def test_scales() -> None:
    assert scaled("a:b.gguf:0.5,c:-1") == (Adapter(Path("a:b.gguf"), 0.5), Adapter(Path("c"), -1.0))
    for text in ("a.gguf", "a:x", ":1", "a:nan"):
        with pytest.raises(UsageError):
            scaled(text)


def test_an_adapter_of_another_model(demo_model: Model, tmp_path: Path) -> None:
    narrow = completion_oracle.make_adapter(tmp_path / "narrow.gguf", width=128)
    stranger = completion_oracle.make_adapter(tmp_path / "stranger.gguf", name="attn_qkv")
    for path, words in (
        (narrow, "incorrect shape"),
        (stranger, "does not exist in base model"),
        (demo_model.path, "adapter"),
    ):
        with pytest.raises(EngineError, match=words) as caught:
            Context(demo_model, ContextParams(n_ctx=256, threads=1, adapters=(Adapter(path),)))
        assert "\n" not in str(caught.value)
    with pytest.raises(NotFoundError):
        Context(demo_model, ContextParams(n_ctx=256, adapters=(Adapter(tmp_path / "none.gguf"),)))
