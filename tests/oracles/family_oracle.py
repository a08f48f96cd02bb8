"""Run llama.cpp's own converter on several checkpoints without a tokenizer. Only with the oracle's Python:

    $ORACLE_PYTHON tests/oracles/family_oracle.py $ORACLE_CONVERT FOLDER:TYPE:OUT...

A checkpoint that the converter gives up on leaves OUT.error with the reason. Where the pinned release gives up on a
whole family because of a slip, the slip is mended here, and nothing else of the family is touched.
"""

from __future__ import annotations

import importlib
import itertools
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def mend() -> None:
    """Three families that the release cannot convert at all."""
    base, baichuan, gptneox, stablelm = (
        importlib.import_module(f"conversion.{name}") for name in ("base", "baichuan", "gptneox", "stablelm")
    )
    pack = baichuan.BaichuanModel.modify_tensors

    def unpack(self: Any, data_torch: Any, name: str, bid: int | None) -> Iterator[Any]:
        # all but W_pack goes round in circles for ever
        chosen = pack if "W_pack" in name else base.TextModel.modify_tensors
        yield from chosen(self, data_torch, name, bid)

    baichuan.BaichuanModel.modify_tensors = unpack
    stack = stablelm.StableLMModel._stack_qk_norm
    single = stablelm.StableLMModel.modify_tensors

    def stacked(self: Any, data_torch: Any, name: str, bid: int | None) -> Iterator[Any]:
        # the stack of norms is returned from a generator, and so lost
        held: list[object] = []
        self._stack_qk_norm = lambda *job: held.extend(stack(self, *job))
        yield from itertools.chain(single(self, data_torch, name, bid), held)

    stablelm.StableLMModel.modify_tensors = stacked
    parameters = gptneox.GPTNeoXModel.set_gguf_parameters

    def with_part(self: Any) -> None:
        # transformers moves the key elsewhere when it reads config.json
        self.hparams.setdefault("rotary_pct", self.rope_parameters["partial_rotary_factor"])
        parameters(self)

    gptneox.GPTNeoXModel.set_gguf_parameters = with_part


def main(script: str, jobs: list[str]) -> None:
    """Convert every job in this process: importing torch takes longer than all of them."""
    sys.path.insert(0, str(Path(script).parent))
    importlib.import_module("conversion").load_all_models()
    for classes in importlib.import_module("conversion.base").ModelBase._model_classes.values():
        for model in classes.values():
            # no vocabulary, and nothing of it for the rows of an embedding to be compared with
            model.set_vocab = lambda self: None
            model._create_vocab_sentencepiece = lambda self: ([b""] * self.hparams["vocab_size"], [], [])
    mend()
    for job in jobs:
        folder, outtype, out = job.split(":")
        (Path(folder) / "tokenizer.model").touch()
        sys.argv = [script, folder, "--outtype", outtype, "--outfile", out]
        try:
            runpy.run_path(script, run_name="__main__")
        except (Exception, RecursionError, SystemExit) as error:
            if not isinstance(error, SystemExit) or error.code:
                Path(out + ".error").write_text(f"{type(error).__name__}: {error}")
        finally:
            (Path(folder) / "tokenizer.model").unlink()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
