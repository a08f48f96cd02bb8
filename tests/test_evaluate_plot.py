"""Pictures of size against divergence: every point is there, at its place."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from ggufrun.evaluate.plot import Point, svg_plot, text_plot

POINTS = [
    Point("Q8_0", 1000 * 2**20, 1e-3),
    Point("Q4_K_M", 500 * 2**20, 3e-2),
    Point("a<b&c", 250 * 2**20, 1.0),
]
SPACE = "{http://www.w3.org/2000/svg}"


def test_smaller_is_left_and_worse_is_up() -> None:
    lines = text_plot(POINTS, 60, 12)
    place = {sign: (row, line.index(sign)) for row, line in enumerate(lines[:12]) for sign in "abc" if sign in line[8:]}
    assert place["c"][0] < place["b"][0] < place["a"][0]
    assert place["c"][1] < place["b"][1] < place["a"][1]
    assert max(map(len, lines)) <= 60 + 8


def test_scale_is_labelled_in_powers_of_ten() -> None:
    lines = text_plot(POINTS, 60, 13)
    labels = [line[:6].strip() for line in lines if line[:6].strip()]
    assert labels == ["1e+00", "1e-01", "1e-02", "1e-03", "KLD"]


def test_points_at_one_place_are_told() -> None:
    assert any("*" in line for line in text_plot([POINTS[0], POINTS[0]]))


@pytest.mark.parametrize("divergence", [0.0, -1e-6, 5.0, float("inf")])
def test_extremes_stay_inside(divergence: float) -> None:
    points = [Point("x", 10, divergence), Point("y", 20, 0.01)]
    assert any("a" in line[8:] for line in text_plot(points)[:-2])
    for circle in ElementTree.fromstring(svg_plot(points, "t")).findall(f"{SPACE}circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 720
        assert 0 <= float(circle.attrib["cy"]) <= 440


def test_svg_is_well_formed_and_labelled() -> None:
    svg = ElementTree.fromstring(svg_plot(POINTS, "A & B"))
    circles = svg.findall(f"{SPACE}circle")
    assert len(circles) == 3
    across = [float(circle.attrib["cx"]) for circle in circles]
    # sizes halve, so do the distances from the axis
    assert (across[0] - 70) / (across[1] - 70) == pytest.approx(2, rel=1e-2)
    texts = [text.text for text in svg.findall(f"{SPACE}text")]
    assert {"A & B", "Q8_0", "Q4_K_M", "a<b&c"} <= set(texts)
