"""The native operators over indices and samples against the reference."""

import itertools
import math
import random

import pytest
import torch

from poolkit import ops, reference, window
from poolkit.testing import (
    assert_bit_equal,
    assert_same_strides,
    laid_out,
    sample,
)

native = torch.ops.poolkit
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_values_at_indices(layout, dtype):
    """put, add_at and their adjoints, over planes and channels: the bits of the reference."""
    rng = random.Random(f"{layout} {dtype}")
    for channels, rank in itertools.product((1, 3, 40, 170), (1, 2, 3)):
        sizes, out = ([rng.randint(1, 9) for _ in range(rank)] for _ in range(2))
        w = ops.plane(sizes, out)
        x = laid_out(sample((2, channels, *out), dtype), layout)
        cells = laid_out(sample((2, channels, *sizes), dtype, seed=1), layout)
        seeded = torch.Generator().manual_seed(channels)
        at = torch.randint(0, math.prod(sizes), x.shape, generator=seeded)
        for last in {False, layout == "channels_last" and rank > 1}:
            packed = window.pack(w, last)
            for name, t in (("put", x), ("put_backward", cells), ("take", cells), ("add_at", x)):
                if name == "add_at" and dtype not in (*FLOATS, torch.int64):
                    continue
                got = getattr(native, name)(t, at, packed)
                expected = getattr(reference, name)(t, at, w, last)
                assert_bit_equal(got, expected, name)
                assert_same_strides(got, expected)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_only_the_last_value_of_a_cell_gets_its_gradient(step):
    """Indices of windows apart, which need no search for the last, and all that look like them."""
    rng = random.Random(step)
    for width, height in itertools.product((9, 10, 16, 17, 33), (1, 5)):
        sizes = [max(1, step * n + rng.randint(-1, 1)) for n in (height, width)]
        w = ops.plane(sizes, (height, width))
        cells = sample((1, 3, *sizes), values="normal", seed=width)
        rows = torch.arange(height)[:, None] * step + torch.randint(0, step, (3, height, width))
        columns = torch.arange(width) * step + torch.randint(0, step, (3, height, width))
        rows, columns = rows.clamp(max=sizes[0] - 1), columns.clamp(max=sizes[1] - 1)
        apart = (rows * sizes[1] + columns)[None].contiguous()
        for _ in range(12):
            at = apart.clone()
            flat = at.view(3, -1)
            i, j = (rng.randrange(flat.shape[1]) for _ in "ij")
            change = rng.choice(("none", "copy", "above", "left", "swap"))
            if change == "copy":
                flat[1, i] = flat[1, j]
            elif change == "above":
                flat[1, i] = (flat[1, i] - sizes[1]).clamp(min=0)
            elif change == "left":
                flat[1, i] = flat[1, i - 1]
            elif change == "swap":
                flat[1, [i, j]] = flat[1, [j, i]]
            got = native.put_backward(cells, at, w.packed)
            assert_bit_equal(got, reference.put_backward(cells, at, w, False), change)
            flat[rng.randrange(3), i] = rng.choice((-1, math.prod(sizes), 2**40, 2**62, -(2**63)))
            with pytest.raises(RuntimeError, match="indices must be"):
                native.put_backward(cells, at, w.packed)
    w = ops.plane((4, 40), (0, 20))
    nothing = torch.empty(1, 2, 0, 20)
    assert native.put_backward(torch.empty(1, 2, 4, 40), nothing.long(), w.packed).numel() == 0


@pytest.mark.parametrize("name", ["put", "put_backward", "take", "add_at"])
def test_hostile_indices_raise(name):
    """An index outside the plane is an error before anybody sees a result, and no crash."""
    w, to_cells = ops.plane((4, 5), (3, 2)), name in ("put", "add_at")
    for channels, bad in itertools.product((3, 40), (-1, 20, 2**31, 2**62, -(2**63))):
        x = sample((2, channels, *((3, 2) if to_cells else (4, 5))))
        at = torch.zeros(2, channels, 3, 2, dtype=torch.int64)
        at[-1, -1, -1, -1] = bad
        for packed in (w.packed, w.packed_last):
            with pytest.raises(RuntimeError, match="indices must be from 0 to 19"):
                getattr(native, name)(x, at, packed)
    operator = getattr(native, name)
    for wrong in (at[:1], at[:, :2], at[..., :1], at.int(), at.flatten()):
        with pytest.raises(RuntimeError, match="poolkit"):
            operator(x, wrong, w.packed)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_fractional_windows(layout, dtype):
    """Graham's windows over planes and channels: the bits of the reference, means close to it."""
    rng = random.Random(f"{layout} {dtype}")
    eps = torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).eps
    close = {"rtol": torch.finfo(dtype).eps, "atol": 0 if dtype in FLOATS[:2] else 1e-7}
    for channels, rank in itertools.product((1, 3, 20, 40), (1, 2, 3)):
        sizes = [rng.randint(1, 90 if rank == 1 else 11) for _ in range(rank)]
        kernel = tuple(rng.randint(1, size) for size in sizes)
        out = [rng.randint(1, size - k + 1) for size, k in zip(sizes, kernel, strict=True)]
        w = window.Window(tuple(
            window.Axis(*axis, 1, 0, 0, 1) for axis in zip(sizes, out, kernel, strict=True)
        ))  # fmt: skip
        x = laid_out(sample((2, channels, *sizes), dtype, "special"), layout)
        u = sample((2, channels, rank), dtype, seed=3)
        u[0, 0] = rng.choice((0, math.nan, -math.inf, 1e4, 0.5))
        values, indices = native.fractional_max_pool_indices(x, u, w.packed)
        expected, where = reference.fractional_max_pool(x, kernel, w.output_size, u)
        assert_bit_equal(values, expected)
        assert_bit_equal(indices, where, "indices")
        assert_bit_equal(native.fractional_max_pool(x, u, w.packed), expected)
        x = laid_out(sample((2, channels, *sizes), dtype).abs(), layout)  # sums that cancel nothing
        means = native.fractional_avg_pool(x, u, w.packed)
        close["rtol"] = torch.finfo(dtype).eps + eps * w.taps
        torch.testing.assert_close(means, reference.fractional_avg_pool(x, u, w), **close)
        g = sample(tuple(means.shape), dtype).abs()
        close["rtol"] = torch.finfo(dtype).eps + eps * math.prod(out)
        for last in {False, layout == "channels_last" and rank > 1}:
            back = native.fractional_avg_pool_backward(g, u, window.pack(w, last))
            exact = reference.fractional_avg_pool_backward(g, u, w, last)
            torch.testing.assert_close(back, exact, **close)
            for got, same in ((values, expected), (indices, where), (back, exact)):
                assert_same_strides(got, same)
    with pytest.raises(RuntimeError, match="fit into its axis"):
        native.fractional_max_pool(x[..., :2], u, w.packed.rsplit(" ", 7)[0] + " 2 1 3 1 0 0 1")
    with pytest.raises(RuntimeError, match="one sample per plane"):
        native.fractional_max_pool(x, u[:1], w.packed)
    with pytest.raises(RuntimeError, match="one sample per plane"):
        native.fractional_max_pool(x, u.long(), w.packed)
