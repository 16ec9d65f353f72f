"""Values and calls at the edge of what kernels take: NaN, signed zeros, padding, wrong offsets."""

import itertools
import math

import pytest
import torch

from maxima import assert_maxima
from poolkit import window
from poolkit.testing import assert_bit_equal, laid_out, sample

native = torch.ops.poolkit
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (2, 3, 4, 40), (2, 40, 4, 4)])
@pytest.mark.parametrize("kernel", [(2, 1), (2, 2), (4, 1)])
def test_gradients_of_averages_begin_with_positive_zero(kernel, shape, dtype):
    """A sum that begins with 0 is never -0, whichever scheme a shape takes."""
    for last in (False, True):
        w = window.fixed("t", 2, shape, kernel, kernel, 0, 1, False, True, True)
        g = torch.full(w.output_shape(shape), -0.0, dtype=dtype)
        if last:
            g = g.to(memory_format=torch.channels_last)
        assert not native.avg_pool_backward(g, window.pack(w, last)).signbit().any()


@pytest.mark.parametrize(
    "sizes",
    [
        (2, 5, 4, 3),
        (2, 1, 4, 3),
        (2, 5, 1, 1),
        (0, 3, 4, 5),
        (2, 0, 4, 3),
        (2, 5, 3, 4, 6),
        (2, 1, 3, 4, 6),
        (0, 5, 1, 1, 1),
    ],
)
def test_strides_of_channels_last_results(sizes):
    """They are torch's, where a size of 0 or 1 leaves them open too."""
    last = torch.channels_last if len(sizes) == 4 else torch.channels_last_3d
    expected = torch.empty(sizes, memory_format=last).stride()
    w = window.fixed("t", len(sizes) - 2, (1, 1, *sizes[2:]), 1, 1, 0, 1, False, True)
    for layout in (torch.contiguous_format, last):
        g = torch.randn(sizes).to(memory_format=layout)
        offsets = torch.zeros(sizes, dtype=torch.uint8).to(memory_format=layout)
        for result in (
            native.avg_pool_backward(g, window.pack(w, True)),
            native.scatter(g, offsets, window.pack(w, True)),
        ):
            assert result.stride() == expected
            assert_bit_equal(result, g)


@pytest.mark.parametrize("channels", [64, 72, 100])
def test_nan_of_half_averages_is_one_in_every_scheme(channels):
    """As torch writes it, without a sign."""
    for dtype, bits in ((torch.bfloat16, 0x7FC0), (torch.float16, 0x7E00)):
        x = torch.zeros(1, channels, 4, 4, dtype=dtype)
        x[..., 0, :], x[..., 1, :] = float("inf"), -float("inf")
        w = window.fixed("t", 2, x.shape, 2, 2, 0, 1, False, True, True)
        for last in (False, True):
            y = native.avg_pool(laid_out(x, "channels_last") if last else x, window.pack(w, last))
            assert (y[..., 0, :].view(torch.int16) & 0x7FFF == bits).all()
            assert len(y[..., 0, :].view(torch.int16).unique()) == 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2), (5, 1), ((1, 4), 2)])
