"""Models that look a token's place up have only so many places, and llama.cpp aborts at the next one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.checks import check_model
from ggufrun.checkpoint.gguf.file import Header, Kind, encode
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.engine.chunks import ChunkContext, ChunkParams
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.errors import EngineError, FormatError
from ggufrun.evaluate import bench
from tests.attack.models import base, with_vocabulary

PLACES = 64
"""Of the tiny GPT-2."""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write("mpt", 0.0)``: the tiny GPT-2, whose tensors the three families share, with another one's name."""

    def write(architecture: str, bias: float | None = None) -> Path:
        model = with_vocabulary(base("gpt2", "F16"), "bpe")
        model.metadata = {key.replace("gpt2.", f"{architecture}."): value for key, value in model.metadata.items()}
        model.set("general.architecture", architecture, Kind.STRING)
        if bias is not None:
            model.set(f"{architecture}.attention.max_alibi_bias", bias, Kind.FLOAT32)
        if bias:
            model.tensors = [tensor for tensor in model.tensors if tensor.name != "position_embd.weight"]
        model.write(tmp_path / "model.gguf")
        return tmp_path / "model.gguf"

    return write


FAMILIES = [("gpt2", None), ("starcoder", None), ("mpt", 0.0)]


@pytest.mark.parametrize(("architecture", "bias"), FAMILIES)
def test_all_places_are_used_and_no_more(write: Write, architecture: str, bias: float | None) -> None:
    path = write(architecture, bias)
    check_model(path, read_header(path))
    with Model(ModelParams(path)) as model:
        assert model.positions == PLACES
        with Context(model, ContextParams()) as context:
            # llama.cpp would make room for 256
            assert context.n_ctx == PLACES
            assert context.feed([1] * PLACES) == PLACES
            with pytest.raises(EngineError, match="65 tokens do not fit into a context of 64"):
                context.feed([1] * (PLACES + 1))
        for tokens in (PLACES + 1, 4096):
            with pytest.raises(EngineError, match=f"positions for 64 tokens, not for {tokens}") as refused:
                Context(model, ContextParams(n_ctx=tokens))
            assert refused.value.todo == "give at most 64 with -c"
        with pytest.raises(EngineError, match="positions for 64 tokens, not for 128"):
            ChunkContext(model, ChunkParams(length=128), 1)
        with pytest.raises(EngineError) as refused:
            next(bench.run(model, [bench.Test(60, 5)], ContextParams(), repetitions=1))
        assert refused.value.todo == "give at most 64 with -p and -n"


def test_sequences_share_a_memory_that_is_longer_than_each(write: Write) -> None:
    with (
        Model(ModelParams(write("gpt2"))) as model,
        Context(model, ContextParams(n_ctx=4 * PLACES, sequences=4, outputs=4)) as context,
    ):
        assert [context.n_ctx, context.sequence(1).n_ctx] == [PLACES, PLACES]


def test_distances_have_no_end(write: Write) -> None:
    path = write("mpt", 8.0)
    check_model(path, read_header(path))
    with Model(ModelParams(path)) as model, Context(model, ContextParams(n_ctx=512)) as context:
        assert model.positions is None
        assert context.feed([1] * 300) == 300


def test_mpt_with_both_is_refused(write: Write) -> None:
    path = write("mpt", 0.0)
    header = read_header(path)
    both = Header(header.metadata | {"mpt.attention.max_alibi_bias": encode(8.0, Kind.FLOAT32)}, header.tensors)
    with pytest.raises(FormatError, match=r"has position_embd.weight and says attention.max_alibi_bias = 8.0"):
        check_model(path, both)


def test_a_long_answer_ends_where_the_places_do(write: Write) -> None:
    command = ["complete", str(write("gpt2")), "-p", "hi", "-n", "200", "-t", "1", "--ignore-eos"]
    done = subprocess.run([sys.executable, "-m", "ggufrun", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "context is full" in done.stderr
