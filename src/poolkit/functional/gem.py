"""Generalised-mean pooling (GeM): from the mean to the maximum, by an exponent."""

import math
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .. import ops
from ..errors import ArgumentError, DtypeError
from ..window import Ints, Padding, Window, check_mode, is_clipped, overhang
from .common import FLOATS, Padded, adaptive, check_input, documented, fixed, widened
from .lp import exponent

Exponent = float | Tensor


def _gem_pool(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    p: Any,
    eps: Any,
    dilation: Any,
    padding_mode: Any,
) -> Tensor:
    check_input(where, x, FLOATS)
    check_mode(where, padding_mode)
    zeros = padding_mode == "zeros"
    window = fixed(where, rank, x, kernel_size, stride, padding, dilation, ceil_mode, zeros)
    p, low = check_exponent(where, p, x.shape[-rank - 1]), check_eps(where, eps)
    layout, dtype = suggest_memory_format(x), x.dtype
    x = widened(ops.keep_strides(x)).clamp(min=low)
    if not zeros:
        x = Padded(where, rank, x, window, padding_mode).x
        window = fixed(where, rank, x, kernel_size, stride, 0, dilation, ceil_mode, True)
    if not isinstance(p, Tensor) and p == math.inf:
        return ops.max_pool(x, window).to(dtype)
    count: int | Tensor = window.taps
    if is_compiling() or any(is_clipped(axis) for axis in window.axes):
        ones = x.new_ones([axis.size for axis in window.axes])
        count = _taps(ones, window).sum(0)
    cells, most = _taps(x, window), ops.max_pool(x.detach(), window)
    y = _mean(cells, most, _per_channel(p, rank), count).to(dtype)
    return y.contiguous(memory_format=layout)


def _global_gem_pool(where: str, rank: int, x: Tensor, p: Any, eps: Any) -> Tensor:
    check_input(where, x, FLOATS)
    window = adaptive(where, rank, x, 1, True)
    p, low = check_exponent(where, p, x.shape[-rank - 1]), check_eps(where, eps)
    wide = widened(ops.keep_strides(x)).clamp(min=low)
    if not isinstance(p, Tensor) and p == math.inf:
        return ops.max_pool(wide, window).to(x.dtype)
    most = ops.max_pool(wide.detach(), window)
    cells = wide.flatten(-rank).movedim(-1, 0)
    y = _mean(cells, most.flatten(-rank).squeeze(-1), _per_channel(p, 0), window.taps)
    return y.reshape(most.shape).to(x.dtype).contiguous(memory_format=suggest_memory_format(x))


def _taps(x: Tensor, window: Window) -> Tensor:
    """The cells of every window, ``(taps, *, *out)``; those of padding are 0."""
    pads = [(axis.before, max(overhang(axis), 0)) for axis in window.axes]
    if any(amount for pair in pads for amount in pair):
        x = torch.nn.functional.pad(x, [amount for pair in reversed(pads) for amount in pair])
    cells = [x]
    for dim, axis in enumerate(window.axes, x.dim() - window.rank):
        reach = (axis.out - 1) * axis.stride + 1
        starts = range(0, axis.kernel * axis.dilation, axis.dilation)
        every = (slice(None),) * dim
        cells = [c[(*every, slice(n, n + reach, axis.stride))] for c in cells for n in starts]
    return torch.stack(cells)


def _per_channel(p: Exponent, after: int) -> Exponent:
    """``p`` as it is broadcast over maps that have ``after`` axes behind the channels."""
    return p.reshape(-1, *(1,) * after) if isinstance(p, Tensor) else p


def _mean(cells: Tensor, most: Tensor, p: Exponent, count: int | Tensor) -> Tensor:
    """The generalised mean along the first axis, whose maximum is ``most``; zeros do not count.

    The maximum is taken out: no power overflows, and the largest is 1. The result does not depend
    on it, so it hands on no gradient.
    """
    p = p.to(cells.dtype) if isinstance(p, Tensor) else p
    most = most.clamp(max=torch.finfo(most.dtype).max)  # out of an infinity, infinity is left
    shares = cells / most
    # Padding, and what vanishes beside the maximum: derivatives by p would take its logarithm.
    gone = shares == 0
    powers = shares.masked_fill(gone, 1).pow(p).masked_fill(gone, 0)
    return most * (powers.sum(0) / count).pow(1 / p)


def check_exponent(where: str, p: Any, channels: int | None = None) -> Exponent:
    """``p`` as a positive number, or as a tensor of one number or one per channel."""
    if not isinstance(p, Tensor):
        return exponent(where, p, "p", positive=True)
    if p.dtype not in FLOATS:
        raise DtypeError(f"{where}: p must be a number or a float tensor, got {p.dtype}")
    if tuple(p.shape) not in ((), (1,), (channels,)):
        raise ArgumentError(
            f"{where}: p must be a number or a tensor of 1 or {channels} numbers, one per channel, "
            f"got shape {tuple(p.shape)}"
        )
    return p


def check_eps(where: str, eps: Any) -> float:
    """``eps`` as a positive number."""
    low = exponent(where, eps, "eps", positive=True)
    if low == math.inf:
        raise ArgumentError(f"{where}: eps must be finite, got {eps!r}")
    return low


