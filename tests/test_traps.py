"""Inputs and situations that broke other pooling code. Tests are numbered as the list of traps.

Item 8 (more than 2^31 elements) runs with `make test-large`, 32 is in test_wheel.py, 28 comes with
RoI pooling.
"""

import copy
import functools
import itertools
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from poolkit import ArgumentError, DtypeError, nn, reference, testing
from poolkit import functional as F
from poolkit import window as W
from poolkit.testing import (
    assert_average_close,
    assert_bit_equal,
    assert_close,
    assert_format,
    assert_same_strides,
    compare_with_torch,
    laid_out,
    sample,
)

TF = torch.nn.functional

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def gradient(function, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def check_max(x, *args, **kwargs):
    """Values, indices and gradient of max_pool against the reference, bit for bit."""
    rank = x.dim() - 2
    function = getattr(F, f"max_pool{rank}d")
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    given |= dict(zip(names, args, strict=False)) | kwargs
    window = W.fixed("f", rank, x.shape, *(given[n] for n in names), True)
    values, offsets = reference.max_pool(x, window)
    assert_bit_equal(function(x, *args, **kwargs), values)
    y, i = function(x, *args, return_indices=True, **kwargs)
    assert_bit_equal(y, values)
    assert_bit_equal(i, reference.plane_indices(offsets, window), "indices")
    if x.is_floating_point():
        got = gradient(lambda x: function(x, *args, **kwargs), x)
        wanted = reference.scatter(torch.ones_like(values), offsets, window, False)
        assert_bit_equal(got, wanted, "gradient")
    return y


# ---- Geometry -----------------------------------------------------------------------------------


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
    check_max(x, 4, 1, 3)
    check_max(x, 2, 1, 2, dilation=3)
    check_max(x, 3, 2, ((3, 4),) * rank, 2)
    check_max(x, 2, 1, 5, dilation=5)
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
        assert_bit_equal(function(x, None), x)
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
    check_max(x, 3, 2, 1)
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
    check_max(x, 2, 1)
    assert_average_close(
        F.avg_pool2d(x, 2, 1), x, W.fixed("f", 2, x.shape, 2, 1, 0, 1, False, False)
    )


# ---- Values -------------------------------------------------------------------------------------


@every_rank
@every_layout
@pytest.mark.parametrize("dtype", testing.FLOATS)
def test_11_nan_and_infinities(rank, layout, dtype):
    for seed in range(4):
        x = laid_out(
            sample((2, 17, *((9, 9, 5)[rank - 1],) * rank), dtype, "special", seed), layout
        )
        check_max(x, 3, 2, 1)
        check_max(x, 2, 2)
        window = W.fixed("f", rank, x.shape, 3, 1, 1, 1, False, False)
        assert_average_close(getattr(F, f"avg_pool{rank}d")(x, 3, 1, 1), x, window)


def test_11_where_a_nan_stands():
    nan, inf = math.nan, math.inf
    for values, index in [
        ([nan, 1, 2], 0), ([1, 2, nan], 2), ([1, nan, 2], 1), ([nan, 1, nan], 2),
        ([nan, nan, 5], 1),
        ([-inf, -inf, -inf], 0), ([-inf, nan, inf], 1), ([nan, inf, inf], 0), ([-nan, 1, 2], 0),
    ]:  # fmt: skip
        for dtype in testing.FLOATS:
            for shape in [(1, 1, 3), (1, 1, 1, 3), (1, 1, 3, 1, 1)]:
                x = torch.tensor(values).to(dtype).reshape(shape)
                y, i = getattr(F, f"max_pool{len(shape) - 2}d")(x, shape[2:], return_indices=True)
                assert i.item() == index
                assert_bit_equal(y.flatten(), x.flatten()[index : index + 1])
    both = torch.tensor([[[inf, -inf, 1.0, 1.0, inf, 1.0]]])
    assert F.avg_pool1d(both, 2).isnan().flatten().tolist() == [True, False, False]
    assert F.avg_pool1d(both, 2).flatten()[1:].tolist() == [1, inf]


@every_layout
@pytest.mark.parametrize("values", ["relu", "zeros", "extreme"])
@pytest.mark.parametrize("dtype", testing.FLOATS)
@pytest.mark.parametrize("kernel", [(2, 5), (5, 2), (1, 4), (4, 1), (3, 3), (7, 6)])
def test_12_ties_and_signed_zeros(kernel, dtype, values, layout):
    x = laid_out(sample((2, 5, 19, 23), dtype, values), layout)
    for stride in (1, 2, 3):
        check_max(x, kernel, stride)
        compare_with_torch("max_pool2d", x, kernel, stride, return_indices=True)


@pytest.mark.parametrize("dtype", testing.HALVES)
def test_13_negative_nan_and_half_sums(dtype):
    negative = (
        torch.tensor([0xFFC0 if dtype is torch.bfloat16 else 0xFE00]).to(torch.uint16).view(dtype)
    )
    assert negative.isnan()
    for at in range(3):
        x = torch.tensor([[[1.0, 2.0, 3.0]]]).to(dtype)
        x[0, 0, at] = negative[0]
        y, i = F.max_pool1d(x, 3, return_indices=True)
        assert y.isnan()
        assert i.item() == at
    x = torch.tensor([[[-0.0, 0.0, -0.0]]]).to(dtype)
    assert F.max_pool1d(x, 3).signbit()
    assert F.avg_pool2d(torch.full((1, 1, 9, 9), 60000.0).to(dtype), 9).isfinite()
    ones = torch.ones(1, 1, 70, 70, dtype=dtype)
    assert F.avg_pool2d(ones, 70).item() == 1  # 4900 beyond the integers of both types
    x = torch.zeros(1, 1, 70, 70, dtype=dtype)
    x[0, 0, 35, 35] = 1
    g = gradient(lambda x: F.max_pool2d(x, 35, 1, 17), x)
    assert g[0, 0, 35, 35].item() == torch.tensor(35.0 * 35).to(dtype).item()


@every_rank
@every_layout
@pytest.mark.parametrize("dtype", testing.INTEGERS)
def test_14_integers(rank, layout, dtype):
    x = laid_out(
        sample((2, 17, *{1: (33,), 2: (9, 11), 3: (5, 4, 6)}[rank]), dtype, "extreme"), layout
    )
    check_max(x, 3, 2, 1)
    check_max(x, 2, 1)
    compare_with_torch(f"max_pool{rank}d", x, 3, 2, 1, return_indices=True)
    y, i = getattr(F, f"adaptive_max_pool{rank}d")(x, 2, return_indices=True)
    window = W.adaptive("f", rank, x.shape, 2, True)
    values, offsets = reference.max_pool(x, window)
    assert_bit_equal(y, values)
    assert_bit_equal(i, reference.plane_indices(offsets, window))
    if dtype is torch.int64:
        x = laid_out(sample(tuple(x.shape), dtype), layout)
        window = W.fixed("f", rank, x.shape, 2, 2, 0, 1, False, False)
        assert_average_close(getattr(F, f"avg_pool{rank}d")(x, 2), x, window)
    else:
        with pytest.raises(DtypeError):
            getattr(F, f"avg_pool{rank}d")(x, 2)


def test_14_int64_average_truncates():
    x = torch.tensor([[[-7, 0, 7, 0, -1, 0, -(2**63), 0]]])
    assert F.avg_pool1d(x, 2).flatten().tolist() == [-3, 3, 0, -(2**62)]
    least = torch.tensor([[[-(2**63)]]])
    F.avg_pool1d(least, 1, divisor_override=-1)  # must not trap
    assert F.avg_pool1d(least, 1, divisor_override=-2).item() == 2**62


@every_rank
def test_15_lp(rank):
    x = sample((1, 2, *(4,) * rank), torch.float64)
    function = getattr(F, f"lp_pool{rank}d")
    for p in (1, 2, 3, 2.5, 0.5, -1, math.inf, -math.inf):
        compare_with_torch(f"lp_pool{rank}d", x if p == 2 else x.abs() + 0.1, p, 2, 1)
        assert not function(x, p, 2, absolute=True).isnan().any()
    assert function(x, 3, 2, 1).isnan().any()  # torch's arithmetic, as documented
    for bad in (0, 0.0, math.nan, True, "2", None):
        with pytest.raises(ArgumentError, match="norm_type"):
            function(x, bad, 2)
    for p in (1, 2, 3, 1.5, 0.5, -1, math.inf):
        for absolute in (False, True):
            norm = functools.partial(function, norm_type=p, kernel_size=2, absolute=absolute)
            assert gradient(norm, torch.zeros_like(x)).eq(0).all(), (p, absolute)


# ---- Indices ------------------------------------------------------------------------------------


@every_rank
@every_layout
def test_16_unpool(rank, layout):
    function = getattr(F, f"max_unpool{rank}d")
    shape = (2, 3, *(3,) * rank)
    x = laid_out(sample(shape), layout)
    index = torch.arange(3**rank).reshape((3,) * rank).expand(shape)
    assert_bit_equal(function(x, index, 1), x)
    for bad in (-1, 3**rank, 2**40, -(2**63)):
        wrong = index.clone()
        wrong[-1, -1].view(-1)[-1] = bad
        with pytest.raises(ArgumentError, match="indices must be from 0 to"):
            function(x, wrong, 1)
    with pytest.raises(DtypeError, match="int64"):
        function(x, index.int(), 1)
    for wrong in (index[:1], index[..., :1], index.flatten()):
        with pytest.raises(ArgumentError, match="shape"):
            function(x, wrong, 1)
    for size in ((9,) * rank, (1,) * (rank + 1), (-1,) * rank, (2.0,) * rank):
        with pytest.raises(ArgumentError):
            function(x, index, 1, output_size=size)
    # Duplicates: the last writer in row-major order, in every layout and run, gets the gradient.
    same = torch.zeros(shape, dtype=torch.int64)
    for _ in range(5):
        y = function(x, same, 1)
        assert torch.equal(y.flatten(2)[..., 0], x.flatten(2)[..., -1])
        assert y.flatten(2)[..., 1:].eq(0).all()
    g = gradient(lambda x: function(x, same, 1), x).flatten(2)
    assert g[..., -1].eq(1).all()
    assert g[..., :-1].eq(0).all()


@every_rank
def test_17_tampered_indices(rank):
    for function, args in [(getattr(F, f"max_pool{rank}d"), (2, 1)),
                           (getattr(F, f"adaptive_max_pool{rank}d"), (3,))]:  # fmt: skip
        x = sample((1, 2, *(4,) * rank)).requires_grad_()
        y, indices = function(x, *args, return_indices=True)
        expected = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
        indices.fill_(2**40)
        assert_bit_equal(torch.autograd.grad(y.sum(), x)[0], expected)


def test_17_tampered_offsets():
    """Wrong offsets may give wrong numbers, but touch nothing out of range."""
    ops = torch.ops.poolkit
    for layout, rank in itertools.product(("contiguous", "channels_last"), (1, 2, 3)):
        x = laid_out(sample((2, 3, *(6,) * rank)), layout)
        last = x.dim() > 3 and layout == "channels_last"
        for window, offset in itertools.product(
            (
                W.fixed("f", rank, x.shape, 3, 2, 1, 1, False, True),
                W.fixed("f", rank, x.shape, 2, 3, 0, 2, True, True),
                W.fixed("f", rank, x.shape, 2, 2, 0, 1, False, True),
                W.adaptive("f", rank, x.shape, 4, True),
            ),
            (0, 1, 3, 26, 27, 200, 255),
        ):
            packed = window.packed_last if last else window.packed
            shape = window.output_shape(x.shape)
            offsets = laid_out(torch.full(shape, offset).to(torch.uint8), layout)
            g = laid_out(torch.ones(shape), layout)
            assert_bit_equal(ops.pick(x, offsets, packed), reference.pick(x, offsets, window))
            indices = reference.plane_indices(offsets, window)
            assert_bit_equal(ops.plane_indices(offsets, packed), indices)
            sums = ops.scatter(g, offsets, packed)
            if (indices >= 0).all():
                assert_bit_equal(sums, reference.scatter(g, offsets, window, last))
            assert (indices >= 0).sum() <= sums.sum() <= g.numel()


@pytest.mark.parametrize("taps", [255, 256, 257, 65535, 65536, 65537])
def test_18_offsets_at_width_limits(taps):
    x = sample((1, 2, taps + 5), values="relu")
    x[..., -2] = 50  # the last taps must be reached
    check_max(x, taps, 1)
    check_max(x, taps, 2, 2)
    if taps == 257:
        x = laid_out(sample((1, 3, 40, 30)), "channels_last")
        check_max(x, (257, 1), 1, ((128, 128), (0, 0)))
    if taps == 65537:
        check_max(sample((1, 1, 260, 258), values="relu"), (257, 255), 1, 0)


@every_layout
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_19_many_positions_of_bytes(dtype, layout):
    x = laid_out(sample((2, 19, 40, 41), dtype, "extreme"), layout)
    check_max(x, 13, 5)
    check_max(x, (40, 41))
    y, i = F.adaptive_max_pool2d(x, 1, return_indices=True)
    assert torch.equal(x.flatten(2).gather(2, i.flatten(2)), y.flatten(2))


# ---- Autograd, compiler, threads ----------------------------------------------------------------


def test_20_one_module_in_two_places():
    pool = nn.MaxPool2d(2, 1)
    model, stock = (
        torch.nn.Sequential(pool, pool),
        torch.nn.Sequential(*[torch.nn.MaxPool2d(2, 1)] * 2),
    )
    x = sample((1, 2, 6, 6), values="relu")
    assert_bit_equal(gradient(model, x), gradient(stock, x))
    a = x.clone().requires_grad_()
    b = x.clone().requires_grad_()
    (pool(a).sum() + pool(a * 2).sum()).backward()
    (stock[0](b).sum() + stock[0](b * 2).sum()).backward()
    assert_bit_equal(a.grad, b.grad)


@every_rank
@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool"])
def test_20_input_changed_in_place(rank, name):
    """The gradient is the original input's."""
    function = getattr(F, f"{name}{rank}d")
    x = sample((1, 2, *(4,) * rank)).requires_grad_()
    expected = gradient(lambda x: function(x, 2), x)
    inner = x * 1
    y = function(inner, 2)
    inner.neg_()
    assert_bit_equal(torch.autograd.grad(y.sum(), x)[0], expected)


def test_21_gradcheck_with_ties():
    """Quantised maps tie; the gradient goes to the first winner, as one subgradient does."""
    x = sample((1, 2, 6, 6), torch.float64, "relu")
    perturbed = (
        x + 1e-3 * torch.linspace(1, 0, 72, dtype=torch.float64).reshape(x.shape)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: F.max_pool2d(x, 3, 2, 1), perturbed)
    assert torch.autograd.gradgradcheck(lambda x: F.max_pool2d(x, 3, 2, 1), perturbed)
    assert_bit_equal(gradient(lambda x: F.max_pool2d(x, 3, 2, 1), x),
                     gradient(lambda x: F.max_pool2d(x, 3, 2, 1), perturbed))  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_22_dynamic_shapes_and_integers():
    def f(x):
        return F.max_pool2d(x, 3, 2, 1, 1, True), F.avg_pool2d(x.long(), 3, 2)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(1, 2, 9, 8), (3, 2, 12, 11), (2, 5, 7, 20)]:
        x = sample(shape, torch.int32)
        for a, b in zip(compiled(x), f(x), strict=True):
            assert_bit_equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_23_large_windows_and_fractional_under_compile():
    def f(x, u):
        return F.max_pool2d(x, 7, 3, 3), F.fractional_max_pool2d(x, 2, 5, _random_samples=u)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    x, u = sample((1, 2, 20, 20)), torch.rand(1, 2, 2)
    for a, b in zip(compiled(x, u), f(x, u), strict=True):
        assert_bit_equal(a, b)


