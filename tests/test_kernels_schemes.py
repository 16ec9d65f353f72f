"""Schemes that few random draws reach: neighbouring windows, slices, gradients along rows."""

import itertools
import math
import random

import pytest
import torch

from poolkit import reference, window
from poolkit.errors import ArgumentError
from poolkit.testing import assert_average_close, assert_bit_equal, sample

native = torch.ops.poolkit


def check_maxima(x, w, *layouts):
    """In each layout, channels-last (True) or not, against the reference."""
    values, offsets = reference.max_pool(x, w)
    for last in layouts:
        packed = window.pack(w, last)
        laid = x if last else x.contiguous()
        best, at = native.max_pool_offsets(laid, packed)
        assert_bit_equal(native.max_pool(laid, packed), values, f"values of {w}")
        assert_bit_equal(best, values, f"values beside offsets of {w}")
        assert_bit_equal(at.long(), offsets.long(), f"offsets of {w}")


def check_averages(x, w, last, for_threads):
    packed = window.pack(w, last)
    averages = for_threads(lambda: native.avg_pool(x, packed))
    assert_average_close(averages[0], x, w)
    for other in averages[1:]:
        assert_bit_equal(other, averages[0], f"averages of {w}")


# From four to more than eight taps; so much padding that most windows are clipped.
NEIGHBOURS = [
    # kernel, extents, padding
    ((5, 5), (11, 14), (2, 2)),
    ((7, 4), (9, 23), (6, 0)),
    ((8, 9), (8, 9), (4, 8)),
    ((9, 9), (20, 20), (4, 4)),
    ((13, 13), (7, 21), (12, 6)),
    ((3, 31), (4, 40), (1, 15)),
    ((31, 3), (40, 5), (30, 1)),
    ((2, 5, 6), (3, 9, 10), (0, 2, 5)),
    ((1, 25), (1, 90), (0, 12)),
    ((1, 6), (2, 5), (0, 5)),
]
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("kernel", "extents", "padding"), NEIGHBOURS)
def test_neighbouring_windows(kernel, extents, padding, dtype, for_threads):
    """Windows of channels that share most of their cells, at edges and far from them."""
    rank = len(kernel)
    kinds = ("relu", "special" if dtype.is_floating_point else "extreme", "zeros")
    for channels, values in itertools.product((16, 37, 64, 150), kinds):
        x = sample((2, channels, *extents), dtype, values, channels)
        x = x.contiguous(memory_format=LAST[rank])
        w = window.fixed("t", rank, x.shape, kernel, 1, padding, 1, False, True, channels != 64)
        check_maxima(x, w, True, False)  # contiguous planes are turned into lanes
        if dtype.is_floating_point:
            check_averages(x, w, True, for_threads)


