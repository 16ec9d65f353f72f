r"""Moving an image, and how far apart two outputs are: the parts of every test of shift robustness.

A network ``f`` is *invariant* to a move ``T`` if ``f(T x) = f(x)``, and *equivariant* if its output
moves along, ``f(T x) = T' f(x)``. With the functions here:

    >>> import torch, poolkit.functional as F
    >>> from poolkit import shift
    >>> x = torch.tensor([[[0., 0., 1., 1., 0., 0., 1., 1.]]])
    >>> before, after = F.max_pool1d(x, 2), F.max_pool1d(shift.roll(x, 1), 2)
    >>> before.tolist(), after.tolist()
    ([[[0.0, 1.0, 0.0, 1.0]]], [[[1.0, 1.0, 1.0, 1.0]]])
    >>> shift.relative_l2(before, after).item()
    1.0

A positive move goes towards higher indices: ``(dy, dx)`` moves the content down and to the right.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import window as geometry
from .errors import ArgumentError, DtypeError

__all__ = ["cosine_distance", "crop", "fourier", "relative_l2", "roll"]


def roll(input: Tensor, shift: int | Sequence[int]) -> Tensor:
    r"""Move the content by whole cells; what leaves at one end enters at the other.

    .. math:: y_i = x_{(i - s) \bmod L}

    Nothing is lost, so a difference between outputs comes from the network alone, if its padding is
    circular too.

    Args:
        input: any tensor.
        shift: one move for each of the last axes, in cells; an int moves along the last axis.

    Shapes:
        ``(*, H, W) -> (*, H, W)``.

    Dtypes:
        all.

    Raises:
        ArgumentError: a move that is no int, or more of them than axes.

    Example:
        >>> import torch
        >>> from poolkit import shift
        >>> shift.roll(torch.tensor([0, 5, 3, 1]), 1).tolist()
        [1, 0, 5, 3]

    Source: Chaman and Dokmanic, "Truly Shift-Invariant Convolutional Neural Networks", 2021,
    arXiv:2011.14214, which tests with circular moves.
    """
    moves = tuple(geometry.as_int("roll", "shift", s) for s in _moves("roll", input, shift))
    axes = tuple(range(-len(moves), 0))
    return torch.roll(input, moves, axes) if moves else input.clone()


def crop(input: Tensor, shift: int | Sequence[int], size: int | Sequence[int]) -> Tensor:
    r"""A piece of a larger picture, in which the content is moved by whole cells.

    .. math:: y_i = x_{i + \lfloor (L - L') / 2 \rfloor - s}

    With a move of 0 it is the middle. What leaves at one end is lost and what enters at the other
    is real, as when a camera moves: unlike `roll`, this changes what the picture shows.

    Args:
        input: a tensor of at least as many axes as ``size`` has numbers.
        shift: one move for each of the last axes, in cells; an int moves along the last axis.
        size: the extent of the piece along each of the last axes; an int stands for the last axis.

    Shapes:
        ``(*, H, W) -> (*, *size)``.

    Dtypes:
        all.

    Raises:
        ArgumentError: a size that the input does not have, or a move that leaves it.

    Example:
        >>> import torch
        >>> from poolkit import shift
        >>> row = torch.tensor([9, 0, 5, 3, 1, 8])
        >>> shift.crop(row, 0, 4).tolist(), shift.crop(row, 1, 4).tolist()
        ([0, 5, 3, 1], [9, 0, 5, 3])

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, arXiv:1904.11486,
    which tests with pairs of crops.
    """
    moves, sizes = _moves("crop", input, shift), _numbers(size)
    moves = (0,) * (len(sizes) - len(moves)) + moves
    if len(moves) != len(sizes) or len(sizes) > input.dim():
        raise ArgumentError(
            f"crop: size must have a number for each axis that shift moves along, and no more than "
            f"the input has axes ({input.dim()}), got {size!r} for shift {shift!r}"
        )
    result = input
    for axis, (move, extent) in enumerate(zip(moves, sizes, strict=True), -len(sizes)):
        whole = input.shape[axis]
        wanted = geometry.as_int("crop", "size", extent, 1)
        start = (whole - wanted) // 2 - geometry.as_int("crop", "shift", move)
        if not 0 <= start <= whole - wanted:
            raise ArgumentError(
                f"crop: {wanted} cells moved by {move} reach beyond the {whole} cells of axis "
                f"{axis} of the input"
            )
        result = result.narrow(axis, start, wanted)
    return result


def fourier(input: Tensor, shift: float | Sequence[float]) -> Tensor:
    r"""Move the content by any fraction of a cell, as a periodic signal between its samples.

    .. math:: Y_k = X_k e^{-2 \pi i k s / L}, \quad |k| < L/2

    This is the move of the one band-limited signal through the samples. Along an axis of even
    extent, the wave of two cells (k = L/2, the Nyquist frequency) is known at its samples only, and
    is the mean of a wave going either way: it is multiplied by cos(pi s).

    Args:
        input: a real tensor.
        shift: one move for each of the last axes, in cells; a number moves along the last axis.

    Shapes:
        ``(*, H, W) -> (*, H, W)``.

    Dtypes:
        float16 and bfloat16 (computed in float32), float32, float64.

    Raises:
        ArgumentError: a move that is no finite number, or more of them than axes; an axis of
            extent 0.
        DtypeError: any other dtype.

    Edge cases:
        A move by whole cells is `roll`, to rounding. Moves add up, and a move back undoes one: for
        odd extents always, for even ones if the input has nothing at the Nyquist frequency or one
        of the moves is whole.

    Example:
        >>> import torch
        >>> from poolkit import shift
        >>> wave = torch.tensor([1., 0., -1., 0.])
        >>> (shift.fourier(wave, 0.5) * 2**0.5).round(decimals=4).tolist()
        [1.0, 1.0, -1.0, -1.0]

    Source: Michaeli, Michaeli and Soudry, "Alias-Free Convnets: Fractional Shift Invariance via
    Polynomial Activations", 2023, arXiv:2303.08085, which tests with such moves.
    """
    moves = tuple(_finite(s) for s in _moves("fourier", input, shift))
    if not input.is_floating_point():
        raise DtypeError(
            f"fourier: input must be float16, bfloat16, float32 or float64, got {input.dtype}"
        )
    result = input if input.dtype == torch.float64 else input.to(torch.float32)
    for axis, move in enumerate(moves, -len(moves)):
        result = _turned(result, axis, move)
    return result.to(input.dtype) if moves else input.clone()


def _turned(x: Tensor, axis: int, move: float) -> Tensor:
    extent = x.shape[axis]
    if extent == 0:
        raise ArgumentError(f"fourier: axis {axis} of the input has extent 0")
    waves = torch.fft.rfft(x, dim=axis)
    k = torch.arange(waves.shape[axis], dtype=torch.float64, device=x.device)
    angle = -2 * math.pi * k * math.fmod(move, extent) / extent
    # Of the product at k = L/2 irfft takes the real part: the wave there, which is real, times
    # cos(pi s).
    turn = torch.polar(torch.ones_like(angle), angle).to(waves.dtype)
    moved: Tensor = torch.fft.irfft(
        waves * turn.reshape(-1, *[1] * (-1 - axis)), n=extent, dim=axis
    )
    return moved


def _moves(where: str, x: Any, shift: Any) -> tuple[Any, ...]:
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{where}: input must be a tensor, got {type(x).__name__}")
    moves = _numbers(shift)
    if len(moves) > x.dim():
        raise ArgumentError(
            f"{where}: shift must have at most one number for each of the {x.dim()} axes of the "
            f"input, got {shift!r}"
        )
    return moves


def _numbers(value: Any) -> tuple[Any, ...]:
    """One number for each of the last axes; a number stands for the last one."""
    return tuple(value) if geometry.is_sequence(value) else (value,)


def _finite(move: Any) -> float:
    refused = geometry.is_bool(move) or isinstance(move, str)
    try:
        number = float(move)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        refused = True
    if refused or not math.isfinite(number):
        raise ArgumentError(f"fourier: shift must be finite numbers, got {move!r}")
    return number


def relative_l2(reference: Tensor, other: Tensor) -> Tensor:
    r"""How far ``other`` is from ``reference``, as a share of ``reference``'s own length.

    .. math:: d = \frac{\lVert b - a \rVert_2}{\lVert a \rVert_2}

    Args:
        reference: output for the unmoved image, ``a``.
        other: output for the moved one, ``b``, of the same shape.

    Shapes:
        ``(N, *), (N, *) -> (N)``: one number for each image of the batch.

    Dtypes:
        any real one; the result is float64. 0 is equal, 1 as far as nothing at all would be.

    Raises:
        ArgumentError: shapes that differ, or no batch.
        DtypeError: complex numbers.

    Edge cases:
        Equal outputs have distance 0, also where both are 0; from 0 to anything else it is
        infinite. A NaN gives NaN.

    Example:
        >>> import torch
        >>> from poolkit import shift
        >>> shift.relative_l2(torch.tensor([[3., 4.]]), torch.tensor([[3., 5.]])).tolist()
        [0.2]
    """
    a, b = _pair("relative_l2", reference, other)
    apart = (b - a).norm(dim=1)
    return torch.where(apart == 0, apart, apart / a.norm(dim=1))


def cosine_distance(reference: Tensor, other: Tensor) -> Tensor:
    r"""One minus the cosine of the angle between two outputs: blind to their lengths.

    .. math:: d = 1 - \frac{\langle a, b \rangle}{\lVert a \rVert_2 \lVert b \rVert_2}

    Args:
        reference: output for the unmoved image, ``a``.
        other: output for the moved one, ``b``, of the same shape.

    Shapes:
        ``(N, *), (N, *) -> (N)``: one number for each image of the batch.

    Dtypes:
        any real one; the result is float64, from 0 (same direction) to 2 (opposite).

    Raises:
        ArgumentError: shapes that differ, or no batch.
        DtypeError: complex numbers.

    Edge cases:
        Two outputs of nothing but 0 have distance 0, one of them distance 1. A NaN gives NaN.

    Example:
        >>> import torch
        >>> from poolkit import shift
        >>> shift.cosine_distance(torch.tensor([[1., 0.]]), torch.tensor([[0., 9.]])).tolist()
        [1.0]

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, arXiv:1904.11486,
    section 4.2, which measures the shift equivariance of features with it.
    """
    a, b = _pair("cosine_distance", reference, other)
    lengths = [t.norm(dim=1, keepdim=True) for t in (a, b)]
    units = [torch.where(n == 0, 0.0, t / n) for t, n in zip((a, b), lengths, strict=True)]
    # Half the squared distance of unit vectors: no digits are lost between directions that are
    # nearly the same.
    half = (units[1] - units[0]).square().sum(1) / 2
    one_is_zero = (lengths[0] == 0) != (lengths[1] == 0)
    return torch.where(one_is_zero[:, 0], 1.0, half)


def _pair(where: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both as float64, a row for each image."""
    for name, t in (("reference", a), ("other", b)):
        if not isinstance(t, Tensor):
            raise ArgumentError(f"{where}: {name} must be a tensor, got {type(t).__name__}")
        if t.is_complex():
            raise DtypeError(f"{where}: {name} must be real, got {t.dtype}")
    if a.shape != b.shape or a.dim() == 0:
        raise ArgumentError(
            f"{where}: reference and other must have the same shape (N, *), got "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    rows = (a.shape[0], math.prod(a.shape[1:]))
    return a.reshape(rows).to(torch.float64), b.reshape(rows).to(torch.float64)
