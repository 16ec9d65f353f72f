"""Train one network on torch's pooling and on poolkit's: the same curve, its time, its memory.

    python examples/train_stock_and_poolkit.py --epochs 20 --plot curves.png

A small network learns 1,347 of the handwritten digits that scikit-learn ships, from the same seed,
by a plain loop and in Lightning's style (lightning_style.py). Every training has a process of its
own, so that its peak of memory is its own; they follow one another, so that times tell little on a
machine that also does something else. `make bench` measures pooling with more care.
"""

import itertools
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from lightning_style import Batch, Classifier, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import poolkit
from poolkit.testing.memory import highest_resident_set, saved_bytes

try:
    import click
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from train_digits import HELD_OUT, digits, refused

    from poolkit.imaging import write_whole
except ModuleNotFoundError as missing:
    sys.exit(f"train_stock_and_poolkit.py needs {missing.name}: pip install 'poolkit[examples]'")

BATCH = 256
RATE = 0.05
SIDES = ("torch", "poolkit")
LOOPS = {"plain": "plain loop", "lightning": "Lightning's style"}
POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


@dataclass(frozen=True)
class Job:
    """One training: which loop, on whose pooling."""

    loop: str
    side: str
    pool: str
    epochs: int
    seed: int


@dataclass(frozen=True)
class Result:
    """What a training gave and what it took."""

    losses: list[float]
    """Of every step, in order."""
    seconds: float
    """Per epoch, the median."""
    kept: int
    """Bytes that autograd keeps from forward to backward in a step, without the weights."""
    peak: int
    """Bytes by which the training raised the highest resident set of its process."""
    right: int
    """Of the digits held out."""


# ---- a training, in a process of its own --------------------------------------------------------


def network(pool: str) -> nn.Sequential:
    """Two convolutions, each followed by pooling that halves the map: 8 x 8, 4 x 4, 2 x 2."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), POOLS[pool](3, stride=2, padding=1),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), POOLS[pool](3, stride=2, padding=1),
        nn.Flatten(), nn.Linear(128 * 2 * 2, 10),
    )  # fmt: skip


def plain(
    net: nn.Module, batches: DataLoader[Batch], epochs: int, after_step: Callable[[float], None]
) -> None:
    """The loop that everyone writes."""
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9)
    net.train()
    for _ in range(epochs):
        for images, labels in batches:
            loss = cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step(loss.item())


def train(job: Job, after_epoch: Callable[[], None]) -> Result:
    """Train once, from the job's seed."""
    torch.set_num_threads(1)  # so that additions have one order, whatever the machine
    images, labels, held_images, held_labels = digits(job.seed)
    batches = DataLoader(
        TensorDataset(images, labels),
        BATCH,
        shuffle=True,
        generator=torch.Generator().manual_seed(job.seed),
    )
    torch.manual_seed(job.seed)
    net = network(job.pool)
    if job.side == "poolkit":
        poolkit.accelerate(net)  # the one line

    kept = saved_bytes(
        lambda: cross_entropy(net(images[:BATCH]), labels[:BATCH]), without=net.parameters()
    )
    losses: list[float] = []
    times = [time.perf_counter()]

    def after_step(loss: float) -> None:
        losses.append(loss)
        if len(losses) % len(batches) == 0:
            times.append(time.perf_counter())
            after_epoch()

    before = highest_resident_set()
    if job.loop == "plain":
        plain(net, batches, job.epochs, after_step)
    else:
        Trainer(job.epochs, after_step).fit(Classifier(net, RATE), batches)
    peak = highest_resident_set() - before
    net.eval()
    with torch.inference_mode():
        right = int((net(held_images).argmax(1) == held_labels).sum())
    took = [end - start for start, end in itertools.pairwise(times)]
    return Result(losses, statistics.median(took), kept, peak, right)


def work(job: Job, parent: Connection) -> None:
    """What the process does: say after every epoch that it is done, and at the end the result."""
    parent.send(train(job, lambda: parent.send(None)))


