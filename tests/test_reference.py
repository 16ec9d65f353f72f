"""The reference, against torch where torch has the operator and against a loop over cells."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._vmap_internals import _vmap

from poolkit import ArgumentError, reference, testing
from poolkit import window as W
from poolkit.testing import assert_average_close, assert_bit_equal, assert_format, sample

TF = torch.nn.functional

pytestmark = pytest.mark.usefixtures("one_thread")

fixed_examples = settings(derandomize=True, deadline=None, database=None, max_examples=150)

DTYPES = (*testing.FLOATS, *testing.INTEGERS)


@st.composite
def windows(draw, needs_cell=True):
    """A window of any kind over planes of (2, 2, *spatial), small enough for a loop in Python."""
    rank = draw(st.integers(1, 3))
    size = {1: 12, 2: 6, 3: 4}[rank]
    shape = (2, 2, *(draw(st.integers(1, size)) for _ in range(rank)))
    if draw(st.booleans()):
        out = [draw(st.integers(0, size + 2)) for _ in range(rank)]
        return shape, W.adaptive("f", rank, shape, out, False)
    for _ in range(20):
        pad = draw(st.sampled_from(["same", "same_lower", "valid", "pairs", "pairs", "pairs"]))
        if pad == "pairs":
            pad = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(rank)]
        kernel, stride, dilation = (
            [draw(st.integers(1, top)) for _ in range(rank)] for top in (4, 4, 3)
        )
        include, divisor = draw(st.booleans()), draw(st.sampled_from([None, None, 3, -2]))
        needs = needs_cell or not include
        try:
            return shape, W.fixed("f", rank, shape, kernel, stride, pad, dilation,
                                  draw(st.booleans()), needs, include, divisor)  # fmt: skip
        except ArgumentError:
            continue
    return shape, W.adaptive("f", rank, shape, 1, False)


def taps(window):
    """For every output, row-major: its taps as (number, cell of the plane or None, counted)."""
    for output in itertools.product(*(range(a.out) for a in window.axes)):
        yield [
            (number, *place(window, output, tap))
            for number, tap in enumerate(itertools.product(*(range(a.kernel) for a in window.axes)))
        ]


def place(window, output, tap):
    cell, padded = 0, True
    for a, i, t in zip(window.axes, output, tap, strict=True):
        if a.stride:
            p = i * a.stride - a.before + t * a.dilation
            padded = padded and p < a.size + a.after
        else:
            p = math.floor(i * a.size / a.out) + t
            if p >= math.ceil((i + 1) * a.size / a.out):
                p = padded = None
        cell = None if cell is None or p is None or not 0 <= p < a.size else cell * a.size + p
    return cell, bool(padded)


def winner(values):
    """(tap, cell, value) of the first maximum or the last NaN."""
    best = None
    for tap, cell, value in values:
        if best is None or math.isnan(value) or (not math.isnan(best[2]) and value > best[2]):
            best = (tap, cell, value)
    return best


def planes(x, window):
    return x.reshape(-1, math.prod(a.size for a in window.axes)).tolist()


@pytest.mark.parametrize("values", testing.VALUES)
@fixed_examples
@given(windows(), st.sampled_from(DTYPES))
def test_max_by_loop(values, drawn, dtype):
    shape, window = drawn
    x = sample(shape, dtype, values)
    got, offsets = reference.max_pool(x, window)
    expected, numbers, cells = [], [], []
    for plane in planes(x, window):
        for window_taps in taps(window):
            tap, cell, value = winner(
                [(t, c, plane[c]) for t, c, _ in window_taps if c is not None]
            )
            expected.append(value)
            numbers.append(tap)
            cells.append(cell)
    out = window.output_shape(shape)
    assert_bit_equal(got, torch.tensor(expected, dtype=dtype).reshape(out))
    assert offsets.dtype is window.offset_dtype
    assert offsets.flatten().tolist() == numbers
    assert reference.plane_indices(offsets, window).flatten().tolist() == cells
    assert_bit_equal(reference.pick(x, offsets, window), got)


@fixed_examples
@given(windows(needs_cell=False), st.sampled_from(["normal", "special"]))
def test_average_by_loop(drawn, values):
    shape, window = drawn
    x = sample(shape, torch.float64, values)
    expected = []
    for plane in planes(x, window):
        for window_taps in taps(window):
            real = [plane[c] for _, c, _ in window_taps if c is not None]
            count = sum(p for _, _, p in window_taps) if window.include_pad else len(real)
            total = math.fsum(real) if all(map(math.isfinite, real)) else sum(real)
            expected.append(total / (window.divisor or count))
    got = reference.avg_pool(x, window)
    torch.testing.assert_close(
        got.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-14,
        equal_nan=True,
    )  # fmt: skip


@fixed_examples
@given(windows())
def test_scatter_by_loop(drawn):
    """Row-major order of the outputs, from +0, bit for bit."""
    shape, window = drawn
    _, offsets = reference.max_pool(sample(shape, values="relu"), window)
    g = sample(tuple(offsets.shape), seed=1)
    g[..., ::2] *= -0.0
    plane = math.prod(shape[2:])
    expected = torch.zeros(4, plane)
    chosen, values = offsets.reshape(4, -1).tolist(), g.reshape(4, -1)
    for p in range(4):
        for o, window_taps in enumerate(taps(window)):
            expected[p, window_taps[chosen[p][o]][1]] += values[p, o]
    got = reference.scatter(g, offsets, window, False)
    assert_bit_equal(got, expected.reshape(shape))


@fixed_examples
@given(windows(needs_cell=False))
def test_adjoints(drawn):
    """<pick(x), g> = <x, scatter(g)> and <avg(x), g> = <x, avg_backward(g)>."""
    shape, window = drawn
    x = sample(shape, torch.float64)
    mean = reference.avg_pool(x, window)
    g = sample(tuple(mean.shape), torch.float64, seed=1)
    back = reference.avg_pool_backward(g, window, False)
    torch.testing.assert_close((mean * g).sum(), (x * back).sum(), rtol=1e-10, atol=1e-12)
    offsets = torch.randint(0, window.taps, mean.shape).to(window.offset_dtype)
    picked = reference.pick(x, offsets, window)
    back = reference.scatter(g, offsets, window, False)
    torch.testing.assert_close((picked * g).sum(), (x * back).sum(), rtol=1e-10, atol=1e-12)


def test_half_sums_round_once():
    window = W.fixed("f", 2, (1, 1, 60, 60), 25, 1, 12, 1, False, True)
    x = torch.zeros(1, 1, 60, 60, dtype=torch.float16)
    x[0, 0, 30, 30] = 1
    _, offsets = reference.max_pool(x, window)
    g = torch.full_like(offsets, 4, dtype=torch.float16)
    assert reference.scatter(g, offsets, window, False)[0, 0, 30, 30].item() == 4 * 625  # > 2048
    assert reference.avg_pool(torch.full_like(x, 60000), window).isfinite().all()
    back = reference.avg_pool_backward(g / 4, window, False)
    assert back[0, 0, 30, 30].item() == 1


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_tampered_offsets(rank):
    """They give 0, -1 or nothing, and no access out of range."""
    shape = (2, 2, *(5,) * rank)
    for window in (
        W.fixed("f", rank, shape, 3, 2, 1, 1, False, True),
        W.adaptive("f", rank, shape, 3, True),
    ):
        x = torch.ones(shape)
        real = [[c is not None for _, c, _ in t] for t in taps(window)]
        for offset in range(256):
            offsets = torch.full(window.output_shape(shape), offset, dtype=torch.uint8)
            wanted = torch.tensor([offset < len(r) and r[offset] for r in real]).expand(2, 2, -1)
            assert torch.equal(reference.pick(x, offsets, window).flatten(2) == 1, wanted)
            assert torch.equal(reference.plane_indices(offsets, window).flatten(2) >= 0, wanted)
            g = torch.ones(offsets.shape)
            assert reference.scatter(g, offsets, window, False).sum() == wanted.sum()
        wild = torch.full(window.output_shape(shape), -7, dtype=torch.int32)
        assert reference.pick(x, wild, window).eq(0).all()


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_formats(rank, layout):
    shape = (2, 3, *(6,) * rank)
    x = testing.laid_out(sample(shape), layout)
    window = W.fixed("f", rank, x.shape, 2, 2, 0, 1, False, True)
    values, offsets = reference.max_pool(x, window)
    last = torch._prims_common.suggest_memory_format(x) is not torch.contiguous_format
    for got in (
        values, offsets,
        reference.plane_indices(offsets, window), reference.pick(x, offsets, window),
        reference.avg_pool(x, window), reference.lp_pool(x, 2, window),
        reference.scatter(values, offsets, window, last),
        reference.avg_pool_backward(values, window, last),
        reference.max_unpool(values, reference.plane_indices(offsets, window), x.shape[2:]),
    ):  # fmt: skip
        assert_format(got, x)


@pytest.mark.filterwarnings("ignore")  # the old vmap is slow, and says so
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_batched_by_gradcheck(rank):
    """gradcheck batches forward derivatives with torch's old vmap, straight into the reference."""
    shape = (2, 3, *(6,) * rank)
    window = W.fixed("f", rank, shape, 3, 2, 1, 1, False, True)
    x = sample((4, *shape), torch.float64)
    mean, offsets = reference.avg_pool(x[0], window), reference.max_pool(x[0], window)[1]
    g = sample((4, *mean.shape), torch.float64, seed=1)
    for function, t in [
        (lambda t: reference.pick(t, offsets, window), x),
        (lambda t: reference.scatter(t, offsets, window, False), g),
        (lambda t: reference.avg_pool(t, window), x),
        (lambda t: reference.avg_pool_backward(t, window, False), g),
    ]:
        assert_bit_equal(_vmap(function, 0, 0)(t), torch.stack([function(part) for part in t]))


