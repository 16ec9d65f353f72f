"""Heads of two reductions: the global mean and the global maximum together."""

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.overrides import handle_torch_function, has_torch_function_unary

from .avg import _adaptive_avg_pool
from .common import FLOATS, check_input, documented, widened
from .max import _adaptive_max_pool


def _both(where: str, rank: int, x: Tensor) -> tuple[Tensor, Tensor]:
    check_input(where, x, FLOATS)
    mean = _adaptive_avg_pool(where, rank, x, 1)
    return widened(mean), widened(_adaptive_max_pool(where, rank, x, 1, False))


def _mean_of_both(where: str, rank: int, x: Tensor) -> Tensor:
    mean, largest = _both(where, rank, x)
    return _like(((mean + largest) / 2), x)


def _one_behind_the_other(where: str, rank: int, x: Tensor) -> Tensor:
    return _like(torch.cat(_both(where, rank, x), -rank - 1), x)


def _like(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the dtype and the memory format of ``x``; axes of one cell leave strides open."""
    return torch.empty_like(y, dtype=x.dtype, memory_format=suggest_memory_format(x)).copy_(y)


_AVG_MAX = """The mean of the global average and the global maximum of every channel.

    .. math:: y = \\frac{1}{2} \\bigl( \\operatorname{mean}_m x_m + \\max_m x_m \\bigr)

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.

    Shapes:
        ``(N, C, {cells}) -> (N, C, {ones})``.

    Dtypes:
        float16 and bfloat16 (added in float32), float32, float64.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.zeros(1, 1, {sizes})
        >>> x[(..., *(0,) * {n})] = x.numel()  # of which the mean is 1
        >>> F.global_avg_max_pool{n}d(x).item() == (1 + x.numel()) / 2
        True

    Source: Wightman, "PyTorch Image Models", 2019, where the name is "avgmax"; Lee et al.,
    "Generalizing Pooling Functions in Convolutional Neural Networks", 2015, arXiv:1509.08985.
    """

_CAT = """The global averages of all channels, and behind them the global maxima.

    .. math:: y_c = \\operatorname{mean}_m x_{c, m}, \\quad y_{C + c} = \\max_m x_{c, m}

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.

    Shapes:
        ``(N, C, {cells}) -> (N, 2 * C, {ones})``.

    Dtypes:
        float16 and bfloat16 (summed in float32), float32, float64.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.zeros(1, 1, {sizes})
        >>> x[(..., *(0,) * {n})] = x.numel()
        >>> F.global_cat_avg_max_pool{n}d(x).flatten().tolist() == [1, x.numel()]
        True

    Source: Wightman, "PyTorch Image Models", 2019, where the name is "catavgmax".
    """


@documented(_AVG_MAX)
def global_avg_max_pool1d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_avg_max_pool1d, (input,), input)
    return _mean_of_both("global_avg_max_pool1d", 1, input)


@documented(_CAT)
def global_cat_avg_max_pool1d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_cat_avg_max_pool1d, (input,), input)
    return _one_behind_the_other("global_cat_avg_max_pool1d", 1, input)


@documented(_AVG_MAX)
def global_avg_max_pool2d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_avg_max_pool2d, (input,), input)
    return _mean_of_both("global_avg_max_pool2d", 2, input)


@documented(_CAT)
def global_cat_avg_max_pool2d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_cat_avg_max_pool2d, (input,), input)
    return _one_behind_the_other("global_cat_avg_max_pool2d", 2, input)


@documented(_AVG_MAX)
def global_avg_max_pool3d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_avg_max_pool3d, (input,), input)
    return _mean_of_both("global_avg_max_pool3d", 3, input)


@documented(_CAT)
def global_cat_avg_max_pool3d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_cat_avg_max_pool3d, (input,), input)
    return _one_behind_the_other("global_cat_avg_max_pool3d", 3, input)
