"""Size against divergence as a picture: a few lines of text, or a small SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

FLOOR = 1e-7
"""The smallest divergence that is drawn: below it lies the rounding of the logits."""


@dataclass(frozen=True)
class Point:
    """A model: ``size`` in bytes, ``divergence`` in nats a token."""

    label: str
    size: float
    divergence: float


@dataclass(frozen=True)
class _Frame:
    """The ranges: sizes from 0, divergences in whole powers of ten."""

    largest: float
    low: int
    high: int

    def place(self, point: Point) -> tuple[float, float]:
        """From 0 to 1: to the right with size, upwards with divergence."""
        height = (math.log10(max(point.divergence, FLOOR)) - self.low) / (self.high - self.low)
        return point.size / self.largest, min(1.0, max(0.0, height))


def _frame(points: Sequence[Point]) -> _Frame:
    logs = [math.log10(min(max(point.divergence, FLOOR), 1e6)) for point in points]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return _Frame(max(point.size for point in points) * 1.02, low, max(high, low + 1))


def text_plot(points: Sequence[Point], width: int = 72, height: int = 14) -> list[str]:
    """Lines of plain characters; the first point is ``a``, the next ``b`` and so on, ``*`` where several meet."""
    frame = _frame(points)
    grid = [[" "] * width for _ in range(height)]
    for number, point in enumerate(points):
        right, up = frame.place(point)
        row, column = round((1 - up) * (height - 1)), round(right * (width - 1))
        grid[row][column] = letter(number) if grid[row][column] == " " else "*"
    decades = {
        round((1 - (power - frame.low) / (frame.high - frame.low)) * (height - 1)): f"1e{power:+03}"
        for power in range(frame.low, frame.high + 1)
    }
    lines = [f"{decades.get(row, ''):>6} │{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    lines.append(f"{'':>6} └{'─' * width}")
    right_text = _size(frame.largest)
    lines.append(f"{'KLD':>6}  0{right_text:>{width - 1}}")
    return lines


def letter(number: int) -> str:
    """The sign of the point with this number."""
    signs = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return signs[number % len(signs)]


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 50


def svg_plot(points: Sequence[Point], title: str) -> str:
    """A whole SVG document of 720 by 440 units, in plain black, readable on white."""
    frame = _frame(points)
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for power in range(frame.low, frame.high + 1):
        y = TOP + down * (1 - (power - frame.low) / (frame.high - frame.low))
        parts.append(f'<path d="M{LEFT} {y:.1f}h{across}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    for step in range(5):
        x = LEFT + across * step / 4
        parts.append(f'<path d="M{x:.1f} {TOP}v{down}" stroke="#ddd"/>')
        label = _size(frame.largest * step / 4)
        parts.append(f'<text x="{x:.1f}" y="{TOP + down + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}v{down}h{across}" fill="none" stroke="#000"/>')
    middle = TOP + down / 2
    parts.append(f'<text x="{LEFT + across / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">size of the file</text>')
    parts.append(
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 16 {middle:.1f})">'
        "KL divergence, nats a token</text>"
    )
    for point in points:
        right, up = frame.place(point)
        x, y = LEFT + across * right, TOP + down * (1 - up)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#06c"/>')
        parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{escape(point.label)}</text>')
    return "\n".join([*parts, "</svg>", ""])
