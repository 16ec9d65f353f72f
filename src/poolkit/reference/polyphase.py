"""Polyphase sampling and space to depth in plain torch: phase by phase, image by image."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from .core import _formatted


def _phases(strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Where each phase begins, in row-major order."""
    return list(itertools.product(*(range(step) for step in strides)))


def _sampled(starts: Sequence[int], strides: Sequence[int]) -> tuple[Any, ...]:
    """Every ``stride``-th cell from ``start``, along the last axes."""
    slices = (slice(start, None, step) for start, step in zip(starts, strides, strict=True))
    return (..., *slices)


def polyphase_pool(x: Tensor, strides: Sequence[int], norm_type: float) -> tuple[Tensor, Tensor]:
    """The phase of each image with the largest norm over all channels, and its number.

    ``(N, C, *spatial) -> (N, C, *out), (N,)``. The first of equal norms. Extents that the strides
    do not divide are filled up from the front first.
    """
    filled = x
    for axis, step in enumerate(strides, x.dim() - len(strides)):
        cells = torch.arange(-(-x.shape[axis] // step) * step) % x.shape[axis]
        filled = filled.index_select(axis, cells)
    images, numbers = [], []
    for image in filled:
        phases = [image[_sampled(starts, strides)] for starts in _phases(strides)]
        norms = [torch.linalg.vector_norm(phase.double(), norm_type) for phase in phases]
        number = max(range(len(norms)), key=lambda n: (float(norms[n]), -n))
        images.append(phases[number])
        numbers.append(number)
    y = torch.stack(images)
    return _formatted(y, y.shape, suggest_memory_format(x)), torch.tensor(numbers)


def polyphase_unpool(
    x: Tensor, phase: Tensor, strides: Sequence[int], output_size: Sequence[int]
) -> Tensor:
    """Each image at its phase, zeros elsewhere; what is beyond the end is added to the front.

    ``(N, C, *spatial) -> (N, C, *output_size)``: the adjoint of :func:`polyphase_pool`.
    """
    first = x.dim() - len(strides)
    full = [size * step for size, step in zip(x.shape[first:], strides, strict=True)]
    y = x.new_zeros((*x.shape[:first], *full))
    for image, number, values in zip(y, phase.tolist(), x, strict=True):
        image[_sampled(_phases(strides)[number], strides)] = values
    for axis, extent in enumerate(output_size, first):
        sums = y.narrow(axis, 0, extent).clone()
        for cell in range(extent, y.shape[axis]):
            sums.select(axis, cell % extent).add_(y.select(axis, cell))
        y = sums
    return _formatted(y, y.shape, suggest_memory_format(x))


def space_to_depth(x: Tensor, blocks: Sequence[int]) -> Tensor:
    """Each cell of a block as a channel: ``(N, C, *spatial) -> (N, C * cells, *out)``."""
    parts = [x[_sampled(starts, blocks)] for starts in _phases(blocks)]
    y = torch.stack(parts, 2).flatten(1, 2)
    return _formatted(y, y.shape, suggest_memory_format(x))


def depth_to_space(x: Tensor, blocks: Sequence[int]) -> Tensor:
    """The inverse of :func:`space_to_depth`."""
    count, first = math.prod(blocks), x.dim() - len(blocks)
    sizes = [size * block for size, block in zip(x.shape[first:], blocks, strict=True)]
    y = x.new_empty((x.shape[0], x.shape[1] // count, *sizes))
    for number, starts in enumerate(_phases(blocks)):
        y[_sampled(starts, blocks)] = x[:, number::count]
    return _formatted(y, y.shape, suggest_memory_format(x))
