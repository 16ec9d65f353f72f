"""poolkit.functional against torch.nn.functional and against the reference, over random geometries,
layouts and dtypes: values, indices, strides, gradients, error or not.

What differs from torch must be in DEVIATIONS; against the reference nothing may differ but the
rounding of sums.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poolkit import ArgumentError, reference, testing
from poolkit import functional as F
from poolkit import window as W
from poolkit.testing import (
    assert_bit_equal,
    assert_close,
    assert_format,
    assert_same_strides,
    assert_sum_close,
    attempt,
    check_avg,
    check_max,
    compare_with_torch,
    laid_out,
    sample,
)

TF = torch.nn.functional

pytestmark = pytest.mark.usefixtures("one_thread")

fixed_examples = settings(derandomize=True, deadline=None, database=None, max_examples=120)

DTYPES = (*testing.FLOATS, *testing.INTEGERS)
every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_layout = pytest.mark.parametrize("layout", testing.LAYOUTS)

SPATIAL = {1: 40, 2: 12, 3: 6}


@st.composite
def inputs(draw, rank, dtypes=DTYPES, values=testing.VALUES):
    """A tensor to pool over ``rank`` axes; 17 channels leave a remainder of any vector width."""
    channels = draw(st.sampled_from([1, 2, 3, 8, 17]))
    shape = [draw(st.integers(1, 3)), channels]
    shape += [draw(st.integers(1, SPATIAL[rank])) for _ in range(rank)]
    x = sample(tuple(shape), draw(st.sampled_from(dtypes)), draw(st.sampled_from(values)),
               draw(st.integers(0, 99)))  # fmt: skip
    x = laid_out(x, draw(st.sampled_from(testing.LAYOUTS)))
    return x[0] if draw(st.integers(0, 5)) == 0 else x


@st.composite
def geometries(draw, rank, asymmetric):
    """kernel_size, stride, padding, dilation, ceil_mode."""

    def axes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride = axes(1, 5), draw(st.one_of(st.none(), st.just(axes(1, 4))))
    dilation = axes(1, 3) if draw(st.integers(0, 2)) == 0 else (1,) * rank
    padding = tuple(draw(st.integers(0, (k + 1) // 2)) for k in kernel)
    if asymmetric and draw(st.booleans()):
        padding = draw(st.sampled_from(
            ["same", "same_lower", "valid", tuple(zip(padding, axes(0, 3), strict=True))]
        ))  # fmt: skip
    return kernel, stride, padding, dilation, draw(st.booleans())


def gradient(y, x):
    g = sample(tuple(y.shape), torch.float64, seed=5).to(y.dtype)
    return torch.autograd.grad(y, x, g)[0]


def leaf(x):
    """x as a leaf that asks for its gradient, in the same storage layout."""
    return x.detach().requires_grad_(x.is_floating_point())


# ---- Against torch ------------------------------------------------------------------------------


@every_rank
@fixed_examples
@given(st.data(), st.booleans())
def test_max_against_torch(rank, data, indices):
    x = data.draw(inputs(rank))
    kernel, stride, padding, dilation, ceil = data.draw(geometries(rank, asymmetric=False))
    compare_with_torch(f"max_pool{rank}d", x, kernel, stride, padding, dilation, ceil, indices)


@every_rank
@fixed_examples
@given(st.data(), st.booleans(), st.sampled_from([None, None, 1, 3, -2]))
def test_avg_against_torch(rank, data, include, divisor):
    x = data.draw(inputs(rank, values=("normal", "relu", "special")))
    kernel, stride, padding, _, ceil = data.draw(geometries(rank, asymmetric=False))
    more = () if rank == 1 else (divisor,)
    compare_with_torch(f"avg_pool{rank}d", x, kernel, stride, padding, ceil, include, *more)


@every_rank
@settings(fixed_examples, max_examples=60)
@given(st.data(), st.sampled_from([1, 2, 3, 2.5, 0.5, -1, math.inf, -math.inf]))
def test_lp_against_torch(rank, data, p):
    x = data.draw(inputs(rank, values=("normal", "relu")))
    kernel, stride, _, _, ceil = data.draw(geometries(rank, asymmetric=False))
    if rank == 1:
        kernel, stride = kernel[0], stride and stride[0]
    if p != 2 and x.is_floating_point():
        # Signed sums cancel, and then no two orders of addition agree.
        x = x.abs() + (0.5 if p < 1 else 0)
    compare_with_torch(f"lp_pool{rank}d", x, p, kernel, stride, ceil)


@every_rank
@fixed_examples
@given(st.data())
def test_adaptive_against_torch(rank, data):
    sizes = [data.draw(st.integers(0, SPATIAL[rank] + 3)) for _ in range(rank)]
    if data.draw(st.booleans()) and rank > 1:
        sizes[data.draw(st.integers(0, rank - 1))] = None
    x = data.draw(inputs(rank))
    compare_with_torch(f"adaptive_max_pool{rank}d", x, tuple(sizes), data.draw(st.booleans()))
    x = data.draw(inputs(rank, values=("normal", "relu", "special")))
    compare_with_torch(f"adaptive_avg_pool{rank}d", x, tuple(sizes))


@every_rank
@settings(fixed_examples, max_examples=60)
@given(st.data())
def test_unpool_against_torch(rank, data):
    x = data.draw(inputs(rank, dtypes=testing.FLOATS, values=("normal", "relu")))
    kernel = data.draw(st.integers(1, 3))
    assume(min(x.shape[-rank:]) >= kernel)
    y, i = getattr(TF, f"max_pool{rank}d")(x.contiguous(), kernel, return_indices=True)
    # Contiguous, because torch lets later writers race in the channels-last layout.
    name, plane = f"max_unpool{rank}d", math.prod(x.shape[-rank:])
    compare_with_torch(name, y, i, kernel, output_size=x.shape[-rank:])
    compare_with_torch(name, y, i, kernel, None, 0, x.shape if x.dim() == rank + 2 else None)
    for bad in (-1, plane):
        compare_with_torch(name, y, torch.full_like(i, bad), kernel, output_size=x.shape[-rank:])
    compare_with_torch(name, y, i, kernel, output_size=[9 * n for n in x.shape[-rank:]])
    compare_with_torch(name, y, i.int(), kernel)


@pytest.mark.parametrize("rank", [2, 3])
@settings(fixed_examples, max_examples=60)
@given(st.data(), st.booleans(), st.booleans())
def test_fractional_against_torch(rank, data, by_ratio, indices):
    x = data.draw(inputs(rank, dtypes=testing.FLOATS))
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    name = f"fractional_max_pool{rank}d"
    if by_ratio:
        size = {"output_ratio": data.draw(st.sampled_from([0.3, 0.5, 0.71, (0.9,) * rank]))}
    else:
        size = {"output_size": tuple(data.draw(st.integers(1, n)) for n in x.shape[-rank:])}
    batch = x.shape[:2] if x.dim() == rank + 2 else (1, x.shape[0])
    samples = torch.rand((*batch, rank), generator=torch.Generator().manual_seed(1)).to(x.dtype)
    compare_with_torch(
        name, x, kernel, **size, return_indices=indices, _random_samples=samples.clamp(max=0.99)
    )
    # Without samples, the same seed gives the same windows.
    for module in (TF, F):
        torch.manual_seed(7)
        result = attempt(getattr(module, name), x, kernel, **size)
        if module is TF:
            theirs = result
    if isinstance(theirs, torch.Tensor) and isinstance(result, torch.Tensor):
        assert_bit_equal(result, theirs)


# ---- Against the reference ----------------------------------------------------------------------


def fixed(rank, x, kernel, stride, padding, dilation, ceil, needs_cell, include=True, divisor=None):
    try:
        return W.fixed("f", rank, x.shape, kernel, stride, padding, dilation, ceil, needs_cell,
                       include, divisor)  # fmt: skip
    except ArgumentError:
        return None


@every_rank
@settings(fixed_examples, max_examples=200)
@given(st.data())
def test_max_against_reference(rank, data):
    x = data.draw(inputs(rank))
    geometry = data.draw(geometries(rank, asymmetric=True))
    window = fixed(rank, x, *geometry, True)
    function = getattr(F, f"max_pool{rank}d")
    if window is None:
        with pytest.raises(ArgumentError):
            function(x, *geometry)
        return
    check_max(x, window, lambda x, indices: function(x, *geometry, return_indices=indices))


@every_rank
@settings(fixed_examples, max_examples=200)
@given(st.data(), st.booleans(), st.sampled_from([None, None, 3, -2]))
def test_avg_against_reference(rank, data, include, divisor):
    x = data.draw(inputs(rank, dtypes=(*testing.FLOATS, torch.int64)))
    geometry = data.draw(geometries(rank, asymmetric=True))
    needs_cell = not include and divisor is None
    window = fixed(rank, x, *geometry, needs_cell, include, divisor)
    kernel, stride, padding, dilation, ceil = geometry

    def function(x):
        return getattr(F, f"avg_pool{rank}d")(
            x, kernel, stride, padding, ceil, include, divisor_override=divisor, dilation=dilation
        )

    if window is None:
        with pytest.raises(ArgumentError):
            function(x)
        return
    check_avg(x, window, function)


@every_rank
@settings(fixed_examples, max_examples=120)
@given(st.data())
def test_adaptive_against_reference(rank, data):
    sizes = [data.draw(st.integers(0, SPATIAL[rank] + 3)) for _ in range(rank)]
    x = data.draw(inputs(rank))
    window = W.adaptive("f", rank, x.shape, sizes, True)
    check_max(x, window, lambda x, i: getattr(F, f"adaptive_max_pool{rank}d")(x, sizes, i))
    x = data.draw(inputs(rank, dtypes=(*testing.FLOATS, torch.int64)))
    window = W.adaptive("f", rank, x.shape, sizes, True)
    check_avg(x, window, lambda x: getattr(F, f"adaptive_avg_pool{rank}d")(x, sizes))


@every_rank
@settings(fixed_examples, max_examples=60)
@given(st.data())
def test_global_is_adaptive_to_one(rank, data):
    x = data.draw(inputs(rank))
    assert_bit_equal(getattr(F, f"global_max_pool{rank}d")(x), x.amax(tuple(range(-rank, 0)), True)
                     if not x.is_floating_point() else
                     reference.max_pool(x, W.adaptive("f", rank, x.shape, 1, True))[0])  # fmt: skip
    x = data.draw(inputs(rank, dtypes=testing.FLOATS))
    window = W.adaptive("f", rank, x.shape, 1, True)
    check_avg(x, window, getattr(F, f"global_avg_pool{rank}d"))


@every_rank
@settings(fixed_examples, max_examples=80)
@given(st.data(), st.sampled_from([1, 2, 3.5, 0.5, -1, math.inf, -math.inf]), st.booleans())
def test_lp_against_reference(rank, data, p, absolute):
    x = data.draw(inputs(rank, values=("normal", "relu")))
    kernel, stride, padding, dilation, ceil = data.draw(geometries(rank, asymmetric=True))
    if x.is_floating_point() and not absolute:
        x = x.abs() + 0.5
    needs_cell = p < 0 or math.isinf(p)
    window = fixed(rank, x, kernel, stride, padding, dilation, ceil, needs_cell)

    def function():
        return getattr(F, f"lp_pool{rank}d")(
            x, p, kernel, stride, ceil, padding=padding, dilation=dilation, absolute=absolute
        )

    if window is None:
        with pytest.raises(ArgumentError):
            function()
        return
    expected = reference.lp_pool(x, p, window, absolute)
    got = function()
    assert got.dtype is expected.dtype
    assert_close(got, expected)
    assert_format(got, x)


@every_rank
@pytest.mark.parametrize("duplicates", ["last", "sum", "max", "mean"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_unpool_duplicates(rank, duplicates, layout):
    shape = (2, 3, *(5, 4, 3)[:rank])
    indices = torch.randint(0, 2**rank, shape, generator=torch.Generator().manual_seed(0))
    for dtype in testing.FLOATS:
        x = laid_out(sample(shape, dtype, "relu"), layout).requires_grad_()
        y = getattr(F, f"max_unpool{rank}d")(x, indices, 1, duplicates=duplicates)
        expected = reference.max_unpool(x.detach(), indices, shape[2:], duplicates)
        if duplicates in ("last", "max"):
            assert_bit_equal(y, expected)
        else:
            assert_close(y, expected)
        assert_format(y, x)
        (g,) = torch.autograd.grad(y.sum(), x)
        assert_same_strides(g, x, "gradient")
        cells, values = indices.flatten(2), x.detach().flatten(2)
        for n in range(2):
            for c in range(3):
                for cell in cells[n, c].unique():
                    writers = (cells[n, c] == cell).nonzero().flatten()
                    given = g.flatten(2)[n, c][writers]
                    if duplicates == "sum":
                        wanted = torch.ones(len(writers))
                    elif duplicates == "mean":
                        wanted = torch.ones(len(writers)).double() / len(writers)
                    else:
                        wanted = torch.zeros(len(writers))
                        if duplicates == "last":
                            wanted[-1] = 1
                        else:
                            most = values[n, c][writers].max()
                            assert given.sum() == 1
                            assert values[n, c][writers][given == 1] == most
                            continue
                    assert_close(given, wanted.to(dtype))


def test_unpool_error_on_duplicates():
    x = torch.ones(1, 1, 3)
    with pytest.raises(ArgumentError, match="duplicates='error'"):
        F.max_unpool1d(x, torch.tensor([[[0, 1, 1]]]), 1, duplicates="error")
    F.max_unpool1d(x, torch.tensor([[[0, 1, 2]]]), 1, duplicates="error")
    with pytest.raises(ArgumentError, match="duplicates must be"):
        F.max_unpool1d(x, torch.tensor([[[0, 1, 2]]]), 1, duplicates="first")


@every_rank
@settings(fixed_examples, max_examples=60)
@given(st.data())
def test_fractional_against_reference(rank, data):
    x = data.draw(inputs(rank, dtypes=testing.FLOATS))
    kernel = tuple(data.draw(st.integers(1, min(3, n))) for n in x.shape[-rank:])
    out = tuple(
        data.draw(st.integers(1, n - k + 1)) for k, n in zip(kernel, x.shape[-rank:], strict=True)
    )
    batch = x.shape[:2] if x.dim() == rank + 2 else (1, x.shape[0])
    samples = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.99, -0.7, 3.2, 1e10]))
    samples = torch.full((*batch, rank), min(samples, torch.finfo(x.dtype).max), dtype=x.dtype)
    function = getattr(F, f"fractional_max_pool{rank}d")
    got, indices = function(x, kernel, out, return_indices=True, _random_samples=samples)
    values, expected = reference.fractional_max_pool(x, kernel, out, samples)
    assert_bit_equal(got, values)
    assert_bit_equal(indices, expected)
    assert_format(got, x)
    assert_format(indices, x)
    assert_bit_equal(function(x, kernel, out, _random_samples=samples), values)
    x = leaf(x)
    y = function(x, kernel, out, _random_samples=samples)
    assert_bit_equal(y, values)
    g = sample(tuple(y.shape), torch.float64, seed=5).to(y.dtype)
    (got,) = torch.autograd.grad(y, x, g)
    # Output by output, in float32 for half types; numpy adds one after the other.
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    planes = np.zeros((math.prod(x.shape[:-rank]), math.prod(x.shape[-rank:])), str(wide)[6:])
    where = indices.reshape(len(planes), -1).numpy()
    np.add.at(planes, (np.arange(len(planes))[:, None], where),
              g.to(wide).reshape(len(planes), -1).numpy())  # fmt: skip
    assert_bit_equal(got, torch.from_numpy(planes).to(x.dtype).reshape(x.shape), "gradient")
    assert_same_strides(got, torch.empty_like(x), "gradient")


@every_rank
@every_layout
@pytest.mark.parametrize("dtype", testing.FLOATS)
def test_fractional_average(rank, layout, dtype):
    """The mean of the windows whose maximum fractional_max_pool takes, and its adjoint."""
    x = laid_out(sample((2, 3, *(7, 6, 5)[:rank]), dtype), layout)
    kernel, out = (3, 2, 2)[:rank], (4, 3, 3)[:rank]
    samples = torch.rand((*x.shape[:2], rank), generator=torch.Generator().manual_seed(2)).to(dtype)
    samples = samples.clamp(max=0.9)
    function = getattr(F, f"fractional_avg_pool{rank}d")
    exact, size = torch.zeros(2, *x.shape[:2], *out, dtype=torch.float64)
    g = sample(tuple(exact.shape), dtype, seed=5)
    back, weight = torch.zeros(2, *x.shape, dtype=torch.float64)
    taps = math.prod(kernel)
    for plane in np.ndindex(*x.shape[:2]):
        starts = [
            reference.core._fractional_starts(samples[plane][1 - i if rank == 2 else i],
                                         x.shape[2 + i], kernel[i], out[i])
            for i in range(rank)
        ]  # fmt: skip
        for place in np.ndindex(*out):
            corner = [s[j] for s, j in zip(starts, place, strict=True)]
            window = (*plane, *(slice(c, c + k) for c, k in zip(corner, kernel, strict=True)))
            exact[plane + place] = x[window].double().mean()
            size[plane + place] = x[window].double().abs().mean()
            back[window] += g[plane + place].double() / taps
            weight[window] += g[plane + place].double().abs() / taps
    y = function(leaf := x.detach().requires_grad_(), kernel, out, _random_samples=samples)
    assert_sum_close(y, exact, size, taps)
    assert_format(y, x)
    (got,) = torch.autograd.grad(y, leaf, g)
    assert_sum_close(got, back, weight, taps + 3)
    assert_same_strides(got, torch.empty_like(x), "gradient")
    assert_bit_equal(function(x[0], kernel, out, _random_samples=samples[:1]), y[0])
    # Drawn as for the maximum.
    torch.manual_seed(7)
    drawn = function(x, kernel, out)
    torch.manual_seed(7)
    u = torch.rand(samples.shape, dtype=dtype)
    assert_bit_equal(drawn, function(x, kernel, out, _random_samples=u))
    assert_bit_equal(function(x, kernel, out, generator=torch.Generator().manual_seed(7)), drawn)


# ---- padding_mode -------------------------------------------------------------------------------


@every_rank
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@settings(fixed_examples, max_examples=40)
@given(st.data())
def test_padding_modes(rank, mode, data):
    """As F.pad, and then no padding; indices name the source cell."""
    x = data.draw(inputs(rank, dtypes=(torch.float32, torch.float64), values=("normal", "relu")))
    kernel, stride, padding, dilation, ceil = data.draw(geometries(rank, asymmetric=False))
    pairs = [p for pad in reversed(padding) for p in (pad, pad)]
    arguments = {"padding": padding, "padding_mode": mode, "ceil_mode": ceil}
    try:
        batched = x if x.dim() == rank + 2 else x[None]
        padded = TF.pad(batched.contiguous(), pairs, mode=mode)
        expected = getattr(F, f"max_pool{rank}d")(padded, kernel, stride, 0, dilation, ceil)
        mean = getattr(F, f"avg_pool{rank}d")(padded, kernel, stride, 0, ceil, dilation=dilation)
    except (RuntimeError, ArgumentError):
        for name in ("max", "avg"):
            with pytest.raises(ArgumentError):
                getattr(F, f"{name}_pool{rank}d")(x, kernel, stride, dilation=dilation, **arguments)
        return
    expected, mean = (t if x.dim() == rank + 2 else t[0] for t in (expected, mean))
    got, i = getattr(F, f"max_pool{rank}d")(
        x, kernel, stride, dilation=dilation, return_indices=True, **arguments
    )
    assert_bit_equal(got, expected)
    assert_bit_equal(x.flatten(-rank).gather(-1, i.flatten(-rank)).reshape(i.shape), got)
    assert_format(got, x)
    got = getattr(F, f"avg_pool{rank}d")(x, kernel, stride, dilation=dilation, **arguments)
    assert_close(got, mean)
    for name in ("max", "avg"):
        function = getattr(F, f"{name}_pool{rank}d")
        a, b = leaf(x), leaf(batched)
        g = gradient(function(a, kernel, stride, dilation=dilation, **arguments), a)
        padded = TF.pad(b.contiguous(), pairs, mode=mode)
        y = function(padded, kernel, stride, 0, dilation=dilation, ceil_mode=ceil)
        assert_close(g, gradient(y.reshape(expected.shape), b).reshape(x.shape))
        assert_same_strides(g, torch.empty_like(a), "gradient")


@every_rank
@pytest.mark.parametrize("dtype", testing.HALVES)
@pytest.mark.parametrize("mode", ["replicate", "circular"])
def test_padding_modes_round_gradients_once(rank, dtype, mode):
    """The gradient of a cell that thousands of outputs share: a sum in a half type would stall."""
    extent, pad = {"replicate": (2, 3000), "circular": (2500, 2500)}[mode]
    pads = ((pad, pad), *((0, 0),) * (rank - 1))
    for name, args in [("max_pool", ()), ("avg_pool", ()), ("lp_pool", (1,))]:
        function = getattr(F, f"{name}{rank}d")
        x = torch.ones((2, 3, extent, *(2,) * (rank - 1)), dtype=dtype, requires_grad=True)
        kernel = (1 if mode == "replicate" else 2, *(1,) * (rank - 1))
        y = function(x, *args, kernel, 1, padding=pads, padding_mode=mode)
        assert y.dtype is dtype
        # Half types hold 0.1 and its multiples only roughly: their sum has to be rounded once.
        g = torch.full_like(y, 0.1)
        (got,) = torch.autograd.grad(y, x, g)
        wide = x.detach().float().requires_grad_()
        z = function(wide, *args, kernel, 1, padding=pads, padding_mode=mode)
        (expected,) = torch.autograd.grad(z, wide, g.float())
        assert_bit_equal(got, expected.to(dtype), name)
        if mode == "replicate":
            assert got.flatten()[0] > 290


def test_padding_mode_limits():
    x = torch.arange(3.0)[None, None]
    for mode, most in {"reflect": 2, "circular": 3}.items():
        F.max_pool1d(x, 3, 1, most, padding_mode=mode)
        with pytest.raises(ArgumentError, match=f"at most {most}"):
            F.max_pool1d(x, 3, 1, most + 1, padding_mode=mode)
        for pair in ((most + 1, 0), (0, most + 1)):
            with pytest.raises(ArgumentError, match=f"at most {most}"):
                F.max_pool1d(x, 3, 1, [pair], padding_mode=mode)
    F.max_pool1d(x, 3, 1, 7, padding_mode="replicate")
    for name in ("constant", "", None, 0):
        for function, args in ((F.max_pool1d, (2,)), (F.avg_pool1d, (2,)), (F.lp_pool1d, (2, 2))):
            with pytest.raises(ArgumentError, match="padding_mode must be one of"):
                function(x, *args, padding_mode=name)


@every_rank
def test_padding_mode_with_the_other_arguments(rank):
    x = sample((1, 2, *(5,) * rank), torch.float64)
    padded = TF.pad(x, (1, 1) * rank, mode="circular")
    mean, norm = getattr(F, f"avg_pool{rank}d"), getattr(F, f"lp_pool{rank}d")
    mode = {"padding": 1, "padding_mode": "circular"}
    got = mean(x, 2, 1, divisor_override=3, dilation=2, **mode)
    assert_close(got, mean(padded, 2, 1, divisor_override=3, dilation=2))
    assert_close(mean(x, 3, 2, count_include_pad=False, **mode), mean(padded, 3, 2))
    for p in (2, 3, math.inf, -math.inf, -1):
        got = norm(x, p, 2, 1, dilation=2, absolute=True, **mode)
        assert_close(got, norm(padded, p, 2, 1, dilation=2, absolute=True))


def test_windows_of_padding_alone():
    """Zeros count where zeros mean something; elsewhere such a window is refused."""
    x = torch.tensor([[[1.0, -1.0, 3.0]]])
    y = F.avg_pool1d(x, 2, 1, 2, count_include_pad=False, divisor_override=4)
    assert y.flatten().tolist() == [0, 0.25, 0, 0.5, 0.75, 0]
    assert F.lp_pool1d(x, 1, 2, 1, padding=2).flatten()[0] == 0
    for p in (math.inf, -math.inf, -1, -2.5):
        with pytest.raises(ArgumentError, match="window 0 of axis L holds no cell"):
            F.lp_pool1d(x, p, 2, 1, padding=2)


def test_lp_of_sums_that_cancel():
    x = torch.tensor([[[1.0, -1.0]]], requires_grad=True)
    for p in (-1, 1, 3):
        compare_with_torch("lp_pool1d", x, p, 2)
    assert F.lp_pool1d(x, -1, 2).item() == math.inf
    assert F.lp_pool1d(x, 1, 2).item() == 0
