"""Seconds from a question's end to the first text of its answer, beside the model's own time: one line of JSON.

usage: python -m tools.bench.first [THREADS]

``ggufrun chat -i``, with the embedded model, is asked through pipes; the model's own time is what the engine takes, in
this process, to read the same new tokens and to choose one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.formats.styles import STYLES
from ggufrun.chat.session import Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.sampler import SamplingParams
from tools.bench.measuring import ROOT

DEMO = ROOT / "models" / "tang-poet"
QUESTIONS = ["背一下静夜思", "作者是谁？", "背一下春晓", "背一下相思"] * 3


def asked(path: str, threads: int) -> list[float]:
    """Seconds until the first byte of each answer on stdout."""
    command = [sys.executable, "-m", "ggufrun", "chat", path, "-i", "--style", "llama-2", "-n", "16"]
    command += ["--temp", "0", "-c", "2048", "-t", str(threads)]
    found = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        for question in QUESTIONS:
            process.stdin.write(question.encode() + b"\n")
            process.stdin.flush()
            begun = time.perf_counter()
            os.read(process.stdout.fileno(), 1 << 16)
            found.append(time.perf_counter() - begun)
            # the rest of the answer, which ends with a newline
            time.sleep(0.3)
            os.set_blocking(process.stdout.fileno(), False)
            process.stdout.read()
            os.set_blocking(process.stdout.fileno(), True)
        process.stdin.close()
    return found


def own(path: str, threads: int) -> list[float]:
    """Seconds until the engine alone has read each question and the first token is chosen."""
    found = []
    params = ContextParams(n_ctx=2048, threads=threads)
    with Model(ModelParams(Path(path))) as model, Context(model, params) as context:
        sampling = SamplingParams(temp=0)
        session = Session(context, StylePrompt(model.vocab, STYLES["llama-2"]), sampling, limit=16)
        for question in QUESTIONS:
            *_, _ = session.ask(question)
            assert session.last is not None
            stats = session.last.stats
            found.append(stats.prompt_time + stats.time / stats.tokens)
    return found


def main(threads: int = 2) -> None:
    """Measure and print; the first question, which waits for the model to be loaded, does not count."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "demo.gguf")
        convert = [sys.executable, "-m", "ggufrun", "convert", str(DEMO), "-t", "q8_0", "-o", path]
        subprocess.run(convert, check=True, capture_output=True)
        whole, alone = statistics.median(asked(path, threads)[1:]), statistics.median(own(path, threads)[1:])
    print(json.dumps({"first_text": whole, "own": alone, "beside": whole - alone}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
