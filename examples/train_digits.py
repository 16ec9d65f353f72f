"""Train a small residual network on 1,797 real handwritten digits, downsampled as you choose.

    python examples/train_digits.py --pool avg --head gmp --epochs 20 --plot curve.png

The digits are the 8 x 8 images that scikit-learn ships (Alpaydin and Kaynak, Optical Recognition of
Handwritten Digits, UCI 1998). A quarter of them, drawn by the seed, is held out. The same people
wrote both parts, so the accuracy says nothing about the hand of a stranger. One run is one draw:
compare choices over several seeds.
"""

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from poolkit.models import BasicBlock, ResNet, downsampling_path

try:
    import click
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from sklearn.datasets import load_digits

    from poolkit.imaging import write_whole
except ModuleNotFoundError as missing:
    sys.exit(f"train_digits.py needs {missing.name}: pip install 'poolkit[examples]'")

HELD_OUT = 450
BATCH = 32
RATE = 0.1  # peak learning rate of plain SGD with momentum


@dataclass(frozen=True)
class Epoch:
    """The mean training loss of an epoch, and how many held-out digits were right after it."""

    loss: float
    right: int


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images ``(N, 1, 8, 8)`` from 0 to 1 and labels; first those to learn, then those held out."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def train(net: nn.Module, seed: int, epochs: int, progress: Progress) -> Iterator[Epoch]:
    """Train, and report after every epoch."""
    images, labels, held_images, held_labels = digits(seed)
    batches = math.ceil(len(labels) / BATCH)
    task = progress.add_task("training", total=epochs * batches)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * batches)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        net.train()
        total = 0.0
        for batch in torch.randperm(len(labels), generator=shuffle).split(BATCH):
            loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
            progress.advance(task)
        net.eval()
        with torch.inference_mode():
            right = int((net(held_images).argmax(1) == held_labels).sum())
        yield Epoch(total / len(labels), right)


def interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927), as fractions."""
    z = 1.96
    share = right / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + (z / total) ** 2 / 4)
    return middle - half, middle + half


def refused(picture: Path) -> str:
    """Why a file could not be written, or "": asked before the work, not after it."""
    folder = picture.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {folder.name}"
    if picture.is_dir():
        return "it is a folder"
    return "" if os.access(folder, os.W_OK) else f"no permission to write into {folder.name}"


def plot(path: Path, title: str, curve: list[Epoch]) -> None:
    """Loss and held-out accuracy over the epochs, as a PNG: the whole file, or nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    numbers = range(1, len(curve) + 1)
    losses.plot(numbers, [epoch.loss for epoch in curve], "o-", color="#c75300", markersize=3)
    losses.set(xlabel="epoch", ylabel="training loss (cross entropy)", yscale="log")
    shares = [100 * epoch.right / HELD_OUT for epoch in curve]
    bounds = [interval(epoch.right, HELD_OUT) for epoch in curve]
    accuracies.plot(numbers, shares, "o-", color="#0072b2", markersize=3)
    low, high = ([100 * bound[side] for bound in bounds] for side in (0, 1))
    accuracies.fill_between(numbers, low, high, alpha=0.2, color="#0072b2", label="95 % interval")
    accuracies.set(xlabel="epoch", ylabel=f"right of {HELD_OUT} held-out digits (%)")
    accuracies.legend(frameon=False)
    figure.suptitle(title)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


@click.command(context_settings={"show_default": True}, help=(__doc__ or "").split("\n\n")[0])
@click.option("--pool", type=click.Choice(["max", "avg", "conv", "none"]), default="max")
@click.option("--stem", type=click.Choice(["3x3", "7x7", "d"]), default="3x3")
@click.option("--shortcut", type=click.Choice(["conv", "avg"]), default="conv")
@click.option("--head", type=click.Choice(["gap", "gmp", "fc"]), default="gap")
@click.option("--epochs", type=click.IntRange(1, 1000), default=10)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Weights, split and order.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Save the curve as PNG.")
def main(epochs: int, seed: int, picture: Path | None, **choices: str) -> None:
    if picture and (reason := refused(picture)):
        raise click.BadParameter(f"cannot write {picture}: {reason}", param_hint="--plot")
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    torch.manual_seed(seed)
    net = ResNet(BasicBlock, (1, 1), 10, in_channels=1, width=16, **choices)
    console = Console(highlight=False)
    for step in downsampling_path(net, torch.zeros(1, 1, 8, 8)):
        console.print(f"  {step}", style="dim")
    console.print("\nepoch   loss  held-out accuracy")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    curve = []
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            for number, epoch in enumerate(train(net, seed, epochs, progress), 1):
                curve.append(epoch)
                share = epoch.right / HELD_OUT
                bar = "█" * round(20 * share)
                console.print(f"{number:5} {epoch.loss:6.3f}  {share:6.1%}  {bar}")
    except KeyboardInterrupt:
        console.print(f"stopped after {len(curve)} of {epochs} epochs; nothing was saved")
        sys.exit(130)
    low, high = interval(curve[-1].right, HELD_OUT)
    console.print(
        f"\n{curve[-1].right} of {HELD_OUT} held-out digits right: {share:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    if picture:
        plot(picture, ", ".join(f"{name} {choice}" for name, choice in choices.items()), curve)
        console.print(f"{picture}")


if __name__ == "__main__":
    main()
