"""The garbage collector is paused while a checkpoint is planned, and no longer."""

from __future__ import annotations

import gc

import pytest

from ggufrun.checkpoint.collector import paused


def test_it_runs_again_afterwards() -> None:
    with paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), paused():
        raise KeyError
    assert gc.isenabled()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