# ---- Against torch ------------------------------------------------------------------------------


@fixed_examples
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans(),
    st.sampled_from(testing.VALUES),
)  # fmt: skip
def test_against_torch(rank, kernel, stride, ceil, include, values):
    shape, pad = (2, 3, *(7, 5, 6)[:rank]), kernel // 2
    x = sample(shape, values=values)
    window = W.fixed("f", rank, shape, kernel, stride, pad, 1, ceil, True, include)
    y, i = getattr(TF, f"max_pool{rank}d")(x, kernel, stride, pad, 1, ceil, return_indices=True)
    got, offsets = reference.max_pool(x, window)
    assert_bit_equal(got, y)
    assert torch.equal(reference.plane_indices(offsets, window), i)
    if values != "extreme":
        y = getattr(TF, f"avg_pool{rank}d")(x, kernel, stride, pad, ceil, include)
        torch.testing.assert_close(reference.avg_pool(x, window), y, equal_nan=True)
        assert_average_close(y, x, window)


@pytest.mark.parametrize("p", [1, 2, 3.0, 0.5, -1, math.inf, -math.inf])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_lp_against_torch(rank, p):
    x = sample((2, 3, *(7, 5, 6)[:rank]), torch.float64)
    for ceil in (False, True):
        window = W.fixed("f", rank, x.shape, 3, 2, 0, 1, ceil, True)
        y = getattr(TF, f"lp_pool{rank}d")(x, p, 3, 2, ceil)
        torch.testing.assert_close(reference.lp_pool(x, p, window), y, equal_nan=True)


