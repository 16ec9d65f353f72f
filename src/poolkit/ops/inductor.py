"""How inductor lowers the operators: in whatever memory format their inputs have by then.

Inductor turns networks of convolutions to channels-last. By default it would turn the input of an
operator that it does not know back to the strides which it was traced with, and the result to
channels-last again: two copies around every pooling.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

_ADJOINTS = (
    "scatter", "avg_pool_backward", "l2_pool_backward", "blur_pool_backward",
    "fractional_avg_pool_backward",
    "put", "put_backward", "add_at", "take",
)  # fmt: skip
"""The window tells these the format of their result, which is that of their first tensor."""


def register(names: Sequence[str]) -> None:
    """Tell inductor how to lower the operators, once it is loaded.

    Loading it takes seconds, so that nobody who does not compile shall wait for it.
    """
    lowering = sys.modules.get("torch._inductor.lowering")
    if lowering is None or getattr(torch.ops.poolkit, names[0]).default in lowering.lowerings:
        return
    for name in names:
        operator = getattr(torch.ops.poolkit, name).default
        lowering.make_fallback(operator, warn=False)
        if name in _ADJOINTS:
            lower = _following_gradient(lowering.lowerings[operator])
            lowering.register_lowering(operator, type_promotion_kind=None)(lower)


def _following_gradient(fallback: Callable[..., Any]) -> Callable[..., Any]:
    """``fallback`` with a window that asks for the memory format of ``g``, mostly a gradient."""
    from torch._inductor import ir
    from torch._inductor.virtualized import V

    def lower(g: Any, *others: Any) -> Any:
        *tensors, window = others
        g = ir.ExternKernel.realize_input(g)
        if ir.is_storage_and_layout(g):
            ir.as_storage_and_layout(g, freeze=True)
        with V.graph.fake_mode:  # sizes may be symbolic
            layout = suggest_memory_format(ir.ir_node_to_tensor(g))
        channels_last = layout is not torch.contiguous_format
        return fallback(g, *tensors, [window[0] & ~1 | channels_last, *window[1:]])

    return lower
