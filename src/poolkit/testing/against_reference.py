"""Comparisons with the reference: bits of maxima, bounds for averages, memory formats."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import poolkit.functional

from .. import reference
from ..window import Window, fixed
from .comparisons import (
    assert_average_close,
    assert_bit_equal,
    assert_format,
    assert_same_strides,
    assert_sum_close,
)
from .rows import is_channels_last
from .samples import sample


def check_max(x: Tensor, window: Window, function: Callable[[Tensor, bool], Any]) -> None:
    """``function(x, return_indices)`` is the maximum over ``window``, gradient included."""
    values, offsets = reference.max_pool(x, window)
    alone = function(x, False)
    assert_bit_equal(alone, values)
    assert_format(alone, x)
    got, indices = function(x, True)
    assert_bit_equal(got, values)
    assert_format(got, x)
    assert_bit_equal(indices, reference.plane_indices(offsets, window), "indices")
    assert_format(indices, x)
    if x.is_floating_point():
        x = x.detach().requires_grad_()
        y = function(x, False)
        assert_bit_equal(y, values)
        g = _cotangent(y)
        (got,) = torch.autograd.grad(y, x, g)
        wanted = reference.scatter(g, offsets, window, is_channels_last(x))
        assert_bit_equal(got, wanted, "gradient")
        assert_same_strides(got, torch.empty_like(x), "gradient")


def check_max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`check_max` of ``max_pool*d`` with these arguments; returns the maxima."""
    rank = x.dim() - 2
    arguments = (kernel_size, stride, padding, dilation, ceil_mode)
    pool = getattr(poolkit.functional, f"max_pool{rank}d")
    window = fixed("check_max_pool", rank, x.shape, *arguments, True)
    check_max(x, window, lambda x, indices: pool(x, *arguments, return_indices=indices))
    values: Tensor = pool(x, *arguments)
    return values


def check_avg(x: Tensor, window: Window, function: Callable[[Tensor], Tensor]) -> None:
    """``function(x)`` is the average over ``window``, gradient included, up to rounding."""
    y = function(x)
    assert_average_close(y, x, window)
    assert_format(y, x)
    if x.is_floating_point():
        x = x.detach().requires_grad_()
        y = function(x)
        assert_average_close(y, x, window)
        g = _cotangent(y)
        (got,) = torch.autograd.grad(y, x, g)
        exact = reference.avg_pool_backward(g.double(), window, False)
        positive = Window(window.axes, window.include_pad, abs(window.divisor))
        size = reference.avg_pool_backward(g.double().abs(), positive, False)
        assert_sum_close(got, exact, size, 3 + sum(axis.kernel for axis in window.axes))
        assert_same_strides(got, torch.empty_like(x), "gradient")


def _cotangent(y: Tensor) -> Tensor:
    return sample(tuple(y.shape), torch.float64, seed=5).to(y.dtype)
