"""The strides of gradients: those of ``empty_like(x)``, as torch's own operators have them.

A kernel writes a gradient contiguous or channels-last, as a bit of the packed window asks
(`wanted`). Any other dense order of the dimensions is restored by an identity before the operator,
whose gradient is the operator's, permuted.
"""

from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import Function
from torch.compiler import is_compiling

from ..window import Packed, Window
from .modes import apply, differentiable, differentiates


def wanted(x: Tensor, window: Window) -> Packed:
    """``window`` packed with the memory format of ``x``, which its gradient shall have."""
    return window.packed_last if channels_last(x) else window.packed


def channels_last(x: Tensor) -> bool:
    """Whether ``x`` counts as channels-last, where sizes of 1 leave it open as torch decides."""
    strides = x.stride()
    if len(strides) < 4 or strides[1] > strides[-1]:
        return False
    return suggest_memory_format(x) is not torch.contiguous_format


def keep_strides(x: Tensor) -> Tensor:
    """``x`` for composed code, whose gradient would lose the strides of ``empty_like(x)``."""
    if is_compiling() or x.is_contiguous() or not differentiates(x):
        return x
    same: Tensor = apply(_SameStrides, _SameStridesForward, x)
    return same


def keep_unusual_strides(x: Tensor) -> Tensor:
    """``x`` for an operator, whose gradient has the memory format of ``x`` and no other strides."""
    # The compiler chooses strides itself, and cannot sort symbolic ones.
    if (
        is_compiling()
        or x.is_contiguous()
        or x.is_contiguous(memory_format=suggest_memory_format(x))
    ):
        return x
    same: Tensor = apply(_SameStrides, _SameStridesForward, x)
    return same


def settled(x: Tensor) -> Tensor:
    """``x`` for an operator that torch composes of others, the first of which is a power.

    Where sizes of 1 leave it open whether ``x`` is channels-last, its strides may look like neither
    format. A power settles it, which for other operators of torch is not true.
    """
    if x.is_contiguous() or is_compiling() or 1 not in x.shape[1:]:
        return x
    return keep_strides(x).pow(1)


class _SameStrides(Function):
    """The identity; its gradient has the strides of ``empty_like(x)``: a dense permutation's."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.detach()  # a view would get other strides along axes of size 1

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        strides = torch.empty_like(inputs[0], device="meta").stride()
        ctx.order = sorted(range(len(strides)), key=lambda axis: -strides[axis])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        inverse = sorted(range(len(ctx.order)), key=ctx.order.__getitem__)
        return g.permute(ctx.order).contiguous().permute(inverse)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return x.view_as(x), in_dims[0]


@differentiable
class _SameStridesForward(_SameStrides):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)
