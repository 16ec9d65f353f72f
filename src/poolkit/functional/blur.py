"""Anti-aliased downsampling: a low-pass filter before the stride, alone or behind maxima."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import ops, reference
from ..errors import ArgumentError, DtypeError
from ..window import Ints, Padding, as_ints, is_bool, is_sequence
from .common import FLOATS, blurred, documented, fixed, ours, readable, stock

Filter = Tensor | Sequence[float]
Filters = Filter | Sequence[Filter]
"""The weights of a low-pass filter along an axis: for all axes, or one filter per axis."""

_MOST_TAPS = 1024
"""Of a binomial filter: beyond that its outer weights are below float64's smallest number."""


def _blur_pool(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    padding_mode: Any,
    filter: Any,
) -> Tensor:
    if not ours(where, x, FLOATS):
        stock(where, x, {"a blur": True}, "")  # refuses what the reference cannot read
    kernels, given = kernels_of(where, rank, "kernel_size", kernel_size, filter)
    window = blurred(where, rank, x.shape, kernels, stride, padding, padding_mode)
    filters = filters_of(kernels, given)
    taps = _taps(filters)
    if taps is None:
        return reference.blur_pool(ops.keep_strides(x), filters, window)
    return ops.blur_pool(x, taps, window)


def _max_blur_pool(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    blur: Any,
    padding_mode: Any,
    filter: Any,
) -> Tensor:
    if not ours(where, x, FLOATS):
        stock(where, x, {"a blur": True}, "")
    kernels, given = kernels_of(where, rank, "blur", blur, filter)
    dense = fixed(where, rank, x, kernel_size, 1, padding, 1, False, True)
    shape = dense.output_shape(x.shape)
    window = blurred(where, rank, shape, kernels, stride, None, padding_mode)
    filters = filters_of(kernels, given)
    taps = _taps(filters)
    if taps is None:
        return reference.blur_pool(ops.max_pool(x, dense), filters, window)
    return ops.max_blur_pool(x, taps, dense, window)


def _taps(filters: Sequence[Filter]) -> tuple[float, ...] | None:
    """The weights one behind the other; None if they are tensors, for composed code."""
    if any(isinstance(weights, Tensor) for weights in filters):
        return None
    return tuple([float(weight) for weights in filters for weight in weights])


# ---- filters ------------------------------------------------------------------------------------


def kernels_of(
    where: str, rank: int, name: str, kernel_size: Any, filter: Any
) -> tuple[tuple[int, ...], tuple[Filter, ...] | None]:
    """The taps per axis, and the given filters, checked: one per axis, or None for binomials."""
    if filter is None:
        kernels = as_ints(where, name, kernel_size, rank, 1)
        if max(kernels) > _MOST_TAPS:
            raise ArgumentError(
                f"{where}: {name} of a binomial filter must be at most {_MOST_TAPS}, got {kernels}"
            )
        return kernels, None
    several = is_sequence(filter) and any(
        isinstance(item, Tensor) or is_sequence(item) for item in filter
    )
    given = tuple(filter) if several else (filter,)
    if len(given) not in (1, rank):
        raise ArgumentError(
            f"{where}: filter must be one sequence of weights or {rank} of them, got {len(given)}"
        )
    filters = tuple([_checked(where, item) for item in given])
    filters = filters if len(filters) == rank else filters * rank
    return tuple([len(item) for item in filters]), filters


def _checked(where: str, filter: Any) -> Filter:
    """The weights as floats, or as they came where they have no values or want gradients."""
    if isinstance(filter, Tensor):
        if not filter.is_floating_point():
            raise DtypeError(f"{where}: filter must be floating-point, got {filter.dtype}")
        if filter.dim() != 1 or filter.numel() == 0:
            raise ArgumentError(
                f"{where}: filter must hold the weights of one axis, at least one, got a tensor of "
                f"shape {tuple(filter.shape)}"
            )
        if not readable(filter) or (filter.requires_grad and is_grad_enabled()):
            return filter
        weights = filter.tolist()
    else:
        weights = filter
    if not is_sequence(weights) or len(weights) == 0:
        raise ArgumentError(f"{where}: filter must hold at least one weight, got {weights!r}")
    if not all(_is_number(weight) for weight in weights):
        raise ArgumentError(f"{where}: filter must hold finite numbers, got {weights!r}")
    return tuple([float(weight) for weight in weights])


