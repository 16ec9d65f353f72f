"""The policy ``polyphase``: adaptive polyphase sampling, with one phase for maps of one grid."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Module

from .. import functional as F
from .. import nn as pools
from ..accelerate import title
from ..errors import ArgumentError
from ..shift import relative_l2, roll
from ..window import Ints
from .downsampling import over_two_axes, padding_of, shrinking, why_not
from .heads import flattens
from .modules import downsampled, twin
from .observe import Input, observe
from .plan import Plan, Scan

Sizes = tuple[int, ...]


class Phase:
    """The phase of each image that the first of several modules chose."""

    def __init__(self) -> None:
        self.chosen: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"chosen": None}


class SharedPolyphasePool2d(pools.PolyphasePool2d):
    """Polyphase pooling in a network with branches: one module chooses, others follow.

    Maps that meet again, such as a residual block's branch and its shortcut, must be sampled in the
    same places. The one that leads takes the phase of the largest norm; those that follow take the
    same phase of their own maps, later in the same pass.

    Example:
        >>> import poolkit, torch
        >>> from poolkit.models import BasicBlock
        >>> block = torch.nn.Sequential(BasicBlock(8, 16, stride=2))
        >>> report = poolkit.rewrite(block, "polyphase", torch.zeros(1, 8, 8, 8))
        >>> block[0].conv1.down
        SharedPolyphasePool2d(stride=(2, 2), leads=True)
        >>> block[0].downsample[0].down
        SharedPolyphasePool2d(stride=(2, 2), leads=False)

    Source: Chaman and Dokmanic, "Truly Shift-Invariant Convolutional Neural Networks", 2021,
    arXiv:2011.14214.
    """

    _own: ClassVar[tuple[str, ...]] = ("stride", "leads")

    def __init__(self, stride: Ints, phase: Phase, *, leads: bool) -> None:
        super().__init__(stride)
        self.phase, self.leads = phase, leads

    def forward(self, input: Tensor, phase: Tensor | None = None) -> Tensor:
        """The cells of the chosen phase, or of a given one."""
        if self.leads:
            y, self.phase.chosen = F.polyphase_pool2d(
                input, self.stride, phase=phase, return_phase=True
            )
            return y
        phase = self.phase.chosen if phase is None else phase
        if phase is None:
            raise ArgumentError(
                "SharedPolyphasePool2d: the module that chooses the phase has to be called before"
            )
        return F.polyphase_pool2d(input, self.stride, phase=phase)


def polyphase(scan: Scan) -> Plan:
    """Stride 1 and circular padding everywhere, and polyphase sampling for the strides."""
    plan = Plan()
    found = []
    for kind, module in shrinking(scan, plan):
        if padding_of(module) is None:
            plan.leave(scan, module, f"has padding {module.padding!r}")
        elif reason := _not_divided(scan, module):
            plan.leave(scan, module, reason)
        else:
            found.append((kind, module))
    downs = _downs(scan, [module for _, module in found])
    for kind, module in found:
        down = downs[module]
        role = "which leads" if down.leads else "which follows"
        now = f"{title(type(module))}, circular, {title(type(down))} {role}"
        plan.swap(module, _dense(kind, module, down), now)
    for module in scan.names:
        _pad_circularly(scan, plan, module)
    if plan.swaps and flattens(scan):
        plan.notes.append(
            "The head flattens its map, so scores depend on the place: see the policy gap_head."
        )
    return plan


def moved_by_a_shift(model: Module, input: Input) -> float | None:
    """How far a roll of the image by one pixel along both axes moves the scores.

    It is the largest relative L2 distance of a batch. None if the input is no image, or looks the
    same when it is rolled, or if the model puts out no scores.
    """
    x, *rest = (input,) if isinstance(input, Tensor) else input
    if not isinstance(x, Tensor) or x.dim() != 4 or x.is_meta:
        return None
    rolled = roll(x, (1, 1))
    y, z = (observe(model, (image, *rest)).outputs[:1] for image in (x, rolled))
    if not y or y[0].dim() != 2 or torch.equal(rolled, x):
        return None
    return float(relative_l2(y[0], z[0]).max())


def _not_divided(scan: Scan, module: Any) -> str | None:
    """Why a call does not give exactly one cell for each stride, if one does not."""
    strides = over_two_axes(module.stride)
    for call in scan.calls(module):
        cells, given = call.input[-2:], call.output[0][-2:]
        if any(size % stride for size, stride in zip(cells, strides, strict=True)):
            sizes = f"{cells[0]} x {cells[1]}", f"{strides[0]} x {strides[1]}"
            return f"gets a map of {sizes[0]}, which its stride of {sizes[1]} does not divide"
        if any(s != o * stride for s, o, stride in zip(cells, given, strides, strict=True)):
            return "drops cells of its map at the border, or adds some: give it other padding"
    return None


def _downs(scan: Scan, modules: list[Any]) -> dict[Module, SharedPolyphasePool2d]:
    """What samples after each module: of those that shrink maps of one size, the first leads."""
    assert scan.run is not None
    downs: dict[Module, SharedPolyphasePool2d] = {}
    phases: dict[tuple[Sizes, Sizes], Phase] = {}
    for call in scan.run.calls:
        if call.module not in modules or call.module in downs:
            continue
        stride = over_two_axes(call.module.stride)
        grid = call.input[-2:], stride
        leads = grid not in phases
        phase = phases.setdefault(grid, Phase())
        downs[call.module] = SharedPolyphasePool2d(stride, phase, leads=leads)
    return downs


def _dense(kind: str, module: Any, down: Module) -> Module:
    """The module with stride 1 and circular padding that keeps the size, and then ``down``.

    A window starts where it started; it is padded after the end by what it needs.
    """
    kernel, padding = over_two_axes(module.kernel_size), padding_of(module) or (0, 0)
    dilation = over_two_axes(module.dilation) if kind == "conv" else (1, 1)
    ends = [
        (before, gap * (taps - 1) - before)
        for taps, before, gap in zip(kernel, padding, dilation, strict=True)
    ]
    if kind == "conv":
        (top, bottom), (left, right) = ends
        amounts = [left, right, top, bottom]  # what `F.pad` takes; a convolution keeps it ready
        return downsampled(
            module, down, padding_mode="circular", _reversed_padding_repeated_twice=amounts
        )
    if kind == "max":
        dense: Module = pools.MaxPool2d(kernel, 1, ends, padding_mode="circular")
    else:
        dense = pools.AvgPool2d(
            kernel, 1, ends, padding_mode="circular", divisor_override=module.divisor_override
        )
    return nn.Sequential(dense, down)


def _pad_circularly(scan: Scan, plan: Plan, module: Any) -> None:
    """Plan circular padding for what has stride 1, if it keeps the size of its map."""
    kinds = {"conv": nn.Conv2d, "max": nn.MaxPool2d, "avg": nn.AvgPool2d}
    kind = next((k for k, base in kinds.items() if isinstance(module, base)), None)
    if kind is None or over_two_axes(module.stride) != (1, 1) or not scan.calls(module):
        return
    if any(call.input[-2:] != call.output[0][-2:] for call in scan.calls(module)):
        plan.leave(scan, module, "crops its map")
        return
    if over_two_axes(module.kernel_size) == (1, 1) or module.padding_mode == "circular":
        return
    if (reason := why_not(scan, module, kind)) is not None:
        plan.leave(scan, module, reason)
        return
    kind_of = type(module) if kind == "conv" else getattr(pools, kinds[kind].__name__)
    plan.swap(module, twin(module, kind_of, padding_mode="circular"), f"{title(kind_of)}, circular")
