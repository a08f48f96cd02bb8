"""Counters of the front, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Metrics:
    """``requests`` by path and status; ``seconds`` that they took together, by path."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    open: int = 0

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests[path, status] += 1
        self.seconds[path] += seconds  # type: ignore[assignment]


def sample(name: str, labels: dict[str, str], value: float) -> str:
    """One line: ``name{label="value"} number``."""
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:g}"


def labelled(text: str, model: str) -> list[str]:
    """The samples of a child, each with the name of its model."""
    lines = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        base, brace, rest = name.partition("{")
        labels = f'model="{_escaped(model)}"' + (f",{rest.rstrip('}')}" if brace else "")
        lines.append(f"{base.replace(':', '_')}{{{labels}}} {value}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
