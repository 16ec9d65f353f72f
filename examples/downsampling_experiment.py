"""What should halve a feature map? Train small networks that differ in nothing else, and see.

    python examples/downsampling_experiment.py --plot experiment.png
    torchrun --nproc-per-node 2 examples/downsampling_experiment.py
    python examples/downsampling_experiment.py --data my/pictures

Maximum, average, max-blur, polyphase sampling and a strided convolution (with its control, a pool
behind the same convolution), under a global average and under a flattened map, on textures and on
digits that ship with scikit-image and scikit-learn. Every finished run is kept in a file: stopped,
the same command goes on where it was. --data takes a folder with a subfolder of pictures for each
class. docs/experiment.md has results, and what they do not show.
"""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

try:
    import click
    from experiment_data import TASKS, FolderError, pictures
    from experiment_report import END, START, plot, table, tasks_of, write_page
    from experiment_runs import HEADS, POOLS, Job, Result, RunsError, merge, part, read, run, write
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from train_digits import refused

    from poolkit.imaging import ImageError
except ModuleNotFoundError as missing:
    sys.exit(f"downsampling_experiment.py needs {missing.name}: pip install 'poolkit[examples]'")


@contextmanager
def group() -> Iterator[tuple[int, int]]:
    """This process's rank and the number of processes: those of torchrun, or one."""
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def together(size: int) -> None:
    """Wait for all processes."""
    if size > 1:
        dist.barrier()


def work(jobs: list[Job], path: Path, console: Console) -> None:
    """Run the jobs, and keep each as soon as it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(job.epochs for job in jobs))
        for number, job in enumerate(jobs, 1):
            what = f"{number} of {len(jobs)}: {Path(job.task).name}, {job.pool}, {job.head}"
            progress.update(bar, description=what)
            result = run(job, lambda: progress.advance(bar))
            write(path, {**read(path), job: result})


def finished(jobs: list[Job], path: Path) -> dict[Job, Result]:
    """Those of the jobs that the file has, in their order."""
    kept = read(path)
    return {job: kept[job] for job in jobs if job in kept}


def check_outputs(runs: Path, picture: Path | None, page: Path | None) -> None:
    """Refuse what could not be written, before the work."""
    for option, path in (("--runs", runs), ("--plot", picture), ("--write-docs", page)):
        if path and (reason := refused(path)):
            raise click.BadParameter(f"cannot write {path}: {reason}", param_hint=option)
    if page:
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        if f"{START}\n" not in text or END not in text.partition(START)[2]:
            raise click.BadParameter(
                f"{page} must have the lines {START!r} and {END!r}", param_hint="--write-docs"
            )


def check_inputs(data: Path | None, runs: Path) -> None:
    """Refuse a folder or a file of runs that cannot be read."""
    try:
        if data:
            pictures(str(data.absolute()))
    except (FolderError, ImageError) as error:
        raise click.BadParameter(str(error), param_hint="--data") from error
    try:
        read(runs)
    except RunsError as error:
        raise click.BadParameter(str(error), param_hint="--runs") from error


def several(choices: Iterable[str], option: str, name: str, text: str):
    """An option that may be given several times; by default all choices."""
    return click.option(option, name, type=click.Choice(list(choices)), multiple=True,
                        default=list(choices), help=text)  # fmt: skip


@click.command(context_settings={"show_default": True}, help=(__doc__ or "").split("\n\n")[0])
@click.option("--runs", "path", type=click.Path(path_type=Path), default=Path("experiment.jsonl"),
              help="The file of finished runs.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="A folder of pictures by class.")
@several(TASKS, "--task", "tasks", "Without --data. May be given twice.")
@several(POOLS, "--pool", "pools", "May be given several times.")
@several(HEADS, "--head", "heads", "May be given twice.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=10, help="Runs of each choice.")
@click.option("--epochs", type=click.IntRange(1, 1000), default=20)
@click.option("--per-class", type=click.IntRange(1, 10**6), default=32, help="Pictures to learn.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Save a plot as PNG.")
@click.option("--write-docs", "page", type=click.Path(path_type=Path),
              help="Put tables and plot into this page, between its marks.")  # fmt: skip
def main(
    path: Path, data: Path | None, tasks: tuple[str, ...], pools: tuple[str, ...],
    heads: tuple[str, ...], seeds: int, epochs: int, per_class: int, picture: Path | None,
    page: Path | None,
) -> None:  # fmt: skip
    check_outputs(path, picture, page)
    check_inputs(data, path)
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    names = [str(data.absolute())] if data else list(dict.fromkeys(tasks))
    # Seeds outermost: stopped early, every choice has about as many runs.
    choices = itertools.product(range(seeds), names, dict.fromkeys(pools), dict.fromkeys(heads))
    jobs = [Job(name, pool, head, s, epochs, per_class) for s, name, pool, head in choices]
    with group() as (rank, size):
        console = Console(highlight=False, quiet=rank != 0)
        if rank == 0:
            merge(path)
        together(size)
        done = finished(jobs, path)
        todo = [job for job in jobs if job not in done]
        if done:
            console.print(f"{len(done)} of {len(jobs)} runs are in {path} already", style="dim")
        try:
            work(todo[rank::size], path if size == 1 else part(path, rank), console)
        except KeyboardInterrupt:
            console.print(f"stopped; finished runs are in {path}: the same command goes on")
            sys.exit(130)
        together(size)
        if rank == 0:
            merge(path)
            report(finished(jobs, path), console, picture, page)


def report(
    runs: dict[Job, Result], console: Console, picture: Path | None, page: Path | None
) -> None:
    for task in tasks_of(runs):
        console.print(table(runs, task))
        console.print()
    console.print(
        "means over the seeds, with 95 % intervals (Student)\n"
        "consistency: the chance that two random moves of a picture are classified alike\n"
        "ms / step: of one batch, the median",
        style="dim",
    )
    if picture:
        plot(picture, runs)
        console.print(f"{picture}")
    if page:
        write_page(page, runs)
        console.print(f"{page}")


if __name__ == "__main__":
    main()
