"""The policies: what each one puts in place of which module."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import Module

from .. import nn as pools
from ..accelerate import MARK, OURS, pooling_modules, title, why_not
from ..errors import ArgumentError
from .calls import ACTIVATIONS, POOLS, Functions
from .downsampling import activation_after, over_two_axes, padding_of, shrinking
from .heads import gap_head
from .modules import downsampled, twin
from .observe import Input
from .plan import Plan, Scan
from .polyphase import moved_by_a_shift, polyphase


def _nowhere(owner: Module) -> bool:
    return False


@dataclass(frozen=True)
class Policy:
    """How a policy plans, and which calls it wants as modules."""

    plan: Callable[[Scan], Plan]
    needs_input: bool = True
    pools: bool = True
    """Functional pooling, whoever calls it."""
    activations: Callable[[Module], bool] = field(default=_nowhere)
    """In whose ``forward``: functional activations, and one module for each call."""
    moved: Callable[[Module, Input], float | None] | None = None
    """How far a shift of the image moves the output: the claim of the policy, to be measured."""

    def functions(self, owner: Module) -> Functions:
        """The functions that shall be modules where ``owner`` calls them."""
        activations = self.activations(owner)
        pools_too = POOLS if self.pools or activations else {}
        return {**pools_too, **(ACTIVATIONS if activations else {})}


def has_linear(owner: Module) -> bool:
    """Whether a child is a linear layer."""
    return any(isinstance(child, nn.Linear) for child in owner.children())


def has_strided_conv(owner: Module) -> bool:
    """Whether a child is a convolution with a stride."""
    return any(isinstance(m, nn.Conv2d) and max(m.stride) > 1 for m in owner.children())


def accelerate(scan: Scan) -> Plan:
    """Poolkit's module of the same name for each of torch's."""
    plan = Plan()
    for module, _ in pooling_modules("rewrite", scan.model):
        reason = why_not(module)
        if module is scan.model:
            reason = "is the model itself"
        elif scan.excluded(module):
            continue
        if reason is not None:
            plan.leave(scan, module, reason)
        else:
            kind = OURS[type(module)]
            plan.swap(module, twin(module, kind, **{MARK: True}))
    return plan


def callable_policy(function: Callable[[str, Module], Module | None]) -> Policy:
    """The policy of a user's function, which is asked for every module, parents first."""

    def plan(scan: Scan) -> Plan:
        plan, gone = Plan(), set[Module]()
        for module, names in scan.names.items():
            if module in gone or scan.excluded(module):
                continue
            new = function(names[0], module)
            if new is None or new is module:
                continue
            if not isinstance(new, Module):
                raise ArgumentError(
                    f"rewrite: the policy must give a module or None for {names[0]!r}, got "
                    f"{new!r:.80}"
                )
            gone.update(module.modules())
            plan.swap(module, new)
        return plan

    return Policy(plan, needs_input=False)


UNEVEN = (
    "rounds the size of this map up (ceil_mode) to a window without cells of its own: give a size "
    "of which it drops nothing"
)


def antialias(scan: Scan) -> Plan:
    """A blur before every stride (Zhang 2019)."""
    plan = Plan()
    for kind, module in shrinking(scan, plan):
        stride = over_two_axes(module.stride)
        if kind == "max":
            pool = partial(pools.MaxBlurPool2d, module.kernel_size, stride, blur=scan.options.blur)
            fitting = (n for n in map(pool, _paddings(module)) if _fits(scan, module, n))
            if (new := next(fitting, None)) is None:
                plan.leave(scan, module, UNEVEN)
            else:
                plan.swap(module, new)
            continue
        blur = pools.BlurPool2d(scan.options.blur, stride)
        if kind == "avg":
            if any(o != -(-i // s) for i, o, s in _sizes(scan, module, stride)):
                plan.leave(scan, module, "does not give a cell for each stride of this map")
            else:
                plan.swap(module, blur)
        elif module.in_channels < scan.options.min_channels:
            least = scan.options.min_channels
            plan.leave(scan, module, f"reads {module.in_channels} channels of min_channels={least}")
        else:
            after = activation_after(scan, module)
            if after is None:
                now = f"{title(type(module))}, {title(type(blur))}"
                plan.swap(module, downsampled(module, blur), now)
            else:
                dense = twin(module, stride=(1, 1))
                plan.swap(module, dense, f"{title(type(module))}, stride 1", same_shape=False)
                now = f"{title(type(after))}, {title(type(blur))}"
                plan.swap(after, nn.Sequential(after, blur), now)
    return plan


def strided_conv(scan: Scan) -> Plan:
    """A convolution with the window of each pool (Springenberg 2015)."""
    plan = Plan()
    for _, module in shrinking(scan, plan, convolutions=False):
        channels = {call.input[-3] for call in scan.calls(module)}
        if len(channels) > 1:
            plan.leave(scan, module, "is called with different numbers of channels")
        else:
            (count,) = channels
            window = module.kernel_size, module.stride, module.padding
            new = pools.StridedConv2d(count, *window, ceil_mode=module.ceil_mode)
            plan.swap(module, new, f"{title(type(new))}({count})")
    if plan.swaps:
        new_ones = sum(p.numel() for swap in plan.swaps for p in swap.new.parameters())
        plan.notes.append(f"{new_ones:,} parameters are new: the model needs training.")
    return plan


def _sizes(scan: Scan, module: Module, stride: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Input size, output size and stride, for each axis of each call."""
    for call in scan.calls(module):
        yield from zip(call.input[-2:], call.output[0][-2:], stride, strict=True)


def _paddings(module: Any) -> Iterator[Any]:
    """The padding that gives a max pool's sizes: with ``ceil_mode``, first that for all maps.

    One window more is ``stride - 1`` more cells behind, if it then still holds a cell of the map.
    """
    if module.ceil_mode and (padding := padding_of(module)) is not None:
        kernel, stride = over_two_axes(module.kernel_size), over_two_axes(module.stride)
        axes = list(zip(kernel, stride, padding, strict=True))
        if all(p + s <= k for k, s, p in axes):
            yield tuple((p, p + s - 1) for _, s, p in axes)
    yield module.padding


def _fits(scan: Scan, module: Module, new: Module) -> bool:
    """Whether the maps of this run come out with the same shapes."""
    return all(
        new(torch.empty(call.input, device="meta")).shape == call.output[0]
        for call in scan.calls(module)
    )


POLICIES = {
    "accelerate": Policy(accelerate, needs_input=False),
    "antialias": Policy(antialias, activations=has_strided_conv),
    "polyphase": Policy(polyphase, moved=moved_by_a_shift),
    "strided_conv": Policy(strided_conv),
    "gap_head": Policy(gap_head, pools=False, activations=has_linear),
}