def in_a_process(job: Job, after_epoch: Callable[[], None]) -> Result:
    """Train in a fresh process, which ends with this function, however that ends."""
    context = multiprocessing.get_context("spawn")  # nothing of this process's memory is in it
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, theirs), daemon=True)
    with interrupts_ignored():  # which it inherits: Ctrl-C is this process's alone
        process.start()
    theirs.close()
    try:
        while (message := ours.recv()) is None:
            after_epoch()
    except EOFError:
        process.join()
        raise click.ClickException(
            f"the training on {job.side}'s pooling ended with status {process.exitcode}"
        ) from None
    finally:
        process.terminate()
        process.join()
    return message


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C does nothing. (A signal mask would not do: multiprocessing sets its own.)"""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---- the report ---------------------------------------------------------------------------------


def apart(stock: list[float], ours: list[float]) -> float:
    """The largest relative difference of two curves; 0 if they are the same to the bit."""
    return max(abs(a - b) / abs(a) if a != b else 0.0 for a, b in zip(stock, ours, strict=True))


def verdict(difference: float, steps: int, pool: str) -> str:
    if difference == 0:
        return f"the same curve to the bit, in {steps} steps"
    reason = "; averages are rounded differently" if pool == "avg" else ""
    return f"the curves differ by at most {difference:.1e} of the loss, in {steps} steps{reason}"


def table(results: dict[tuple[str, str], Result]) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("training", "pooling"):
        shown.add_column(head, no_wrap=True)
    for head in ("ms / epoch", "kept", "peak", "last loss", "right"):
        shown.add_column(head, no_wrap=True, justify="right")
    for (loop, side), result in results.items():
        shown.add_row(
            LOOPS[loop],
            side,
            f"{1e3 * result.seconds:.0f}",
            f"{result.kept / 2**20:.1f} MiB",
            f"+{result.peak / 2**20:.1f} MiB",
            f"{result.losses[-1]:.4f}",
            f"{result.right / HELD_OUT:.1%}",
        )
    return shown


def plot(path: Path, results: dict[tuple[str, str], Result]) -> None:
    """Both curves of every loop, as a PNG: the whole file, or nothing."""
    from matplotlib.figure import Figure

    loops = list(dict.fromkeys(loop for loop, _ in results))
    figure = Figure(figsize=(1.5 + 4.5 * len(loops), 4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(loops), sharey=True, squeeze=False)[0]
    # The wide line stays visible under the narrow one where they coincide.
    styles = {
        "torch": {"color": "#f2b366", "linewidth": 5},
        "poolkit": {"color": "#0072b2", "linewidth": 1.2},
    }
    for axes, loop in zip(panels, loops, strict=True):
        for side in SIDES:
            losses = results[loop, side].losses
            axes.plot(range(1, len(losses) + 1), losses, label=f"{side}'s pooling", **styles[side])
        axes.set(xlabel="step", title=LOOPS[loop])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="#e4e4e4", linewidth=0.6)
    panels[0].set_ylabel("training loss (cross entropy)")
    panels[-1].legend(frameon=False)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


@click.command(context_settings={"show_default": True}, help=(__doc__ or "").split("\n\n")[0])
@click.option("--loop", "loops", type=click.Choice(list(LOOPS)), multiple=True, default=list(LOOPS),
              help="May be given twice.")  # fmt: skip
@click.option("--pool", type=click.Choice(list(POOLS)), default="max")
@click.option("--epochs", type=click.IntRange(1, 1000), default=10)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Weights, split and order.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Save the curves as PNG.")
def main(loops: tuple[str, ...], pool: str, epochs: int, seed: int, picture: Path | None) -> None:
    if picture and (reason := refused(picture)):
        raise click.BadParameter(f"cannot write {picture}: {reason}", param_hint="--plot")
    console = Console(highlight=False)
    jobs = [Job(loop, side, pool, epochs, seed) for loop in dict.fromkeys(loops) for side in SIDES]
    results: dict[tuple[str, str], Result] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(jobs) * epochs)
            for job in jobs:
                progress.update(task, description=f"{LOOPS[job.loop]}, {job.side}'s pooling")
                results[job.loop, job.side] = in_a_process(job, lambda: progress.advance(task))
    except KeyboardInterrupt:
        console.print(f"stopped after {len(results)} of {len(jobs)} trainings; nothing was saved")
        sys.exit(130)
    console.print(table(results))
    console.print(
        "kept: what autograd keeps from forward to backward in a step; peak: what the training\n"
        f"adds to the memory of its process; right: of {HELD_OUT} digits held out\n",
        style="dim",
    )
    differences = {
        loop: apart(results[loop, "torch"].losses, results[loop, "poolkit"].losses)
        for loop in dict.fromkeys(loops)
    }
    for loop, difference in differences.items():
        steps = len(results[loop, "torch"].losses)
        console.print(f"{LOOPS[loop]}: {verdict(difference, steps, pool)}")
    if picture:
        plot(picture, results)
        console.print(f"{picture}")
    if pool == "max" and any(differences.values()):
        sys.exit("poolkit promises the bits of torch's maxima and of their gradients")


if __name__ == "__main__":
    main()
