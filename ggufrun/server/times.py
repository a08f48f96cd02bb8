"""Spans of time as people write them."""

from __future__ import annotations

import re

from ggufrun.errors import UsageError

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_time(text: str, flag: str) -> float:
    """``5m``, ``300``, ``1.5h`` in seconds; ``-1`` is for ever. Raises UsageError, which begins with ``flag``."""
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if not match:
        raise UsageError(f"{flag} {text}", "give a time such as 30s, 5m or 2h, 0 for at once, -1 for ever")
    return float(match[1]) * UNITS[match[2]]
