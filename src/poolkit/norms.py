"""The p-norm of windows, and its gradient, in steps of torch: where no single operator serves."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .window import Window


def composed(x: Tensor, p: float, window: Window, average: Callable[[Tensor], Tensor]) -> Tensor:
    """The p-norms of ``x``, p finite, from the averages that ``average`` takes of a window.

    A window with a divisor, which is 1, asks for norms of absolute values, not rescaled.
    """
    absolute = window.divisor != 0
    total = average(_power(x.abs() if absolute else x, p))
    if not absolute:
        # torch's own steps, so that its NaN for negative sums, and its share of a window that the
        # end of the input clips, come out the same.
        total = (torch.sign(total) * torch.relu(torch.abs(total))) * window.taps
    return _root(total, p)


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


def shares(g: Tensor, y: Tensor, p: float, window: Window) -> Tensor:
    """What each of its cells gets of an output's gradient ``g``, but for its own power (`powers`).

    A sum of 0 hands on nothing, and neither does a norm of 0 that an infinite sum has.
    """
    if p == 2:
        g = g / torch.where(y == 0, math.inf, y)
    else:
        lost = (y == 0) | (y == (math.inf if p < 0 else 0))
        g = g * torch.where(lost, 0.0, torch.where(lost, 1.0, y).pow(1 - p))
    return g if window.divisor else g * window.taps


def powers(x: Tensor, p: float, window: Window) -> Tensor:
    """What each cell multiplies its shares by: ``x^(p-1)``, of absolute values with their sign.

    Where the derivative of the cell's power is infinite, or jumps, this is 0.
    """
    absolute = window.divisor != 0
    if p == 2:
        return x
    zero = x == 0 if p < 1 or (p == 1 and absolute) else None
    if zero is not None:
        x = torch.where(zero, 1.0, x)
    power = x.abs().pow(p - 1) * x.sign() if absolute else x.pow(p - 1)
    return power if zero is None else torch.where(zero, 0.0, power)
