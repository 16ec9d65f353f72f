"""Section "Adaptive pooling": every input ends in the same grid, by windows that are torch's."""

import pytest
import torch

pytest.importorskip("matplotlib")

from poolkit import imaging
from poolkit.demo import fit, report
from poolkit.demo.sections import adaptive as section

pytestmark = pytest.mark.usefixtures("one_thread")


def build(image, language="en"):
    return section.build(report.Context(image, "cat.png", language, quick=True))


@pytest.fixture(scope="module")
def image():
    return fit(imaging.load_image(imaging.default_photograph()), "cat")


@pytest.fixture(scope="module", params=["en", "ko"])
def made(request, image):
    return build(image, request.param)


@pytest.mark.parametrize("length", [*section.LENGTHS, 7, 50])
def test_windows_are_torch_s(length):
    """Of each output, the cells that torch's mean has a share of."""
    shares = torch.nn.functional.adaptive_avg_pool1d(torch.eye(length)[None], section.OUTPUTS)[0]
    expected = [column.nonzero().flatten().tolist() for column in shares.T]
    assert [list(span) for span in section.windows(length, section.OUTPUTS)] == expected


def test_table_of_windows(made):
    eight, ten, _, three = made.tables[0].rows
    assert eight[1] == "[0, 1] [2, 3] [4, 5] [6, 7]"
    assert ten[1:3] == ("[0, 2] [2, 4] [5, 7] [7, 9]", "3 3 3 3")
    assert ten[3:] == ("2 7", "1 3 6 8")
    assert three[3] == "0 1 2"


def test_averages_of_the_table(made):
    for line in made.tables[0].rows:
        row = torch.arange(float(line[0]))[None]
        averages = torch.nn.functional.adaptive_avg_pool1d(row, section.OUTPUTS)[0].tolist()
        assert [float(value) for value in line[4].split()] == averages


def test_one_grid_from_every_input(made, image):
    """Five sizes and shapes, also odd ones; the same picture gives nearly the same grid."""
    lines = made.tables[1].rows
    assert len({line[0] for line in lines}) == 5
    assert {line[3] for line in lines} == {"7×7"}
    assert {line[5] for line in lines} == {"49"}
    assert lines[0][0] == "448×288"
    assert lines[0][4] == f"{448 * 288:,}"
    distances = [float(line[6].rstrip("%")) for line in lines[:3]]
    assert distances[0] == 0
    assert 0 < max(distances) < 5
    same, pieces = section.inputs(image)
    grids = [torch.nn.functional.adaptive_avg_pool2d(x, section.SIDE) for x in (*same, *pieces)]
    assert {grid.shape for grid in grids} == {(1, 3, 7, 7)}
    by_hand = [float((grid - grids[0]).norm() / grids[0].norm()) for grid in grids[:3]]
    assert distances == pytest.approx([100 * d for d in by_hand], abs=0.006)


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (448, 224)])
def test_other_photographs(size):
    made = build(torch.rand(1, 3, *size) * 255)
    assert {line[3] for line in made.tables[1].rows} == {"7×7"}


def test_snippet():
    lines = report.run_snippet(section.SNIPPET).output.splitlines()
    assert lines[0] == "[1.0, 3.0, 6.0, 8.0]"
    assert [line.split(" -> ")[1] for line in lines[1:]] == ["(1, 10)"] * 3