def test_one_special_cell_of_channels_last(kernel, stride, dtype):
    """Wherever one cell is NaN, or one zero negative, the plain rule of maxima gives way."""
    height, width = 7, 8
    cells = range(height * width)
    for special, channels in itertools.product((math.nan, -0.0, math.inf), (64, 75)):
        x = sample((len(cells), channels, height, width), dtype, "normal", channels)
        if special == 0:
            x = -x.abs().clamp(max=1).round() + 0.0  # ties, and no negative zero yet
        for i in cells:  # a map each
            x[i, i * 3 % channels, i // width, i % width] = special
            x[i, i * 3 % channels, -1, 0] = -special
        x = x.contiguous(memory_format=torch.channels_last)
        w = window.fixed("t", 2, x.shape, kernel, stride, 0, 1, False, True)
        assert_maxima(x, w)


def test_tampered_offsets_stay_inside():
    """Offsets of any value lead to wrong numbers at worst."""
    shape = (2, 3, 9, 9)
    for arguments in ((3, 2, 1), (2, 2, 0), (5, 1, 2), (20, 3, 10)):
        w = window.fixed("t", 2, shape, *arguments, 1, False, True)
        x = sample(shape)
        values, offsets = native.max_pool_offsets(x, w.packed)
        for bad in (255, 77, 9):
            wrong = torch.full_like(offsets, bad)
            for channels_last in (False, True):
                packed = window.pack(w, channels_last)
                assert native.scatter(values, wrong, packed).isfinite().all()
            assert native.pick(x, wrong, w.packed).isfinite().all()
            native.plane_indices(wrong, w.packed)


@pytest.mark.parametrize("shape", [(1, 0, 4, 4), (0, 3, 4, 4), (2, 0, 4, 4, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_empty_tensors(shape, channels_last):
    """No images or no channels: raw operators give an empty result, in either format."""
    w = window.fixed("t", len(shape) - 2, (1, 1, *shape[2:]), 2, 2, 0, 1, False, True)
    layout = "channels_last" if channels_last else "contiguous"
    x, g = (laid_out(torch.zeros(s), layout) for s in (shape, w.output_shape(shape)))
    offsets, packed = g.to(torch.uint8), window.pack(w, channels_last)
    for name, *tensors in (
        ("max_pool", x), ("avg_pool", x), ("lp_pool", x, 2.0), ("pick", x, offsets),
        ("plane_indices", offsets),
    ):  # fmt: skip
        assert getattr(native, name)(*tensors, packed).shape == g.shape
    for name, *tensors in (
        ("scatter", g, offsets), ("avg_pool_backward", g), ("lp_pool_backward", g, g, x, 2.0),
    ):  # fmt: skip
        assert getattr(native, name)(*tensors, packed).shape == x.shape


def test_wrong_calls_of_raw_operators_raise():
    """A window that does not fit the tensor is an error and no crash."""
    x = sample((2, 3, 9, 9))
    w = window.fixed("t", 2, (2, 3, 9, 10), 3, 2, 1, 1, False, True)
    with pytest.raises(RuntimeError, match="extents"):
        native.max_pool(x, w.packed)
    for p in (0.0, math.inf, math.nan):
        with pytest.raises(RuntimeError, match="finite number"):
            native.lp_pool(x, p, w.packed)
    with pytest.raises(RuntimeError, match="packed window"):
        native.max_pool(x, [1, 2, 3])
    for text in ("", "1 2 3", "x" + w.packed, w.packed + " 1", w.packed.replace(" ", ","),
                 w.packed.replace(" ", "  ", 1), w.packed[:-1] + "9" * 20, "7" * 500):  # fmt: skip
        with pytest.raises(RuntimeError, match="packed window"):
            native.max_pool(x, text)
    with pytest.raises(RuntimeError, match="impossible"):
        native.avg_pool(x, [0, 0, *(9, 3, 0, 1, 0, 0, 1), *(9, 3, 3, 3, 0, 0, 1)])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_averages_do_not_depend_on_the_batch(rank, layout):
    """The kernels choose their scheme by the number of planes; a sum is the same in all of them."""
    sizes = {1: (90,), 2: (23, 61), 3: (5, 9, 12)}[rank]
    x = sample((4, 20, *sizes))
    for kernel, stride, padding in ((2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 3, 0)):
        w = window.fixed("t", rank, x.shape, kernel, stride, padding, 1, False, True)
        one = window.fixed("t", rank, x[:1].shape, kernel, stride, padding, 1, False, True)
        some = native.avg_pool(laid_out(x, layout), w.packed)[1:2]
        assert_bit_equal(native.avg_pool(laid_out(x[1:2], layout), one.packed), some)
    globally = window.adaptive("t", rank, x.shape, 1, True)
    alone = window.adaptive("t", rank, x[:1].shape, 1, True)
    some = native.avg_pool(laid_out(x, layout), globally.packed)[1:2]
    assert_bit_equal(native.avg_pool(laid_out(x[1:2], layout), alone.packed), some)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.int16, torch.int64])
@pytest.mark.parametrize("kernel", [3, 17])  # offsets of one byte, and of two
@pytest.mark.parametrize(("planes", "width"), [(2, 21), (70, 21), (2, 130)])
def test_padding_never_wins_over_the_least_value(dtype, kernel, planes, width):
    """A window of nothing but the least value names its first cell, not the padding before it."""
    least = -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min
    x = torch.full((1, planes, 20, width), least, dtype=dtype)
    x[..., 13, 14] = 1
    for stride in (1, 2):
        w = window.fixed("t", 2, x.shape, kernel, stride, kernel // 2, 1, False, True)
        assert_maxima(x, w)