_P = """p: a positive number (infinity: the maximum), or a tensor of one number or of one per
            channel, ``()``, ``(1)`` or ``(C)``, whose values are not checked."""

_EDGES = """The largest cell is taken out of the powers, so that no ``p`` overflows. With ``p = 1``
        it is the mean of the cells, and the larger ``p``, the nearer to their maximum. Cells at or
        below ``eps`` hand on no gradient."""

_GEM = """Generalised mean of every window, over {axes}.

    .. math:: y_i = \\Bigl( \\operatorname{mean}_{m \\in R_i}
              \\max(x_m, \\varepsilon)^p \\Bigr)^{1/p}

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        kernel_size: cells of a window per axis.
        stride: step from window to window; default ``kernel_size``.
        {padding} Padding is in no mean.
        ceil_mode: also keep a last window that hangs over the end, if it starts inside the input or
            the padding before it.
        {p}
        eps: the least that a cell counts as, above 0.
        dilation: step between the cells of a window.
        {padding_mode}

    Shapes:
        ``{shapes}``, sizes as in ``max_pool{n}d``. The memory format is kept.

    Dtypes:
        float16 and bfloat16 (computed in float32), float32, float64. ``p`` may be of another one.

    Raises:
        {errors}

    Edge cases:
        {edges} Memory is one number per output and cell of its window.

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.rand(1, 3, {sizes})
        >>> torch.allclose(F.gem_pool{n}d(x, 2, p=1.0, eps=1e-9), F.avg_pool{n}d(x, 2))
        True

    Source: Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018,
    arXiv:1711.02512.
    """

_GLOBAL_GEM = """Generalised mean of every whole channel.

    .. math:: y = \\bigl( \\operatorname{mean}_m \\max(x_m, \\varepsilon)^p \\bigr)^{1/p}

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        {p}
        eps: the least that a cell counts as, above 0.

    Shapes:
        ``(N, C, {cells}) -> (N, C, {ones})``.

    Dtypes:
        float16 and bfloat16 (computed in float32), float32, float64. ``p`` may be of another one.

    Raises:
        {errors}

    Edge cases:
        {edges}

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.zeros(1, 1, {sizes})
        >>> x[(..., *(0,) * {n})] = 2  # one cell of so many
        >>> y = F.global_gem_pool{n}d(x, p=3.0)
        >>> torch.allclose(y, 2 * torch.tensor(1 / x.numel()) ** (1 / 3))
        True

    Source: Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018,
    arXiv:1711.02512.
    """

_GEM, _GLOBAL_GEM = (
    text.replace("{p}", _P).replace("{edges}", _EDGES) for text in (_GEM, _GLOBAL_GEM)
)


@documented(_GEM)
def gem_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    p: Exponent = 3.0,
    eps: float = 1e-6,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_variadic(input, p):
        return handle_torch_function(
            gem_pool1d, (input, p), input, kernel_size, stride, padding, ceil_mode, p=p, eps=eps,
            dilation=dilation, padding_mode=padding_mode,
        )  # fmt: skip
    return _gem_pool("gem_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, p, eps,
                     dilation, padding_mode)  # fmt: skip


@documented(_GLOBAL_GEM)
def global_gem_pool1d(input: Tensor, p: Exponent = 3.0, eps: float = 1e-6) -> Tensor:
    if has_torch_function_variadic(input, p):
        return handle_torch_function(global_gem_pool1d, (input, p), input, p, eps)
    return _global_gem_pool("global_gem_pool1d", 1, input, p, eps)


@documented(_GEM)
def gem_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    p: Exponent = 3.0,
    eps: float = 1e-6,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_variadic(input, p):
        return handle_torch_function(
            gem_pool2d, (input, p), input, kernel_size, stride, padding, ceil_mode, p=p, eps=eps,
            dilation=dilation, padding_mode=padding_mode,
        )  # fmt: skip
    return _gem_pool("gem_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, p, eps,
                     dilation, padding_mode)  # fmt: skip


@documented(_GLOBAL_GEM)
def global_gem_pool2d(input: Tensor, p: Exponent = 3.0, eps: float = 1e-6) -> Tensor:
    if has_torch_function_variadic(input, p):
        return handle_torch_function(global_gem_pool2d, (input, p), input, p, eps)
    return _global_gem_pool("global_gem_pool2d", 2, input, p, eps)


@documented(_GEM)
def gem_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    p: Exponent = 3.0,
    eps: float = 1e-6,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    if has_torch_function_variadic(input, p):
        return handle_torch_function(
            gem_pool3d, (input, p), input, kernel_size, stride, padding, ceil_mode, p=p, eps=eps,
            dilation=dilation, padding_mode=padding_mode,
        )  # fmt: skip
    return _gem_pool("gem_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, p, eps,
                     dilation, padding_mode)  # fmt: skip


@documented(_GLOBAL_GEM)
def global_gem_pool3d(input: Tensor, p: Exponent = 3.0, eps: float = 1e-6) -> Tensor:
    if has_torch_function_variadic(input, p):
        return handle_torch_function(global_gem_pool3d, (input, p), input, p, eps)
    return _global_gem_pool("global_gem_pool3d", 3, input, p, eps)