@pytest.mark.parametrize("p", [1, 2.5, -1, math.inf, -math.inf])
def test_absolute_lp_by_norm(p):
    x = sample((1, 1, 9), torch.float64)
    window = W.fixed("f", 1, x.shape, 3, 3, 0, 1, False, True)
    norms = torch.linalg.vector_norm(x.reshape(3, 3), p, -1)
    torch.testing.assert_close(reference.lp_pool(x, p, window, absolute=True).flatten(), norms)


def test_lp_of_padding():
    """Padding adds nothing, and a window of padding alone is 0."""
    window = W.fixed("f", 1, (1, 1, 2), 2, 2, [(2, 1)], 1, False, False)
    for p in (1, 2, 0.5, math.inf):
        got = reference.lp_pool(torch.tensor([[[3.0, -4.0]]]), p, window, absolute=True)
        norm = torch.linalg.vector_norm(torch.tensor([3.0, -4.0]), p).item()
        assert got.flatten().tolist() == pytest.approx([0, norm])


def test_unpool():
    x = torch.tensor([[[1.0, 5.0, 3.0, 2.0]]], dtype=torch.float64)
    i = torch.tensor([[[0, 2, 2, 2]]])
    for duplicates, wanted in {"last": 2, "max": 5, "sum": 10, "mean": 10 / 3}.items():
        got = reference.max_unpool(x, i, (4,), duplicates)
        assert got.flatten().tolist() == pytest.approx([1, 0, wanted, 0]), duplicates
    with pytest.raises(ArgumentError, match="twice"):
        reference.max_unpool(x, i, (4,), "error")
    for bad in (-1, 4):
        with pytest.raises(ArgumentError, match="outside"):
            reference.max_unpool(x, i.fill_(bad), (4,))
    y, i = TF.max_pool2d(sample((2, 3, 6, 6)), 2, return_indices=True)
    assert_bit_equal(reference.max_unpool(y, i, (6, 6)), TF.max_unpool2d(y, i, 2))


