"""The native operators against the reference, over every path through the kernels."""

import dataclasses
import itertools
import math
import os
import random
import subprocess
import sys
import zlib

import pytest
import torch

from poolkit import cpu, norms, ops, reference, window
from poolkit.errors import ArgumentError
from poolkit.testing import (
    assert_average_close,
    assert_bit_equal,
    assert_same_strides,
    laid_out,
    sample,
)

native = torch.ops.poolkit
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)

# Extents on both sides of a SIMD register of every width, of a block of columns and of a strip.
EXTENTS = (1, 2, 3, 5, 7, 8, 9, 13, 14, 15, 16, 17, 31, 33, 35, 63, 65)


def drawn(seed):
    """A window and an input of random geometry, dtype and layout, the same for the same seed."""
    rng = random.Random(seed)
    rank = rng.choice((1, 2, 2, 2, 3))
    sizes = [rng.choice(EXTENTS[:9] if rank == 3 else EXTENTS) for _ in range(rank)]
    if rng.random() < 0.15:
        sizes[-1] = rng.randint(100, 9000 if rank == 1 else 400)
    shape = (rng.randint(1, 3), rng.choice((1, 2, 3, 8, 17, 40)), *sizes)
    if rng.random() < 0.1:
        shape = (1, 2100, *(min(size, 5) for size in sizes))  # more channels than a block holds
        sizes = list(shape[2:])
    if rng.random() < 0.3:
        outputs = [rng.choice((1, 2, 3, size, rng.randint(1, size + 4))) for size in sizes]
        w = window.adaptive("test", rank, shape, outputs, True)
    else:
        pairs = tuple((rng.randint(0, 5), rng.randint(0, 5)) for _ in sizes)
        pad = rng.choice((0, 0, "same", "same_lower", pairs))
        kernel = [rng.choice((1, 2, 3, 3, 5, rng.randint(1, 20), 70)) for _ in sizes]
        stride = [rng.choice((1, 2, 2, 3, rng.randint(1, 25))) for _ in sizes]
        dilation = [rng.choice((1, 1, 1, 2, rng.randint(1, 30))) for _ in sizes]
        try:
            w = window.fixed(
                "test", rank, shape, kernel, stride, pad, dilation, rng.random() < 0.5, True,
                rng.random() < 0.5, rng.choice((None, None, -3, 7)),
            )  # fmt: skip
        except ArgumentError:
            return None
    if math.prod(w.output_shape(shape)) * w.taps > 3_000_000:
        return None  # the reference keeps every cell of every window
    values = rng.choice(("normal", "relu", "zeros", "special", "extreme"))
    x = sample(shape, rng.choice(DTYPES), values, seed)
    if rng.random() < 0.2:
        x = x[0]
    layout = rng.choice(("contiguous", "channels_last", "permuted", "expanded", "sliced"))
    if layout == "channels_last" and x.dim() < 4:
        layout = "permuted"
    return w, laid_out(x, layout)


def check(seed):
    """Compare every operator with the reference for one draw; return a checksum of all results."""
    case = drawn(seed)
    return 0 if case is None else check_operators(*case, seed)


