"""Comparisons of tensors: bits, bounds of rounding errors, strides."""

import math

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from .. import reference
from ..window import Window
from .samples import HALVES

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(x: Tensor) -> Tensor:
    """The bits of ``x`` as integers, with one pattern for every NaN."""
    x = x.detach().contiguous()
    if x.is_floating_point():
        x = torch.where(x.isnan(), torch.full_like(x, math.nan), x)
    return x.view(_BITS[x.element_size()])


def assert_bit_equal(got: Tensor, expected: Tensor, what: str = "values") -> None:
    """Same shape, dtype and bits, signs of zeros included; a NaN equals a NaN."""
    assert got.dtype == expected.dtype, f"{what}: {got.dtype} is not {expected.dtype}"
    assert got.shape == expected.shape, f"{what}: {got.shape} is not {expected.shape}"
    wrong = (bits(got) != bits(expected)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{what}: {len(wrong)} of {got.numel()} differ, first at {place}: "
            f"{got[place].item()!r} is not {expected[place].item()!r}"
        )


def assert_average_close(got: Tensor, x: Tensor, window: Window) -> None:
    """``got`` is the average of ``x`` up to what its number of additions explains.

    ``|error| <= (k_d + k_h + k_w) * eps * sum |x_m| / |divisor|`` against float64, with ``eps`` of
    the dtype that sums, and half an ulp for a half type's rounding. Integers must be equal.
    """
    assert got.dtype == x.dtype
    if not x.is_floating_point():
        assert_bit_equal(got, reference.avg_pool(x, window))
        return
    exact = reference.avg_pool(x.detach().double(), window)
    size = reference.avg_pool(x.detach().double().abs(), window).abs()
    one = Window(window.axes, divisor=1)
    total = reference.avg_pool(x.detach().double().abs(), one)
    finite = reference.avg_pool(x.detach().isfinite().logical_not().double(), one) == 0
    # A sum of finite numbers may overflow on the way; what it gives then depends on the order.
    half = x.dtype in HALVES
    overflows = finite & ~(total < torch.finfo(torch.float32 if half else x.dtype).max)
    steps = sum(axis.kernel for axis in window.axes)
    _assert_within(got, exact, size, steps, overflows)


def assert_sum_close(got: Tensor, exact: Tensor, size: Tensor, terms: int) -> None:
    """``got`` is ``exact``, a sum of ``terms`` numbers; their absolute values sum to ``size``."""
    _assert_within(got, exact.double(), size.double(), terms, torch.zeros_like(got).bool())


def _assert_within(got: Tensor, exact: Tensor, size: Tensor, steps: int, excused: Tensor) -> None:
    assert got.shape == exact.shape, f"{got.shape} is not {exact.shape}"
    info = torch.finfo(got.dtype)
    half = got.dtype in HALVES
    eps = torch.finfo(torch.float32).eps if half else info.eps
    # Against float64 the reference is as wrong as what it checks.
    bound = (1 + (got.dtype is torch.float64)) * steps * eps * size + info.tiny * info.eps
    if half:
        bound = bound + (exact.abs() + bound) * info.eps / 2
    value = got.detach().double()
    finite = exact.isfinite() & size.isfinite()
    over = excused | (finite & ((exact.abs() + bound) >= info.max))  # so may its rounding
    same = (value == exact) | (value.isnan() & exact.isnan())
    close = finite & ((value - exact).abs() <= bound)
    wrong = (~(same | close | over)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{len(wrong)} of {got.numel()} out of bounds, first at {place}: {value[place]:.9g}, "
            f"exact {exact[place]:.9g}, bound {bound[place]:.3g}"
        )


def strides(x: Tensor) -> tuple[int, ...]:
    """The strides of ``x`` along axes longer than 1: those of the others mean nothing."""
    return tuple(s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1) if x.numel() else ()


def assert_same_strides(got: Tensor, expected: Tensor, what: str = "values") -> None:
    """Equal strides, save along axes of size 1 and of empty tensors."""
    assert strides(got) == strides(expected), f"{what}: {got.stride()} is not {expected.stride()}"


def assert_format(got: Tensor, x: Tensor) -> None:
    """``got`` has the memory format that a result of the input ``x`` must have."""
    like = torch.empty(got.shape, device="meta", memory_format=suggest_memory_format(x))
    assert_same_strides(got, like)


def assert_close(got: Tensor, expected: Tensor) -> None:
    """Equal up to what the order of a few additions explains."""
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-4}
    most = tolerance.get(got.dtype, 1e-9)
    torch.testing.assert_close(got, expected, rtol=most, atol=most, equal_nan=True)