@pytest.mark.parametrize("dtype", testing.FLOATS)
@pytest.mark.parametrize(
    ("rank", "kernel", "out"), [(2, (2, 3), (5, 3)), (3, (2, 1, 3), (3, 5, 2))]
)
def test_fractional_against_torch(dtype, rank, kernel, out):
    x = sample((2, 3, *(9, 7, 8)[:rank]), dtype, "relu")
    samples = torch.rand(2, 3, rank, generator=torch.Generator().manual_seed(3)).to(dtype)
    samples = samples.clamp(max=1 - torch.finfo(dtype).eps)
    stock = getattr(TF, f"fractional_max_pool{rank}d")
    y, i = stock(x, kernel, out, return_indices=True, _random_samples=samples)
    got, index = reference.fractional_max_pool(x, kernel, out, samples)
    assert_bit_equal(got, y)
    assert torch.equal(index, i)


# ---- The comparisons themselves -----------------------------------------------------------------


def test_bit_comparison_sees_signs_and_nan():
    assert_bit_equal(torch.tensor([math.nan, -0.0]), torch.tensor([-math.nan, -0.0]))
    for a, b in [(0.0, -0.0), (math.nan, 1.0), (1.0, 1.0000001), (math.inf, -math.inf)]:
        with pytest.raises(AssertionError):
            assert_bit_equal(torch.tensor([a]), torch.tensor([b]))
    with pytest.raises(AssertionError):
        assert_bit_equal(torch.zeros(1), torch.zeros(1).double())


@pytest.mark.parametrize("dtype", [*testing.FLOATS, torch.int64])
def test_average_bound_is_tight(dtype):
    x = sample((1, 2, 8, 8), dtype)
    window = W.fixed("f", 2, x.shape, 3, 2, 1, 1, False, False)
    got = reference.avg_pool(x, window)
    assert_average_close(got, x, window)
    step = 1 if dtype is torch.int64 else 40 * torch.finfo(dtype).eps
    with pytest.raises(AssertionError):
        assert_average_close((got * (1 + step)).to(dtype) + (dtype is torch.int64), x, window)


def test_layouts():
    x = sample((2, 3, 4, 5))
    strides = {name: testing.laid_out(x, name).stride() for name in testing.LAYOUTS}
    assert len(set(strides.values())) == len(testing.LAYOUTS)
    assert testing.laid_out(x, "sliced").storage_offset() > 0
    for name in ("contiguous", "channels_last", "permuted", "sliced", "strided"):
        assert torch.equal(testing.laid_out(x, name), x)
