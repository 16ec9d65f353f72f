"""What the lesson reads off the networks of :mod:`poolkit.models`: stages, heads, totals."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from poolkit import models
from poolkit.models import Step, downsampling_path

SIDE = 224  # pixels, as published
LARGER = 320

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "AlexNet": models.AlexNet,
    "VGG16": models.VGG16,
    "ResNet-18": models.ResNet18,
    "ResNet-50": models.ResNet50,
    "ResNet-50-D": models.ResNet50D,
    "EfficientNet-B0": models.EfficientNetB0,
    "Darknet-53": models.Darknet53,
    "Darknet-53 + SPPF": lambda **choices: models.Darknet53(sppf=True, **choices),
}


@dataclass(frozen=True)
class Stage:
    """Layers that do one thing together: beside each other, in a row of equals, or as the head."""

    steps: tuple[Step, ...]

    @property
    def is_head(self) -> bool:
        return self.steps[-1].kind == "linear"

    @property
    def before(self) -> tuple[int, ...]:
        return self.steps[0].input if self.is_head else max(step.input for step in self.steps)

    @property
    def after(self) -> tuple[int, ...]:
        return self.steps[-1].output if self.is_head else max(step.output for step in self.steps)

    @property
    def halves(self) -> bool:
        return not self.is_head and self.before[-1] > self.after[-1]

    @property
    def parameters(self) -> int:
        return sum(step.parameters for step in self.steps)

    @property
    def operators(self) -> dict[str, int]:
        """Every different layer, and how many there are of it."""
        counts: dict[str, int] = {}
        for step in self.steps:
            counts[step.operator] = counts.get(step.operator, 0) + 1
        return counts

    def __str__(self) -> str:
        names = [f"{n} × {name}" if n > 1 else name for name, n in self.operators.items()]
        return (" ∥ " if self.halves else " → ").join(names)


@dataclass(frozen=True)
class Read:
    """What was read off one network."""

    label: str
    stages: tuple[Stage, ...]
    aside: tuple[Step, ...]
    parameters: int
    multiply_adds: int
    with_gap: int
    larger: tuple[Stage, ...]

    @property
    def head(self) -> Stage:
        return self.stages[-1]

    def halvings(self, operator: str) -> str:
        """How many of the steps that shrink the map begin with ``operator``, shortcuts aside."""
        first = [stage.steps[0].operator for stage in self.stages if stage.halves]
        return f"{sum(name.startswith(operator) for name in first)}/{len(first)}"


@functools.cache
def read(label: str, build: Callable[..., nn.Module]) -> Read:
    """Build a network without memory and send an image through that has a size and no pixels."""
    with torch.device("meta"):
        net = build().eval()
        image, larger = (torch.empty(1, 3, side, side) for side in (SIDE, LARGER))
        with FlopCounterMode(display=False) as counter:
            steps = downsampling_path(net, image)
        found = stages(steps)
        pooled = found[-1].steps[0].kind == "global avg"
        twin = net if pooled else build(head="gap")
    return Read(
        label,
        found,
        tuple(step for step in steps if step.side),
        _parameters(net),
        counter.get_total_flops() // 2,
        _parameters(twin),
        stages(downsampling_path(net, larger)),
    )


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def stages(steps: Sequence[Step]) -> tuple[Stage, ...]:
    """Steps of the path itself, those of one stage together.

    The head, after the last fixed window, is the last stage.
    """
    path = [step for step in steps if not step.side]
    body = [step for step in path if step.kind in ("max pool", "avg pool", "strided conv")]
    head = path[path.index(body[-1]) + 1 :]
    groups = groupby(body, key=lambda step: (step.input[1:], step.output[1:]))
    return (*(Stage(tuple(group)) for _, group in groups), Stage(tuple(head)))