def check_operators(w, x, seed):
    last = ops.strides.channels_last(x)
    packed = window.pack(w, last)
    values, offsets = native.max_pool_offsets(x, packed)
    expected_values, expected_offsets = reference.max_pool(x, w)
    assert_bit_equal(values, expected_values)
    assert_bit_equal(native.max_pool(x, packed), expected_values)
    assert_bit_equal(offsets.long(), expected_offsets.long(), "offsets")
    assert_same_strides(values, expected_values)
    assert_same_strides(offsets, expected_offsets)
    indices = native.plane_indices(offsets, packed)
    assert_bit_equal(indices, reference.plane_indices(offsets, w), "indices")
    results = [values, offsets.long(), indices]
    if x.is_floating_point():
        g = sample(tuple(values.shape), x.dtype, "normal", seed + 1)
        back = native.scatter(g, offsets, packed)
        assert_bit_equal(back, reference.scatter(g, offsets, w, last), "scattered")
        assert_bit_equal(native.pick(x, offsets, packed), reference.pick(x, offsets, w), "picked")
        average = native.avg_pool(x, packed)
        assert_average_close(average, x, w)
        spread = native.avg_pool_backward(g, packed)
        exact = reference.avg_pool_backward(g.double(), w, last)
        size = reference.avg_pool_backward(g.double().abs(), w, last).abs()
        eps = torch.finfo(torch.float32 if x.dtype in FLOATS[2:] else x.dtype).eps
        bound = size * eps * (2 + sum(axis.kernel for axis in w.axes))
        bound += exact.abs() * torch.finfo(x.dtype).eps + torch.finfo(x.dtype).tiny
        assert ((spread.double() - exact).abs() <= bound).all()
        results += [back, average, spread, *check_norms(w, x, last, g)]
        # Powers of very small and very large numbers are no numbers of the type.
        moderate = x.abs().clamp(1e-3, 1e3).where((x != 0) & x.isfinite(), x.abs())
        p, absolute = POWERS[seed % len(POWERS)], seed // len(POWERS) % 2 == 0
        if absolute:
            moderate = moderate.copysign(x)
        results += check_norms(w, moderate, last, g, p, absolute)
    if x.dtype is torch.int64:
        assert_bit_equal(native.avg_pool(x, packed), reference.avg_pool(x, w), "averages")
    numbers = [torch.nan_to_num(r.double()).contiguous().numpy().tobytes() for r in results]
    return zlib.crc32(b"".join(numbers))


POWERS = (1.0, 3.0, 0.5, 2.5, -1.0, -1.5)


def check_norms(w, x, last, g, p=2.0, absolute=False):
    """The norm of every window and its gradient, against the reference."""
    w = dataclasses.replace(w, include_pad=True, divisor=int(absolute))
    packed = window.pack(w, last)
    taps = 8 + sum(axis.kernel for axis in w.axes)
    eps = torch.finfo(torch.float32 if x.dtype in FLOATS[2:] else x.dtype).eps
    y = native.lp_pool(x, p, packed)
    expected = reference.lp_pool(x, p, w, absolute)
    # (Squares below 1e-38 lose digits, and so do the roots of their sums.)
    close = {"rtol": taps * eps / min(abs(p), 1) + torch.finfo(x.dtype).eps, "atol": 1e-19}
    if p < 0:  # the reference has 0 for a window of padding alone, which no public function takes
        expected = y.where(reference.lp_pool(torch.ones_like(x), p, w) == 0, expected)
    torch.testing.assert_close(y, expected, **close, equal_nan=True)
    assert_same_strides(y, expected)
    shares = native.lp_pool_backward(g, y, x, p, packed)
    if x.dtype in FLOATS[:2] and x.isfinite().all() and y.isfinite().all():
        wide = [t.double() for t in (g, y, x)]
        exact = ops.raw._slow_lp_pool_backward(*wide, p, packed)
        size = ops.raw._slow_lp_pool_backward(*(t.abs() for t in wide), p, packed)
        bound = size * eps * taps + torch.finfo(x.dtype).tiny
        assert ((shares.double() - exact).abs() <= bound).all()
        assert_same_strides(shares, exact)
    return y, shares