@every_rank
def test_24_modes(rank):
    x = sample((1, 2, *(4,) * rank))
    leaf = x.clone().requires_grad_()
    for dtype in testing.HALVES:
        with torch.autocast("cpu", dtype):
            y = getattr(F, f"max_pool{rank}d")(leaf.to(dtype), 2)
            assert y.dtype is dtype
            y.float().sum().backward()
    with torch.inference_mode():
        assert not getattr(F, f"avg_pool{rank}d")(leaf, 2).requires_grad
    with torch.no_grad():
        assert not getattr(F, f"max_pool{rank}d")(leaf, 2).requires_grad
    both = torch.cat([leaf, x])
    assert gradient(getattr(F, f"global_avg_pool{rank}d"), both).shape == both.shape


def test_25_python_threads_and_one_thread():
    x = sample((2, 8, 30, 30))
    expected = F.max_pool2d(x, 3, 2, 1)
    torch.set_num_threads(1)
    assert_bit_equal(F.max_pool2d(x, 3, 2, 1), expected)
    results = [None] * 6

    def work(i):
        results[i] = F.max_pool2d(x, 3, 2, 1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for r in results:
        assert_bit_equal(r, expected)


def test_25_data_loader_worker():
    """In a process of its own: the worker is forked, and must not inherit this one's threads."""
    code = """
import torch, poolkit.functional as F
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return F.max_pool2d(torch.full((1, 8, 8), float(i)), 2)
if __name__ == "__main__":
    print([b.mean().item() for b in torch.utils.data.DataLoader(Data(), num_workers=1)])
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert run.stdout.strip() == "[0.0, 1.0, 2.0, 3.0]", run.stderr


@every_layout
@pytest.mark.parametrize("dtype", testing.FLOATS)
def test_26_determinism(dtype, layout):
    x = laid_out(sample((3, 33, 50, 50), dtype, "special"), layout)
    seen = []
    for threads in (1, 2, 4, 1):
        torch.set_num_threads(threads)
        for name in ("max_pool2d", "avg_pool2d"):
            function = getattr(F, name)
            pool = functools.partial(function, kernel_size=3, stride=2, padding=1)
            seen.append((name, pool(x), gradient(pool, x)))
    for name, y, g in seen[2:]:
        first = seen[0] if name == seen[0][0] else seen[1]
        assert_bit_equal(y, first[1])
        assert_bit_equal(g, first[2])


def test_27_fake_strides_and_copies():
    x = sample((4, 3, 6, 5)).permute(1, 0, 3, 2)
    meta = torch.empty_strided(x.shape, x.stride(), device="meta")
    for function in (lambda x: F.max_pool2d(x, 2), lambda x: F.adaptive_avg_pool2d(x, (2, 1))):
        assert_same_strides(function(meta), function(x))
    module = nn.AvgPool2d(3, padding="same")
    assert repr(copy.deepcopy(module)) == repr(module)
    module.load_state_dict(torch.nn.AvgPool2d(3).state_dict())


def test_29_dilation_gap_wider_than_the_input():
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(ArgumentError, match="window 0 of axis H holds no cell"):
        F.max_pool2d(x, 2, 1, 1, 5, return_indices=True)
    with pytest.raises(ArgumentError, match="holds no cell"):
        F.avg_pool2d(x, 2, 1, 1, count_include_pad=False, dilation=5)
    assert F.avg_pool2d(x, 2, 1, 1, dilation=5).eq(0).all()  # padding that counts is zeros
    assert F.lp_pool2d(x, 2, 2, 1, padding=1, dilation=5).eq(0).all()
    check_max(x, 2, 5, 5, 5)  # a stride that steps over the gap


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_30_fractional_samples(rank):
    x = sample((2, 3, *(7,) * rank))
    function = getattr(F, f"fractional_max_pool{rank}d")
    for bad in (math.nan, math.inf, -math.inf):
        samples = torch.full((2, 3, rank), 0.5)
        samples[1, 2, -1] = bad
        with pytest.raises(ArgumentError, match="finite"):
            function(x, 2, 3, _random_samples=samples)
    for u in (-0.5, -3.0, 1.0, 7.5, 1e9, -1e30, 3e38):
        y, i = function(x, 2, 3, return_indices=True, _random_samples=torch.full((2, 3, rank), u))
        assert ((i >= 0) & (i < 7**rank)).all()
        assert torch.equal(x.flatten(2).gather(2, i.flatten(2)), y.flatten(2))
    for bad in (torch.rand(2, 3, rank).double(), torch.rand(2, 3, rank + 1), torch.rand(1, 3, rank),
                torch.zeros(2, 3, rank, dtype=torch.int64), [0.5] * rank, 0.5):  # fmt: skip
        with pytest.raises(ArgumentError, match="_random_samples"):
            function(x, 2, 3, _random_samples=bad)
    assert_bit_equal(function(x, 1, 7), x)  # output equal to input
    assert function(x[0], 2, 3).shape == (3, *(3,) * rank)
    with pytest.raises(ArgumentError):
        function(x, 2, 7)
    with pytest.raises(ArgumentError):
        function(x, 2)
    for ratio in (0, 1.5, -0.5, math.nan, "1"):
        with pytest.raises(ArgumentError):
            function(x, 2, output_ratio=ratio)


@every_rank
def test_30_fractional_seeds(rank):
    if rank == 1:
        pytest.skip("torch has no 1-D")
    x = sample((2, 3, *(7,) * rank))
    name = f"fractional_max_pool{rank}d"
    torch.manual_seed(3)
    expected = getattr(TF, name)(x, 2, 3)
    torch.manual_seed(3)
    assert_bit_equal(getattr(F, name)(x, 2, 3), expected)
    generator = torch.Generator().manual_seed(3)
    assert_bit_equal(getattr(F, name)(x, 2, 3, generator=generator), expected)


@every_rank
def test_31_ceil_with_asymmetric_padding(rank):
    x = sample((1, 2, *(5,) * rank), values="relu")
    for pair in [(0, 4), (0, 7), (2, 0), (1, 6)]:
        for kernel, stride in [(3, 1), (3, 2), (4, 2), (4, 3)]:
            y = check_max(x, kernel, stride, (pair,) * rank, ceil_mode=True)
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
