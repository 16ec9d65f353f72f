"""Polyphase sampling: of the ways to keep every s-th cell, the one that holds the most."""

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .. import ops
from ..errors import ArgumentError, DtypeError
from ..window import Ints, as_ints, sources, spatial
from .common import FLOATS, check_input, check_tensor, documented, readable, widened
from .lp import exponent

MaybePhase = Tensor | tuple[Tensor, Tensor]


def _pool(
    where: str, rank: int, x: Tensor, stride: Any, norm_type: Any, phase: Any, return_phase: Any
) -> MaybePhase:
    check_input(where, x, FLOATS)
    spatial(where, x.shape, rank)
    strides = as_ints(where, "stride", stride, rank, 1)
    p = exponent(where, norm_type, positive=True)
    if not isinstance(return_phase, bool):
        raise ArgumentError(f"{where}: return_phase must be a bool, got {return_phase!r}")
    if phase is not None:
        _check_phase(where, rank, x, phase, strides)
    if x.dim() == rank + 1:
        given = None if phase is None else phase.unsqueeze(0)
        y, found = _pooled(x.unsqueeze(0), strides, p, given)
        y, found = y.squeeze(0), found.squeeze(0)
    else:
        y, found = _pooled(x, strides, p, phase)
    return (y, found if phase is None else phase) if return_phase else y


def _pooled(
    x: Tensor, strides: tuple[int, ...], p: float, phase: Tensor | None
) -> tuple[Tensor, Tensor]:
    layout, x = suggest_memory_format(x), ops.keep_strides(x)
    if phase is None:
        phase = _largest(x.detach(), strides, p)
    cells = _phases(x, strides)
    return cells[_place(phase, strides)].contiguous(memory_format=layout), phase