def check_every_half(dtype):
    """Every number of a half type, widened, halved and rounded, as torch widens and rounds it."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    for layout, shape in (("contiguous", (1, 64, 1024)), ("contiguous", (1, 1, 65536)),
                          ("channels_last", (1, 4096, 16))):  # fmt: skip
        for other in (0.0, 2.0**-24, 1.0, -3.0):
            pairs = torch.stack((every, torch.full_like(every, other)), -1).view(*shape, 2)
            if layout == "channels_last":
                pairs = pairs.to(memory_format=torch.channels_last)
            w = window.fixed("t", 2, pairs.shape, (1, 2), (1, 2), 0, 1, False, True)
            got = native.avg_pool(pairs, w.packed)
            wide = pairs.float()
            assert_bit_equal(got, ((0 + wide[..., :1] + wide[..., 1:]) / 2).to(dtype))


@pytest.mark.parametrize("dtype", FLOATS[2:])
def test_every_half(dtype):
    check_every_half(dtype)


@pytest.mark.parametrize("part", range(8))
def test_native_equals_reference(part):
    """Values, offsets, indices, gradients: bits; averages: within the bound of their sum."""
    for seed in range(part * 40, part * 40 + 40):
        try:
            check(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {drawn(seed)[0]}: {error}") from error


@pytest.mark.parametrize("isa", [isa for isa in cpu.ISAS if isa != cpu.isa()])
def test_other_instruction_sets(isa):
    """Every build that this processor runs passes the same comparisons."""
    if cpu.ISAS.index(isa) > cpu.ISAS.index(cpu.best_isa()):
        pytest.skip(f"this processor does not run {isa}")
    if not cpu._path(isa).exists():
        pytest.skip(f"this wheel was built without {isa}")
    done = subprocess.run(
        [sys.executable, __file__, "60"],
        env={**os.environ, "POOLKIT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == isa


def test_same_bits_for_any_number_of_threads():
    """One thread and several give the same bits, run after run."""
    threads = torch.get_num_threads()
    try:
        sums = []
        for number in (1, 2, 3, 2):
            torch.set_num_threads(number)
            sums.append([check(seed) for seed in range(1000, 1030)])
    finally:
        torch.set_num_threads(threads)
    assert sums[0] == sums[1] == sums[2] == sums[3]
    assert len(set(sums[0])) > 10  # the checksum tells cases apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("width", [*range(1, 36), 63, 64, 65, 105, 130, 193, 402])
def test_nothing_outside_the_input_is_read(width, offset, dtype):
    """Whatever lies before and behind a view of any length and alignment changes no result."""
    shape = (2, 3, 5, width)
    x = sample(shape, dtype, "normal", width)
    results = []
    for outside in (torch.inf, -torch.inf) if dtype.is_floating_point else (0, 255):
        buffer = torch.full((offset + x.numel() + 200,), outside, dtype=dtype)
        view = buffer[offset : offset + x.numel()].view(shape)
        view.copy_(x)
        for kernel, stride, padding in ((2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2), (8, 1, 0),
                                        (5, 4, 2), (8, 4, 0)):  # fmt: skip
            if width + 2 * padding < kernel:
                continue
            sizes = (min(kernel, 5), kernel)
            w = window.fixed("t", 2, shape, sizes, stride, padding, 1, True, True)
            results.append(native.max_pool(view, w.packed))
            values, offsets = native.max_pool_offsets(view, w.packed)
            results += [values, offsets.long()]
            if dtype.is_floating_point:
                results += [native.avg_pool(view, w.packed), native.lp_pool(view, 2.0, w.packed)]
                results += [native.scatter(values, offsets, w.packed)]
        if dtype.is_floating_point:
            w = window.adaptive("t", 2, shape, (3, 7), True)
            results += [native.avg_pool(view, w.packed), native.lp_pool(view, 2.0, w.packed)]
    half = len(results) // 2
    for one, other in zip(results[:half], results[half:], strict=True):
        assert torch.equal(one, other)


# Around the lengths from which on rows are read where they lie, and every remainder of a register.
WIDTHS = {
    1: (95, 96, 97, 111, 113, 127, 128, 129, 191, 193, 419, 643),
    2: (47, 49, 56, 65, 96, 112, 193, 225),
    4: (95, 259, 383, 385, 390, 402, 421, 450, 515, 771),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int16])
@pytest.mark.parametrize("values", ["normal", "relu", "zeros", "special"])
@pytest.mark.parametrize("stride", WIDTHS)
def test_long_rows(stride, values, dtype):
    """Windows over long rows, with every padding, on every path: the bits of the reference."""
    if values == "special" and not dtype.is_floating_point:
        values = "extreme"
    rng = random.Random(f"{stride} {values} {dtype}")
    for width in WIDTHS[stride]:
        rank = rng.choice((1, 2, 3))
        sizes = (*(rng.randint(2, 9) for _ in range(rank - 1)), width)
        x = sample((rng.choice((1, 3)), rng.choice((1, 5)), *sizes), dtype, values, width)
        kernel = [rng.randint(1, 3) for _ in sizes[1:]] + [rng.randint(2, 3 if stride == 2 else 8)]
        pairs = tuple((rng.randint(0, k - 1), rng.randint(0, k - 1)) for k in kernel)
        dilation = rng.randint(1, 3) if stride == 1 else 1
        steps = [rng.randint(1, 3) for _ in sizes[1:]] + [stride]
        try:
            w = window.fixed("t", rank, x.shape, kernel, steps, pairs, (1, 1, dilation)[-rank:],
                             rng.random() < 0.5, True, rng.random() < 0.5)  # fmt: skip
        except ArgumentError:
            continue
        expected_values, expected_offsets = reference.max_pool(x, w)
        values_, offsets = native.max_pool_offsets(x, w.packed)
        assert_bit_equal(native.max_pool(x, w.packed), expected_values, f"values of {w}")
        assert_bit_equal(values_, expected_values, f"values beside offsets of {w}")
        assert_bit_equal(offsets.long(), expected_offsets.long(), f"offsets of {w}")
        if dtype.is_floating_point and values != "special":
            assert_average_close(native.avg_pool(x, w.packed), x, w)
            check_norms(w, x, False, sample(tuple(values_.shape), dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (2, 2), (3, 1), (3, 2)])
def test_strips(kernel, stride, dtype):
    """Rows of every length around a register, of one plane and of several, whole and in parts."""
    rng = random.Random(f"{kernel} {stride} {dtype}")
    taken = 0
    for out in (*range(1, 20), 31, 32, 33, 34, 63, 64, 65, 97):
        planes, height = rng.choice((1, 2, 3, 4, 7, 9, 19)), rng.choice((1, 2, 5, 8, 9, 30, 400))
        pads = [(rng.randint(0, kernel - 1), rng.randint(0, kernel - 1)) for _ in range(2)]
        width = (out - 1) * stride + kernel - sum(pads[1])
        height, width = max(height, kernel - sum(pads[0])), max(width, 1)
        values = rng.choice(("normal", "relu", "zeros", "special"))
        if values == "special" and not dtype.is_floating_point:
            values = "extreme"
        shape = (planes, height, width) if rng.random() < 0.8 else (2, planes, 1, height, width)
        x = sample(shape if len(shape) > 3 else (1, *shape), dtype, values, out)
        rank = x.dim() - 2
        pads = ((0, 0), *pads)[-rank:]
        kernels, strides = (1, kernel, kernel)[-rank:], (1, stride, stride)[-rank:]
        try:
            w = window.fixed("t", rank, x.shape, kernels, strides, tuple(pads), 1,
                             rng.random() < 0.5, True, rng.random() < 0.5)  # fmt: skip
        except ArgumentError:
            continue
        taken += 1
        expected_values, expected_offsets = reference.max_pool(x, w)
        values_, offsets = native.max_pool_offsets(x, w.packed)
        assert_bit_equal(native.max_pool(x, w.packed), expected_values, f"values of {w}")
        assert_bit_equal(values_, expected_values, f"values beside offsets of {w}")
        assert_bit_equal(offsets.long(), expected_offsets.long(), f"offsets of {w}")
        if dtype.is_floating_point:
            assert_average_close(native.avg_pool(x, w.packed), x, w)
            g = sample(tuple(values_.shape), dtype, "normal", out)
            back = native.scatter(g, offsets, w.packed)
            assert_bit_equal(back, reference.scatter(g, offsets, w, False), f"gradients of {w}")
    assert taken > 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2), (7, 7)])
def test_many_channels(kernel, stride, dtype):
    """Channels that fill pairs of vectors and such that do not; NaN and infinities among them."""
    for channels in (16, 24, 32, 40, 48, 64, 72, 96, 128, 160, 200):
        size = (7, 7) if kernel == 7 else (6, 10)
        for values in ("normal", "special"):
            x = sample((3, channels, *size), dtype, values, channels)
            x = x.to(memory_format=torch.channels_last)
            pad = 1 if kernel == 3 else 0
            w = window.fixed("t", 2, x.shape, kernel, stride, pad, 1, False, True, False)
            packed = window.pack(w, True)
            assert_average_close(native.avg_pool(x, packed), x, w)
            maxima, offsets = native.max_pool_offsets(x, packed)
            g = sample(tuple(maxima.shape), dtype, values, channels + 1)
            g = g.to(memory_format=torch.channels_last)
            back = native.scatter(g, offsets, packed)
            assert_bit_equal(back, reference.scatter(g, offsets, w, True), f"{channels} {values}")
            spread = native.avg_pool_backward(g, packed)
            exact = reference.avg_pool_backward(g, w, True)
            torch.testing.assert_close(spread, exact, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_axes_without_windows(layout, dtype):
    """Innermost axes of one tap are so many more channels, whether these fill a register or not."""
    rng = random.Random(f"{layout} {dtype}")
    for width in (1, 2, 3, 7, 8, 9, 16, 31, 33, 64, 70):
        for rank in (2, 2, 3):
            inner = rng.randint(1, rank - 1)  # axes without windows
            sizes = [rng.randint(3, 12) for _ in range(rank - 1)] + [width]
            shape = (rng.randint(1, 2), rng.choice((1, 3, 5)), *sizes)
            ones = [1] * inner
            if rng.random() < 0.2:
                outputs = [rng.randint(1, 4) for _ in sizes[:-inner]] + sizes[-inner:]
                w = window.adaptive("test", rank, shape, outputs, True)
            else:
                kernel = [rng.randint(1, 3) for _ in sizes[:-inner]]
                pads = [(rng.randint(0, k - 1), rng.randint(0, k - 1)) for k in kernel]
                w = window.fixed(
                    "test", rank, shape, kernel + ones,
                    [rng.randint(1, 2) for _ in kernel] + ones, (*pads, *[(0, 0)] * inner),
                    1, False, True, rng.random() < 0.5, rng.choice((None, None, 7)),
                )  # fmt: skip
            values = rng.choice(
                ("normal", "relu", "special" if dtype.is_floating_point else "zeros")
            )
            check_operators(w, laid_out(sample(shape, dtype, values, width), layout), width)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4, 1), (2, 3, 1, 4, 4), (3, 2, 4, 1, 4)])
def test_planes_that_are_one_window_but_for_a_dilation(shape):
    """An axis of one cell whose dilation says nothing keeps the others from being one row."""
    dilation = [2 if size == 1 else 1 for size in shape[2:]]
    w = window.fixed("t", 3, shape, list(shape[2:]), 1, 0, dilation, False, True, True)
    check_operators(w, sample(shape, torch.float32), 0)


def test_norms_of_a_last_slab_of_one_output():
    x = sample((1, 1, 100, 1000), torch.float32).abs()
    w = window.fixed("t", 2, x.shape, (20, 1000), (80, 1000), 0, 1, False, True, True)
    check_norms(w, x, False, sample((1, 1, 2, 1), torch.float32), 3.0)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("planes", [1, 2, 4, 9])
def test_gradients_of_adaptive_averages_for_any_number_of_threads(planes):
    g = sample((1, planes, 7, 7), torch.float32)
    packed = window.pack(window.adaptive("t", 2, (1, planes, 10, 10), (7, 7), True), False)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(native.avg_pool_backward(g, packed))
    assert_bit_equal(found[0], found[1])
    assert_bit_equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int16])
@pytest.mark.parametrize("values", ["normal", "relu", "special"])
def test_flat_planes(values, dtype):
    """As many outputs as cells: planes of every size, windows that lie anyhow about their cell."""
    rng = random.Random(f"{values} {dtype}")
    if values == "special" and not dtype.is_floating_point:
        values = "extreme"
    kinds = set()
    for count in range(120):
        size = [rng.choice((1, 2, 3, 5, 7, 8, 13, 16, 17, 24, 25, 33)) for _ in range(2)]
        if count % 6 == 0:
            size[1] = rng.choice((20, 21, 35, 48, 56, 97, 112, 113))
        reach = [(3, 3), (5, 5), (rng.randint(2, 16), rng.randint(2, 16))][count % 3]
        steps = [1 if count % 3 < 2 else rng.randint(1, 3) for _ in range(2)]
        kernel = [
            min(k, (3 * n // 2 - 1) // d + 1) for k, n, d in zip(reach, size, steps, strict=True)
        ]
        pads = []
        for k, d in zip(kernel, steps, strict=True):
            all_ = (k - 1) * d
            before = all_ // 2 if count % 3 < 2 else rng.randint(0, all_)
            pads.append((before, all_ - before))
        shape = (rng.choice((1, 2, 3)), rng.choice((1, 5, 16, 31)), *size)
        x = sample(shape, dtype, values, count)
        w = window.fixed("t", 2, shape, tuple(kernel), 1, tuple(pads), tuple(steps), False,
                         rng.random() < 0.5)  # fmt: skip
        kinds.add((kernel[0] > 1 < kernel[1], kernel[0] == kernel[1]))
        expected_values, expected_offsets = reference.max_pool(x, w)
        assert expected_values.shape == x.shape
        best, offsets = native.max_pool_offsets(x, w.packed)
        assert_bit_equal(native.max_pool(x, w.packed), expected_values, f"values of {w}")
        assert_bit_equal(best, expected_values, f"values beside offsets of {w}")
        assert_bit_equal(offsets.long(), expected_offsets.long(), f"offsets of {w}")
        if dtype.is_floating_point:
            assert_average_close(native.avg_pool(x, w.packed), x, w)
            if values != "special":
                check_norms(w, x, False, sample(tuple(best.shape), dtype))
    assert {(True, True), (True, False)} <= kinds


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dilation"),
    [
        ((1, 2, 300, 301), 3, 2, 1, 1),
        ((1, 17, 90, 100), 2, 1, ((5, 4), (0, 1)), 3),
        ((1, 2, 70, 40, 50), (3, 1, 2), (2, 1, 1), 1, 1),
        ((2, 1, 140000), 7, 5, 3, 1),
        ((3, 70, 41, 40), 5, 3, 2, 1),
    ],
)
def test_norms_of_more_than_the_cache_holds(shape, kernel, stride, padding, dilation, layout):
    """Powers of parts of a plane, of some planes, and of planes that the parts do not divide."""
    rank = len(shape) - 2
    for p, absolute in ((3.0, True), (1.0, False), (-0.7, False)):
        w = window.fixed("t", rank, shape, kernel, stride, padding, dilation, True, False)
        x = sample(shape).abs() + 0.1
        if rank > 1:
            x = laid_out(x, layout)
        last = ops.strides.channels_last(x)
        check_norms(w, x, last, sample(w.output_shape(shape)), p, absolute)


def test_signs_of_norms():
    """Negative powers, sums and roots, infinities and NaN give what torch's own steps give."""
    for dtype, values in itertools.product(FLOATS[:2], ("special", "zeros")):
        x = sample((2, 3, 8, 9), dtype, values)
        for kernel, p in itertools.product((1, 2), (*POWERS, -0.5, -2.0, -3.0, 1 / 3, 0.25)):
            w = window.fixed("t", 2, x.shape, kernel, kernel, 0, 1, True, True)
            for form in (w, dataclasses.replace(w, divisor=1)):
                got = native.lp_pool(x, p, form.packed)
                expected = norms.composed(
                    x, p, form, lambda t, f=form: native.avg_pool(t, f.packed)
                )
                assert_bit_equal(got.sign(), expected.sign(), f"p {p}, {form}")
                torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8, torch.int32])