def _is_number(weight: Any) -> bool:
    known = type(weight) is float or type(weight) is int
    is_real = known or (isinstance(weight, numbers.Real) and not is_bool(weight))
    return is_real and math.isfinite(weight)


def filters_of(kernels: tuple[int, ...], given: tuple[Filter, ...] | None) -> tuple[Filter, ...]:
    """The given filters, or the binomials of so many taps."""
    return given if given is not None else tuple([_binomial(size) for size in kernels])


_binomials: dict[int, tuple[float, ...]] = {}


def _binomial(size: int) -> tuple[float, ...]:
    if torch.compiler.is_compiling():
        return tuple([math.comb(size - 1, i) / 2 ** (size - 1) for i in range(size)])
    if size not in _binomials:
        _binomials[size] = tuple([math.comb(size - 1, i) / 2 ** (size - 1) for i in range(size)])
    return _binomials[size]


# ---- functions ----------------------------------------------------------------------------------

_FILTER = """filter: weights to use in place of the binomial ones, exactly as they are: a 1-D
            tensor or a sequence of finite numbers for every axis, or one of these per axis. Its
            length takes the place of ``{size}``. A tensor that requires gradients gets them, at the
            speed of plain torch."""

_BLUR_MODE = """padding_mode: what stands in the padding: ``"reflect"``, ``"replicate"``,
            ``"circular"`` or ``"zeros"``, which darkens the edges; the others keep a constant map
            constant. More than ``{extent} - 1`` cells cannot be reflected (of an extent of 1,
            none), and not more than ``{extent}`` wrapped: that is an ArgumentError."""

_BLUR = """Low-pass filter, then stride: downsampling that a shift of the input hardly changes.

    .. math:: y_i = \\sum_{t=0}^{k-1} f_t \\, x_{is - b + t}, \\quad
              f_t = 2^{1-k} \\binom{k-1}{t}

    along each axis in turn, every channel by itself (BlurPool). Half a sampling rate, the highest
    frequency that a stride of 2 would fold, does not get through a binomial filter of two taps or
    more.

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        kernel_size: taps of the binomial filter, an int or one per axis, from 1 (none) to 1024: row
            ``kernel_size - 1`` of Pascal's triangle over its sum. 2 is the average, 3 is 1-2-1.
        stride: step from output to output, an int or one per axis.
        padding: cells added on both sides: an int, one int per axis, one ``(before, after)`` pair
            per axis, ``"valid"``, ``"same"`` or ``"same_lower"``. By default
            ``floor((k - 1) / 2)`` before and ``ceil((k - 1) / 2)`` after, as in the paper:
            ``ceil(L / stride)`` outputs.
        {mode}
        {filter}

    Shapes:
        ``{shapes}``, each ``L' = floor((L + before + after - kernel_size) / stride) + 1``. The
        memory format is kept.

    Dtypes:
        float16 and bfloat16 (summed in float32), float32, float64. Nothing is kept for the backward
        pass.

    Raises:
        {errors}

    Edge cases:
        A NaN or an infinity reaches the outputs whose window holds it, and no other.

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.blur_pool{n}d(torch.ones(1, 1, {sizes})).shape
        torch.Size([1, 1, {halves}])

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019,
    arXiv:1904.11486.
    """

_MAX_BLUR = """Maximum of every window, low-pass filter, then stride: max pooling without aliasing.

    .. math:: y = \\operatorname{blur\\_pool}_{k_b, s}(z), \\quad
              z_i = \\max_{m \\in R_i} x_m

    where ``z`` is the maximum at every place, with stride 1 (MaxBlurPool): what
    ``max_pool{n}d(kernel_size, stride, padding)`` computes, but blurred before it drops all but
    every ``stride``-th place. The sizes are the same, so that one takes the other's place. (Its
    ``ceil_mode`` is ``stride - 1`` more cells of padding behind the input.)

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        kernel_size: cells of a maximum's window per axis.
        stride: step from output to output, an int or one per axis.
        padding: cells around the input that never win a maximum, as in ``max_pool{n}d``.
        blur: taps of the binomial filter, an int or one per axis, from 1 (none) to 1024.
        {mode}
        {filter}

    Shapes:
        ``{shapes}``, each ``L' = ceil(M / stride)`` of the
        ``M = L + before + after - kernel_size + 1`` maxima, which is
        ``floor((L + before + after - kernel_size) / stride) + 1``. The memory format is kept.

    Dtypes:
        float16 and bfloat16 (summed in float32), float32, float64.

    Raises:
        {errors}

    Edge cases:
        A NaN wins every maximum that it is in. It is the maxima that ``padding_mode`` pads.

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.max_blur_pool{n}d(torch.ones(1, 1, {sizes})).shape
        torch.Size([1, 1, {halves}])

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019,
    arXiv:1904.11486.
    """


