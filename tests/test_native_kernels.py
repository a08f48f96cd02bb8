"""Which kernels multiply: llama.cpp's by default, whichever part of the program loads the engine first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.test_products import here

BOTH = """
from tests.support import products
first = products.kernels()
from ggufrun.native.kernels import kernels
print(first, kernels())
"""


@pytest.mark.skipif(not here(), reason="the engine has no kernels of ours here")
@pytest.mark.parametrize(("wanted", "ours"), [(None, False), ("stock", False), ("nonsense", False), ("ours", True)])
def test_llama_cpp_computes_unless_asked(wanted: str | None, ours: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GGUFRUN_KERNELS"}
    if wanted is not None:
        environment["GGUFRUN_KERNELS"] = wanted
    done = subprocess.run([sys.executable, "-c", BOTH], env=environment, capture_output=True, text=True, check=True)
    expected = here()[0] if ours else "stock"
    assert done.stdout.split() == [expected, expected]