def test_neighbouring_windows_in_several_strips(for_threads):
    """Rows too long for the cache are cut into columns, and channels into bundles."""
    for shape, kernel in (((1, 8, 40, 700), 31), ((1, 32, 25, 180), 13), ((1, 520, 20, 20), 9)):
        x = sample(shape, torch.float32, "relu", kernel)
        x = x.contiguous(memory_format=torch.channels_last)
        w = window.fixed("t", 2, shape, kernel, 1, kernel // 2, 1, False, True)
        packed = window.pack(w, True)
        expected = torch.nn.functional.max_pool2d(x, kernel, 1, kernel // 2)
        best, offsets = native.max_pool_offsets(x, packed)
        assert_bit_equal(best, expected)
        assert_bit_equal(native.max_pool(x, packed), expected)
        assert_bit_equal(native.pick(x, offsets, packed), expected)
        averages = for_threads(lambda x=x, packed=packed: native.avg_pool(x, packed))
        exact = torch.nn.functional.avg_pool2d(x.double(), kernel, 1, kernel // 2)
        torch.testing.assert_close(averages[0].double(), exact, rtol=1e-5, atol=1e-7)
        assert_bit_equal(averages[0], averages[1])
        assert_bit_equal(averages[0], averages[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [9, 13])
def test_neighbouring_windows_of_planes_in_parts(kernel, dtype):
    """Planes too large for the cache are cut into rows; in one part something is special."""
    x = sample((1, 70, 90, 100), dtype, "normal", kernel)
    x[0, 3, 80, 5] = math.nan
    x.view(torch.int16 if x.itemsize == 2 else torch.int32)[0, 41, 40, 99] = -1  # NaN, below all
    w = window.fixed("t", 2, x.shape, kernel, 1, kernel // 2, 1, False, True)
    expected, at = torch.nn.functional.max_pool2d(
        x.double(), kernel, 1, kernel // 2, return_indices=True
    )
    best, offsets = native.max_pool_offsets(x, w.packed)
    assert_bit_equal(native.max_pool(x, w.packed), expected.to(dtype))
    assert_bit_equal(best, expected.to(dtype))
    assert_bit_equal(native.plane_indices(offsets, w.packed), at)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2)])
def test_slices(kernel, stride, dtype, for_threads):
    """Windows of three axes over contiguous planes, however many slices they hold and share."""
    rng = random.Random(f"{kernel} {stride} {dtype}")
    taken = 0
    for width in (1, 7, 15, 16, 24, 33, 47, 50, 64, 97):
        depth = rng.randint(2, 4)
        dilation, steps = rng.choice((1, 1, 2)), rng.randint(1, depth)
        sizes = (rng.randint(1, 11), rng.randint(1, 12), width)
        pads = tuple(
            (rng.randint(0, k - 1), rng.randint(0, k - 1)) for k in (depth, kernel, kernel)
        )
        kinds = ("normal", "relu", "zeros", "special") if dtype.is_floating_point else ("relu",)
        shape = (rng.choice((1, 2)), rng.randint(1, 9), *sizes)
        x = sample(shape, dtype, rng.choice(kinds), width)
        counts = (rng.random() < 0.5, True, rng.random() < 0.5)
        kernels, strides = (depth, kernel, kernel), (steps, stride, stride)
        try:
            w = window.fixed("t", 3, shape, kernels, strides, pads, (dilation, 1, 1), *counts)
        except ArgumentError:
            continue
        taken += 1
        check_maxima(x, w, False)
        if dtype.is_floating_point:
            check_averages(x, w, False, for_threads)
    assert taken > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("stride", [2, 4])
def test_gradients_of_averages_along_rows(stride, dtype, for_threads):
    """Averages whose gradients go back along whole rows: every padding, clipped and counted."""
    rng = random.Random(f"{stride} {dtype}")
    for out in (10, 20, 24, 27, 31, 40, 41, 65):
        kernel = rng.randint(stride, 2 * stride)
        pads = (rng.randint(0, kernel - 1), rng.randint(0, kernel - 1))
        width = max(1, (out - 1) * stride + kernel - sum(pads) + rng.randint(0, stride - 1))
        rank = rng.choice((1, 2, 3))
        kernels = [*(rng.randint(1, 4) for _ in range(rank - 1)), kernel]
        steps = [*(rng.randint((k + 1) // 2, k) for k in kernels[:-1]), stride]
        paddings = [*((rng.randint(0, k - 1), rng.randint(0, k - 1)) for k in kernels[:-1]), pads]
        planes = rng.choice(((2, 13), (1, 1)))  # of one plane the rows are shared out
        inner = 9 if planes == (2, 13) else 60
        shape = (*planes, *(rng.randint(4, inner) for _ in range(rank - 1)), width)
        w = window.fixed("t", rank, shape, kernels, steps, tuple(paddings), 1, rng.random() < 0.5,
                         True, rng.random() < 0.5, rng.choice((None, None, 3)))  # fmt: skip
        g = sample(w.output_shape(shape), dtype, "normal", out)
        spread = for_threads(lambda g=g, w=w: native.avg_pool_backward(g, w.packed))
        exact = reference.avg_pool_backward(g.double(), w, False)
        size = reference.avg_pool_backward(g.double().abs(), w, False).abs()
        eps = torch.finfo(torch.float32 if dtype is torch.bfloat16 else dtype).eps
        bound = size * eps * (2 + sum(kernels)) + exact.abs() * torch.finfo(dtype).eps
        assert ((spread[0].double() - exact).abs() <= bound).all(), w
        assert_bit_equal(spread[1], spread[0])
        assert_bit_equal(spread[2], spread[0])


def test_sums_do_not_depend_on_the_batch():
    """Large windows over few planes take another scheme than over many: the sums are the same."""
    x = sample((6, 5, 23, 61))
    for kernel, stride in ((5, 1), (9, 1), (5, 3), (13, 1)):
        w = window.fixed("t", 2, x.shape, kernel, stride, kernel // 2, 1, False, True)
        one = window.fixed("t", 2, x[:1, :1].shape, kernel, stride, kernel // 2, 1, False, True)
        some = native.avg_pool(x, w.packed)[1:2, 2:3]
        assert_bit_equal(native.avg_pool(x[1:2, 2:3], one.packed), some)


TILES = [
    # extents, padding
    ((1, 1), 1),
    ((1, 2), 1),
    ((2, 1), 1),
    ((3, 3), 1),
    ((5, 7), 1),
    ((4, 9), 1),
    ((6, 6), 0),
    ((3, 8), 0),
    ((9, 5), ((1, 0), (0, 1))),
    ((7, 6), ((0, 1), (1, 0))),
    ((2, 5, 6), ((0, 0), (1, 1), (1, 1))),
]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8]
)
@pytest.mark.parametrize(("extents", "padding"), TILES)
def test_tiles(extents, padding, dtype, for_threads):
    """Windows 3/1 of channels: rows of tiles that are not whole, and every edge."""
    rank = len(extents)
    kernel = (1,) * (rank - 2) + (3, 3)
    kinds = ("relu", "special" if dtype.is_floating_point else "extreme", "zeros")
    for channels, values in itertools.product((16, 37, 64, 150), kinds):
        x = sample((2, channels, *extents), dtype, values, channels)
        x = x.contiguous(memory_format=LAST[rank])
        w = window.fixed("t", rank, x.shape, kernel, 1, padding, 1, False, True)
        check_maxima(x, w, True)
        if dtype.is_floating_point and values != "special":
            check_averages(x, w, True, for_threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("extents", "kernel", "padding", "dilation"),
    [
        ((1, 8, 8), 3, 1, 1),
        ((2, 5, 7), (2, 3, 3), 1, 1),
        ((2, 6, 6), 3, (2, 1, 1), (2, 1, 1)),
        ((5, 4, 6), 3, 1, 1),
    ],
)
def test_one_slice_of_several(extents, kernel, padding, dilation, last, dtype, for_threads):
    """Windows of several slices of which one is real, and not the first: offsets count them all."""
    x = sample((2, 64, *extents), dtype, "relu", 1)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    w = window.fixed("t", 3, x.shape, kernel, 1, padding, dilation, False, True)
    check_maxima(x, w, last)
    if dtype.is_floating_point:
        check_averages(x, w, last, for_threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_nan_in_a_tile(dtype):
    """Wherever it is, every window that holds it is NaN."""
    for padding in (0, 1):
        for at in itertools.product(range(6), range(7)):
            x = sample((1, 32, 6, 7), dtype, "normal", 1)
            x[0, 5, at[0], at[1]] = math.nan
            x = x.contiguous(memory_format=torch.channels_last)
            w = window.fixed("t", 2, x.shape, 3, 1, padding, 1, False, True)
            check_maxima(x, w, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("stride", [2, 3, 4, 5])
@pytest.mark.parametrize("planes", [(1, 3), (2, 32), (7, 11), (5, 64)])
def test_short_rows_that_windows_cut(planes, stride, dtype, for_threads):
    """Several of them are one row."""
    for kernel, out in itertools.product((2, stride), (1, 3, 8, 31)):
        for extents, k, s in (
            ((out * stride,), kernel, stride),
            ((out * stride, 17), (kernel, 1), (stride, 1)),
        ):
            x = sample((*planes, *extents), dtype, "relu", out)
            w = window.fixed("t", len(extents), x.shape, k, s, 0, 1, False, True)
            check_maxima(x, w, False)
            if dtype.is_floating_point:
                check_averages(x, w, False, for_threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("size", [35, 40, 44, 73, 130])
def test_last_strips_together(size, dtype, for_threads):
    """Rows that end in few outputs: two planes share the last vector."""
    for planes, padding in itertools.product((1, 2, 5, 16), (0, 1)):
        for values in ("relu", "special" if dtype.is_floating_point else "extreme"):
            x = sample((1, planes, 9, size), dtype, values, size)
            w = window.fixed("t", 2, x.shape, 3, 2, padding, 1, False, True)
            check_maxima(x, w, False)
            if dtype.is_floating_point and values == "relu":
                check_averages(x, w, False, for_threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("values", ["normal", "special"])
def test_rows_of_few_outputs(values, dtype, for_threads):
    """Adaptive averages of contiguous planes, around the sizes that fill vectors, both ways.

    The bits are those of other schemes: of channels, and of one plane.
    """
    rng = random.Random(f"{values} {dtype}")
    for width in (3, 7, 8, 9, 13, 15, 16, 17, 20, 23, 24, 25, 31, 32, 33, 47, 49, 63, 64, 65):
        for out in {2, rng.randint(2, 6), 7, 8, 9, rng.choice((15, 16, 17, width - 1))}:
            depth = rng.choice(((), (), (3,)))  # an axis without windows
            height = rng.randint(2, 12)
            x = sample((2, rng.choice((1, 3, 20)), *depth, height, width), dtype, values, width)
            rank, sizes = x.dim() - 2, (*depth, rng.randint(1, height + 1), out)
            w = window.adaptive("t", rank, x.shape, sizes, True)
            check_averages(x, w, False, for_threads)
            one = window.adaptive("t", rank, x[:1].shape, sizes, True)
            averages = native.avg_pool(x, w.packed)
            assert_bit_equal(native.avg_pool(x[1:], one.packed), averages[1:], f"one of {w}")
            g = sample(tuple(averages.shape), dtype, values, out)
            back = for_threads(lambda g=g, w=w: native.avg_pool_backward(g, w.packed))
            assert_bit_equal(back[1], back[0], f"gradients of {w}")
            assert_bit_equal(back[2], back[0], f"gradients of {w}")
            assert_bit_equal(native.avg_pool_backward(g[1:], one.packed), back[0][1:])
            exact = reference.avg_pool_backward(g, w, False)
            torch.testing.assert_close(back[0], exact, equal_nan=True)
            if values == "normal":
                laid, packed = {"memory_format": LAST[rank]}, window.pack(w, True)
                of_channels = native.avg_pool(x.contiguous(**laid), packed)
                assert_bit_equal(of_channels, averages, f"channels of {w}")
                of_channels = native.avg_pool_backward(g.contiguous(**laid), packed)
                assert_bit_equal(of_channels, back[0], f"gradients of channels of {w}")
                norms = native.lp_pool(x, 2.0, w.packed)
                torch.testing.assert_close(norms, reference.lp_pool(x, 2.0, w, False))