@pytest.mark.parametrize("kernel", [(8, 9), (9, 8), (13, 13), (31, 5), (17, 31)])
def test_large_overlapping_windows(kernel, dtype):
    """Groups of rows, whole and cut, with padding and without, of every kind of value."""
    threads = torch.get_num_threads()
    extra = (0, kernel[0], kernel[0] + 1, 3 * kernel[0] - 2)
    for rows, values in zip(extra, ("special", "zeros", "relu", "normal"), strict=True):
        shape = (1, 2, kernel[0] + rows, kernel[1] + 50 + rows % 7)
        x = sample(shape, dtype, values, rows)
        for pad in (0, tuple(k // 2 for k in kernel)):
            w = window.fixed("t", 2, shape, kernel, 1, pad, 1, False, True)
            best, offsets = native.max_pool_offsets(x, w.packed)
            expected_values, expected_offsets = reference.max_pool(x, w)
            assert_bit_equal(best, expected_values)
            assert_bit_equal(native.max_pool(x, w.packed), expected_values)
            assert_bit_equal(offsets.long(), expected_offsets.long(), "offsets")
            if dtype.is_floating_point:
                averages = []
                for torch_threads in (1, 3):
                    torch.set_num_threads(torch_threads)
                    averages.append(native.avg_pool(x, w.packed))
                torch.set_num_threads(threads)
                assert_average_close(averages[0], x, w)
                assert_bit_equal(*averages)


if __name__ == "__main__":
    from test_blur import check as check_blur

    for half in FLOATS[2:]:
        check_every_half(half)
    for seed in range(500, 500 + int(sys.argv[1])):
        check_blur(seed)
    print(cpu.isa(), sum(check(seed) != 0 for seed in range(2000, 2000 + int(sys.argv[1]))))