def _text(template: str, size: str, extent: str) -> str:
    filled = template.replace("{mode}", _BLUR_MODE).replace("{filter}", _FILTER)
    return filled.replace("{size}", size).replace("{extent}", extent)


@documented(_text(_BLUR, "kernel_size", "L"))
def blur_pool1d(
    input: Tensor,
    kernel_size: Ints = 3,
    stride: Ints = 2,
    padding: Padding | None = None,
    *,
    padding_mode: str = "reflect",
    filter: Filters | None = None,
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            blur_pool1d, (input,), input, kernel_size, stride, padding,
            padding_mode=padding_mode, filter=filter,
        )  # fmt: skip
    return _blur_pool("blur_pool1d", 1, input, kernel_size, stride, padding, padding_mode, filter)


@documented(_text(_MAX_BLUR, "blur", "M"))
def max_blur_pool1d(
    input: Tensor,
    kernel_size: Ints = 2,
    stride: Ints = 2,
    padding: Padding = 0,
    *,
    blur: Ints = 3,
    padding_mode: str = "reflect",
    filter: Filters | None = None,
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_blur_pool1d, (input,), input, kernel_size, stride, padding, blur=blur,
            padding_mode=padding_mode, filter=filter,
        )  # fmt: skip
    return _max_blur_pool("max_blur_pool1d", 1, input, kernel_size, stride, padding, blur,
                          padding_mode, filter)  # fmt: skip


@documented(_text(_BLUR, "kernel_size", "L"))
def blur_pool2d(
    input: Tensor,
    kernel_size: Ints = 3,
    stride: Ints = 2,
    padding: Padding | None = None,
    *,
    padding_mode: str = "reflect",
    filter: Filters | None = None,
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            blur_pool2d, (input,), input, kernel_size, stride, padding,
            padding_mode=padding_mode, filter=filter,
        )  # fmt: skip
    return _blur_pool("blur_pool2d", 2, input, kernel_size, stride, padding, padding_mode, filter)


@documented(_text(_MAX_BLUR, "blur", "M"))
def max_blur_pool2d(
    input: Tensor,
    kernel_size: Ints = 2,
    stride: Ints = 2,
    padding: Padding = 0,
    *,
    blur: Ints = 3,
    padding_mode: str = "reflect",
    filter: Filters | None = None,
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_blur_pool2d, (input,), input, kernel_size, stride, padding, blur=blur,
            padding_mode=padding_mode, filter=filter,
        )  # fmt: skip
    return _max_blur_pool("max_blur_pool2d", 2, input, kernel_size, stride, padding, blur,
                          padding_mode, filter)  # fmt: skip


@documented(_text(_BLUR, "kernel_size", "L"))
def blur_pool3d(
    input: Tensor,
    kernel_size: Ints = 3,
    stride: Ints = 2,
    padding: Padding | None = None,
    *,
    padding_mode: str = "reflect",
    filter: Filters | None = None,
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            blur_pool3d, (input,), input, kernel_size, stride, padding,
            padding_mode=padding_mode, filter=filter,
        )  # fmt: skip
    return _blur_pool("blur_pool3d", 3, input, kernel_size, stride, padding, padding_mode, filter)


@documented(_text(_MAX_BLUR, "blur", "M"))
def max_blur_pool3d(
    input: Tensor,
    kernel_size: Ints = 2,
    stride: Ints = 2,
    padding: Padding = 0,
    *,
    blur: Ints = 3,
    padding_mode: str = "reflect",
    filter: Filters | None = None,
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_blur_pool3d, (input,), input, kernel_size, stride, padding, blur=blur,
            padding_mode=padding_mode, filter=filter,
        )  # fmt: skip
    return _max_blur_pool("max_blur_pool3d", 3, input, kernel_size, stride, padding, blur,
                          padding_mode, filter)  # fmt: skip
