"""Results in words: tables for the terminal, Markdown for the documentation and the README."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .bounds import BOUNDS, SMALL
from .cases import LAYOUTS, PHASES
from .summary import NOISE, Group, Record, Target, groups, slower, targets, title
from .timing import MOST_SAMPLES

LAYOUT_NAMES = {"contiguous": "contiguous", "channels_last": "channels-last"}
PHASE_NAMES = {
    "inference": "inference forward",
    "training": "training forward",
    "backward": "backward",
}
RATIO_NAMES = {
    "speedup": "torch / poolkit",
    "best": "best peer / poolkit",
    "limit": "poolkit / limit",
}
KIND_NAMES = {
    "inference": "inference",
    "gradient": "with gradient",
    "step": "with gradient, and backward",
}
MODEL_COLUMNS = {
    ("inference", "contiguous"): "inference, contiguous",
    ("inference", "channels_last"): "inference, channels-last",
    ("step", "contiguous"): "training step, contiguous",
}
VERDICTS = {True: "holds", False: "missed", None: "not measured"}

BUSY = 0.5
"""From this load on other processes take part in the measurement."""
_NUMBER = re.compile(r"[+-]?[\d.]+( [KM]iB| B|%)?( \(.+\))?")

Results = dict[str, Any]
"""What the JSON file holds."""
Rows = list[list[str]]


def number(value: float | None) -> str:
    """Three digits are enough for a ratio; a dash for what was not measured."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def spread(value: dict[str, float] | None) -> str:
    """Median and 10-90 % range, as in `9.10 (8.70-9.50)`."""
    if value is None:
        return "-"
    return f"{number(value['median'])} ({number(value['p10'])}-{number(value['p90'])})"


