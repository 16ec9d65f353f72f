"""Generalised means and heads of two reductions in plain torch."""

import math

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..window import Window
from .core import _cells, _flat, _formatted


def gem_pool(x: Tensor, p: float | Tensor, window: Window, eps: float = 1e-6) -> Tensor:
    """The generalised mean of every window's real cells, ``(N, C, *spatial) -> (N, C, *out)``.

    ``p`` is a number or one per channel. Computed as ``exp(log(mean(exp(p log x))) / p)``, in
    float64.
    """
    cell, real = _cells(window, x.device)
    logs = _flat(x.double().clamp(min=eps).log(), window.rank)[..., cell]
    if isinstance(p, Tensor):
        p = p.double().reshape(-1, 1, 1)
    sums = (logs * p).masked_fill(~real, -math.inf).logsumexp(-1, keepdim=True)
    means = ((sums - real.double().sum(-1, keepdim=True).log()) / p).exp().squeeze(-1).to(x.dtype)
    return _formatted(means, window.output_shape(x.shape), suggest_memory_format(x))


def global_cat_avg_max_pool(x: Tensor, rank: int) -> Tensor:
    """The means of all channels, then the maxima: ``(N, C, *spatial) -> (N, 2 * C, *ones)``."""
    cells = _flat(x.double(), rank)
    y = torch.cat([cells.mean(-1), cells.amax(-1)], -1).to(x.dtype)
    return _formatted(y, (*y.shape, *(1,) * rank), suggest_memory_format(x))


def global_avg_max_pool(x: Tensor, rank: int) -> Tensor:
    """The mean of mean and maximum of each channel: ``(N, C, *spatial) -> (N, C, *ones)``."""
    cells = _flat(x.double(), rank)
    y = ((cells.mean(-1) + cells.amax(-1)) / 2).to(x.dtype)
    return _formatted(y, (*y.shape, *(1,) * rank), suggest_memory_format(x))
