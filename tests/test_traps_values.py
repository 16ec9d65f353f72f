"""Inputs and situations that broke other pooling code: special values, dtypes, indices.

Tests are numbered as the list of traps. 32 is in test_wheel.py, 28 comes with RoI pooling.
"""

import functools
import itertools
import math

import pytest
import torch

from poolkit import ArgumentError, DtypeError, reference, testing
from poolkit import functional as F
from poolkit import window as W
from poolkit.testing import (
    assert_average_close,
    assert_bit_equal,
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
@every_layout
@pytest.mark.parametrize("dtype", testing.FLOATS)
def test_11_nan_and_infinities(rank, layout, dtype):
    for seed in range(4):
        x = laid_out(
            sample((2, 17, *((9, 9, 5)[rank - 1],) * rank), dtype, "special", seed), layout
        )
        check_max_pool(x, 3, 2, 1)
        check_max_pool(x, 2, 2)
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
        check_max_pool(x, kernel, stride)
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
    check_max_pool(x, 3, 2, 1)
    check_max_pool(x, 2, 1)
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


@pytest.mark.parametrize("channels", [3, 40, 70])  # every way that scatter goes
def test_17_tampered_offsets(channels):
    """Wrong offsets give what the reference says: what names no cell contributes nothing."""
    ops = torch.ops.poolkit
    for layout, rank in itertools.product(("contiguous", "channels_last"), (1, 2, 3)):
        x = laid_out(sample((2, channels, *(6,) * rank)), layout)
        last = x.dim() > 3 and layout == "channels_last"
        for window, offset in itertools.product(
            (
                W.fixed("f", rank, x.shape, 3, 1, 1, 1, False, True),
                W.fixed("f", rank, x.shape, 3, 2, 1, 1, False, True),
                W.fixed("f", rank, x.shape, 5, 1, 2, 1, False, True),
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
            assert_bit_equal(
                ops.scatter(g, offsets, packed), reference.scatter(g, offsets, window, last)
            )


@pytest.mark.parametrize("taps", [255, 256, 257, 65535, 65536, 65537])
def test_18_offsets_at_width_limits(taps):
    x = sample((1, 2, taps + 5), values="relu")
    x[..., -2] = 50  # the last taps must be reached
    check_max_pool(x, taps, 1)
    check_max_pool(x, taps, 2, 2)
    if taps == 257:
        x = laid_out(sample((1, 3, 40, 30)), "channels_last")
        check_max_pool(x, (257, 1), 1, ((128, 128), (0, 0)))
    if taps == 65537:
        check_max_pool(sample((1, 1, 260, 258), values="relu"), (257, 255), 1, 0)


@every_layout
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_19_many_positions_of_bytes(dtype, layout):
    x = laid_out(sample((2, 19, 40, 41), dtype, "extreme"), layout)
    check_max_pool(x, 13, 5)
    check_max_pool(x, (40, 41))
    y, i = F.adaptive_max_pool2d(x, 1, return_indices=True)
    assert torch.equal(x.flatten(2).gather(2, i.flatten(2)), y.flatten(2))


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


@pytest.mark.parametrize("rank", [2, 3])
def test_30_fractional_seeds(rank):
    x = sample((2, 3, *(7,) * rank))
    name = f"fractional_max_pool{rank}d"
    torch.manual_seed(3)
    expected = getattr(TF, name)(x, 2, 3)
    torch.manual_seed(3)
    assert_bit_equal(getattr(F, name)(x, 2, 3), expected)
    generator = torch.Generator().manual_seed(3)
    assert_bit_equal(getattr(F, name)(x, 2, 3, generator=generator), expected)
