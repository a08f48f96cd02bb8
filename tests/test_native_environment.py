"""Threads that wait sleep soon, unless somebody says otherwise; whichever library of the engine is loaded first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ggufrun.native.environment import SPINS, wanted

LOADS = {
    "a model's": "from ggufrun.native.library import llama; llama()",
    "a quantizer's": "from ggufrun.native.library import ggml_base; ggml_base()",
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_it_is_set_before_the_library_is_loaded(load: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    source = f"import os; {load}; print(os.environ['GOMP_SPINCOUNT'], os.environ['GGML_NO_BACKTRACE'])"
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [SPINS, "1"]


def test_what_is_set_is_left() -> None:
    assert wanted({"GOMP_SPINCOUNT": "7", "GGML_NO_BACKTRACE": "0"}) == {}
    assert wanted({"OMP_WAIT_POLICY": "active"}) == {"GGML_NO_BACKTRACE": "1"}
