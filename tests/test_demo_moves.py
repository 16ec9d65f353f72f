"""Section "Why pool: moves": the rows of the text, and what the photograph's moves change."""

import math
import re

import pytest
import torch

pytest.importorskip("matplotlib")

from poolkit import imaging, shift
from poolkit.demo import fit, moving, report
from poolkit.demo.sections import moves as section

pytestmark = pytest.mark.usefixtures("one_thread")


def cat(height=96, width=128):
    image = fit(imaging.load_image(imaging.default_photograph()), "cat")
    return shift.crop(image, (0, 0), (height, width))


@pytest.fixture(scope="module", params=["en", "ko"])
def made(request):
    return section.build(report.Context(cat(), "cat.png", request.param, quick=True))


@pytest.fixture(scope="module")
def measured():
    return moving.measure(report.Context(cat(), "cat.png", quick=True), "")


def row(table, *start):
    (found,) = [line for line in table.rows if line[: len(start)] == start]
    return found


# ---- Rows ---------------------------------------------------------------------------------------


def test_rows_of_the_text(made):
    """0 0 1 1 0 0 1 1 gives 0 1 0 1, moved by one 1 1 1 1; [0][5][3][1] becomes [0][0][5][3]."""
    rows = made.tables[0]
    assert row(rows, "0 0 1 1 0 0 1 1", "max 2/2")[2:] == ("0 1 0 1", "1 1 1 1", "100%")
    assert row(rows, "0 0 1 1 0 0 1 1", "global avg")[2:] == ("0.5", "0.5", "0%")
    assert row(rows, "0 5 3 1", "max 2/2")[2:4] == ("5 3", "0 5")
    assert row(rows, "5 0 0 0", "max 2/2")[2:] == ("5 0", "5 0", "0%")
    words = " ".join(str(block.html) for block in made.blocks if isinstance(block, report.Prose))
    for values in ("0 5 3 1", "0 0 5 3", "5 3", "0 0 1 1 0 0 1 1", "0 1 0 1", "1 1 1 1"):
        assert f"<code>{values}</code>" in words.replace("\u00a0", " ")


def test_rows_are_moved_by_one():
    (before, after), _, (edges, moved) = section.rows()
    assert before[0, 0].tolist() == [0, 5, 3, 1]
    assert after[0, 0].tolist() == [0, 0, 5, 3]
    assert moved[0, 0].tolist() == [edges[0, 0, i - 1].item() for i in range(8)]


def test_changes_of_rows(made):
    """The last column is the distance between the two before it."""
    for line in made.tables[0].rows:
        before, after = ([float(v) for v in cell.split()] for cell in line[2:4])
        assert line[4] == f"{math.dist(before, after) / math.hypot(*before):.0%}"


# ---- The photograph -----------------------------------------------------------------------------


def test_distances_by_hand(measured):
    """One stack, written out: three convolutions with torch's max pooling."""
    image = cat()
    normal = (image - image.mean((2, 3), keepdim=True)) / image.std((2, 3), keepdim=True)

    def features(top, left):
        y = normal[:, :, top : top + 80, left : left + 112]
        for weight in moving.filters(1, 3):
            y = torch.nn.functional.max_pool2d(torch.nn.functional.conv2d(y, weight).relu(), 2)
        return y

    still = features(8, 8)
    for number, move in enumerate(moving.MOVES):
        apart = [(features(*at) - still).norm() / still.norm() for at in
                 ((8, 8 - move), (8 - move, 8))]  # fmt: skip
        found = measured.maps["max 2/2"][1][number]
        assert found == pytest.approx(float(sum(apart)) / 2, rel=1e-4)
        means = [(features(*at) - still).mean((2, 3)).norm() / still.mean((2, 3)).norm() for at in
                 ((8, 8 - move), (8 - move, 8))]  # fmt: skip
        found = measured.means["max 2/2"][1][number]
        assert found == pytest.approx(float(sum(means)) / 2, rel=1e-3)


def test_strided_convolution_has_the_same_filters():
    """It is the convolution at every second place: nothing else differs between the rows."""
    x, (weight, *_) = torch.randn(1, 3, 20, 21), moving.filters(0, 1)
    plain, strided = (moving.HALVINGS[name](x, weight) for name in ("", "conv stride 2"))
    assert torch.allclose(plain[..., ::2, ::2], strided, atol=1e-5)
    assert weight.flatten(1).norm(dim=1).tolist() == pytest.approx([1] * moving.FILTERS)


def test_a_move_by_the_strides_moves_the_map(measured):
    assert measured.exact < 1e-4
    for name in moving.HALVINGS:
        if name:
            assert measured.maps[name][0][0] > 0.01  # where a move by one pixel does not


def test_tables_are_the_measurement(made, measured):
    for table, results in zip(made.tables[1:], (measured.maps, measured.means), strict=True):
        for line, (name, draws) in zip(table.rows, results.items(), strict=True):
            shown = [float(re.match(r"[\d.]+", cell)[0]) for cell in line[2:]]
            means = [100 * sum(column) / len(draws) for column in zip(*draws, strict=True)]
            assert shown[:4] == pytest.approx(means, rel=0.01, abs=0.005), name
            ratio = sum(own[0] / plain[0] for own, plain in zip(draws, results[""], strict=True))
            assert shown[4] == pytest.approx(100 * ratio / len(draws), rel=0.01)


def test_intervals():
    stats = pytest.importorskip("scipy.stats")
    for n, quantile in section.T95.items():
        assert quantile == pytest.approx(stats.t.ppf(0.975, n - 1), abs=5e-4)
    assert section._interval([0.1, 0.2, 0.3]) == "20.0 ± 24.8 %"


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 32)])
def test_small_photographs(size):
    made = section.build(report.Context(cat(*size), "x.png", quick=True))
    assert "%" in made.tables[1].rows[0][2]


def test_a_flat_photograph_does_not_change():
    made = section.build(report.Context(torch.full((1, 3, 32, 32), 90.0), "x.png", quick=True))
    for table in made.tables[1:]:
        for line in table.rows:
            assert line[2:5] == ("0.00 ± 0.00 %",) * 3
            assert line[5:] == ("–", "–")


def test_snippet():
    lines = report.run_snippet(section.SNIPPET).output.splitlines()
    assert lines[0].split("max")[1].strip() == "[0.0, 1.0, 0.0, 1.0] -> [1.0, 1.0, 1.0, 1.0]: 100%"
    assert lines[2].endswith("[0.5] -> [0.5]: 0%")
