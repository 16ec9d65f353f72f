"""Inputs and situations that broke other pooling code: windows, padding, sizes, strides.

Tests are numbered as the list of traps. Item 8 (more than 2^31 elements) runs with
`make test-large`.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from poolkit import ArgumentError, testing
from poolkit import functional as F
from poolkit import window as W
from poolkit.testing import (
    assert_average_close,
    assert_bit_equal,
    assert_close,
    assert_format,
    assert_same_strides,
    check_max_pool,
    compare_with_torch,
    gradient,
    laid_out,
    sample,
)

TF = torch.nn.functional

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


@every_rank
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_01_last_window_inside_the_padding(rank, size):
    x = sample((1, 2, *(size,) * rank)) + 3
    for kernel, stride, pad in [(1, 2, 0), (2, 2, 1), (3, 2, 1), (2, 3, 1), (4, 3, 2), (3, 5, 1)]:
        for include in (True, False):
            args = (kernel, stride, pad, True, include)
            compare_with_torch(f"avg_pool{rank}d", x, *args)
        compare_with_torch(f"max_pool{rank}d", x, kernel, stride, pad, 1, True, True)


def test_01_divisor_of_kernel_1_with_stride_2():
    x = torch.arange(1.0, 5.0)[None, None]
    y = F.avg_pool1d(x, 1, 2, ceil_mode=True, count_include_pad=True)
    assert y.flatten().tolist() == [1, 3]


@pytest.mark.filterwarnings("ignore")
def test_02_divisor_where_a_window_overhangs():
    x = torch.ones(1, 1, 5, 5)

    def pool(x):
        return F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)

    # The last window of size 3 starts at 3: 2 cells and the padding are inside the padded extent.
    assert pool(x)[0, 0, 1].tolist() == pytest.approx([2 / 3, 1, 2 / 3])
    assert pool(torch.ones(1, 1, 6, 6))[0, 0, 0].tolist() == pytest.approx(
        [4 / 9, 2 / 3, 2 / 3, 1 / 3]
    )
    for size in range(3, 9):
        x = torch.ones(1, 1, size, size)
        expected = gradient(lambda x: TF.avg_pool2d(x, 3, 2, 1, ceil_mode=True), x)
        assert_close(gradient(pool, x), expected)
    torch._dynamo.reset()
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert_bit_equal(compiled(x), pool(x))
    assert_bit_equal(gradient(compiled, x), gradient(pool, x))


@every_rank
def test_03_divisor_override(rank):
    x = sample((1, 2, *(5,) * rank))
    function = getattr(F, f"avg_pool{rank}d")
    for divisor, ceil, pad in itertools.product((-3, 1, 7, 2**62), (False, True), (0, 1)):
        window = W.fixed("f", rank, x.shape, 3, 2, pad, 1, ceil, False, True, divisor)
        assert_average_close(function(x, 3, 2, pad, ceil, divisor_override=divisor), x, window)
        if rank > 1 and divisor < 2**31:
            compare_with_torch(f"avg_pool{rank}d", x, 3, 2, pad, ceil, False, divisor)
    for bad in (0, 1.0, True, "1"):
        with pytest.raises(ArgumentError, match="divisor_override"):
            function(x, 3, divisor_override=bad)


@every_rank
def test_04_padding_above_half_the_kernel(rank):
    x = sample((1, 2, *(5,) * rank), values="relu")
    check_max_pool(x, 4, 1, 3)
    check_max_pool(x, 2, 1, 2, dilation=3)
    check_max_pool(x, 3, 2, ((3, 4),) * rank, 2)
    check_max_pool(x, 2, 1, 5, dilation=5)
    with pytest.raises(ArgumentError, match="window 0"):
        getattr(F, f"max_pool{rank}d")(x, 2, 1, 2)
    with pytest.raises(ArgumentError, match="holds no cell"):
        getattr(F, f"avg_pool{rank}d")(x, 2, 1, 2, count_include_pad=False)
    assert getattr(F, f"avg_pool{rank}d")(x, 2, 1, 2).flatten()[0] == 0


@every_rank
@pytest.mark.parametrize("padding", ["same", "same_lower"])
def test_05_same(rank, padding):
    for size, kernel, stride in itertools.product((5, 6, 7), (2, 3, 4), (1, 2, 3)):
        x = sample((1, 1, *(size,) * rank), values="relu")
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        less, more = total // 2, total - total // 2
        pair = (less, more) if padding == "same" else (more, less)
        pads = [p for _ in range(rank) for p in pair]
        y = getattr(F, f"max_pool{rank}d")(x, kernel, stride, padding)
        assert y.shape[2:] == (math.ceil(size / stride),) * rank
        filled = TF.pad(x, pads, value=-math.inf)
        assert_bit_equal(y, getattr(TF, f"max_pool{rank}d")(filled, kernel, stride))
        y = getattr(F, f"avg_pool{rank}d")(x, kernel, stride, padding)
        assert_close(y, getattr(TF, f"avg_pool{rank}d")(TF.pad(x, pads), kernel, stride))
        # TensorFlow's rule.
        ones = getattr(F, f"avg_pool{rank}d")(torch.ones_like(x), kernel, stride, padding,
                                              count_include_pad=False)  # fmt: skip
        assert_close(ones, torch.ones_like(ones))


@every_rank
@every_layout
@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_06_adaptive(rank, layout, size):
    x = laid_out(sample((2, 3, *(size,) * rank), values="relu"), layout)
    for out in (0, 1, 2, 3, 5, 7, 11):
        compare_with_torch(f"adaptive_max_pool{rank}d", x, (out,) * rank, True)
        compare_with_torch(f"adaptive_avg_pool{rank}d", x, (out,) * rank)
    for name in ("max", "avg"):
        function = getattr(F, f"adaptive_{name}_pool{rank}d")
        # A sum begins with 0, in torch too: the average of a window of one -0 is +0.
        assert_bit_equal(function(x, None), x if name == "max" else x + 0)
        assert function(x, (None,) * (rank - 1) + (0,)).numel() == 0
        for bad in (-1, 2**63, 2**62, 1.5, True, (1,) * (rank + 1), "1", (1.0,) * rank):
            with pytest.raises(ArgumentError):
                function(x, bad)


@every_rank
@pytest.mark.parametrize("huge", [2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**70])
def test_07_numbers_near_overflow(rank, huge):
    x = sample((1, 2, *(4,) * rank))
    outcomes = set()
    for name in ("max_pool", "avg_pool"):
        function = getattr(F, f"{name}{rank}d")
        for kwargs in (
            {"kernel_size": huge}, {"kernel_size": 2, "dilation": huge},
            {"kernel_size": huge, "stride": huge, "padding": huge, "dilation": huge},
            {"kernel_size": huge, "ceil_mode": True, "padding": huge},
            {"kernel_size": 2, "stride": huge, "padding": huge},
        ):  # fmt: skip
            try:
                outcomes.add(tuple(function(x, **kwargs).shape))
            except ArgumentError:
                outcomes.add("ArgumentError")
    assert "ArgumentError" in outcomes
    if huge < 2**62:
        y = getattr(F, f"max_pool{rank}d")(x, 2, huge)
        assert_bit_equal(y, x[(..., *(slice(0, 2),) * rank)].amax(tuple(range(2, 2 + rank)), True))
        # All cells lie in the huge window, which the input and the padding share.
        y = getattr(F, f"max_pool{rank}d")(x, huge, 1, "same")
        assert_bit_equal(y, x.amax(tuple(range(2, 2 + rank)), True).expand(x.shape))


@every_rank
@every_layout
@pytest.mark.parametrize("huge", [2**20 + 3, 2**31, 2**40, 2**61])
@pytest.mark.parametrize("channels", [1, 40])  # planes one by one, and as lanes
def test_07_gradients_of_huge_windows(rank, layout, huge, channels):
    """Every output sees all cells, however far away the numbers of their taps are."""
    x = laid_out(sample((1, channels, *(5,) * rank), values="normal"), layout)
    cells, plane = x.flatten(2), (1, channels, *(1,) * rank)
    winner = cells.argmax(-1, keepdim=True)
    kernel = (huge, *(11,) * (rank - 1))
    a = x.detach().requires_grad_()
    largest = getattr(F, f"max_pool{rank}d")
    if huge * 11 ** (rank - 1) >= 2**63:
        with pytest.raises(RuntimeError, match="more taps than 64 bits can number"):
            largest(a, kernel, 1, "same")
        return
    y, index = largest(a, kernel, 1, "same", return_indices=True)
    assert torch.equal(index.flatten(2), winner.expand(cells.shape))
    g = sample(x.shape, seed=1)
    (slope,) = torch.autograd.grad(y, a, g)
    expected = torch.zeros_like(cells).scatter_(2, winner, g.flatten(2).sum(-1, keepdim=True))
    assert_close(slope.flatten(2), expected)
    (slope,) = torch.autograd.grad(getattr(F, f"avg_pool{rank}d")(a, kernel, 1, "same"), a, g)
    taps = float(huge) * 11 ** (rank - 1)
    assert_close((slope.double() * taps).float(), g.flatten(2).sum(-1).view(plane).expand(x.shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 2**20 - 1, 2**20, 2**21 + 3])
def test_07_gradient_of_a_padded_window_of_many_cells(dtype, place):
    """More real cells along an axis than the position of a tap has bits for."""
    x = torch.zeros(1, 1, 2**21 + 5, dtype=dtype)
    x[..., place] = 1
    x.requires_grad_()
    y, index = F.max_pool1d(x, x.numel() + 1, x.numel(), 1, return_indices=True)
    assert index.item() == place
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.flatten().nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("rank", [1, 2])
def test_07_huge_dilation_of_one_tap(rank):
    x = sample((1, 2, *(4,) * rank))
    assert_bit_equal(getattr(F, f"max_pool{rank}d")(x, 1, 1, dilation=2**40), x)


@every_rank
@every_layout
def test_09_empty_and_small(rank, layout):
    x = laid_out(sample((3, 2, *(4,) * rank)), layout)
    for name, args in [("max_pool", (2,)), ("avg_pool", (2,)), ("lp_pool", (2, 2)),
                       ("adaptive_max_pool", (2,)), ("adaptive_avg_pool", (2,)),
                       ("fractional_max_pool", (2, 2))]:  # fmt: skip
        function = getattr(F, f"{name}{rank}d")
        # An empty batch forward, backward and backward again.
        empty = x[:0].detach().requires_grad_()
        y = function(empty, *args)
        assert y.shape == (0, 2, *(2,) * rank)
        (g,) = torch.autograd.grad(y.sum(), empty, create_graph=True)
        assert g.shape == empty.shape
        torch.autograd.grad(g.sum() + y.sum(), empty)
        with pytest.raises(ArgumentError):
            function(x[..., :0], *args)
        if name != "adaptive_avg_pool":
            with pytest.raises(ArgumentError):
                function(x[:, :0], *args)
    assert getattr(F, f"adaptive_avg_pool{rank}d")(x[:, :0], 2).shape == (3, 0, *(2,) * rank)
    one = sample((1, 1, *(1,) * rank))
    for name in ("max_pool", "avg_pool"):
        assert_bit_equal(getattr(F, f"{name}{rank}d")(one, 1), one)
        with pytest.raises(ArgumentError, match="output size"):
            getattr(F, f"{name}{rank}d")(one, 4, 1, 1)
        with pytest.raises(ArgumentError):
            getattr(F, f"{name}{rank}d")(one[0, 0], 1)


@every_rank
@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_10_views(rank, layout):
    x = laid_out(sample((2, 4, *(7,) * rank), values="relu"), layout)
    check_max_pool(x, 3, 2, 1)
    window = W.fixed("f", rank, x.shape, 3, 2, 1, 1, False, False)
    y = getattr(F, f"avg_pool{rank}d")(x, 3, 2, 1)
    assert_average_close(y, x, window)
    for got in (y, getattr(F, f"max_pool{rank}d")(x, 3, 2, 1), *with_indices(rank, x)):
        assert_format(got, x)
    leaf = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(getattr(F, f"avg_pool{rank}d")(leaf, 3, 2, 1).sum(), leaf)
    assert_same_strides(g, torch.empty_like(leaf), "gradient")
    # Unbatched.
    assert_bit_equal(
        getattr(F, f"max_pool{rank}d")(x[0], 3, 2, 1), getattr(F, f"max_pool{rank}d")(x, 3, 2, 1)[0]
    )
    assert_bit_equal(getattr(F, f"avg_pool{rank}d")(x[0], 3, 2, 1), y[0])


def with_indices(rank, x):
    return getattr(F, f"max_pool{rank}d")(x, 3, 2, 1, return_indices=True)


def test_10_ambiguous_strides():
    for shape in [(2, 1, 4, 5), (2, 3, 1, 1), (1, 1, 1, 1), (1, 3, 4, 1)]:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.empty(shape, memory_format=layout).copy_(sample(shape))
            y = F.max_pool2d(x, 1)
            assert_bit_equal(y, x)
            assert_format(y, x)
            assert_same_strides(y, TF.max_pool2d(x, 1))
            assert_same_strides(F.adaptive_avg_pool2d(x, 1), TF.adaptive_avg_pool2d(x, 1))


def test_10_overlapping_as_strided():
    x = torch.arange(100.0).as_strided((2, 3, 4, 4), (5, 2, 3, 1))
    check_max_pool(x, 2, 1)
    assert_average_close(
        F.avg_pool2d(x, 2, 1), x, W.fixed("f", 2, x.shape, 2, 1, 0, 1, False, False)
    )


def test_29_dilation_gap_wider_than_the_input():
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(ArgumentError, match="window 0 of axis H holds no cell"):
        F.max_pool2d(x, 2, 1, 1, 5, return_indices=True)
    with pytest.raises(ArgumentError, match="holds no cell"):
        F.avg_pool2d(x, 2, 1, 1, count_include_pad=False, dilation=5)
    assert F.avg_pool2d(x, 2, 1, 1, dilation=5).eq(0).all()  # padding that counts is zeros
    assert F.lp_pool2d(x, 2, 2, 1, padding=1, dilation=5).eq(0).all()
    check_max_pool(x, 2, 5, 5, 5)  # a stride that steps over the gap


@every_rank
def test_31_ceil_with_asymmetric_padding(rank):
    x = sample((1, 2, *(5,) * rank), values="relu")
    for pair in [(0, 4), (0, 7), (2, 0), (1, 6)]:
        for kernel, stride in [(3, 1), (3, 2), (4, 2), (4, 3)]:
            y = check_max_pool(x, kernel, stride, (pair,) * rank, ceil_mode=True)
            window = W.fixed("f", rank, x.shape, kernel, stride, (pair,) * rank, 1, True, True)
            assert all((a.out - 1) * a.stride - a.before < a.size for a in window.axes)
            mean = getattr(F, f"avg_pool{rank}d")(x, kernel, stride, (pair,) * rank, True)
            assert mean.shape == y.shape
            assert_average_close(mean, x, window)
    y = getattr(F, f"max_pool{rank}d")(x, 7, 6, ceil_mode=True)  # rescued: 5 - 7 < 0
    assert_bit_equal(y, x.amax(tuple(range(2, 2 + rank)), True))


def test_numpy_integers_and_strings():
    x = sample((1, 1, 6, 6))
    assert F.max_pool2d(x, np.int64(2)).shape == (1, 1, 3, 3)
    assert F.max_pool2d(x, tuple(x.shape[2:])).shape == (1, 1, 1, 1)
    for bad in (None, "x", [1, 2], np.zeros((1, 1, 4, 4)), 3):
        with pytest.raises(ArgumentError, match="input"):
            F.max_pool2d(bad, 2)
