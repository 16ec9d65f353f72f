"""Gradients of maxima over small planes and over short rows of outputs, and small sums together."""

import itertools

import pytest
import torch

from poolkit import reference, window
from poolkit.testing import assert_average_close, assert_bit_equal, laid_out, sample

native = torch.ops.poolkit
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

WINDOWS = [
    # kernel, stride, padding, dilation, extents
    ((3, 3), 1, 1, 1, (3, 3)),
    ((3, 3), 1, 1, 1, (5, 5)),
    ((3, 3), 1, 1, 1, (7, 7)),
    ((3, 3), 1, 1, 1, (4, 9)),
    ((3, 3), 1, 1, 1, (1, 13)),
    ((3, 3), 1, 2, 2, (7, 6)),
    ((3, 2), 1, (1, 0), 1, (7, 7)),
    ((2, 2), 1, 0, 1, (9, 30)),
    ((2, 2), 1, 0, 1, (13, 13)),
    ((3, 1), 1, 0, 1, (9, 16)),
    ((2, 2), 1, (0, 1), 1, (9, 30)),
    ((3, 3), 1, 0, 1, (7, 300)),
    ((3, 3), 2, 0, 1, (13, 13)),
    ((3, 3), 2, 1, 1, (7, 7)),
    ((3, 3), 3, 0, 1, (10, 10)),
    ((3,), 1, 1, 1, (11,)),
    ((4,), 1, 0, 1, (40,)),
    ((3, 3, 3), 1, 1, 1, (3, 4, 5)),
    ((2, 2, 2), 1, 0, 1, (3, 4, 30)),
    ((1, 2, 2), 1, 0, 1, (3, 4, 30)),
    ((2, 1, 1), 1, 0, 1, (5, 4, 7)),
    ((1, 2, 2), 1, 0, 1, (2, 4, 27)),
    ((1, 2, 1), 1, 0, 1, (3, 5, 26)),
]
# Planes that are done in pieces. What the second piece of the last one reads begins below the last
# row of outputs.
LARGE = [
    ((2, 1, 2), 1, 0, 1, (4, 50, 50)),
    ((2, 2), 1, 0, 1, (90, 61)),
    ((3, 3), 1, 1, 1, (70, 90)),
    ((1, 2, 2), 1, 0, 3, (3, 50, 40)),
]
ADAPTIVE = [((7, 7), 3), ((20, 20), 7), ((9, 13), (4, 5)), ((6, 5, 7), (2, 3, 3))]
PLANES = (1, 15, 17, 70, 131)


def windows(planes):
    for kernel, stride, padding, dilation, extents in WINDOWS + LARGE * (planes < 20):
        shape = (planes, *extents)
        yield window.fixed("t", len(extents), shape, kernel, stride, padding, dilation, False, True)
    for extents, size in ADAPTIVE:
        yield window.adaptive("t", len(extents), (planes, *extents), size, True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("planes", PLANES)
def test_gradients_of_maxima(planes, dtype, for_threads):
    """Some planes at a time are one; the last ones may be fewer."""
    for w in windows(planes):
        x = sample((planes, *(axis.size for axis in w.axes)), dtype, "relu", planes)
        values, offsets = reference.max_pool(x, w)
        g = sample(tuple(values.shape), dtype, "normal", planes + 1)
        expected = reference.scatter(g, offsets, w, False)
        for found in for_threads(lambda g=g, at=offsets, w=w: native.scatter(g, at, w.packed)):
            assert_bit_equal(found, expected, f"{planes} planes, {w}")


@pytest.mark.parametrize("dtype", FLOATS)
def test_taps_that_are_padding_everywhere(dtype):
    """They may be any distance away: nothing is read or kept there."""
    x = sample((3, 32, 32), dtype, "normal", 6)
    for far, near in itertools.product((2**27, 2**40, 2**57), (1, 2)):
        w = window.fixed("t", 2, x.shape, (2, near), 1, ((far, 0), (0, 0)), (far, 1), False, True)
        same = window.fixed("t", 2, x.shape, (1, near), 1, 0, 1, False, True)
        g = sample(w.output_shape(x.shape), dtype, "normal", 7)
        offsets = reference.max_pool(x, same)[1]
        found = native.scatter(g, (offsets + near).to(torch.uint8), w.packed)
        assert_bit_equal(found, reference.scatter(g, offsets, same, False), f"{w}")
        assert not native.scatter(g, torch.zeros_like(offsets), w.packed).any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_offset_that_names_no_cell(dtype, for_threads):
    """It adds nothing; all others do as if it were not there."""
    planes = 150
    for w in windows(planes):
        x = sample((planes, *(axis.size for axis in w.axes)), dtype, "normal", 3)
        _, offsets = reference.max_pool(x, w)
        g = sample(tuple(offsets.shape), dtype, "normal", 4)
        for at in (0, offsets.numel() // 2, offsets.numel() - 1):
            wrong, rest = offsets.clone(), g.clone()
            wrong.view(-1)[at], rest.view(-1)[at] = w.taps, 0
            expected = native.scatter(rest, offsets, w.packed)
            for found in for_threads(lambda g=g, at=wrong, w=w: native.scatter(g, at, w.packed)):
                assert_bit_equal(found, expected, f"{w}")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("taps", [3, 4, 5, 6, 9])
@pytest.mark.parametrize("channels", [16, 40, 64, 130])
def test_small_sums_of_neighbours(channels, taps, dtype, for_threads):
    """Each is added up in order, whichever windows it goes together with."""
    x = laid_out(sample((1, channels, 1, 31), dtype, "normal", taps), "channels_last")
    w = window.fixed("t", 2, x.shape, (1, taps), 1, (0, taps // 2), 1, False, True)
    whole = native.avg_pool(x, w.packed)
    assert_average_close(whole, x, w)
    for other in for_threads(lambda: native.avg_pool(x, w.packed)):
        assert_bit_equal(other, whole, f"{taps} taps")
    for begin, size in itertools.product(range(5), range(taps, taps + 6)):
        part = x[..., begin : begin + size].contiguous(memory_format=torch.channels_last)
        inner = window.fixed("t", 2, part.shape, (1, taps), 1, 0, 1, False, True)
        first = begin + taps // 2
        assert_bit_equal(
            native.avg_pool(part, inner.packed),
            whole[..., first : first + size - taps + 1].contiguous(),
            f"{taps} taps from {begin}",
        )


@pytest.mark.parametrize("kernel", [15, 31])
def test_large_sums_of_one_row(kernel, for_threads):
    """Groups of neighbours begin at the same windows, whoever does them."""
    x = laid_out(sample((2, 64, 1, 1000), torch.float32, "normal", 8), "channels_last")
    w = window.fixed("t", 2, x.shape, (1, kernel), 1, (0, kernel // 2), 1, False, True)
    first, *others = for_threads(lambda: native.avg_pool(x, w.packed))
    one = native.avg_pool(x[:1], w.packed)
    assert_average_close(first, x, w)
    for other in others:
        assert_bit_equal(other, first, f"{kernel} taps")
    assert_bit_equal(one, first[:1].contiguous(memory_format=torch.channels_last), "one image")


def test_sums_across_channels():
    """Planes that are averaged across are runs of cells: none ends at a register."""
    x = sample((2, 1, 23, 7, 9), torch.float32, "normal", 5)
    w = window.fixed("t", 3, x.shape, (5, 1, 1), 1, (2, 0, 0), 1, False, True)
    assert_average_close(native.avg_pool(x, w.packed), x, w)
