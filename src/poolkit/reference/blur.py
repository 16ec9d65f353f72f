"""Blurs in plain torch: slow and obviously right."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..window import Axis, Window, sources
from .core import _accumulated, _formatted, _gradient_format, max_pool

Filter = Sequence[float] | Tensor
"""The weights of one axis."""


def _taps(axis: Axis, mode: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cell of every (output, tap), and whether it counts."""
    out = torch.arange(axis.out, device=device)[:, None]
    position = out * axis.stride - axis.before + torch.arange(axis.kernel, device=device)
    inside = (position >= 0) & (position < axis.size)
    return sources(mode, axis.size, position), inside | (mode != "zeros")


def blur_pool(x: Tensor, filters: Sequence[Filter], window: Window) -> Tensor:
    """The weighted sum of every window, ``(N, C, *spatial) -> (N, C, *out)``, floating-point.

    The weight of a cell is the product of its axes' weights: axis by axis, each output is the sum
    of its cells by ``filters`` of that axis. float16 and bfloat16 are summed in float32, rounded
    once. Differentiable, in filters that are tensors too.
    """
    y = _accumulated(x)
    first = x.dim() - window.rank
    for dim, (axis, weights) in enumerate(zip(window.axes, filters, strict=True), first):
        cell, real = _taps(axis, window.padding_mode, x.device)
        shape = (*y.shape[:dim], axis.out, axis.kernel, *y.shape[dim + 1 :])
        cells = y.index_select(dim, cell.flatten()).reshape(shape)
        along = (axis.out, axis.kernel, *(1,) * (window.rank - 1 - (dim - first)))
        taps = torch.as_tensor(weights, dtype=y.dtype, device=x.device)
        products = cells.masked_fill(~real.reshape(along), 0) * taps.reshape(1, *along[1:])
        y = products.sum(dim + 1)
    return _formatted(y.to(x.dtype), window.output_shape(x.shape), suggest_memory_format(x))


def blur_pool_backward(
    g: Tensor, filters: Sequence[Filter], window: Window, channels_last: bool
) -> Tensor:
    """The adjoint of :func:`blur_pool`: every output's value, weighted, at each of its cells.

    ``(N, C, *out) -> (N, C, *spatial)``, channels last if asked.
    """
    y = _accumulated(g)
    first = g.dim() - window.rank
    for dim, (axis, weights) in enumerate(zip(window.axes, filters, strict=True), first):
        cell, real = _taps(axis, window.padding_mode, g.device)
        along = (axis.out, axis.kernel, *(1,) * (window.rank - 1 - (dim - first)))
        taps = torch.as_tensor(weights, dtype=y.dtype, device=g.device)
        parts = (y.unsqueeze(dim + 1) * taps.reshape(1, *along[1:])).masked_fill(
            ~real.reshape(along), 0
        )
        shape = (*y.shape[:dim], axis.size, *y.shape[dim + 1 :])
        y = y.new_zeros(shape).index_add(dim, cell.flatten(), parts.flatten(dim, dim + 1))
    layout = _gradient_format(g.dim(), channels_last)
    return _formatted(y.to(g.dtype), window.input_shape(g.shape), layout)


def max_blur_pool(x: Tensor, filters: Sequence[Filter], dense: Window, window: Window) -> Tensor:
    """The maxima of stride 1 (``dense``), blurred: ``(N, C, *spatial) -> (N, C, *out)``."""
    return blur_pool(max_pool(x, dense)[0], filters, window)
