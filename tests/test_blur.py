"""Blurs and blurred maxima: values, shifts, derivatives, arguments, and the kernels."""

import itertools
import math
import random

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from poolkit import ArgumentError, DtypeError, nn, ops, reference, window
from poolkit import functional as F
from poolkit.testing import (
    FLOATS,
    assert_bit_equal,
    assert_close,
    assert_format,
    assert_same_strides,
    assert_sum_close,
    laid_out,
    sample,
)
from poolkit.window import PADDING_MODES

# torch's own forward mode says so when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")

native = torch.ops.poolkit
every_mode = pytest.mark.parametrize("mode", PADDING_MODES)
needs_kernels = pytest.mark.skipif(not ops.NATIVE, reason="there are no raw operators")


# ---- the kernels against the reference ----------------------------------------------------------

# Extents on both sides of a register of every width, and of its half.
EXTENTS = (1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 31, 33, 35, 63, 65)


def drawn(seed):
    """An input and the arguments of both functions, the same for the same seed."""
    rng = random.Random(seed)
    rank = rng.choice((1, 2, 2, 2, 3))
    sizes = [rng.choice(EXTENTS[:8] if rank == 3 else EXTENTS) for _ in range(rank)]
    if rng.random() < 0.1:
        sizes[-1] = rng.randint(100, 20000 if rank == 1 else 600)  # longer than a tile
    shape = (rng.randint(1, 3), rng.choice((1, 2, 3, 8, 17, 40)), *sizes)
    if rng.random() < 0.05:
        shape = (1, 2100, *(min(size, 9) for size in sizes))  # wider than a tile
    x = sample(shape, rng.choice(FLOATS), rng.choice(("normal", "relu", "special")), seed)
    layout = rng.choice(("contiguous", "channels_last", "channels_last", "permuted", "expanded"))
    x = laid_out(x if rng.random() < 0.8 else x[0], layout)
    kernel = [rng.choice((1, 2, 3, 3, 4, 5, rng.randint(1, 12))) for _ in sizes]
    blur = {
        "filter": [[rng.gauss(0, 1) for _ in range(k)] for k in kernel],
        "stride": [rng.choice((1, 2, 2, 3, 4, rng.randint(1, 9))) for _ in sizes],
        "padding_mode": rng.choice(PADDING_MODES),
    }
    pairs = tuple((rng.randint(0, 6), rng.randint(0, 6)) for _ in sizes)
    largest = {"kernel_size": [rng.choice((1, 2, 3, rng.randint(1, 7))) for _ in sizes]}
    largest["padding"] = tuple((rng.randint(0, k - 1), k // 2) for k in largest["kernel_size"])
    padding = rng.choice((None, None, pairs, "same", "valid"))
    return x, rank, {**blur, "padding": padding}, {**blur, **largest}


def assert_blurred(y, x, filters, w):
    """``y`` is the blur of ``x``, up to what its additions explain."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    used = [torch.tensor(weights, dtype=wide).double() for weights in filters]
    exact = reference.blur_pool(x.detach().double(), used, w)
    size = reference.blur_pool(x.detach().double().abs(), [f.abs() for f in used], w)
    assert_sum_close(y, exact, size, 3 + sum(map(len, filters)))
    assert_format(y, x)


def check(seed):
    """Both functions and the gradients of both, for one draw; the results, or None."""
    x, rank, blur, max_blur = drawn(seed)
    filters, mode = blur["filter"], blur["padding_mode"]
    kernels = tuple(map(len, filters))
    x = x.requires_grad_()
    try:
        y = getattr(F, f"blur_pool{rank}d")(x, **blur)
        z = getattr(F, f"max_blur_pool{rank}d")(x.detach(), **max_blur)
        trained = getattr(F, f"max_blur_pool{rank}d")(x, **max_blur)
    except ArgumentError:
        return None
    w = window.blurred("t", rank, x.shape, kernels, blur["stride"], blur["padding"], mode)
    assert_blurred(y, x, filters, w)
    g = sample(tuple(y.shape), x.dtype, "normal", seed + 1)
    (back,) = torch.autograd.grad(y, x, g)
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    used = [torch.tensor(weights, dtype=wide).double() for weights in filters]
    exact = reference.blur_pool_backward(g.double(), used, w, False)
    size = reference.blur_pool_backward(g.double().abs(), [f.abs() for f in used], w, False)
    terms = 3 + sum(kernels) + sum(axis.before + axis.after for axis in w.axes)
    assert_sum_close(back, exact, size, terms)
    assert_same_strides(back, torch.empty_like(x))

    dense = window.fixed("t", rank, x.shape, max_blur["kernel_size"], 1, max_blur["padding"], 1,
                         False, True)  # fmt: skip
    largest = reference.max_pool(x.detach(), dense)[0]
    w = window.blurred("t", rank, largest.shape, kernels, blur["stride"], None, mode)
    assert_blurred(z, largest, filters, w)
    assert_blurred(trained, largest, filters, w)
    return [y.detach(), back, z]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("part", range(4))
def test_equal_to_the_reference(part):
    done = 0
    for seed in range(part * 30, part * 30 + 30):
        try:
            done += check(seed) is not None
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {drawn(seed)[1:]}: {error}") from error
    assert done > 15


def test_same_bits_for_any_number_of_threads(keep_threads):
    """Also where the rows of a plane are shared out, and maxima are computed twice."""

    def results():
        found = [r for seed in range(300, 312) for r in check(seed) or ()]
        for channels, layout in ((20, "contiguous"), (1, "contiguous"), (20, "channels_last")):
            x = laid_out(sample((1, channels, 90, 70)), layout).requires_grad_()
            found.append(F.max_blur_pool2d(x.detach(), 3, 2, 1))
            found.append(F.blur_pool2d(x, 5))
            found += torch.autograd.grad(found[-1].square().sum(), x)
        return found

    torch.set_num_threads(1)
    alone = results()
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for a, b in zip(results(), alone, strict=True):
            assert_bit_equal(a, b)


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_same_bits_in_both_layouts(dtype, mode):
    """Rows that stay in registers, planes as lanes, and channels add up in one order.

    (The sum of no cells at all, weighted by what is below 0, is -0.)
    """
    rng = random.Random(1)
    paddings = (None, 0, 3, "much")
    for width, taps, given in itertools.product((16, 47, 48, 63, 66), (2, 3, 4, 5), paddings):
        much = ((1, 1), ((taps - 1) // 2, width - 1))  # behind: outputs hold nothing but padding
        padding = much if given == "much" else given
        filters = [[rng.gauss(-1, 1) for _ in range(k)] for k in (rng.randint(1, 5), taps)]
        shape = (2, 33, rng.randint(9, 24), width)
        x = sample(shape, dtype, rng.choice(("normal", "special")), width)
        arguments = {"filter": filters, "stride": (rng.randint(1, 3), 2), "padding": padding}
        found = []
        for layout in ("contiguous", "channels_last"):
            cells = laid_out(x, layout).requires_grad_()
            y = F.blur_pool2d(cells, **arguments, padding_mode=mode)
            kind = "zeros" if taps == 3 else "normal"
            g = laid_out(sample(tuple(y.shape), dtype, kind, taps), layout)
            found.append((y.detach(), *torch.autograd.grad(y, cells, g)))
        for ours, other in zip(*found, strict=True):
            assert_bit_equal(ours, other)


# Planes of maxima that are cut into parts: some at once, or each along its outermost axis.
CUT = [
    (1, 1, 700, 600), (1, 3, 230, 200), (1, 17, 230, 90), (2, 40, 180, 30), (1, 1, 600000),
    (1, 1, 40, 130, 90), (2, 20, 8, 30, 40), (1, 1, 13, 40000), (1, 1, 17, 50000),
]  # fmt: skip


@needs_kernels
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (shape, layout)
        for shape in CUT
        for layout in ("contiguous", "channels_last")
        if layout == "contiguous" or len(shape) > 3
    ],
    ids=str,
)
def test_blurred_maxima_part_by_part(shape, layout, keep_threads):
    """Maxima, their offsets, blurs and gradients are to the bit what whole planes give."""
    rank = len(shape) - 2
    rng = random.Random(len(shape) + shape[-1])
    x = laid_out(sample(shape, torch.float64, "special"), layout)
    for mode, threads in itertools.product(PADDING_MODES, (1, 2)):
        torch.set_num_threads(threads)
        largest = [rng.randint(1, 4) for _ in range(rank)]
        kernel = tuple(rng.randint(1, 5) for _ in range(rank))
        padding = [(rng.randint(0, 6), rng.randint(0, 6)) for _ in range(rank)]
        dense = window.fixed(
            "t", rank, shape, largest, 1, [k // 2 for k in largest], 1, False, True
        )
        stride = [rng.choice((1, 2, 2, 3, 7)) for _ in range(rank)]  # 7: maxima that nobody blurs
        w = window.blurred("t", rank, dense.output_shape(shape), kernel, stride, padding, mode)
        taps = tuple(rng.gauss(0, 1) for _ in range(sum(kernel)))
        maxima, offsets = native.max_pool_offsets(x, dense.packed)
        blurs = native.blur_pool(maxima, taps, w.packed)
        assert_bit_equal(native.max_blur_pool(x, taps, dense.packed, w.packed), blurs)
        values, taken = native.max_blur_pool_offsets(x, taps, dense.packed, w.packed)
        assert_bit_equal(values, blurs)
        assert_bit_equal(taken, offsets)
        last = layout == "channels_last"
        dense_packed, packed = window.pack(dense, last), window.pack(w, last)
        g = laid_out(sample(tuple(blurs.shape), torch.float64, "normal", 1), layout)
        spread = native.blur_pool_backward(g, taps, packed)
        back = native.max_blur_pool_backward(g, offsets, taps, dense_packed, packed)
        assert_bit_equal(back, native.scatter(spread, offsets, dense_packed))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 5, 15, 16, 17, 31, 33, 65])
def test_nothing_outside_the_input_is_read(width, dtype):
    """NaN before and behind a view reaches no result."""
    shape = (2, 3, 4, width)
    values = sample(shape, dtype)
    filters = [weight for k in (3, 4) for weight in reference_binomial(k)]
    for offset, stride in itertools.product((0, 1, 3), (1, 2, 3)):
        buffer = torch.full((offset + values.numel() + 100,), math.nan, dtype=dtype)
        view = buffer[offset : offset + values.numel()].view(shape)
        view.copy_(values)
        w = window.blurred("t", 2, shape, (3, 4), stride, None, "replicate")
        dense = window.fixed("t", 2, shape, 3, 1, 1, 1, False, True)
        assert native.blur_pool(view, filters, w.packed).isfinite().all()
        assert native.max_blur_pool(view, filters, dense.packed, w.packed).isfinite().all()
        before = (*shape[:2], *(stride * (size - 1) + 1 for size in shape[2:]))
        whole = window.blurred("t", 2, before, (3, 4), stride, None, "replicate")
        assert whole.output_shape(before) == shape
        assert native.blur_pool_backward(view, filters, whole.packed).isfinite().all()


@needs_kernels
def test_raw_operators_refuse_windows_that_do_not_fit():
    x = torch.ones(1, 1, 4)
    good = window.blurred("t", 1, x.shape, (3,), 1, None, "reflect")
    axis = good.axes[0]
    bad = [axis._replace(before=4, out=7), axis._replace(out=9), axis._replace(dilation=2)]
    for wrong in bad:
        packed = window.Window((wrong,), padding_mode="reflect").packed
        with pytest.raises(RuntimeError, match="impossible fields"):
            native.blur_pool(x, (1.0, 1.0, 1.0), packed)
    with pytest.raises(RuntimeError, match="of 3 taps has 2 weights"):
        native.blur_pool(x, (1.0, 1.0), good.packed)
    dense = window.fixed("t", 1, x.shape, 2, 1, 0, 1, False, True)
    with pytest.raises(RuntimeError, match="do not fit each other"):
        native.max_blur_pool(x, (1.0, 1.0, 1.0), dense.packed, good.packed)


@needs_kernels
def test_raw_blurs_of_maxima_refuse_what_does_not_fit():
    x = torch.ones(1, 1, 4)
    dense = window.fixed("t", 1, x.shape, 2, 1, 0, 1, False, True)
    after = window.blurred("t", 1, (1, 1, 3), (3,), 1, None, "reflect")
    offsets = torch.zeros(1, 1, 3, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="one offset per maximum"):
        native.max_blur_pool_backward(
            offsets.float().repeat(2, 1, 1), offsets, (1.0, 1.0, 1.0), dense.packed, after.packed
        )
    # As many planes of offsets, but others; and more work than one thread does.
    rows = (4, 4, 1, 1, 0, 0, 1)
    maxima, after_3d = ([1, 0, *first, *rows, *rows] for first in
                        ((3, 2, 2, 1, 0, 0, 1), (2, 2, 1, 1, 0, 0, 1)))  # fmt: skip
    unlike = torch.zeros(3, 2, 4, 4, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="one offset per maximum"):
        native.max_blur_pool_backward(
            torch.ones(1, 2, 2, 4, 4), unlike, [1.0] * 3, maxima, after_3d
        )
    many = torch.zeros(8, 1, 400000)
    of_many = window.fixed("t", 1, many.shape, 2, 1, 0, 1, False, True)
    blurs = window.blurred("t", 1, of_many.output_shape(many.shape), (1,), 1, None, "reflect")
    with pytest.raises(RuntimeError, match="offsets must be"):
        native.max_blur_pool_backward(
            many[..., 1:], many[..., 1:], [1.0], of_many.packed, blurs.packed
        )
    for before, out in ((2**31, 3), (5, 9), (0, 9), (0, 0)):
        axis = of_many.axes[0]._replace(size=4, out=out, before=before)
        outer = blurs.axes[0]._replace(size=max(out, 1), out=out)
        fields = [window.Window((a,)).packed for a in (axis, outer)]
        for operator in (native.max_blur_pool, native.max_blur_pool_offsets):
            with pytest.raises(RuntimeError, match=r"impossible fields|do not fit"):
                operator(x, [1.0], *fields)
    for wrong in (offsets[..., :2], offsets.bool(), offsets.float()):
        with pytest.raises(RuntimeError, match=r"extents of the window|offsets must be"):
            native.max_blur_pool_backward(
                offsets.float(), wrong, (1.0, 1.0, 1.0), dense.packed, after.packed
            )


# ---- what a blur is -----------------------------------------------------------------------------


def reference_binomial(size):
    return [math.comb(size - 1, i) / 2 ** (size - 1) for i in range(size)]


@every_mode
def test_is_padding_and_a_strided_convolution(mode):
    """As the paper has it, by torch's own functions."""
    x = sample((2, 3, 9, 10), torch.float64)
    for rows, columns in ((3, 3), (2, 5), (4, 1), (7, 6)):
        row = torch.tensor(reference_binomial(columns)).double()
        weights = (torch.tensor(reference_binomial(rows)).double()[:, None] * row).expand(
            3, 1, -1, -1
        )
        pads = ((columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2)
        padded = torch.nn.functional.pad(x, pads, mode if mode != "zeros" else "constant")
        for stride in (1, 2, 3):
            expected = torch.nn.functional.conv2d(padded, weights, stride=stride, groups=3)
            assert expected.shape[2:] == (-(-9 // stride), -(-10 // stride))
            got = F.blur_pool2d(x, (rows, columns), stride, padding_mode=mode)
            assert_close(got, expected)
            given = (reference_binomial(rows), torch.tensor(reference_binomial(columns)))
            assert_bit_equal(F.blur_pool2d(x, 99, stride, padding_mode=mode, filter=given), got)


def test_the_paper_s_example():
    """A signal of period 4: max pooling sees two different ones, a shift apart."""
    x = torch.tensor([[[0.0, 0, 1, 1, 0, 0, 1, 1]]])
    shifted = x.roll(-1, -1)
    assert F.max_pool1d(x, 2).flatten().tolist() == [0, 1, 0, 1]
    assert F.max_pool1d(shifted, 2).flatten().tolist() == [1, 1, 1, 1]
    pool = nn.MaxBlurPool1d(2, 2, ((0, 1),), padding_mode="circular")
    assert pool(x).flatten().tolist() == [0.5, 1, 0.5, 1]
    assert pool(shifted).flatten().tolist() == [0.75, 0.75, 0.75, 0.75]


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7])
def test_the_highest_frequency_does_not_fold(size):
    """The mean of every even circular map survives a stride of 2, wherever the map begins."""
    x = sample((1, 2, 8, 6), torch.float64)
    for rows, columns in itertools.product(range(3), repeat=2):
        y = F.blur_pool2d(x.roll((rows, columns), (2, 3)), size, padding_mode="circular")
        assert_close(y.mean((2, 3)), x.mean((2, 3)))
    for folds in (lambda x: F.blur_pool2d(x, 1), lambda x: F.max_pool2d(x, 2)):
        assert not torch.allclose(folds(x).mean((2, 3)), folds(x.roll(1, 3)).mean((2, 3)))


@pytest.mark.parametrize("rank", [1, 2, 3])
@every_mode
def test_constants_are_kept(mode, rank):
    x = torch.full((1, 2, *(7, 6, 5)[:rank]), 3.0)
    for blur in (2, 3, 6):
        for y in (
            getattr(F, f"blur_pool{rank}d")(x, blur, padding_mode=mode),
            getattr(F, f"max_blur_pool{rank}d")(x, 3, 2, 1, blur=blur, padding_mode=mode),
        ):
            assert bool((y == 3).all()) == (mode != "zeros")
            assert y.shape[2:] == tuple(-(-n // 2) for n in x.shape[2:])


def test_sizes_are_those_of_max_pooling():
    for size, kernel, stride in itertools.product(range(1, 12), range(1, 5), range(1, 5)):
        for padding in range(kernel // 2 + 1):
            if size + 2 * padding < kernel:
                continue
            x = torch.ones(1, 1, size)
            stock = torch.nn.functional.max_pool1d(x, kernel, stride, padding)
            y = F.max_blur_pool1d(x, kernel, stride, padding, padding_mode="replicate")
            assert y.shape == stock.shape


def test_nan_and_infinity_stay_in_their_windows():
    for special in (math.nan, math.inf):
        x = torch.ones(1, 1, 12)
        x[..., 6] = special
        y = F.blur_pool1d(x, 3, 2)
        assert y.isfinite().flatten().tolist() == [True, True, True, False, True, True]
        y = F.max_blur_pool1d(x, 2, 2)
        assert y.isfinite().flatten().tolist() == [True, True, False, False, True, True]
    assert F.blur_pool1d(torch.tensor([[math.inf, -math.inf, 1.0]]), 3, 1).isnan()[0, :2].all()


# ---- derivatives --------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("shape", [(2, 1, 7), (1, 2, 4, 5), (1, 4, 3, 3), (1, 1, 3, 3, 4)])
@every_mode
def test_gradients_of_every_order(mode, shape):
    rank = len(shape) - 2
    x = sample(shape, torch.float64).requires_grad_()
    for function in (
        lambda x: getattr(F, f"blur_pool{rank}d")(x, 4, 2, padding_mode=mode),
        lambda x: getattr(F, f"max_blur_pool{rank}d")(x, 2, 2, padding_mode=mode),
    ):
        assert gradcheck(function, x, check_forward_ad=True, fast_mode=True)
        assert gradgradcheck(function, x, fast_mode=True)


@pytest.mark.usefixtures("one_thread")
def test_half_types_are_rounded_once():
    """A sum of many small gradients does not stall."""
    x = torch.ones(1, 1, 40, dtype=torch.bfloat16, requires_grad=True)
    y = F.blur_pool1d(x, stride=1, padding=39, padding_mode="zeros", filter=[1.0] * 40)
    (got,) = torch.autograd.grad(y, x, torch.full_like(y, 1 + 2**-7))
    assert got.unique().tolist() == [torch.tensor(40 * (1 + 2**-7)).bfloat16().item()]


def test_a_filter_may_be_learned():
    x = sample((2, 2, 6, 7), torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    fixed = weights.tolist()
    assert_close(F.blur_pool2d(x, filter=weights), F.blur_pool2d(x, filter=fixed))
    for function in (F.blur_pool2d, F.max_blur_pool2d):
        assert gradcheck(lambda w, f=function: f(x, filter=w), weights)
        assert gradcheck(lambda w, f=function: f(x, filter=(w, fixed)), weights)


@needs_kernels
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(layout):
    x, taps = laid_out(sample((2, 3, 5, 6)), layout), (0.25, 0.5, 0.25, 0.5, 0.5)
    dense = window.fixed("t", 2, x.shape, 2, 1, 0, 1, False, True)
    w = window.blurred("t", 2, x.shape, (3, 2), 2, None, "reflect")
    after = window.blurred("t", 2, dense.output_shape(x.shape), (3, 2), 2, None, "circular")
    last = layout == "channels_last"
    calls = (
        (native.blur_pool, x, taps, window.pack(w)),
        (
            native.blur_pool_backward,
            native.blur_pool(x, taps, w.packed),
            taps,
            window.pack(w, last),
        ),
        (native.max_blur_pool, x, taps, window.pack(dense), window.pack(after)),
        (native.max_blur_pool_offsets, x, taps, window.pack(dense), window.pack(after)),
        (
            native.max_blur_pool_backward,
            native.max_blur_pool(x, taps, dense.packed, after.packed),
            native.max_pool_offsets(x, dense.packed)[1],
            taps,
            window.pack(dense, last),
            window.pack(after, last),
        ),
    )
    for operator, *args in calls:
        lists = [[*map(int, a.split())] if isinstance(a, str) else a for a in args]
        tests = ("test_schema", "test_faketensor")
        torch.library.opcheck(operator.text, tuple(args), test_utils=tests)
        torch.library.opcheck(operator.default, tuple(lists), test_utils=tests)


# ---- arguments ----------------------------------------------------------------------------------


def test_inputs_without_values_or_batch():
    for function in (F.blur_pool2d, F.max_blur_pool2d):
        x = sample((3, 6, 8))
        assert_bit_equal(function(x), function(x[None])[0])
        assert function(torch.ones(0, 3, 6, 8)).shape == (0, 3, 3, 4)
        on_meta = torch.empty((2, 3, 6, 8), device="meta").to(memory_format=torch.channels_last)
        y = function(on_meta)
        assert y.is_meta
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "kernel_size must be from 1 to"),
        ({"kernel_size": 1025, "padding_mode": "zeros"}, "kernel_size .* at most 1024, got"),
        ({"kernel_size": True}, "kernel_size must be an int"),
        ({"stride": math.nan}, "stride must be an int, got nan"),
        ({"stride": 0}, "stride must be from 1"),
        ({"padding": -1}, "padding must be from 0"),
        ({"padding": "some"}, "padding must be an int"),
        ({"kernel_size": 9}, r"must be at most 3 for an extent of 4, got \(4, 4\)"),
        ({"padding": 5, "padding_mode": "circular"}, "must be at most 4 for an extent of 4"),
        ({"padding": "valid", "kernel_size": 7}, "would have the output size -1"),
        ({"padding_mode": "constant"}, "padding_mode must be one of"),
        ({"padding_mode": None}, "padding_mode must be one of"),
        ({"filter": []}, r"filter must hold at least one weight, got \[\]"),
        ({"filter": 3}, "filter must hold at least one weight, got 3"),
        ({"filter": [1.0, math.nan]}, "filter must hold finite numbers"),
        ({"filter": [1.0, True]}, "filter must hold finite numbers"),
        ({"filter": [1.0, "1"]}, "filter must hold finite numbers"),
        ({"filter": ([1.0],) * 4}, "filter must be one sequence of weights or 2 of them, got 4"),
        ({"filter": torch.ones(2, 2)}, r"filter .* got a tensor of shape \(2, 2\)"),
        ({"filter": torch.ones(0)}, r"filter .* got a tensor of shape \(0,\)"),
        ({"filter": torch.tensor([math.inf])}, "filter must hold finite numbers"),
    ],
)
def test_bad_arguments(arguments, message):
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(ArgumentError, match=f"^blur_pool2d: .*{message}"):
        F.blur_pool2d(x, **arguments)
    if "extent" not in message and "output size" not in message:
        with pytest.raises(ArgumentError, match=f"^BlurPool2d: .*{message}"):
            nn.BlurPool2d(**arguments)
    if "padding" not in arguments:
        blur = {("blur" if n == "kernel_size" else n): v for n, v in arguments.items()}
        message = message.replace("kernel_size", "blur").replace(
            "3 for an extent of 4", "2 .* of 3"
        )
        with pytest.raises(ArgumentError, match=f"^max_blur_pool2d: .*{message}"):
            F.max_blur_pool2d(x, **blur)


def test_bad_tensors():
    for function in (F.blur_pool1d, F.max_blur_pool1d):
        for dtype in (torch.int32, torch.int64, torch.bool, torch.complex64):
            with pytest.raises(DtypeError, match="input must have one of the dtypes"):
                function(torch.ones(1, 1, 4, dtype=dtype))
        for dtype in (torch.int64, torch.complex64):
            with pytest.raises(DtypeError, match="filter must be floating-point"):
                function(torch.ones(1, 1, 4), filter=torch.ones(3, dtype=dtype))
        with pytest.raises(ArgumentError, match="no channel and no spatial extent"):
            function(torch.ones(1, 0, 4))
        with pytest.raises(ArgumentError, match="input must be a tensor"):
            function([1.0])
        with pytest.raises(ArgumentError, match="a blur beyond torch's own arguments"):
            function(torch.ones(1, 1, 4).to_sparse())
    with pytest.raises(ArgumentError, match="at most 0 for an extent of 1"):
        F.blur_pool1d(torch.ones(1, 1, 1))
    with pytest.raises(ArgumentError, match="holds no cell of the input"):
        F.max_blur_pool1d(torch.ones(1, 1, 4), 2, padding=2)


def test_modules_keep_filters_as_numbers():
    module = nn.BlurPool2d(filter=torch.nn.Parameter(torch.tensor([0.5, 0.5])))
    assert module.filter == ((0.5, 0.5), (0.5, 0.5))
    assert repr(module) == (
        "BlurPool2d(stride=2, padding=None, filter=((0.5, 0.5), (0.5, 0.5)), "
        "padding_mode='reflect')"
    )
    x = sample((1, 2, 6, 6))
    assert_bit_equal(module(x), F.blur_pool2d(x, 2))
    assert_bit_equal(nn.MaxBlurPool2d(3, 1, 1, blur=4)(x), F.max_blur_pool2d(x, 3, 1, 1, blur=4))
