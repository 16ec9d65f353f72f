"""The lesson's section on where pooling is used: what it says is read off the networks."""

import functools
import re

import pytest

pytest.importorskip("matplotlib")

import torch

from poolkit import models
from poolkit.demo import networks, report
from poolkit.demo.report import Prose
from poolkit.demo.sections import where_used

pytestmark = pytest.mark.usefixtures("one_thread")


def build(language="en"):
    context = report.Context(torch.zeros(1, 3, 32, 32), "x.png", language, quick=True)
    return where_used.build(context)


@pytest.fixture(scope="module")
def section():
    return build()


def table(section, title):
    (found,) = (t for t in section.tables if t.title == title)
    return [list(row) for row in found.rows]


def words(section):
    """The paragraphs, without their markup."""
    return re.sub("<[^>]+>", "", " ".join(b.html for b in section.blocks if isinstance(b, Prose)))


def test_published_sizes(section):
    rows = table(section, where_used.TEXT["en"].heads_title)
    assert {row[0]: row[4] for row in rows} == {
        "AlexNet": "61,100,840",
        "VGG16": "138,357,544",
        "ResNet-18": "11,689,512",
        "ResNet-50": "25,557,032",
        "ResNet-50-D": "25,576,264",
        "EfficientNet-B0": "5,288,548",
        "Darknet-53": "41,609,928",
        "Darknet-53 + SPPF": "44,234,440",
    }
    assert rows[0][2:] == ["58,631,144", "96.0 %", "61,100,840", "2,726,696"]
    assert rows[1][2:] == ["123,642,856", "89.4 %", "138,357,544", "15,227,688"]
    assert rows[3][2:] == ["2,049,000", "8.0 %", "25,557,032", "25,557,032"]
    assert {row[1] for row in rows[2:]} == {"global avg → linear"}
    costs = table(section, where_used.TEXT["en"].networks_title)
    assert [row[1] for row in costs[:6]] == ["0.714", "15.470", "1.814", "4.089", "4.329", "0.386"]
    assert costs[0][2:] == ["256×6×6", "256×9×9"]
    assert costs[7][2:] == ["1024×7×7", "1024×10×10"]


def test_stages(section):
    rows = table(section, where_used.TEXT["en"].stages_title)
    starts = [i for i, row in enumerate(rows) if row[0]]
    assert [rows[i][0] for i in starts] == list(networks.NETWORKS)
    assert rows[0][1:] == ["strided conv 11/4/2", "3×224×224", "64×55×55", "23,296", "0.04 %"]
    assert rows[1][1:] == ["max pool 3/2", "64×55×55", "64×27×27", "0", "0 %"]
    d = [row[1:4] for row in rows[starts[4] : starts[5]]]
    assert d[1:3] == [
        ["max pool 3/2/1", "64×112×112", "64×56×56"],
        ["strided conv 3/2/1 ∥ avg pool 2/2", "256×56×56", "256×28×28"],
    ]
    assert d[-1] == ["global avg → linear", "2048×7×7", "1000"]
    assert rows[-2][1:] == ["3 × max pool 5/1/2", "512×7×7", "512×7×7", "0", "0 %"]


def test_the_texts_table_is_checked(section):
    rows = table(section, where_used.TEXT["en"].claims_title)
    assert [row[3] for row in rows] == [
        "AlexNet 0/4, VGG16 5/5",
        "AlexNet 1/4, ResNet-50 4/5",
        "6/6",
        "AlexNet, VGG16",
    ]
    said = words(section)
    for fact in (
        "AlexNet’s 3 pools are 3/2",
        "its stem keeps max pool 3/2/1, in ResNet-50-D too, which puts 3 more average pools",
        "EfficientNet-B0 (5/5) and Darknet-53 (5/5)",
        "6 of the 6 networks",
        "EfficientNet-B0 has 16 more",
        "SPPF is 3 × max pool 5/1/2",
        "7×7 or 10×10",
        "AlexNet (9×9 → 6×6) and VGG16 (10×10 → 7×7)",
    ):
        assert fact in said, fact


def test_both_languages_have_the_same_numbers(section):
    korean = build("ko")
    for a, b in zip(section.tables, korean.tables, strict=True):
        assert [row[-1] for row in a.rows] == [row[-1] for row in b.rows]
    digits = [set(re.findall(r"\d[\d,.×/]*\d", words(each))) for each in (section, korean)]
    # Korean counts in units of 10 to the 8th.
    assert digits[1] - digits[0] == {"10"}
    assert digits[0] <= digits[1]


def test_other_networks_give_other_numbers(monkeypatch):
    """Nothing is a string that was typed in: with other layers the same tables say otherwise."""
    other = {
        "VGG16": functools.partial(models.VGG16, pool="avg"),
        "ResNet-50": functools.partial(models.ResNet50, pool="avg"),
        "AlexNet": functools.partial(models.AlexNet, pool="conv"),
    }
    networks_now = {**networks.NETWORKS, **other}
    monkeypatch.setattr(where_used, "NETWORKS", networks_now)
    # The paragraph on AlexNet's and ResNet's max pools has nothing to say then.
    reads = {label: where_used.read(label, make) for label, make in networks_now.items()}
    rows = where_used._claims(where_used.TEXT["en"], reads).rows
    assert rows[0][3] == "AlexNet 0/4, VGG16 0/5"
    assert rows[1][3] == "AlexNet 4/4, ResNet-50 4/5"
    rows = where_used._stages(where_used.TEXT["en"], [reads["VGG16"]]).rows
    assert [row[1] for row in rows][:5] == ["avg pool 2/2"] * 5


def test_marks_of_the_figure():
    row = where_used._row(networks.read("D", models.ResNet50D))
    assert [mark.after for mark in row.marks] == [112, 56, 28, 14, 7, 1]
    assert list(row.marks[2].kinds) == ["strided conv", "avg pool"]
    assert list(row.marks[2].windows) == ["3/2/1", "2/2"]
    assert row.marks[-1].kinds == ["global avg"]
    assert (row.head, row.parameters) == (2_049_000, 25_576_264)
    sppf = where_used._row(networks.read("S", networks.NETWORKS["Darknet-53 + SPPF"]))
    assert list(sppf.marks[-2].windows) == ["3 × 5/1/2"]


def test_snippet():
    lines = report.run_snippet(where_used.SNIPPET).output.splitlines()
    assert lines[0].split(None, 1) == [
        "conv1.0",
        "strided conv 3/2/1 (3, 224, 224) -> (32, 112, 112)",
    ]
    assert [line.split()[0] for line in lines[-2:]] == ["avgpool", "fc"]
    assert len(lines) == 10
