"""What downsampling_experiment.py prints, plots and writes of its runs."""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from experiment_data import TASKS
from experiment_runs import HEADS, POOLS, Job, Result
from matplotlib.figure import Figure
from rich.table import Table
from scipy.stats import t

from poolkit.imaging import write_whole

COLUMNS = ("downsampling", "head", "accuracy %", "consistency %", "parameters", "ms / step")
COLOURS = ("#c75300", "#0072b2", "#009e73", "#cc79a7", "#6a6a6a", "#b8860b")
START, END = "<!-- results: written by the script -->", "<!-- end of the results -->"


@dataclass(frozen=True)
class Mean:
    """A mean in per cent, and half the width of its 95 % interval; NaN of a single value."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if math.isnan(self.half) else f"{self.mean:.1f} ± {self.half:.1f}"


@dataclass(frozen=True)
class Row:
    """The runs that differ by their seeds alone."""

    pool: str
    head: str
    accuracy: Mean
    consistency: Mean
    parameters: int
    step_ms: float

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `COLUMNS`."""
        return (self.pool, HEADS[self.head], str(self.accuracy), str(self.consistency),
                f"{self.parameters:,}", f"{self.step_ms:.1f}")  # fmt: skip


def mean(shares: Sequence[float]) -> Mean:
    """Student's interval of the mean over seeds."""
    n, values = len(shares), [100 * share for share in shares]
    half = math.nan
    if n > 1:
        half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Mean(statistics.mean(values), half)


def rows(runs: dict[Job, Result], task: str) -> list[Row]:
    """A row for each pair of head and downsampling that has runs of the task."""
    found = []
    for head in HEADS:
        for pool in POOLS:
            of = [r for j, r in runs.items() if (j.task, j.head, j.pool) == (task, head, pool)]
            if of:
                found.append(
                    Row(pool, head, mean([r.accuracy for r in of]),
                        mean([r.consistency for r in of]), of[0].parameters,
                        statistics.median([r.step_ms for r in of]))
                )  # fmt: skip
    return found


def title(task: str) -> str:
    how = "circular rolls" if task == "digits" else "crop shifts"
    return f"{task if task in TASKS else Path(task).name}, {how}"


def tasks_of(runs: Iterable[Job]) -> list[str]:
    return list(dict.fromkeys(job.task for job in runs))


def table(runs: dict[Job, Result], task: str) -> Table:
    shown = Table(title=title(task), box=None, pad_edge=False, padding=(0, 2, 0, 0),
                  title_justify="left")  # fmt: skip
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, no_wrap=True, justify="right" if number > 1 else "left")
    for row in rows(runs, task):
        shown.add_row(*row.cells())
    return shown


def markdown(runs: dict[Job, Result], picture: str) -> str:
    """The tables and the plot for a page of the documentation."""
    job = next(iter(runs))
    seeds = len({j.seed for j in runs})
    regime = (
        f"{seeds} seeds, {job.epochs} epochs, {job.per_class} pictures of each class to learn.\n"
        f"Means over the seeds, with 95 % intervals; torch {torch.__version__.split('+')[0]}, "
        f"one thread."
    )
    lines = [regime, "", f"![Accuracy and consistency of every choice]({picture})", ""]
    for task in tasks_of(runs):
        lines += [f"**{title(task).capitalize()}**", "", f"| {' | '.join(COLUMNS)} |",
                  "|---|---|---:|---:|---:|---:|"]  # fmt: skip
        lines += [f"| {' | '.join(row.cells())} |" for row in rows(runs, task)]
        lines.append("")
    return "\n".join(lines)


def write_page(page: Path, runs: dict[Job, Result]) -> None:
    """Put the results between their marks in a page, and the plot beside it."""
    picture = page.with_suffix(".png")
    text, results = page.read_text(encoding="utf-8"), markdown(runs, picture.name)
    marked = re.compile(f"(?<={re.escape(START)}\n).*(?={re.escape(END)})", re.DOTALL)
    text = marked.sub(lambda _: f"\n{results}\n", text)
    plot(picture, runs)
    write_whole(page, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def plot(path: Path, runs: dict[Job, Result]) -> None:
    """Consistency over accuracy, a panel for each task, as a PNG: the whole file, or nothing."""
    tasks = tasks_of(runs)
    figure = Figure(figsize=(1.6 + 4.4 * len(tasks), 4.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    colours = dict(zip(POOLS, COLOURS, strict=True))
    for axes, task in zip(panels, tasks, strict=True):
        for row in rows(runs, task):
            whole = row.head == "gap"
            axes.errorbar(
                row.accuracy.mean, row.consistency.mean, row.consistency.half, row.accuracy.half,
                fmt="o" if whole else "s", color=colours[row.pool], elinewidth=1,
                markerfacecolor=colours[row.pool] if whole else "white", label=row.pool,
            )  # fmt: skip
        axes.set(title=title(task), xlabel="accuracy of what was held out (%)")
        axes.grid(color="#e4e4e4", linewidth=0.6)
    panels[0].set_ylabel("two moves are classified alike (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown),
                  frameon=False, title="filled: global average, open: flatten")  # fmt: skip
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
