"""Measure poolkit against its peers and against the limit that memory sets."""

import argparse
import fnmatch
import itertools
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from . import memory, models, report
from .cases import (
    CASES,
    DTYPES,
    HEADLINES,
    LAYOUTS,
    PHASES,
    THREADS,
    TINY,
    Case,
    Point,
    in_default_run,
    points,
)
from .machine import machine, versions
from .measure import ALL_THREADS, call_overhead, measure, set_threads
from .peers import OPTIONS, chosen
from .summary import groups, targets
from .timing import keep_memory

SCHEMA = 4
OUT = Path("build/bench")

T = TypeVar("T", Case, models.Model, memory.Case)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)

    def several(name: str, choices: Iterable[str], text: str) -> None:
        def parse(value: str) -> list[str]:
            unknown = [item for item in value.split(",") if item not in choices]
            if unknown:
                raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(choices)}")
            return value.split(",")

        p.add_argument(f"--{name}", type=parse, metavar=",".join(choices), help=text)

    p.add_argument("--case", nargs="+", metavar="NAME", help="cases; patterns such as 'vgg-*' work")
    several("dtype", tuple(DTYPES), "dtypes")
    several("layout", LAYOUTS, "memory layouts")
    several("threads", THREADS, "one thread, or as many as torch takes")
    several("phase", PHASES, "forward, forward that records for backward, backward")
    several("peer", OPTIONS, "peers; all that are installed by default")
    extent = p.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", action="store_true", help="a few cases in float32, shortly; no whole models"
    )
    extent.add_argument(
        "--full", action="store_true", help="every case x dtype x layout x threads x phase"
    )
    p.add_argument(
        "--seconds",
        type=float,
        help="time to spend on a point (0.2; quick: 0.04); thrice while the fastest is undecided",
    )
    p.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="plots and JSON (%(default)s)"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="the JSON, if not DIR/results.json")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="write the page of the docs")
    p.add_argument("--readme", action="store_true", help="print the table of the README")
    p.add_argument("--from", dest="source", type=Path, metavar="FILE",
                   help="measure nothing: report what this JSON file holds")  # fmt: skip
    p.add_argument("--list", action="store_true", help="print the names of the cases")
    return p


def select(names: list[str] | None, cases: Iterable[T]) -> list[T]:
    """The cases that one of the names or patterns matches; all without names."""
    if names is None:
        return list(cases)
    return [c for c in cases if any(fnmatch.fnmatchcase(c.name, name) for name in names)]


def plan(args: argparse.Namespace) -> list[Point]:
    """The points to measure. Every option narrows the run; --full and --quick set its extent."""
    axes = {"dtypes": args.dtype, "layouts": args.layout, "threads": args.threads,
            "phases": args.phase}  # fmt: skip
    given = {axis: values for axis, values in axes.items() if values is not None}
    if args.quick:
        cases = select(args.case or list(HEADLINES), CASES)
        return list(
            points(cases, **{"dtypes": ["float32"], "threads": ["all"]} | given, largest_batch=True)
        )
    found = points(select(args.case, CASES), **given)
    kept = [p for p in found if args.full or in_default_run(p)]
    if ALL_THREADS == 1 and args.threads != ["1"]:
        kept = [p for p in kept if p.threads == "all"]  # the same thing
    return kept


Whole = tuple[models.Model, str, str]
"""A network, its phase and its layout."""


def plan_whole(args: argparse.Namespace) -> tuple[list[Whole], list[memory.Case]]:
    """The whole networks to measure, and those whose memory to measure: float32, all threads."""
    if "float32" not in (args.dtype or DTYPES) or "all" not in (args.threads or THREADS):
        return [], []
    if args.quick and not args.case:
        return [], []
    phases, layouts = set(args.phase or PHASES), args.layout or LAYOUTS
    chosen_models = select(args.case, models.MODELS)
    steps = bool(phases & {"training", "backward"})
    whole = []
    for model in chosen_models:
        if "inference" in phases:
            whole += [(model, "inference", layout) for layout in layouts]
        if steps and "contiguous" in layouts:
            whole.append((model, "step", "contiguous"))
    measured = select(args.case, memory.CASES) if steps else []
    return whole, measured