def threads_text(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def size_in_bytes(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


# ---- tables: a head and rows, for either kind of output -----------------------------------------

CASE_HEAD = [
    "case",
    "operator",
    "layout",
    *(f"{phase}: {RATIO_NAMES[ratio]}" for phase in PHASES for ratio in RATIO_NAMES),
]


def case_rows(records: Sequence[Record]) -> dict[str, Rows]:
    """Per dtype and thread count, a row per tensor: three ratios of every phase."""
    tables: dict[str, dict[tuple[str, ...], dict[str, Record]]] = {}
    for r in records:
        heading = f"{r['dtype']}, {threads_text(r['thread_count'])}"
        row = (f"{r['network']} {r['size']}", r["label"], LAYOUT_NAMES[r["layout"]])
        tables.setdefault(heading, {}).setdefault(row, {})[r["phase"]] = r
    return {
        heading: [
            [*row, *(cell for phase in PHASES for cell in _cells(by_phase.get(phase)))]
            for row, by_phase in table.items()
        ]
        for heading, table in tables.items()
    }


def _cells(record: Record | None) -> tuple[str, str, str]:
    if record is None:
        return "", "", ""
    if "torch" in record["wrong"]:
        speedup = "differs"
    elif "torch" in record["left_out"]:
        speedup = "cannot"
    else:
        speedup = spread(record["speedup"].get("torch"))
    best = record["best_peer"]
    # Without its range, which "Where a peer is faster" and the JSON file have.
    named = f"{number(record['speedup'][best]['median'])} {best}" if best else "-"
    return speedup, named, spread(record["over_limit"])


SUMMARY_HEAD = ["dtype", "threads", "phase", "layout", "points"]
SUMMARY_RATIOS = {"speedup": "lowest", "best": "lowest", "limit": "highest"}
"""Each ratio with the end at which poolkit does worst."""


def summary_table(found: Sequence[Group], peers: Sequence[str]) -> tuple[list[str], Rows]:
    """Head and rows; the best peer has columns of its own once there are several."""
    ratios = [ratio for ratio in SUMMARY_RATIOS if ratio != "best" or len(peers) > 1]
    head = [*SUMMARY_HEAD]
    for ratio in ratios:
        head += [f"{RATIO_NAMES[ratio]}: mean", "lowest", "highest", f"{SUMMARY_RATIOS[ratio]} at"]
    rows: dict[tuple[str, ...], dict[str, Group]] = {}
    for g in found:
        key = (g.dtype, g.threads, PHASE_NAMES[g.phase], LAYOUT_NAMES[g.layout])
        rows.setdefault(key, {})[g.ratio] = g
    return head, [
        [
            *key,
            str(max(g.count for g in by_ratio.values())),
            *(cell for ratio in ratios for cell in _group_cells(by_ratio.get(ratio))),
        ]
        for key, by_ratio in rows.items()
    ]


def _group_cells(g: Group | None) -> list[str]:
    if g is None:
        return ["-"] * 4
    return [number(g.mean), number(g.lowest), number(g.highest), g.worst]


TARGET_HEAD = ["target", "", "measured"]


def target_rows(found: Sequence[Target]) -> Rows:
    return [[t.text, VERDICTS[t.holds], t.measured] for t in found]


OVERHEAD_HEAD = ["call", "", "threads", "torch, us", "poolkit, us", "difference, us"]


def overhead_rows(overhead: Sequence[Record]) -> Rows:
    return [
        [
            title(r),
            KIND_NAMES[r["kind"]],
            str(r["thread_count"]),
            *(spread(r["microseconds"][name]) for name in ("torch", "poolkit")),
            "{median:+.2f} ({p10:+.2f} to {p90:+.2f})".format(**r["difference"]),
        ]
        for r in overhead
    ]


SAVED_HEAD = ["case", "operator", "torch", "poolkit", "bytes per output element"]


def saved_rows(records: Sequence[Record]) -> Rows:
    """Bytes kept for backward, by contiguous float32 inputs; once per tensor."""
    rows = {}
    for r in records:
        if r["saved_bytes"] and (r["dtype"], r["layout"]) == ("float32", "contiguous"):
            kept = r["saved_bytes"]
            rows[title(r)] = [
                f"{r['network']} {r['size']}",
                r["label"],
                size_in_bytes(kept.get("torch")),
                size_in_bytes(kept["poolkit"]),
                number(kept["poolkit"] / r["output_elements"]),
            ]
    return list(rows.values())


MODEL_HEAD = [
    "network",
    "input",
    "pooling in torch's inference",
    *(f"{what}: torch / poolkit" for what in MODEL_COLUMNS.values()),
]


def model_rows(found: Sequence[Record]) -> Rows:
    rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    shares: dict[tuple[str, str], str] = {}
    for r in found:
        names = (r["title"], r["size"])
        cell = "differs" if r["wrong"] else spread(r["speedup"]["torch"])
        rows.setdefault(names, {})[r["phase"], r["layout"]] = cell
        if r["layout"] == "contiguous" and "share" in r:
            shares[names] = f"{r['share']:.0%}"
    return [
        [*names, shares.get(names, "-"), *(cells.get(column, "-") for column in MODEL_COLUMNS)]
        for names, cells in rows.items()
    ]


MEMORY_HEAD = [
    "network",
    "input",
    *(f"{what}: {side}" for what in ("kept for backward", "peak")
      for side in ("torch", "poolkit", "poolkit / torch")),
]  # fmt: skip


def memory_rows(found: Sequence[Record]) -> Rows:
    return [
        [
            r["title"],
            r["size"],
            *(cell for what in ("saved_bytes", "bytes") for cell in _memory_cells(r[what])),
        ]
        for r in found
    ]


def _memory_cells(count: dict[str, int]) -> tuple[str, str, str]:
    ratio = number(count["poolkit"] / count["torch"])
    return size_in_bytes(count["torch"]), size_in_bytes(count["poolkit"]), ratio


MISSED_HEAD = ["target", "case", "layout", "threads", "poolkit / limit"]


def missed_rows(records: Sequence[Record]) -> Rows:
    """The points that miss a target of the time over the limit, the worst first in each."""
    return [
        [
            bound.text,
            f"{r['network']} {title(r)}",
            LAYOUT_NAMES[r["layout"]],
            str(r["thread_count"]),
            spread(r["over_limit"]),
        ]
        for bound in BOUNDS
        for _, r in bound.missed(records)
    ]


SLOWER_HEAD = ["case", "dtype", "layout", "phase", "threads", "peer", "peer / poolkit"]


def slower_rows(records: Sequence[Record]) -> Rows:
    return [
        [
            f"{r['network']} {title(r)}",
            r["dtype"],
            LAYOUT_NAMES[r["layout"]],
            PHASE_NAMES[r["phase"]],
            str(r["thread_count"]),
            peer,
            spread(r["speedup"][peer]),
        ]
        for r, peer in slower(records)
    ]


def _targets(results: Results) -> list[Target]:
    return targets(results["records"], results["overhead"], results["models"])


def allocator_paragraph(results: Results) -> str:
    """How results came by their memory."""
    if not results["machine"].get("keeps_memory"):
        return (
            "**Memory.** A result that comes fresh from the system costs time for every page, and "
            "whose does is\nchance: the C library here cannot be told to keep what is freed."
        )
    return (
        "**Memory.** Networks are measured with the C library as it is. Before the single calls it "
        "is told to\nkeep what is freed: else it gives large results back to the system, and pages "
        "that are new cost\nseveral times what pooling does. Which contestant meets them is chance."
    )


def machine_line(results: Results) -> str:
    """Machine and versions in one sentence."""
    m, v = results["machine"], results["versions"]
    parts = [
        m["processor"],
        threads_text(m["threads"]),
        m["caches"],
        f"{m['memory_gib']} GiB" if m["memory_gib"] else "",
        m["system"],
        # Libraries suffer differently from other processes: such figures compare nothing.
        f"BUSY: load {m['load']:.1f} before the run" if (m["load"] or 0) > BUSY else "",
    ]
    software = [f"{name} {version}" for name, version in v.items()]
    return "; ".join(part for part in parts if part) + "; " + ", ".join(software)


def missing_line(results: Results) -> str:
    missing = results["missing"]
    return "; ".join(f"{name} ({reason})" for name, reason in missing.items()) or "none"


def remarks(records: Sequence[Record]) -> list[str]:
    """Who could not run which points, and whose results were wrong: a line per reason."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for r in records:
        for verb, found in (("differs from poolkit", r["wrong"]), ("did not run", r["left_out"])):
            for name, reason in found.items():
                key = (name, verb, reason)
                lines.setdefault(key, []).append(
                    f"{title(r)} {r['dtype']} {LAYOUT_NAMES[r['layout']]} {r['phase']}"
                )
    return [
        f"{name} {verb} in {len(where)} point{'s' * (len(where) > 1)}, first {where[0]}: {reason}"
        for (name, verb, reason), where in lines.items()
    ]


# ---- the terminal -------------------------------------------------------------------------------


def show(results: Results, console: Console) -> None:
    """Everything, ending with the summary, the targets and what is missing."""
    records, overhead = results["records"], results["overhead"]
    for heading, rows in case_rows(records).items():
        _table(console, heading + "; median (10-90 %)", CASE_HEAD, rows)
    _table(console, "Kept for backward, float32", SAVED_HEAD, saved_rows(records))
    _table(console, "Whole models", MODEL_HEAD, model_rows(results["models"]))
    _table(console, "Memory of a training step", MEMORY_HEAD, memory_rows(results["memory"]))
    _table(console, "Cost of a call", OVERHEAD_HEAD, overhead_rows(overhead))
    _table(console, "Where a peer is faster", SLOWER_HEAD, slower_rows(records))
    _table(console, "Where a target is missed", MISSED_HEAD, missed_rows(records))
    _table(console, "Summary; geometric means", *summary_table(groups(records), results["peers"]))
    _table(console, "Targets", TARGET_HEAD, target_rows(_targets(results)))
    for line in remarks(records):
        console.print(line, markup=False, highlight=False)
    for name, text in (("Missing", missing_line(results)), ("On", machine_line(results))):
        console.print(f"{name}: {text}", markup=False, highlight=False)


def _table(console: Console, heading: str, head: list[str], rows: Rows) -> None:
    if not rows:
        return
    table = Table(title=heading, box=box.SIMPLE, title_justify="left")
    numeric = [all(_is_numeric(row[i]) for row in rows) for i in range(len(head))]
    for name, right in zip(head, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _is_numeric(cell: str) -> bool:
    return cell in ("", "-", "differs", "cannot") or bool(_NUMBER.fullmatch(cell))


# ---- Markdown -----------------------------------------------------------------------------------


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and all(_is_numeric(row[i]) for row in rows) for i in range(len(head))]
    rule = ["--:" if right else "---" for right in numeric]
    cells = [list(head), rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


PAGE = """# Benchmarks

poolkit, every peer and the physical limit, measured in one run on the same tensors by

```sh
{command}
```

on {machine}. Generated by that command; do not edit.

**How.** Each peer's result is checked before it is timed: maxima to the bit, and so are torch
eager's float32 gradients of them; all else up to the roundings that both may make. After a warm-up
the contestants run in turns, with Python's garbage collector off: in every round each makes calls
that are not timed, for two milliseconds and one at least, so that the caches hold what it uses, and
then up to {samples} samples. Idle threads of one library spin and would slow the next one down, so
before another library's threads are needed those of the last one are given the time to fall asleep.
Ratios are taken round by round; a figure is the median, with the 10-90 % range in brackets. While
such a range of a peer's ratio reaches across 1, so that it is undecided who is faster, the point is
measured again, up to twice, while the places in memory of the results before are taken.

{allocator}

**The peers** compute from the same tensors, converted once, before the timing.

- torch eager; `torch.compile` of torch's functions, for static shapes. As for poolkit, a call
  allocates its result.
- oneDNN: torch's mkldnn tensors, which are NCHW.
- ONNX Runtime: a model of one node; input and output are bound beforehand. It computes inference
  alone, and channels-last only for 2-D maxima of 8-bit integers (`NhwcMaxPool`).
- OpenVINO: a model of one operation, latency hint, float32 precision, input and output bound
  beforehand. It computes inference alone. It has NCHW pooling only: a channels-last tensor would be
  transposed, pooled and transposed back.
- JAX: `lax.reduce_window` and its `vjp`, compiled by XLA, NHWC for channels-last. XLA's number of
  threads is fixed when it starts: a run with several threads measures it with all of them only.

**The limit** is a native kernel that reads the bytes of the case once and writes its result's bytes
once, into memory that was touched before, on the same threads in the same rounds. Training forward
of max also writes a byte per output (two above 256 taps); backward reads the output's gradient and
these bytes, and writes the input's gradient. A ratio of 1 is the best that memory allows.

**Missing:** {missing}.

## Summary

Points above {small:,} elements; means are geometric; `torch / poolkit` is how many times longer
torch takes, `best peer / poolkit` how many times longer the fastest peer of that point does.

{summary}
## Targets

{targets}
## Where a peer is faster

What was tried on these kernels, and what came of it, is in the log of [kernels.md](kernels.md#log).

{slower}
## Where a target is missed

float32, above {small:,} elements. The rest of the targets are single numbers, above.

{missed}
## Whole models

Networks of pytorchcv with random weights, float32: as they are, against a twin that
`poolkit.accelerate` took. AlexNet also averages across channels, inside torch's function for local
response normalization, where there is no module to replace: it runs under `poolkit.patch_torch`,
and to put that on and take it off again (some 3 ms) is part of its time. A training step is forward
and backward. Results are checked to be equal up to rounding: outputs in float32, gradients in
float64, because networks in training amplify it. Pooling's part of torch's time, here of contiguous
inference by torch's profiler, bounds what can be gained: a half of it could at most double the
speed.

{models}
## Memory of a training step

Kept for backward: the tensors that autograd saves in one training step, each memory once, without
the weights. Peak: by how much one step raises the highest resident set of its process, as the
system counts it. Every step has a process of its own, in which weights and input were made before.

{memory}
## Cost of a call

On a tensor so small that nothing else counts.

{overhead}
## Kept for backward

What autograd keeps between forward and backward, float32. torch keeps its input too, which may be
alive for other reasons.

{saved}
## Every case

{cases}"""


def markdown(results: Results) -> str:
    """The page docs/benchmarks.md."""
    records, overhead = results["records"], results["overhead"]
    lost, whole, peaks = (
        slower_rows(records), model_rows(results["models"]), memory_rows(results["memory"])
    )  # fmt: skip
    missed = missed_rows(records)
    notes = "".join(f"- {line}\n" for line in remarks(records))
    tables = [
        f"### {heading}\n\n{markdown_table(CASE_HEAD, rows)}"
        for heading, rows in case_rows(records).items()
    ]
    return PAGE.format(
        command=results["command"],
        machine=machine_line(results),
        allocator=allocator_paragraph(results),
        missing=missing_line(results),
        small=SMALL,
        samples=MOST_SAMPLES,
        summary=markdown_table(*summary_table(groups(records), results["peers"])),
        targets=markdown_table(TARGET_HEAD, target_rows(_targets(results))),
        slower=markdown_table(SLOWER_HEAD, lost)
        if lost
        else f"Nowhere beyond {NOISE:.0%} noise.\n",
        missed=markdown_table(MISSED_HEAD, missed) if missed else "Nowhere.\n",
        models=markdown_table(MODEL_HEAD, whole) if whole else "Not measured in this run.\n",
        memory=markdown_table(MEMORY_HEAD, peaks) if peaks else "Not measured in this run.\n",
        overhead=markdown_table(OVERHEAD_HEAD, overhead_rows(overhead)),
        saved=markdown_table(SAVED_HEAD, saved_rows(records)),
        cases="\n".join([notes, *tables] if notes else tables),
    )


def readme(results: Results) -> str:
    """A small table for the README: geometric means, float32, all threads if measured."""
    float32 = [g for g in groups(results["records"]) if g.dtype == "float32"]
    threads = next((g.threads for g in float32), "all")
    found = {(g.phase, g.layout, g.ratio): g for g in float32 if g.threads == threads}
    count = results["machine"]["threads"] if threads == "all" else 1
    head = ["float32", *(f"{RATIO_NAMES[x]}, {LAYOUT_NAMES[y]}" for x in ("speedup", "limit")
                         for y in LAYOUTS)]  # fmt: skip
    rows = []
    for phase in PHASES:
        row = [PHASE_NAMES[phase]]
        for ratio in ("speedup", "limit"):
            for layout in LAYOUTS:
                g = found.get((phase, layout, ratio))
                edge = g and number(getattr(g, SUMMARY_RATIOS[ratio]))
                row.append(f"**{number(g.mean)}** ({edge})" if g else "-")
        rows.append(row)
    points = max((g.count for g in found.values()), default=0)
    v, m = results["versions"], results["machine"]
    return (
        markdown_table(head, rows)
        + f"\nGeometric mean (worst) of up to {points} feature maps of well-known networks; "
        f"{m['processor']}, {threads_text(count)}, torch {v['torch']}. Every case and the method: "
        "[docs/benchmarks.md](docs/benchmarks.md).\n"
    )
