"""One owner of decoding: nobody else makes a context, decodes, or asks llama.cpp to stop."""

from __future__ import annotations

import re

import pytest

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.decoder import require_memory
from ggufrun.engine.model import Model
from ggufrun.errors import EngineError
from ggufrun.native import log
from ggufrun.native.library import llama
from tests.support.checkpoints import ROOT

OWN = re.compile(r"\b(?:llama_decode|llama_init_from_model|llama_set_abort_callback|ggml_abort_callback)\b(?! ret)")


def test_only_the_decoder_decodes() -> None:
    package = ROOT / "ggufrun"
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(OWN.search(line) for line in path.read_text("utf-8").splitlines() if "``" not in line)
    }
    assert users == {"engine/decoder.py", "native/signatures.py"}


def test_a_batch_that_fails_names_the_reason_and_empties_the_memory(
    demo_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Context(demo_model, ContextParams(n_ctx=256, threads=1)) as context:
        context.feed([1, 5, 6])

        def fail(*arguments: object) -> int:
            log.write(log.ERROR, "llama_decode: the moon is in the way\n")
            return -3

        monkeypatch.setattr(context.decoder, "_decode", fail)
        with pytest.raises(EngineError, match="could not be run: the moon is in the way"):
            context.push(7)
        assert not context.held and not context.ready
        assert llama().llama_memory_seq_pos_max(context.memory, 0) == -1


def test_more_memory_than_there_is() -> None:
    with pytest.raises(EngineError, match=r"the batch needs 1048576\.0 GiB of .*less"):
        require_memory(1 << 50, "the batch", "take less", cards=False)
    require_memory(1, "the batch", "take less", cards=False)
