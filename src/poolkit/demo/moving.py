"""The photograph moved by a few pixels, through small stacks that differ in how they halve the map.

The filters are drawn, not trained; all stacks of one draw have the same.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as stock

import poolkit.functional as F
from poolkit import shift

from ..imaging import load_image, shipped_file
from .report import Context

MOVES = (1, 2, 3)
FILTERS = 8
SEEDS = 8
QUICK_SEEDS = 3

Halving = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
HALVINGS: dict[str, Halving] = {
    "": lambda x, w: stock.conv2d(x, w).relu_(),
    "conv stride 2": lambda x, w: stock.conv2d(x, w, stride=2).relu_(),
    "max 2/2": lambda x, w: F.max_pool2d(stock.conv2d(x, w).relu_(), 2),
    "avg 2/2": lambda x, w: F.avg_pool2d(stock.conv2d(x, w).relu_(), 2),
}


@dataclass(frozen=True)
class Measured:
    """What the moves changed.

    ``maps`` and ``means``: relative L2 distances of the last map and of its global average, by
    halving and draw of the filters: one for each of ``MOVES``, then one to another photograph.
    ``unmoved`` and ``moved``: the maps of the first draw, of the piece in place and moved to the
    right by ``MOVES``. ``exact``: what a move by the product of the strides changes.
    """

    size: tuple[int, int]
    stages: int
    piece: torch.Tensor
    maps: dict[str, list[list[float]]]
    means: dict[str, list[list[float]]]
    unmoved: dict[str, torch.Tensor]
    moved: dict[str, torch.Tensor]
    exact: float


def measure(context: Context, description: str) -> Measured:
    """Move the photograph, and compare what every stack makes of it."""
    image = context.image
    stages = 3 if min(image.shape[-2:]) >= 64 else 2
    margin = 2**stages
    size = (image.shape[-2] - 2 * margin, image.shape[-1] - 2 * margin)
    directions = [(0, 1), (1, 0)]
    moves = [(0, 0), *((d * y, d * x) for d in MOVES for y, x in directions), (0, margin)]
    other = load_image(shipped_file("astronaut.png"))
    other = F.adaptive_avg_pool2d(other, image.shape[-2:])
    pieces = [shift.crop(_normal(image), move, size) for move in moves]
    batch = torch.cat([*pieces, shift.crop(_normal(other), (0, 0), size)])
    seeds = QUICK_SEEDS if context.quick else SEEDS

    maps: dict[str, list[list[float]]] = {name: [] for name in HALVINGS}
    means: dict[str, list[list[float]]] = {name: [] for name in HALVINGS}
    unmoved, moved, exact = {}, {}, 0.0
    for seed in context.track(range(seeds), description):
        weights = filters(seed, stages)
        for name, halving in HALVINGS.items():
            y = batch
            for weight in weights:
                y = halving(y, weight)
            maps[name].append(_distances(y))
            means[name].append(_distances(F.global_avg_pool2d(y)))
            if name:
                exact = max(exact, _misfit(y[0], y[-2]))
            if seed == 0:
                unmoved[name], moved[name] = y[0], y[1 : len(moves) - 1 : len(directions)]
    piece = shift.crop(image, (0, 0), size)
    return Measured(size, stages, piece, maps, means, unmoved, moved, exact)


def _normal(image: torch.Tensor) -> torch.Tensor:
    """As networks get their input: mean 0 and deviation 1 in each channel; a flat one stays 0."""
    centred = image - image.mean((2, 3), keepdim=True)
    return centred / centred.std((2, 3), keepdim=True).clamp(min=1e-3)


def filters(seed: int, stages: int) -> list[torch.Tensor]:
    """3 x 3 filters of every stage, normal and scaled to length 1."""
    generator = torch.Generator().manual_seed(seed)
    channels = [3] + [FILTERS] * stages
    weights = []
    for into, out in itertools.pairwise(channels):
        weight = torch.randn(out, into, 3, 3, generator=generator)
        weights.append(weight / weight.flatten(1).norm(dim=1)[:, None, None, None])
    return weights


def _distances(y: torch.Tensor) -> list[float]:
    """From the first output to those of each move, averaged over directions, and to the last."""
    apart = shift.relative_l2(y[:1].expand_as(y), y)
    by_move = apart[1:-2].reshape(len(MOVES), -1).mean(1)
    return [*by_move.tolist(), apart[-1].item()]


def _misfit(unmoved: torch.Tensor, moved: torch.Tensor) -> float:
    """The largest difference once a move by one place to the right is taken back."""
    apart = (moved[..., 1:] - unmoved[..., :-1]).abs()
    size = float(unmoved.square().mean().sqrt())
    return float(apart.max()) / size if apart.numel() and size else 0.0