def run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure; gives what the JSON file holds."""
    todo = plan(args)
    threads = args.threads or (THREADS if ALL_THREADS > 1 else THREADS[1:])
    tiny = list(itertools.product(select(args.case, TINY), threads))
    whole, stepped = plan_whole(args)
    if not (todo or tiny or whole or stepped):
        raise SystemExit(
            "nothing to measure: no case of that name (see --list), or the default run leaves it "
            "out (add --full)"
        )
    peers, missing = chosen([OPTIONS[name] for name in args.peer] if args.peer else None)
    for peer in peers:
        peer.start(ALL_THREADS if "all" in threads else 1)
    if args.quick and not args.case:
        missing["whole models and their memory"] = "left out by --quick"
    elif (whole or stepped) and (reason := models.missing()):
        missing["whole models and their memory"] = reason
        whole, stepped = [], []
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "command": shlex.join(["python", "-m", "benchmarks", *_selection(args)]),
        "machine": machine(),
        "versions": versions() | {p.name: p.version() for p in peers if not p.is_torch},
        "peers": [p.name for p in peers],
        "missing": missing,
        "records": [],
        "failures": [],
        "overhead": [],
        "models": [],
        "memory": [],
    }
    seconds = args.seconds or (0.04 if args.quick else 0.2)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    def measured(kind: str, what: str, call: Callable[[], Any]) -> None:
        """Keep what the call measured; if poolkit itself fails, that, and the run goes on."""
        progress.update(task, description=what)
        try:
            results[kind] += call()
        except (RuntimeError, TypeError, ValueError) as error:
            message = f"{type(error).__name__}: {error}"
            results["failures"].append({"point": what, "error": message})
        progress.advance(task)
        done = int(progress.tasks[task].completed)
        if not console.is_terminal and 20 * done // total > 20 * (done - 1) // total:
            print(f"{done} of {total}: {what}", file=sys.stderr, flush=True)

    total = len(tiny) + len(todo) + len(whole) + len(stepped)
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=total)
            for case, count in tiny:
                call = partial(call_overhead, case, count, 5 * seconds)
                measured("overhead", f"{case.name} {count} call", call)
            for model, phase, layout in whole:
                call = partial(_listed, models.measure, model, phase, layout, seconds)
                measured("models", f"{model.name} {layout} {phase}", call)
            for case in stepped:
                measured("memory", case.name, partial(_listed, memory.measure, case))
            # Networks meet the allocator as it is; of single calls its moods would be all there is.
            results["machine"]["keeps_memory"] = keep_memory()
            for point in todo:
                call = partial(_listed, measure, point, peers, seconds)
                measured("records", _describe(point), call)
    except KeyboardInterrupt:  # what was measured is worth a report
        done = int(progress.tasks[task].completed)
        results["missing"]["the rest"] = f"interrupted after {done} of {total} measurements"
    set_threads("all")
    records, overhead = results["records"], results["overhead"]
    return results | {
        "summary": [asdict(g) for g in groups(records)],
        "targets": [asdict(t) for t in targets(records, overhead, results["models"])],
    }


def _listed(function: Callable[..., Any], *args: Any) -> list[Any]:
    return [function(*args)]


def _describe(p: Point) -> str:
    return f"{p.case.name} {p.batch} {p.dtype} {p.layout} {p.threads} {p.phase}"


def _selection(args: argparse.Namespace) -> list[str]:
    """The options that say what is measured, without those that name files."""
    words = [f"--{name}" for name in ("quick", "full") if getattr(args, name)]
    for name in ("dtype", "layout", "threads", "phase", "peer"):
        if values := getattr(args, name):
            words += [f"--{name}", ",".join(values)]
    if args.seconds:
        words += ["--seconds", f"{args.seconds:g}"]
    return [*words, "--case", *args.case] if args.case else words


def main() -> int:
    """Exit status 1 if a result was wrong or poolkit failed; a missed target is no failure."""
    args = parser().parse_args()
    if args.list:
        names = (*CASES, *TINY, *models.MODELS, *memory.CASES)
        print(*(c.name for c in names), sep="\n")
        return 0
    # Being asked to end is like Ctrl-C: what was measured is reported.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if args.source:
        results = json.loads(args.source.read_text(encoding="utf-8"))
        if results.get("schema") != SCHEMA:
            raise SystemExit(
                f"{args.source} has schema {results.get('schema')}; this version reads {SCHEMA}"
            )
    else:
        results = run(args, console)
        path = args.json or args.out / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    from . import plot  # matplotlib takes a second to import

    files = plot.write(results["records"], args.out)
    if args.markdown:
        args.markdown.write_text(report.markdown(results), encoding="utf-8")
    if args.readme:
        print(report.readme(results), end="")
    else:
        report.show(results, console)
        console.print("Plots:", *files, highlight=False, soft_wrap=True)
    for failure in results["failures"]:
        print(f"failed: {failure['point']}: {failure['error']}", file=sys.stderr)
    checked = [*results["records"], *results["models"]]
    return int(bool(results["failures"]) or any(r["wrong"] for r in checked))


if __name__ == "__main__":
    sys.exit(main())
