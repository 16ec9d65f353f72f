"""Measure poolkit against its peers and against the limit that memory sets."""

import argparse
import fnmatch
import itertools
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from . import report
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
from .measure import ALL_THREADS, Record, call_overhead, measure, set_threads
from .peers import PEERS, Peer, chosen
from .summary import groups, targets

SCHEMA = 1
OUT = Path("build/bench")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)

    def several(name: str, choices: tuple[str, ...], text: str) -> None:
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
    several("peer", tuple(PEERS), "peers; all that are installed by default")
    extent = p.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", action="store_true", help="a few cases in float32, shortly; under a minute"
    )
    extent.add_argument(
        "--full", action="store_true", help="every case x dtype x layout x threads x phase"
    )
    p.add_argument("--seconds", type=float, help="time to spend on a point (0.2; quick: 0.04)")
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


def select(names: list[str] | None, cases: tuple[Case, ...]) -> list[Case]:
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


def run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure; gives what the JSON file holds."""
    todo = plan(args)
    threads = args.threads or (THREADS if ALL_THREADS > 1 else THREADS[1:])
    tiny = list(itertools.product(select(args.case, TINY), threads))
    if not todo and not tiny:
        raise SystemExit(
            "nothing to measure: no case of that name (see --list), or the default run leaves it "
            "out (add --full)"
        )
    peers, missing = chosen(args.peer)
    results = {
        "schema": SCHEMA,
        "command": shlex.join(["python", "-m", "benchmarks", *_selection(args)]),
        "machine": machine(),
        "versions": versions() | {p.name: p.version() for p in peers if p.name != "torch"},
        "peers": [p.name for p in peers],
        "missing": missing,
    }
    seconds = args.seconds or (0.04 if args.quick else 0.2)
    records, failures, overhead = [], [], []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(todo) + len(tiny))
            for case, count in tiny:
                progress.update(task, description=f"{case.name} {count} call")
                overhead += call_overhead(case, count, 5 * seconds)
                progress.advance(task)
            for point in todo:
                progress.update(task, description=_describe(point))
                record = attempt(point, peers, seconds)
                (failures if "error" in record else records).append(record)
                progress.advance(task)
    except KeyboardInterrupt:  # what was measured is worth a report
        results["missing"]["the rest"] = f"interrupted after {len(records)} of {len(todo)} points"
    set_threads("all")
    return results | {
        "records": records,
        "failures": failures,
        "overhead": overhead,
        "summary": [asdict(g) for g in groups(records)],
        "targets": [asdict(t) for t in targets(records, overhead)],
    }


def attempt(point: Point, peers: list[Peer], seconds: float) -> Record:
    """The point's record; if poolkit itself fails, one with an ``error``, and the run goes on."""
    try:
        return measure(point, peers, seconds)
    except (RuntimeError, TypeError, ValueError) as error:
        return {"point": _describe(point), "error": f"{type(error).__name__}: {error}"}


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
        print(*(c.name for c in (*CASES, *TINY)), sep="\n")
        return 0
    console = Console(width=None if sys.stdout.isatty() else 200)
    if args.source:
        results = json.loads(args.source.read_text(encoding="utf-8"))
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
    return int(bool(results["failures"]) or any(r["wrong"] for r in results["records"]))


if __name__ == "__main__":
    sys.exit(main())
