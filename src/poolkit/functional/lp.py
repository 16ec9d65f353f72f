"""Lp pooling: the p-norm of every window; for p other than 2, powers, an average and its root."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import ops
from ..errors import ArgumentError
from ..window import Ints, Padding, check_mode, is_bool
from .common import (
    FLOATS,
    ORDERED,
    Padded,
    differs,
    documented,
    fixed,
    ours,
    stock,
    widened,
)


def _lp_pool(
    where: str,
    rank: int,
    x: Tensor,
    norm_type: Any,
    kernel_size: Any,
    stride: Any,
    ceil_mode: Any,
    padding: Any,
    dilation: Any,
    absolute: Any,
    padding_mode: str,
) -> Tensor:
    p = exponent(where, norm_type)
    if not isinstance(absolute, bool):
        raise ArgumentError(f"{where}: absolute must be a bool, got {absolute!r}")
    if not ours(where, x, ORDERED):
        beyond = {
            "padding": differs(padding, 0),
            "dilation": differs(dilation, 1),
            "absolute": absolute,
            "padding_mode": padding_mode != "zeros",
            "an infinite norm_type": math.isinf(p),
        }
        served: Tensor | None = stock(
            where, x, beyond, f"lp_pool{rank}d", norm_type, kernel_size, stride, ceil_mode
        )
        if served is not None:
            return served
    divisor = 1 if absolute else None
    # Only where zeros add nothing may padding fill a window alone.
    needs_cell = padding_mode == "zeros" and (p < 0 or math.isinf(p))
    window = fixed(where, rank, x, kernel_size, stride, padding, dilation, ceil_mode, needs_cell,
                   True, divisor)  # fmt: skip
    dtype = x.dtype if x.dtype in FLOATS else torch.float32
    x = x.to(dtype)
    if p == 2 and padding_mode == "zeros":  # in one pass
        norms: Tensor | None = ops.l2_pool(x, window)
        if norms is not None:
            return norms
    x = widened(x)
    if padding_mode != "zeros":
        check_mode(where, padding_mode)
        x = Padded(where, rank, ops.keep_strides(x), window, padding_mode).x
        window = fixed(where, rank, x, kernel_size, stride, 0, dilation, ceil_mode, True, True,
                       divisor)  # fmt: skip
    if math.isinf(p):
        largest = ops.max_pool(x.abs() if p > 0 else -x.abs(), window)
        return (largest if p > 0 else -largest).to(dtype)
    total = ops.avg_pool(_power(x.abs() if absolute else x, p), window)
    if not absolute:
        # torch's own steps, so that its NaN for negative sums, and its share of a window that the
        # end of the input clips, come out the same.
        total = (torch.sign(total) * torch.relu(torch.abs(total))) * window.taps
    return _root(total, p).to(dtype)


def exponent(
    where: str, norm_type: Any, name: str = "norm_type", *, positive: bool = False
) -> float:
    """``norm_type`` as a number other than 0, infinity included."""
    try:
        p = float(norm_type)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        p = math.nan
    # Of a symbolic float Dynamo can ask no more than its type, and comparisons: not isnan, say.
    refused = p == 0 or not abs(p) >= 0 or (positive and p < 0)
    if type(norm_type) is not float:  # float() also takes "2" and a bool
        refused = refused or is_bool(norm_type) or isinstance(norm_type, (str, bytes))
    if refused:
        kind = "a positive number" if positive else "a number other than 0"
        raise ArgumentError(f"{where}: {name} must be {kind}, got {norm_type!r}")
    return p


def _power(x: Tensor, p: float) -> Tensor:
    if p < 1:
        # The derivative at 0 is infinite, and 0 times that would make NaN of an all-zero window's
        # gradient: it is taken as 0.
        zero = x == 0
        return torch.where(zero, x.detach().pow(p), torch.where(zero, 1.0, x).pow(p))
    return x.pow(p)


def _root(total: Tensor, p: float) -> Tensor:
    zero = total == 0
    at_zero = 0.0 if p > 0 else math.inf
    return torch.where(zero, at_zero, torch.where(zero, 1.0, total).pow(1 / p))


_LP = """The p-norm of every window, over {axes}.

    .. math:: y_i = \\Bigl(\\sum_{m \\in R_i} x_m^p\\Bigr)^{1/p}

    The signature and the arithmetic are those of ``torch.nn.functional.lp_pool{n}d``: powers keep
    their sign, so that an odd or fractional ``p`` of negative values can give NaN, and the sum of a
    window clipped in ceil mode is scaled up to the whole kernel. ``absolute=True`` has neither: it
    is ONNX's ``(sum |x|^p)^(1/p)``.

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        norm_type: ``p``, any number but 0; infinity gives the largest ``|x|``, minus infinity the
            smallest.
        kernel_size: cells of a window per axis.
        stride: step from window to window; default ``kernel_size``.
        ceil_mode: also keep a last window that hangs over the end.
        {padding} Padding is zeros.
        dilation: step between the cells of a window.
        absolute: norms of absolute values, not rescaled.
        {padding_mode}

    Shapes:
        ``{shapes}``, sizes as in ``max_pool{n}d``. The memory format is kept.

    Dtypes:
        float32, float64; float16 and bfloat16 compute in float32; integers give float32. The
        gradient of an all-zero window is 0.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.lp_pool{n}d(torch.ones(1, 1, {sizes}), 1, 2).flatten()[0] == 2 ** {n}
        tensor(True)

    Source: Sermanet et al., "Convolutional neural networks applied to house numbers digit
    classification", 2012, arXiv:1204.3968.
    """


@documented(_LP)
def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Ints = 1,
    absolute: bool = False,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            lp_pool1d, (input,), input, norm_type, kernel_size, stride, ceil_mode,
            padding=padding, dilation=dilation, absolute=absolute, padding_mode=padding_mode,
        )  # fmt: skip
    return _lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode, padding,
                    dilation, absolute, padding_mode)  # fmt: skip


@documented(_LP)
def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Ints = 1,
    absolute: bool = False,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            lp_pool2d, (input,), input, norm_type, kernel_size, stride, ceil_mode,
            padding=padding, dilation=dilation, absolute=absolute, padding_mode=padding_mode,
        )  # fmt: skip
    return _lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode, padding,
                    dilation, absolute, padding_mode)  # fmt: skip


@documented(_LP)
def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Ints = 1,
    absolute: bool = False,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(
            lp_pool3d, (input,), input, norm_type, kernel_size, stride, ceil_mode,
            padding=padding, dilation=dilation, absolute=absolute, padding_mode=padding_mode,
        )  # fmt: skip
    return _lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode, padding,
                    dilation, absolute, padding_mode)  # fmt: skip
