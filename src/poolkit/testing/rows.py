"""What the rows of the table of deviations are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from .calls import PARAMETERS, Call

Aspect = Literal["error", "value", "index", "gradient", "stride", "gradient stride", "dtype"]


@dataclass(frozen=True)
class Deviation:
    """A deliberate difference from torch."""

    id: str
    operators: tuple[str, ...]
    """Families, as in ``max_pool``, or single functions, as in ``max_pool3d``."""
    condition: str
    torch: str
    poolkit: str
    why: str
    aspects: tuple[Aspect, ...]
    """What of a call's result may differ from torch's."""
    applies: Callable[[Call], bool]
    """Whether a call of one of the operators meets the condition."""
    example: Callable[[ModuleType], Any]
    """Given ``torch.nn.functional`` or ``poolkit.functional``, computes what differs."""
    outcomes: tuple[Any, Any]
    """What the example gives with torch, and with poolkit; an exception counts by its name."""

    def covers(self, call: Call) -> bool:
        """Whether the call meets the condition."""
        names = (call.family, call.name, call.name.removesuffix("_with_indices"))
        return any(name in self.operators for name in names) and self.applies(call)


def outcome(example: Callable[[ModuleType], Any], functional: ModuleType) -> Any:
    """What the example gives, or the name of the exception that it raises."""
    try:
        return example(functional)
    except Exception as error:  # noqa: BLE001  whatever it is, it is the outcome
        return type(error).__name__


# ---- conditions and examples that several rows share ---------------------------------------------

ALL = tuple(PARAMETERS)
"""Every family of operators."""


def always(call: Call) -> bool:
    """The condition of a row that holds for every call of its operators."""
    return True


def never(call: Call) -> bool:
    """The condition of a row that takes more than one call to show."""
    return False


def is_channels_last(x: Tensor) -> bool:
    """Whether results of ``x`` are to be channels-last."""
    return x.dim() > 3 and suggest_memory_format(x) is not torch.contiguous_format


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Ones that ask for their gradient, if their dtype has one."""
    return torch.ones(shape, dtype=dtype, requires_grad=dtype.is_floating_point)


def last(*shape: int, value: float = 1.0) -> Tensor:
    """A channels-last tensor of one value that asks for its gradient."""
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = torch.full(shape, value).contiguous(memory_format=layout)
    return x.requires_grad_()


def gradient(y: Tensor, x: Tensor) -> Tensor:
    """The gradient of the sum of ``y``."""
    return torch.autograd.grad(y.sum(), x)[0]
