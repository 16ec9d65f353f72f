"""What is measured on pictures: how much is folded, how wide a stage looks, what a move changes."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as stock

from .. import ops, shift
from ..window import Axis, Window
from . import consistency, effective
from .aliasing import folded_energy
from .calls import Function, is_exported
from .progress import Steps
from .report import Stage
from .trace import Event, Trace

Pictures = Tensor | str
"""As the model takes them; or why there are none."""

FEW = 4
"""Pictures for what needs all maps at once."""
RUN = 8
"""Pictures of one run."""


def pictured(model: nn.Module, pictures: Tensor, x: Tensor) -> list[float | None]:
    """The folded share of every stage in order, of a few pictures."""
    shares: dict[str, list[float | None]] = {}
    order: list[tuple[str, int]] = []

    def meet(event: Event, function: Function, args: Any, keywords: Any) -> None:
        before = unstrided(event, function, args, keywords)
        strides = [axis.stride for axis in event.window.axes]
        share = None if before is None else folded_energy(before, strides)
        shares.setdefault(event.name, []).append(share)

    trace = Trace(model, meet)
    trace.run(_few(model, pictures, x))
    order = [(event.name, event.number) for event in trace.events]
    return [
        shares[name][number - 1] if number <= len(shares.get(name, ())) else None
        for name, number in order
    ]


def _few(model: nn.Module, pictures: Tensor, x: Tensor) -> Tensor:
    """A batch of the middles of pictures, spread over all of them."""
    count = len(x) if is_exported(model) else min(FEW, len(pictures))
    chosen = torch.arange(count) * len(pictures) // count
    return shift.crop(pictures[chosen], (0,) * (x.ndim - 2), tuple(x.shape[2:]))


def unstrided(event: Event, function: Function, args: Any, keywords: Any) -> Tensor | None:
    """The map that a stage takes every s-th cell of; None where there is no such map."""
    kind, window = event.found.kind, event.window
    if all(axis.stride <= 1 for axis in window.axes):
        return None
    x: Tensor = args[0] if args else keywords["input"]
    if kind in ("slicing", "polyphase"):
        return x
    if kind == "max":
        return ops.max_pool(x, _dense(window))
    if kind == "avg":
        return ops.avg_pool(x, _dense(window))
    if "stride" in _names(function):
        bound = inspect.signature(function).bind(*args, **keywords)
        bound.arguments["stride"] = 1
        result: Tensor = function(*bound.args, **bound.kwargs)
        return result
    if kind in ("strided conv", "patch embedding", "blur"):
        return _convolved(x, args, keywords, window)
    return None


def _names(function: Function) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()  # of torch's own, in C


def _dense(window: Window) -> Window:
    axes = [
        Axis(a.size, a.size + a.before + a.after - (a.kernel - 1) * a.dilation, a.kernel, 1,
             a.before, a.after, a.dilation)
        for a in window.axes
    ]  # fmt: skip
    return Window(tuple(axes), window.include_pad, window.divisor)


def _convolved(x: Tensor, args: Any, keywords: Any, window: Window) -> Tensor | None:
    weight = args[1] if len(args) > 1 else keywords.get("weight")
    if not isinstance(weight, Tensor) or weight.ndim != x.ndim or x.ndim != window.rank + 2:
        return None
    convolve = (stock.conv1d, stock.conv2d, stock.conv3d)[window.rank - 1]
    return convolve(
        x, weight, None, 1, tuple(a.before for a in window.axes),
        tuple(a.dilation for a in window.axes), x.shape[1] // weight.shape[1],
    )  # fmt: skip


def swept(
    model: nn.Module, pictures: Tensor, x: Tensor, stages: Sequence[Stage], seed: int
) -> list[tuple[tuple[float, ...] | None, float | None]]:
    """The effective field of every stage, and how far its map is from moving along."""
    batch = _few(model, pictures, x)
    widths = effective.fields(model, batch, stages, seed=seed)
    return list(zip(widths, effective.feature_shifts(model, batch, stages), strict=True))


def moved(
    model: nn.Module, pictures: Tensor, x: Tensor, shifts: int, seed: int, step: Steps
) -> consistency.Measured:
    """What moves of the pictures do to the answer."""
    batch = len(x) if is_exported(model) else RUN
    return consistency.measure(
        model, pictures, tuple(x.shape[2:]), seed=seed, shifts=shifts, batch=batch,
        progress=step.part,
    )  # fmt: skip
