"""Windows that are long runs of cells, and channels so few that they are a row with the cells."""

import math

import pytest
import torch

import poolkit.functional as F
from maxima import assert_maxima
from poolkit import window
from poolkit.testing import assert_bit_equal, check_avg, check_max, check_max_pool, laid_out, sample

native = torch.ops.poolkit
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# About the lanes of every instruction set, and four vectors of them.
LENGTHS = (1, 5, 15, 16, 17, 33, 48, 63, 64, 65, 127, 130, 256, 257, 300)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("n", LENGTHS)
def test_the_maximum_of_a_run_is_found_wherever_it_is(n, dtype):
    """Each of n planes has it at another cell, and once more behind that."""
    x = sample((1, n, n), dtype, "normal", n)
    x = x.clamp(-3, 3) if dtype.is_floating_point else x % 100
    cells = torch.arange(n)
    x[0, cells, cells] = 100
    x[0, cells, (cells + n) // 2] = 100
    assert_maxima(x, window.adaptive("t", 1, x.shape, 1, True))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", LENGTHS)
def test_one_special_cell_of_a_run(n, dtype):
    """Wherever one cell is NaN or an infinity, or one zero negative."""
    cells = torch.arange(n)
    for special in (math.nan, math.inf, -math.inf, -0.0):
        x = sample((1, n, n), dtype, "normal", n)
        if special == 0:
            x = torch.zeros_like(x)
        x[0, cells, cells] = special
        x[0, cells, (cells + n) // 2] = -special
        assert_maxima(x, window.adaptive("t", 1, x.shape, 1, True))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("n", LENGTHS)
def test_a_run_of_nothing_but_the_least_value(n, dtype):
    least = -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min
    x = torch.full((1, 3, n), least, dtype=dtype)
    assert_maxima(x, window.adaptive("t", 1, x.shape, 1, True))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8, torch.int64])
@pytest.mark.parametrize(("kernel", "stride"), [(64, 64), (50, 40), (70, 70)])
def test_windows_of_several_long_runs(kernel, stride, dtype):
    x = sample((2, 3, 5, 300), dtype, "normal", kernel)
    w = window.fixed("t", 2, x.shape, (3, kernel), (2, stride), (1, 20), 1, True, True)
    assert_maxima(x, w)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8])
@pytest.mark.parametrize("channels", [2, 3, 8, 12, 15, 31, 40])
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"),
    [(3, 1, 1), (2, 0, 1), (5, 2, 2), ((3, 7), ((0, 2), (5, 1)), 1), ((17, 1), (8, 0), 1)],
)
def test_few_channels(kernel, padding, dilation, channels, dtype):
    """Windows that begin a cell apart, channels-last: cells and channels are one row."""
    shape = (3, channels, 19, 23)
    x = sample(shape, dtype, "relu", channels)
    last = laid_out(x, "channels_last")
    check_max_pool(last, kernel, 1, padding, dilation)
    if not dtype.is_floating_point:
        return
    for counted in (True, False):
        w = window.fixed("t", 2, shape, kernel, 1, padding, dilation, False, True, counted)

        def average(x, counted=counted):
            return F.avg_pool2d(x, kernel, 1, padding, False, counted, dilation=dilation)

        check_avg(last, w, average)
        if w.axes[0].kernel < 10:  # sums of large windows are added up as it comes
            assert_bit_equal(average(last), average(x))


def test_few_channels_of_three_axes():
    shape = (2, 5, 9, 8, 11)
    x = sample(shape, torch.float32, "normal", 3)
    last = laid_out(x, "channels_last")
    check_max_pool(last, 3, 1, 1)
    w = window.fixed("t", 3, shape, 3, 1, 1, 1, False, True)
    check_avg(last, w, lambda x: F.avg_pool3d(x, 3, 1, 1))
    assert_bit_equal(native.avg_pool(last, w.packed), native.avg_pool(x, w.packed))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8])
@pytest.mark.parametrize("shape", [(1, 3, 9, 11), (9, 5, 30, 40), (2, 3, 300, 260)])
def test_few_channels_of_global_windows(shape, dtype):
    """Their offsets take one byte, two, and four."""
    last = laid_out(sample(shape, dtype, "relu", 1), "channels_last")
    w = window.adaptive("t", 2, shape, 1, True)
    check_max(last, w, lambda x, indices: F.adaptive_max_pool2d(x, 1, return_indices=indices))
    if dtype.is_floating_point:
        check_avg(last, w, lambda x: F.adaptive_avg_pool2d(x, 1))


@pytest.mark.parametrize("channels", [3, 4, 5, 8])
def test_few_channels_of_endless_windows(channels):
    """What is multiplied by the number of channels must not leave 64 bits."""
    x = sample((2, channels, 4, 3), torch.float32, "normal", 1)
    last = laid_out(x, "channels_last")
    for kernel, padding, dilation in (
        ((1, 2**61), "same", 1),
        ((1, 3), (0, 2**58), 2**58),
        ((2, 1), 0, 1),
        ((1, 2), ((0, 0), (0, 2**59)), 2**59),
        (1, 0, 2**61),
    ):
        w = window.fixed("t", 2, last.shape, kernel, 1, padding, dilation, False, True)
        # (The reference would count the taps.)
        assert_bit_equal(native.max_pool(last, w.packed), native.max_pool(x, w.packed))
        average, expected = native.avg_pool(last, w.packed), native.avg_pool(x, w.packed)
        torch.testing.assert_close(average, expected)


def test_offsets_that_name_no_cell_of_few_channels():
    """They add nothing, or to a cell of their plane."""
    last = laid_out(sample((2, 3, 9, 9), torch.float32, "normal", 1), "channels_last")
    for kernel in (3, 5):
        w = window.fixed("t", 2, last.shape, kernel, 1, kernel // 2, 1, False, True)
        values, offsets = native.max_pool_offsets(last, w.packed)
        for bad in (kernel * kernel, 255):
            wrong = torch.full_like(offsets, bad)
            assert not native.scatter(values, wrong, window.pack(w, True)).any()
