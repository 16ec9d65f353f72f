"""The windows of poolkit's own functions, told by their arguments, and of several steps as one."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from .. import window as geometry
from ..window import Axis, Window
from . import fields, rules
from .fields import Sight
from .rules import Found, Outcome

Values = Mapping[str, Any]


def of_function(name: str, sight: Sight, x: Tensor, y: Tensor, values: Values) -> Outcome:
    """The sight of the result of a function of ``poolkit.functional``, and its stage."""
    name = name.removesuffix("_with_indices")
    family, rank = name[:-2].rstrip("_"), int(name[-2]) if name[-2:-1].isdigit() else 0
    if not rank:
        return None, None
    if family in ("max_pool", "avg_pool", "lp_pool"):
        window = _fixed(name, rank, x, values)
        found = Found(family.removesuffix("_pool"), window, bool(values.get("ceil_mode", False)))
        return rules.through(sight, window), found
    if family.startswith(("adaptive_", "global_")):
        size = values.get("output_size", 1)
        window = geometry.adaptive(name, rank, x.shape, size, False)
        return rules.adaptive(sight, window, "max" if "max" in family else "avg")
    if family.startswith("fractional_"):
        kernels = geometry.as_ints(name, "kernel_size", values["kernel_size"], rank, 1)
        return rules.scattered(sight, x.shape[-rank:], y.shape[-rank:], kernels)
    if family in ("blur_pool", "max_blur_pool"):
        found = _blur(name, rank, x, values)
        return rules.through(sight, found.window), found
    if family == "polyphase_pool":
        stride = geometry.as_ints(name, "stride", values["stride"], rank, 1)
        axes = zip(x.shape[-rank:], y.shape[-rank:], stride, strict=True)
        window = Window(tuple(Axis(size, out, s, s, 0, 0, 1) for size, out, s in axes))
        after = fields.global_over(rules.through(sight, window), range(rank), direct=True)
        return after, Found("polyphase", window)
    return None, None


def _fixed(name: str, rank: int, x: Tensor, values: Values) -> Window:
    return geometry.fixed(
        name, rank, x.shape, values["kernel_size"], values.get("stride"), values.get("padding", 0),
        values.get("dilation", 1), bool(values.get("ceil_mode", False)), False,
        bool(values.get("count_include_pad", True)), values.get("divisor_override"),
    )  # fmt: skip


def _blur(name: str, rank: int, x: Tensor, values: Values) -> Found:
    """A blur, or maxima and a blur behind them, as one window."""
    maxima = name.startswith("max_")
    given = values.get("filter")
    taps = values["blur" if maxima else "kernel_size"]
    if given is not None:
        lengths = [len(f) if hasattr(f, "__len__") else 0 for f in given]
        taps = lengths if all(lengths) else [len(given)] * rank
    blurs = geometry.as_ints(name, "filter", taps, rank, 1)
    weights = math.prod(blurs)
    padding = values.get("padding")
    kernels = geometry.as_ints(name, "kernel_size", values["kernel_size"] if maxima else 1, rank, 1)
    pads = geometry.normalise_padding(name, padding if maxima and padding is not None else 0, rank)
    assert not isinstance(pads, str)
    if not maxima and padding is not None:
        window = geometry.fixed(name, rank, x.shape, blurs, values["stride"], padding, 1, False,
                                False)  # fmt: skip
        return Found("blur", window, weights=weights)
    both = [k + b - 1 for k, b in zip(kernels, blurs, strict=True)]
    pairs = [(p + (b - 1) // 2, q + b // 2) for (p, q), b in zip(pads, blurs, strict=True)]
    window = geometry.fixed(name, rank, x.shape, both, values["stride"], pairs, 1, False, False)
    if not maxima:
        return Found("blur", window, weights=weights)
    dense = geometry.fixed(name, rank, x.shape, kernels, 1, pads, 1, False, False)
    return Found("max blur", window, weights=weights, dense=dense)


def of_image(window: Window, sight: Sight) -> Window:
    """Without axes that walk along no axis of the image: torch computes 1-D pooling in 2-D."""
    surplus = window.rank - len(sight.lines)
    return replace(window, axes=window.axes[surplus:]) if surplus > 0 else window


def both(first: Found, second: Found) -> Found:
    """Two slices along different axes as one."""
    axes = tuple(
        b if b.stride > 1 else a for a, b in zip(first.window.axes, second.window.axes, strict=True)
    )
    starts = tuple(a + b for a, b in zip(first.starts, second.starts, strict=True))
    return Found(first.kind, Window(axes), starts=starts)


def dense(window: Window) -> Window:
    """As wide as its strides: every cell is in one window."""
    return Window(tuple(a._replace(kernel=a.stride, before=0) for a in window.axes))
