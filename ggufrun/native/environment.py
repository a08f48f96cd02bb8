"""Variables that the engine's libraries read when they are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

SPINS = "2000"
"""How often a thread looks whether the others have arrived before it sleeps (libgomp's ``GOMP_SPINCOUNT``).

By default libgomp looks for about a millisecond. Next to other programs, whose work takes the place of the thread that
is waited for, that is time that nobody uses: see docs/processor.md for figures. Less makes a quiet machine slower.
"""


def wanted(given: Mapping[str, str]) -> dict[str, str]:
    """What is to be added to the environment ``given``; what somebody has set is left as it is."""
    added = {"GGML_NO_BACKTRACE": "1"} if "GGML_NO_BACKTRACE" not in given else {}
    if not given.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        added["GOMP_SPINCOUNT"] = SPINS
    return added


def prepare() -> None:
    """Set them for this process. A debugger's view of it, which a crash would start, helps nobody here."""
    os.environ.update(wanted(os.environ))
