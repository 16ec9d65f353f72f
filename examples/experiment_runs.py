"""One run of downsampling_experiment.py, what is measured of it, and the file that keeps it."""

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from experiment_data import SIZE, Task, task
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from poolkit import nn as pools
from poolkit.imaging import write_whole

WIDTHS = (8, 16, 32)  # channels of the three stages, each of which halves the map
BATCH = 32
RATE = 0.05  # peak learning rate of SGD with momentum
MOVES = 8  # predictions of every picture held out that are compared with one another

HEADS = {"gap": "global average", "fc": "flatten"}


@dataclass(frozen=True)
class Job:
    """All that a run depends on."""

    task: str
    pool: str
    head: str
    seed: int
    epochs: int
    per_class: int


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    accuracy: float
    """Share of the pictures held out that are classified right, unmoved."""
    consistency: float
    """Chance that two random moves of a picture are classified alike (Zhang 2019)."""
    parameters: int
    step_ms: float
    """Forward, backward and optimizer for one batch, the median."""


# ---- networks -----------------------------------------------------------------------------------


def block(inputs: int, outputs: int, padding_mode: str) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding_mode, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def max_blur(channels: int, padding_mode: str) -> list[nn.Module]:
    # Zeros would darken the border.
    mode = "reflect" if padding_mode == "zeros" else padding_mode
    return [pools.MaxBlurPool2d(2, 2, blur=3, padding_mode=mode)]


def strided(channels: int, padding_mode: str) -> list[nn.Module]:
    conv = pools.StridedConv2d(channels, 3, 2, 1, padding_mode=padding_mode, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


POOLS: dict[str, Callable[[int, str], list[nn.Module]]] = {
    "max": lambda channels, mode: [pools.MaxPool2d(2)],
    "avg": lambda channels, mode: [pools.AvgPool2d(2)],
    "max-blur": max_blur,
    "polyphase": lambda channels, mode: [pools.PolyphasePool2d(2)],
    "strided-conv": strided,
    "conv-max": lambda channels, mode: [*block(channels, channels, mode), pools.MaxPool2d(2)],
}
"""What halves the map. The last is the control of the one before it, with the same parameters."""


def network(job: Job, data: Task) -> nn.Sequential:
    """Three convolutions, each followed by what halves the map, and a head."""
    mode = "circular" if data.circular else "zeros"
    channels, layers = data.images.shape[1], list[nn.Module]()
    for width in WIDTHS:
        layers += [*block(channels, width, mode), *POOLS[job.pool](width, mode)]
        channels = width
    if job.head == "gap":
        layers.append(pools.GlobalAvgPool2d(flatten=True))
    else:
        layers.append(nn.Flatten())
        channels *= (SIZE >> len(WIDTHS)) ** 2
    return nn.Sequential(*layers, nn.Linear(channels, len(data.classes)))


# ---- a run --------------------------------------------------------------------------------------


def run(job: Job, after_epoch: Callable[[], None]) -> Result:
    """Train from the job's seed, and measure."""
    data = task(job.task, job.seed, job.per_class)
    torch.manual_seed(job.seed)
    net = network(job, data)
    steps = train(net, data, job, after_epoch)
    net.eval()
    moves = data.moves(MOVES, torch.Generator().manual_seed(job.seed))
    with torch.inference_mode():
        right = net(data.moved((0, 0))).argmax(1) == data.held_labels
        predictions = torch.stack([net(data.moved(move)).argmax(1) for move in moves])
    return Result(
        right.double().mean().item(),
        agreement(predictions),
        sum(parameter.numel() for parameter in net.parameters()),
        1e3 * statistics.median(steps),
    )


def train(net: nn.Module, data: Task, job: Job, after_epoch: Callable[[], None]) -> list[float]:
    """Plain training without augmentation; the seconds of every step."""
    shuffle, seconds = torch.Generator().manual_seed(job.seed), []
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    total = job.epochs * math.ceil(len(data.labels) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=total)
    net.train()
    for _ in range(job.epochs):
        for batch in torch.randperm(len(data.labels), generator=shuffle).split(BATCH):
            images, labels = data.images[batch], data.labels[batch]
            start = time.perf_counter()
            loss = cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            schedule.step()
        after_epoch()
    return seconds


def agreement(predictions: Tensor) -> float:
    """The share of pairs of moves, of all pictures, with one class: ``(moves, N) -> share``."""
    moves = len(predictions)
    same = (predictions[:, None] == predictions).sum().item() - predictions.numel()
    return same / (moves * (moves - 1) * predictions.shape[1])


# ---- the file -----------------------------------------------------------------------------------


class RunsError(ValueError):
    """A file of runs that cannot be read, said in one sentence."""


def read(path: Path) -> dict[Job, Result]:
    """The finished runs of a file, one JSON object a line; none if there is no file."""
    runs: dict[Job, Result] = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
            runs[Job(**found["job"])] = Result(**found["result"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunsError(f"{path}, line {number} is no run of this experiment") from error
    return runs


def write(path: Path, runs: dict[Job, Result]) -> None:
    """Every run, in one step: whoever is interrupted leaves the old file or the new one."""
    lines = [
        json.dumps({"job": asdict(job), "result": asdict(result)}) for job, result in runs.items()
    ]
    text = "".join(f"{line}\n" for line in lines)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def part(path: Path, rank: int) -> Path:
    """Where one of several processes keeps its runs while they work."""
    return path.with_name(f"{path.name}.part{rank}")


def merge(path: Path) -> None:
    """Take the runs of all processes over, also those of a group that was interrupted."""
    parts = sorted(path.parent.glob(f"{path.name}.part[0-9]*"))
    runs = read(path)
    for file in parts:
        runs.update(read(file))
    if parts:
        write(path, runs)
    for file in parts:
        file.unlink()
