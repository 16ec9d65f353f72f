"""Average pooling: fixed, adaptive and global windows."""

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import ops
from ..window import Ints, Padding, check_mode
from .common import (
    SUMMED,
    Padded,
    adaptive,
    differs,
    documented,
    fixed,
    is_symmetric,
    ours,
    stock,
    widened,
)
from .max import Sizes


def _avg_pool(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    divisor_override: Any,
    dilation: Any,
    padding_mode: str,
) -> Tensor:
    if not ours(where, x, SUMMED):
        beyond = {
            "padding": not is_symmetric(padding),
            "dilation": differs(dilation, 1),
            "divisor_override": rank == 1 and divisor_override is not None,
            "padding_mode": padding_mode != "zeros",
        }
        more = () if rank == 1 else (divisor_override,)
        served: Tensor | None = stock(
            where, x, beyond, f"avg_pool{rank}d", kernel_size, stride, padding, ceil_mode,
            count_include_pad, *more,
        )  # fmt: skip
        if served is not None:
            return served
    # Padding that counts may fill a window alone; its average is 0.
    needs_cell = padding_mode == "zeros" and not count_include_pad and divisor_override is None
    window = fixed(where, rank, x, kernel_size, stride, padding, dilation, ceil_mode, needs_cell,
                   count_include_pad, divisor_override)  # fmt: skip
    if padding_mode == "zeros":
        return ops.avg_pool(x, window)
    check_mode(where, padding_mode)
    padded = Padded(where, rank, widened(ops.keep_strides(x)), window, padding_mode).x
    window = fixed(where, rank, padded, kernel_size, stride, 0, dilation, ceil_mode, True,
                   True, divisor_override)  # fmt: skip
    return ops.avg_pool(padded, window).to(x.dtype)


def _adaptive_avg_pool(where: str, rank: int, x: Tensor, output_size: Any) -> Tensor:
    if not ours(where, x, SUMMED):
        served: Tensor | None = stock(where, x, {}, f"adaptive_avg_pool{rank}d", output_size)
        if served is not None:
            return served
    return ops.avg_pool(x, adaptive(where, rank, x, output_size, False))


_AVG = """Average of every window, over {axes}.

    .. math:: y_i = \\frac{1}{d_i} \\sum_{m \\in R_i} x_m

    The signature is that of ``torch.nn.functional.avg_pool{n}d``.

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        kernel_size: cells of a window per axis.
        stride: step from window to window; default ``kernel_size``.
        {padding}
        ceil_mode: also keep a last window that hangs over the end, if it starts inside the input or
            the padding before it.
        count_include_pad: the divisor ``d`` is the number of the window's cells inside the padded
            extent (True), or inside the input (False).
        divisor_override: the divisor of every window, if given; not 0.
        dilation: step between the cells of a window.
        {padding_mode}

    Shapes:
        ``{shapes}``, each
        ``L' = floor((L + before + after - dilation * (kernel - 1) - 1) / stride) + 1``
        (``ceil`` in ceil mode). The memory format is kept.

    Dtypes:
        float16 and bfloat16 (summed in float32), float32, float64, int64 (quotient truncated toward
        zero). Nothing is kept for the backward pass. The result is within
        ``(k_d + k_h + k_w) * eps * sum |x_m| / d`` of the exact average; an infinity or a NaN
        reaches only the windows that hold it.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.avg_pool{n}d(torch.zeros(1, 1, {sizes}), 2).shape
        torch.Size([1, 1, {halves}])

    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

_ADAPTIVE_AVG = """Average over windows that share the input evenly among ``output_size`` outputs.

    .. math:: y_i = \\operatorname{mean}_{m \\in R_i} x_m, \\quad
              R_i = [\\lfloor iL/O \\rfloor, \\lceil (i+1)L/O \\rceil)

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        output_size: an int or one per axis; None keeps the extent, 0 gives an empty result.

    Shapes:
        ``{shapes}``, with ``({out})`` as ``output_size`` says. The memory format is kept.

    Dtypes:
        float16 and bfloat16 (summed in float32), float32, float64, int64.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.adaptive_avg_pool{n}d(torch.zeros(1, 1, {sizes}), 2).shape[2]
        2

    Source: He et al., "Spatial Pyramid Pooling", ECCV 2014, arXiv:1406.4729.
    """

_GLOBAL_AVG = """Average of every whole channel (GAP): ``adaptive_avg_pool{n}d(input, 1)``.

    .. math:: y = \\operatorname{mean}_m x_m

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.

    Shapes:
        ``(N, C, {cells}) -> (N, C, {ones})``.

    Dtypes:
        float16 and bfloat16 (summed in float32), float32, float64, int64.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.global_avg_pool{n}d(torch.ones(1, 3, {sizes})).flatten(1)
        tensor([[1., 1., 1.]])

    Source: Lin et al., "Network In Network", 2013, arXiv:1312.4400.
    """


@documented(_AVG)
def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    divisor_override: int | None = None,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            avg_pool1d, (input,), input, kernel_size, stride, padding, ceil_mode,
            count_include_pad, divisor_override=divisor_override, dilation=dilation,
            padding_mode=padding_mode,
        )  # fmt: skip
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, divisor_override, dilation, padding_mode)  # fmt: skip


@documented(_ADAPTIVE_AVG)
def adaptive_avg_pool1d(input: Tensor, output_size: Sizes) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool1d, (input,), input, output_size)
    return _adaptive_avg_pool("adaptive_avg_pool1d", 1, input, output_size)


@documented(_GLOBAL_AVG)
def global_avg_pool1d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_avg_pool1d, (input,), input)
    return _adaptive_avg_pool("global_avg_pool1d", 1, input, 1)


@documented(_AVG)
def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            avg_pool2d, (input,), input, kernel_size, stride, padding, ceil_mode,
            count_include_pad, divisor_override, dilation=dilation, padding_mode=padding_mode,
        )  # fmt: skip
    return _avg_pool("avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, divisor_override, dilation, padding_mode)  # fmt: skip


@documented(_ADAPTIVE_AVG)
def adaptive_avg_pool2d(input: Tensor, output_size: Sizes) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool2d, (input,), input, output_size)
    return _adaptive_avg_pool("adaptive_avg_pool2d", 2, input, output_size)


@documented(_GLOBAL_AVG)
def global_avg_pool2d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_avg_pool2d, (input,), input)
    return _adaptive_avg_pool("global_avg_pool2d", 2, input, 1)


@documented(_AVG)
def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            avg_pool3d, (input,), input, kernel_size, stride, padding, ceil_mode,
            count_include_pad, divisor_override, dilation=dilation, padding_mode=padding_mode,
        )  # fmt: skip
    return _avg_pool("avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, divisor_override, dilation, padding_mode)  # fmt: skip


@documented(_ADAPTIVE_AVG)
def adaptive_avg_pool3d(input: Tensor, output_size: Sizes) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool3d, (input,), input, output_size)
    return _adaptive_avg_pool("adaptive_avg_pool3d", 3, input, output_size)


@documented(_GLOBAL_AVG)
def global_avg_pool3d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_avg_pool3d, (input,), input)
    return _adaptive_avg_pool("global_avg_pool3d", 3, input, 1)