def _phases(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """``(N, *strides, C, *out)``: every phase, the last ones filled up from the front."""
    outs = _rounded_up(x.shape[2:], strides)
    for axis, (out, step) in enumerate(zip(outs, strides, strict=True), 2):
        # Asking a symbolic extent for a remainder would pin a program to sizes of one residue.
        if is_compiling() or out * step != x.shape[axis]:
            x = x.index_select(axis, _circular(out * step, x.shape[axis], x.device))
    split = [n for pair in zip(outs, strides, strict=True) for n in pair]
    places = range(2, 2 + len(split), 2)
    return x.reshape(*x.shape[:2], *split).permute(0, *(n + 1 for n in places), 1, *places)


def _circular(size: int, extent: int, device: torch.device) -> Tensor:
    """The cells of a circle of ``extent`` cells, ``size`` of them from the first one on."""
    return sources("circular", extent, torch.arange(size, device=device))


def _rounded_up(sizes: Sequence[int], strides: tuple[int, ...]) -> list[int]:
    # Not -(-size // step): ONNX divides negative numbers toward 0.
    return [(size + step - 1) // step for size, step in zip(sizes, strides, strict=True)]


def _largest(x: Tensor, strides: tuple[int, ...], p: float) -> Tensor:
    """The first phase of the largest norm, for each image."""
    over = tuple(range(-len(strides) - 1, 0))
    if p == math.inf:
        norms = _phases(x.abs().amax(1, keepdim=True), strides).amax(over)
    else:
        powers = widened(x).square() if p == 2 else widened(x).abs().pow(p)
        # In float64 the order of additions, which a move of the image changes, next to never
        # decides between two phases.
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        norms = _phases(powers.sum(1, keepdim=True, dtype=wide), strides).sum(over)
    return norms.flatten(1).argmax(1)


def _place(phase: Tensor, strides: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Where the phase of each image is in ``(N, *strides, ...)``."""
    steps: list[Tensor] = []
    rest = phase.to(torch.int64)
    for step in reversed(strides[1:]):
        steps.insert(0, rest % step)
        rest = rest // step
    return (torch.arange(phase.shape[0], device=phase.device), rest, *steps)


def _check_phase(where: str, rank: int, x: Tensor, phase: Any, strides: tuple[int, ...]) -> None:
    check_tensor(where, "phase", phase)
    if phase.dtype is not torch.int64 and phase.dtype is not torch.int32:
        raise DtypeError(f"{where}: phase must be int64 or int32, got {phase.dtype}")
    batch = tuple(x.shape[: x.dim() - rank - 1])
    if tuple(phase.shape) != batch:
        raise ArgumentError(
            f"{where}: phase must have the shape {batch} for an input of shape {tuple(x.shape)}, "
            f"got {tuple(phase.shape)}"
        )
    count = math.prod(strides)
    if readable(phase) and bool(((phase < 0) | (phase >= count)).any()):
        raise ArgumentError(
            f"{where}: phase must be from 0 to {count - 1} for stride {strides}, "
            f"got {phase.tolist()}"
        )


def _unpool(where: str, rank: int, x: Tensor, phase: Any, stride: Any, output_size: Any) -> Tensor:
    check_input(where, x, FLOATS)
    sizes, strides = spatial(where, x.shape, rank), as_ints(where, "stride", stride, rank, 1)
    _check_phase(where, rank, x, phase, strides)
    full = [size * step for size, step in zip(sizes, strides, strict=True)]
    extents = full
    if output_size is not None:
        extents = list(as_ints(where, "output_size", output_size, rank, 1))
        if not is_compiling() and _rounded_up(extents, strides) != list(sizes):
            raise ArgumentError(
                f"{where}: output_size {output_size!r} has {_rounded_up(extents, strides)} cells "
                f"in a phase of stride {strides}, but the input {list(sizes)} "
                f"(input shape {tuple(x.shape)})"
            )
    if x.dim() == rank + 1:
        return _unpooled(x.unsqueeze(0), phase.unsqueeze(0), strides, full, extents).squeeze(0)
    return _unpooled(x, phase, strides, full, extents)


def _unpooled(
    x: Tensor, phase: Tensor, strides: tuple[int, ...], full: list[int], extents: list[int]
) -> Tensor:
    layout, x = suggest_memory_format(x), ops.keep_strides(x)
    cells = x.new_zeros((x.shape[0], *strides, *x.shape[1:]))
    cells = cells.index_put(_place(phase, strides), x)
    rank = len(strides)
    order = [n for axis in range(rank) for n in (rank + 2 + axis, 1 + axis)]
    y = cells.permute(0, rank + 1, *order).reshape(*x.shape[:2], *full)
    for axis, extent in enumerate(extents, 2):
        if extents is not full and (is_compiling() or extent != y.shape[axis]):
            # What the end was filled up with goes back to the front.
            cell = _circular(y.shape[axis], extent, y.device)
            sums = y.new_zeros((*y.shape[:axis], extent, *y.shape[axis + 1 :]))
            y = sums.index_add(axis, cell, y)
    return y.contiguous(memory_format=layout)


_POOL = """Of the phases of stride-``stride`` sampling, the one with the largest norm (APS).

    .. math:: y_i = x_{s i + \\varphi}, \\quad
              \\varphi = \\arg\\max_{\\varphi \\in [0, s)^{n}}
              \\Bigl( \\sum_{c, i} |x_{c, s i + \\varphi}|^p \\Bigr)^{1/p}

    Each image keeps one phase, for all of its channels. If the image moves, so does the phase, and
    the same cells stay: a network of circular convolutions, activations, these and a global pool
    gives the same scores for every circular move, trained or not.

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        stride: step from cell to cell: an int or one per axis; 1 keeps every cell.
        norm_type: ``p``, a positive number or infinity.
        phase: a phase for each image that was chosen before, by another layer, say, whose map is
            to stay in step with this one: ``(N)``, or ``()`` without a batch; int64 or int32. It
            counts the ``[0, s)^{n}`` in row-major order.
        return_phase: also return the phases, int64.

    Shapes:
        ``{shapes}``, each ``L' = ceil(L / stride)``. The memory format is kept.

    Dtypes:
        float16, bfloat16, float32, float64. Norms are summed in float64.

    Raises:
        {errors}

    Edge cases:
        Of equal norms the first phase wins. Where a stride does not divide an extent, the input is
        first filled up from its front, circularly, so that all phases have as many cells; the
        promise above holds for extents that divide only, and for circular padding. A NaN makes its
        phase the largest.

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.zeros(1, 1, {sizes})
        >>> x[(..., *(1,) * {n})] = 7
        >>> y, phase = F.polyphase_pool{n}d(x, 2, return_phase=True)
        >>> y.amax().item(), phase.item() == 2**{n} - 1
        (7.0, True)

    Source: Chaman and Dokmanic, "Truly Shift-Invariant Convolutional Neural Networks", 2021,
    arXiv:2011.14214.
    """

_UNPOOL = """Put each image back at its phase, zeros elsewhere: the adjoint of polyphase_pool.

    .. math:: y_{s i + \\varphi} = x_i

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        phase: where each image goes, as ``polyphase_pool{n}d`` returns it: ``(N)``, or ``()``
            without a batch; int64 or int32.
        stride: step from cell to cell: an int or one per axis.
        output_size: the extents of the result, such as those before pooling; by default
            ``stride`` times the input's.

    Shapes:
        ``{shapes}``, each ``L' = stride * L``, or ``output_size`` with ``ceil(L' / stride) = L``.
        The memory format is kept.

    Dtypes:
        float16, bfloat16, float32, float64.

    Raises:
        {errors}

    Edge cases:
        If ``output_size`` is no multiple of the stride, what lies beyond it is added to the cells
        at the front, of which pooling made it.

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.rand(2, 3, {sizes})
        >>> y, phase = F.polyphase_pool{n}d(x, return_phase=True)
        >>> back = F.polyphase_unpool{n}d(y, phase)
        >>> back.shape == x.shape, torch.equal(F.polyphase_pool{n}d(back, phase=phase), y)
        (True, True)

    Source: Chaman and Dokmanic, "Truly Shift-Invariant Convolutional Neural Networks", 2021,
    arXiv:2011.14214.
    """


@overload
def polyphase_pool1d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: Literal[False] = False,
) -> Tensor: ...  # fmt: skip
@overload
def polyphase_pool1d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def polyphase_pool1d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: bool = False,
) -> MaybePhase: ...  # fmt: skip
@documented(_POOL)
def polyphase_pool1d(
    input: Tensor,
    stride: Ints = 2,
    *,
    norm_type: float = 2.0,
    phase: Tensor | None = None,
    return_phase: bool = False,
) -> MaybePhase:
    if has_torch_function_variadic(input, phase):
        return handle_torch_function(
            polyphase_pool1d, (input, phase), input, stride, norm_type=norm_type, phase=phase,
            return_phase=return_phase,
        )  # fmt: skip
    return _pool("polyphase_pool1d", 1, input, stride, norm_type, phase, return_phase)


@documented(_UNPOOL)
def polyphase_unpool1d(
    input: Tensor, phase: Tensor, stride: Ints = 2, output_size: Ints | None = None
) -> Tensor:
    if has_torch_function_variadic(input, phase):
        return handle_torch_function(
            polyphase_unpool1d, (input, phase), input, phase, stride, output_size
        )
    return _unpool("polyphase_unpool1d", 1, input, phase, stride, output_size)


@overload
def polyphase_pool2d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: Literal[False] = False,
) -> Tensor: ...  # fmt: skip
@overload
def polyphase_pool2d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def polyphase_pool2d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: bool = False,
) -> MaybePhase: ...  # fmt: skip
@documented(_POOL)
def polyphase_pool2d(
    input: Tensor,
    stride: Ints = 2,
    *,
    norm_type: float = 2.0,
    phase: Tensor | None = None,
    return_phase: bool = False,
) -> MaybePhase:
    if has_torch_function_variadic(input, phase):
        return handle_torch_function(
            polyphase_pool2d, (input, phase), input, stride, norm_type=norm_type, phase=phase,
            return_phase=return_phase,
        )  # fmt: skip
    return _pool("polyphase_pool2d", 2, input, stride, norm_type, phase, return_phase)


@documented(_UNPOOL)
def polyphase_unpool2d(
    input: Tensor, phase: Tensor, stride: Ints = 2, output_size: Ints | None = None
) -> Tensor:
    if has_torch_function_variadic(input, phase):
        return handle_torch_function(
            polyphase_unpool2d, (input, phase), input, phase, stride, output_size
        )
    return _unpool("polyphase_unpool2d", 2, input, phase, stride, output_size)


@overload
def polyphase_pool3d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: Literal[False] = False,
) -> Tensor: ...  # fmt: skip
@overload
def polyphase_pool3d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def polyphase_pool3d(input: Tensor, stride: Ints = 2, *, norm_type: float = 2.0,
                      phase: Tensor | None = None, return_phase: bool = False,
) -> MaybePhase: ...  # fmt: skip
@documented(_POOL)
def polyphase_pool3d(
    input: Tensor,
    stride: Ints = 2,
    *,
    norm_type: float = 2.0,
    phase: Tensor | None = None,
    return_phase: bool = False,
) -> MaybePhase:
    if has_torch_function_variadic(input, phase):
        return handle_torch_function(
            polyphase_pool3d, (input, phase), input, stride, norm_type=norm_type, phase=phase,
            return_phase=return_phase,
        )  # fmt: skip
    return _pool("polyphase_pool3d", 3, input, stride, norm_type, phase, return_phase)


@documented(_UNPOOL)
def polyphase_unpool3d(
    input: Tensor, phase: Tensor, stride: Ints = 2, output_size: Ints | None = None
) -> Tensor:
    if has_torch_function_variadic(input, phase):
        return handle_torch_function(
            polyphase_unpool3d, (input, phase), input, phase, stride, output_size
        )
    return _unpool("polyphase_unpool3d", 3, input, phase, stride, output_size)
