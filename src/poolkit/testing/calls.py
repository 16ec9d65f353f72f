"""Calls of the functionals by name, and which of them torch can compute."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .samples import laid_out

FUNCTIONS = tuple(
    f"{family}{rank}d"
    for family in (
        "max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool", "max_unpool",
        "fractional_max_pool",
    )
    for rank in (1, 2, 3)
)  # fmt: skip
"""The core functions; torch has all but fractional_max_pool1d."""


def computes(function: Callable[..., Any], dtype: torch.dtype, channels_last: bool = False) -> bool:
    """Whether a functional takes ``dtype``, found out by calling it."""
    name = function.__name__.lstrip("_").removesuffix("_with_indices")
    family, rank = name[:-2], int(name[-2])
    x = torch.ones((1, 8, *(6,) * rank)).to(dtype)  # channels for blocks of 2 x 2 x 2 as well
    if channels_last:
        x = laid_out(x, "channels_last")
    arguments: dict[str, tuple[Any, ...]] = {
        "lp_pool": (2, 2),
        "max_unpool": (torch.arange(6**rank).reshape((6,) * rank).expand(x.shape), 1),
        "fractional_max_pool": (2, 3),
        "fractional_avg_pool": (2, 3),
        "polyphase_unpool": (torch.zeros(1, dtype=torch.int64),),
    }
    try:
        function(x, *arguments.get(family, () if family.startswith("global") else (2,)))
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return True


@functools.cache
def torch_has(name: str, dtype: torch.dtype, channels_last: bool = False) -> bool:
    """Whether torch's function of this name has a kernel for ``dtype``, on this device."""
    name = name.removesuffix("_with_indices")
    if not hasattr(torch.nn.functional, name):
        return False

    def stock(*args: Any) -> Any:
        return getattr(torch.nn.functional, name)(*args)

    stock.__name__ = name  # torch's own functions are not all called what they are
    return computes(stock, dtype, channels_last)


@dataclass(frozen=True)
class Call:
    """A call of a functional: its name and its arguments by torch's names."""

    name: str
    input: Tensor
    arguments: dict[str, Any]

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return int(self.name.removesuffix("_with_indices")[-2])

    @property
    def family(self) -> str:
        """The name without its rank."""
        return self.name.removesuffix("_with_indices")[:-2]

    def ints(self, name: str, default: Any) -> tuple[int, ...]:
        """An argument as one int per axis."""
        value = self.arguments.get(name)
        value = default if value is None or value in ((), []) else value
        items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        return items * self.rank if len(items) == 1 else items


PARAMETERS = {
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": (
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
    ),
    "lp_pool": ("norm_type", "kernel_size", "stride", "ceil_mode"),
    "adaptive_max_pool": ("output_size", "return_indices"),
    "adaptive_avg_pool": ("output_size",),
    "max_unpool": ("indices", "kernel_size", "stride", "padding", "output_size"),
    "fractional_max_pool": (
        "kernel_size", "output_size", "output_ratio", "return_indices", "_random_samples"
    ),
}  # fmt: skip


def call(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Call:
    """The call ``name(x, *args, **kwargs)`` with its arguments by name."""
    family = name.removesuffix("_with_indices")[:-2]
    return Call(name, x, {**dict(zip(PARAMETERS[family], args, strict=False)), **kwargs})


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of the call, or its exception if that is one for bad arguments."""
    try:
        return function(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        return error


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of the sum of ``function(x)``."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]
