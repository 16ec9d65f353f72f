"""A convolution and a pool against a convolution with a stride: costs, and a short contest."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn as stock
from torch.utils.flop_counter import FlopCounterMode

from poolkit import nn

from .measure import in_turns, saved_bytes
from .training import SIDE, Interval, accuracy, faces, fit, new, seeded, split

# ---- The text's two stacks ----------------------------------------------------------------------


def traditional(pool: stock.Module, channels: int = 64) -> stock.Sequential:
    return stock.Sequential(stock.Conv2d(channels, channels, 3, padding=1), stock.ReLU(), pool)


def modern(channels: int = 64) -> stock.Sequential:
    return stock.Sequential(stock.Conv2d(channels, channels, 3, stride=2, padding=1), stock.ReLU())


STACKS: dict[str, Callable[[], stock.Sequential]] = {
    "conv + max, torch": lambda: traditional(stock.MaxPool2d(2, 2)),
    "conv + max, poolkit": lambda: traditional(nn.MaxPool2d(2, 2)),
    "conv, stride 2": modern,
}
INPUT = (1, 64, 56, 56)


@dataclass(frozen=True)
class Cost:
    """Of one stack on one input: counts, seconds (medians), and bytes kept for backward."""

    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    forward: float
    training: float
    saved: int


def costs(seconds: float) -> dict[str, Cost]:
    """Count and time every stack, in turns on one input; half of ``seconds`` for each direction."""
    generator = seeded(0)
    x = torch.randn(INPUT, generator=generator)
    models = {name: new(build, generator) for name, build in STACKS.items()}

    def infer(model: stock.Sequential) -> Callable[[], object]:
        def step() -> object:
            with torch.inference_mode():
                return model(x)

        return step

    def train(model: stock.Sequential) -> Callable[[], object]:
        leaves = [x.clone().requires_grad_(), *model.parameters()]
        upstream = torch.ones_like(model(x))
        return lambda: torch.autograd.grad(model(leaves[0]), leaves, upstream)

    forward = in_turns([infer(model) for model in models.values()], seconds / 2)
    training = in_turns([train(model) for model in models.values()], seconds / 2)
    return {
        name: Cost(
            tuple(model(x).shape),
            sum(parameter.numel() for parameter in model.parameters()),
            multiply_adds(model, x),
            statistics.median(one_way),
            statistics.median(both_ways),
            saved_bytes(model, x),
        )
        for (name, model), one_way, both_ways in zip(models.items(), forward, training, strict=True)
    }


def multiply_adds(model: stock.Module, x: torch.Tensor) -> int:
    """Of convolutions and linear layers, as torch counts them; a pool has none."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return int(counter.get_total_flops()) // 2


# ---- What each can express ----------------------------------------------------------------------


def largest_gap_to_average() -> float:
    """How far a strided convolution with all weights 1/4 is from 2 x 2 average pooling."""
    x = torch.randn(1, 1, 56, 56, generator=seeded(0))
    learned = torch.nn.functional.conv2d(x, torch.full((1, 1, 2, 2), 0.25), stride=2)
    return float((learned - nn.AvgPool2d(2)(x)).abs().max())


def largest_gap_to_a_sum() -> float:
    """How far max(a + b) is from max(a) + max(b): no convolution could differ at all."""
    a, b = torch.randn(2, 1, 1, 56, 56, generator=seeded(0))
    pool = nn.MaxPool2d(2)
    return float((pool(a + b) - pool(a) - pool(b)).abs().max())


# ---- The short test -----------------------------------------------------------------------------

TRAIN = 100  # of the 200 images
STEPS = 120


def network(downsample: str, width: int) -> stock.Sequential:
    """25 x 25 pixels, three times halved while channels double, then GAP and a linear layer."""
    layers: list[stock.Module] = []
    before = 1
    for channels in (width, 2 * width, 4 * width):
        stride = 2 if downsample == "stride" else 1
        layers += [stock.Conv2d(before, channels, 3, stride, 1), stock.ReLU()]
        if downsample != "stride":
            layers.append(nn.MaxPool2d(2) if downsample == "max" else nn.AvgPool2d(2))
        before = channels
    return stock.Sequential(*layers, nn.GlobalAvgPool2d(flatten=True), stock.Linear(before, 2))


@dataclass(frozen=True)
class Contestant:
    """A way to downsample, and the channels of the first layer."""

    downsample: str
    width: int

    def build(self) -> stock.Sequential:
        return network(self.downsample, self.width)

    @property
    def multiply_adds(self) -> int:
        with torch.device("meta"):
            return multiply_adds(self.build(), torch.empty(1, 1, SIDE, SIDE))

    @property
    def parameters(self) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build().parameters())


# The widths of the last two give them about the multiply-adds of "stride 2" and of "max".
CONTESTANTS = {
    "max": Contestant("max", 12),
    "average": Contestant("average", 12),
    "stride 2": Contestant("stride", 12),
    "max, narrower": Contestant("max", 7),
    "stride 2, wider": Contestant("stride", 20),
}


def contest(seeds: Iterable[int], steps: int = STEPS) -> dict[str, Interval]:
    """Held-out accuracy of every contestant: for each seed the same images and order of batches."""
    images = faces()
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for seed in seeds:
        for name, contestant in CONTESTANTS.items():
            kept, held_out = split(images, TRAIN, seeded(seed))
            model = new(contestant.build, seeded(seed + 1000))
            fit(model, kept, seeded(seed + 2000), steps)
            found[name].append(accuracy(model, held_out))
    return {name: Interval(values) for name, values in found.items()}
