"""What there is to replace: modules that shrink a map, and the reasons to leave one alone."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import Module

from .. import nn as pools
from .calls import UntraceableError, graph_of
from .modules import POINTWISE
from .plan import Plan, Scan

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.Identity)
POOLS_2D = {
    "max": (nn.MaxPool2d, (nn.MaxPool2d.forward, pools.MaxPool2d.forward)),
    "avg": (nn.AvgPool2d, (nn.AvgPool2d.forward, pools.AvgPool2d.forward)),
    "conv": (nn.Conv2d, (nn.Conv2d.forward,)),
}
OTHER_RANKS = (
    nn.MaxPool1d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool3d, nn.Conv1d, nn.Conv3d, nn.LPPool1d,
    nn.LPPool2d, nn.LPPool3d,
)  # fmt: skip
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def over_two_axes(value: Any) -> tuple[int, int]:
    """A kernel or a stride as a tuple."""
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return first, second


def shrinking(scan: Scan, plan: Plan, *, convolutions: bool = True) -> Iterator[tuple[str, Any]]:
    """The max pools, average pools and convolutions with a stride, each with its kind.

    What cannot be replaced goes into the plan with the reason.
    """
    for module in scan.names:
        kind = next((k for k, (base, _) in POOLS_2D.items() if isinstance(module, base)), None)
        if kind is None and not isinstance(module, OTHER_RANKS):
            continue
        if isinstance(module, CONVOLUTIONS) and not convolutions:
            continue
        strides: Any = getattr(module, "stride", None)
        strides = module.kernel_size if strides is None else strides
        if math.prod(strides if isinstance(strides, (tuple, list)) else (strides,)) == 1:
            continue
        other = "is no maximum, average or convolution over 2 axes: a function can be the policy"
        reason = other if kind is None else why_not(scan, module, kind)
        if kind is None or reason is not None:
            plan.leave(scan, module, reason or other)
        else:
            yield kind, module


def why_not(scan: Scan, module: Module, kind: str) -> str | None:
    """The reason to leave a module with a stride as it is, if there is one."""
    if scan.excluded(module):
        return "is excluded"
    if isinstance(module, torch.jit.ScriptModule):
        return "was compiled by torch.jit"
    if "forward" in vars(module) or type(module).forward not in POOLS_2D[kind][1]:
        return "has a forward of its own"
    if not scan.calls(module):
        return "is not called on the given input"
    return None if kind == "conv" else _unusual_pool(module)


def _unusual_pool(module: Any) -> str | None:
    """The option of a pool that no replacement has, if there is one."""
    plain = {
        "padding_mode": "zeros", "dilation": 1, "return_indices": False, "divisor_override": None
    }  # fmt: skip
    for option, usual in plain.items():
        value = getattr(module, option, usual)
        each = set(value) if isinstance(value, (tuple, list)) else {value}
        if each != {usual}:
            return f"has {option}={value!r}"
    return None


def padding_of(module: Any) -> tuple[int, int] | None:
    """The cells before each axis, if they are as many behind it, whatever the size of the map."""
    padding = 0 if module.padding == "valid" else module.padding
    each = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    return over_two_axes(padding) if all(isinstance(p, int) for p in each) else None


def activation_after(scan: Scan, module: Module) -> Module | None:
    """The activation that a convolution's output goes into, with at most a norm between.

    Only if nothing else reads the output, and nothing else calls the activation.
    """
    names = scan.names[module]
    if len(names) > 1 or len(scan.calls(module)) > 1:
        return None
    path, _, key = names[0].rpartition(".")
    owner = scan.model.get_submodule(path)
    try:
        nodes = list(graph_of(owner).nodes)
    except UntraceableError:
        return None
    node = next((n for n in nodes if n.op == "call_module" and n.target == key), None)
    while node is not None and len(node.users) == 1:
        node = next(iter(node.users))
        after = getattr(owner, str(node.target), None) if node.op == "call_module" else None
        if isinstance(after, POINTWISE):
            alone = len(scan.calls(after)) == 1 and not list(after.parameters())
            return after if alone else None
        if not isinstance(after, NORMS):
            return None
    return None
