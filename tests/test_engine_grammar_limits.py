"""Grammars that llama.cpp would follow without end are given up in one line; all others are followed as before."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling import grammar_sampler
from ggufrun.engine.sampling.grammar import Grammar
from ggufrun.engine.sampling.grammar_sampler import TOKEN_DATA, GrammarSampler, candidates
from ggufrun.errors import EndlessError
from ggufrun.native.library import llama
from ggufrun.native.limited import LimitedThread, TooLong

OPTIONAL = "root ::= " + "[a-z]? " * 3000
ENDLESS = {
    "as many alternatives, again and again": "root ::= (" + "|".join(['"a"'] * 3000) + ")*",
    "optional letters in a row": OPTIONAL,
    "two ways to end every letter": 'root ::= x "!"\nx ::= "a" x "b" | "a" x "c" | "d"',
}

A = 3 + ord("a")
"""The token of the letter, after <unk>, <s> and </s>."""


def everything(vocab_size: int) -> grammar_sampler.Candidates:
    data = np.zeros(vocab_size, TOKEN_DATA)
    data["id"], data["logit"] = np.arange(vocab_size), 1.0
    return data


def follow(path: str) -> None:
    """Every endless grammar, in a process of its own: the threads that are left behind end with it."""
    grammar_sampler.SECONDS = grammar_sampler.SECONDS_IN_ALL = 0.4
    stuck = 0
    with Model(ModelParams(Path(path), vocab_only=True)) as model:
        size = model.vocab.size
        for name, text in ENDLESS.items():
            grammar = None
            try:
                grammar = Grammar(model.vocab, text)
                for _ in range(400):
                    grammar._sampler.apply(everything(size))
                    assert grammar._sampler.fits(A), "its end was reached"
                    grammar._sampler.accept(A)
            except EndlessError as error:
                sys.stdout.write(f"{name}: {error.what}\n")
            if grammar is None:
                continue
            if grammar._sampler._thread.stuck:
                for again in (grammar.reset, lambda sampler=grammar._sampler: sampler.fits(A)):
                    with pytest.raises(EndlessError):
                        again()
                stuck += 1
            grammar.close()
    assert stuck


def test_endless_ones_are_given_up_and_stay_so(demo_gguf: Callable[[str], Path]) -> None:
    call = f"from tests.test_engine_grammar_limits import follow; follow({str(demo_gguf('f16'))!r})"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*ENDLESS]
    assert all("can continue in too many ways" in line for line in lines)


def test_a_vocabulary_in_pieces_is_judged_as_in_one(demo_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    text, size = 'root ::= [a-h]+ ("x" | [0-9])* | "the " root', demo_model.vocab.size
    sampler = GrammarSampler(demo_model.vocab, text)
    try:
        whole = everything(size)
        llama().llama_sampler_apply(sampler._sampler, ctypes.byref(candidates(whole)))
        assert 0 < (whole["logit"] > 0).sum() < size
        for piece in (1 << 20, 100, 7):
            monkeypatch.setattr(grammar_sampler, "PIECE", piece)
            pieces = everything(size)
            sampler.apply(pieces)
            assert (pieces == whole).all()
    finally:
        sampler.close()


def test_a_call_that_does_not_come_back() -> None:
    release = threading.Event()

    def busy() -> None:
        while not release.is_set():
            pass

    thread = LimitedThread()
    assert thread.call(lambda: 5, 1.0) == 5
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0, 1.0)
    with pytest.raises(TooLong):
        thread.call(busy, 0.1)
    release.set()
    with pytest.raises(TooLong):
        thread.call(lambda: 5, 1.0)


def test_the_command_line(demo_gguf: Callable[[str], Path]) -> None:
    """One line, and the process ends although a thread of its own is still at work."""
    command = ["complete", str(demo_gguf("f16")), "-p", "hi", "-n", "3", "--grammar", OPTIONAL]
    done = subprocess.run([sys.executable, "-m", "ggufrun", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ggufrun: the grammar can continue in too many ways")
