"""Section "Why pool: cost": the numbers of the text, from live computation."""

import re

import pytest
import torch

pytest.importorskip("matplotlib")

from poolkit.demo import report
from poolkit.demo.sections import cost as section


@pytest.fixture(scope="module", params=["en", "ko"])
def made(request):
    return section.build(report.Context(torch.zeros(1, 3, 32, 32), "x.png", request.param))


def numbers(text):
    return [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", str(text))]


def test_multiplications_of_one_filter(made):
    """2,304 for each of 56 x 56 values, and a quarter with every halving."""
    filters, _ = made.tables
    first = filters.rows[0]
    assert first[:4] == ("56×56", "2,304", "3,136", "7,225,344")
    counts = [numbers(row[3])[0] for row in filters.rows]
    assert counts == [7_225_344 // 4**i for i in range(4)]
    assert [row[5] for row in filters.rows] == ["1", "1/4", "1/16", "1/64"]
    words = [block.html for block in made.blocks if isinstance(block, report.Prose)]
    assert any("2,304" in text for text in words)
    (formula,) = [block.mathml for block in made.blocks if isinstance(block, report.Formula)]
    assert numbers(formula)[:5] == [3, 3, 256, 56, 56]
    assert "7,225,344" in formula


def test_numbers_follow_the_sizes(monkeypatch):
    """Nothing is a string: other sizes give other numbers."""
    monkeypatch.setattr(section, "CHANNELS", 10)
    monkeypatch.setattr(section, "SIDES", (8, 4))
    monkeypatch.setattr(section, "SIDE", 8)
    made = section.build(report.Context(torch.zeros(1, 3, 32, 32), "x.png"))
    assert made.tables[0].rows[0][1:4] == ("90", "64", "5,760")
    assert "5,760" in next(b.mathml for b in made.blocks if isinstance(b, report.Formula))


def test_stages(made):
    """Pooling compares three times for each output; doubled channels cost what they did before."""
    before, pool, after, wider = made.tables[1].rows
    assert numbers(pool[4]) == [3 * 256 * 28 * 28]
    assert numbers(before[3])[0] == 4 * numbers(after[3])[0] == numbers(wider[3])[0]
    assert pool[1:3] == ("256×56×56", "256×28×28")
    assert numbers(before[5]) == [256 * 256 * 9 + 256]


def test_vgg16_against_its_modules():
    """The same network as torch modules, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    for pooled in (True, False):
        layers, channels, expected = [], 3, []
        for filters, count in section.VGG16:
            for _ in range(count):
                layers.append(torch.nn.Conv2d(channels, filters, 3, padding=1, device="meta"))
                channels = filters
            layers.append(torch.nn.MaxPool2d(2) if pooled else torch.nn.Identity())
        x = torch.empty(1, 3, 224, 224, device="meta")
        total = 0
        for layer in layers:
            with FlopCounterMode(display=False) as counter:
                x = layer(x)
            total += counter.get_total_flops() // 2
            if not isinstance(layer, torch.nn.Conv2d):
                expected.append(total)
                total = 0
        blocks, places = section.vgg16(pooled)
        assert blocks == expected
        assert places == x.shape[2] * x.shape[3]


def test_vgg16_in_the_text(made):
    plain, pooled = (sum(section.vgg16(flag)[0]) for flag in (False, True))
    words = " ".join(str(block.html) for block in made.blocks if isinstance(block, report.Prose))
    assert {plain, pooled} <= set(numbers(words))
    assert f"{plain / pooled:.3g}" in words


def test_snippet():
    output = report.run_snippet(section.SNIPPET).output
    assert numbers(output) == [7_225_344, 56, 56, 1_806_336, 28, 28, 602_112]
