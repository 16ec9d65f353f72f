"""What the measured points say together: means, worst cases, and which targets hold."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .bounds import BOUNDS, SMALL, Bound, Record
from .cases import DTYPES, LAYOUTS, PHASES, THREADS, offset_bytes
from .models import MODELS, Model

NOISE = 0.05
"""A peer that is less faster than this may owe it to chance."""
NETWORKS = ("ResNet", "VGG", "GoogLeNet")


def geometric_mean(values: Iterable[float]) -> float:
    """`(v_1 * ... * v_n) ** (1 / n)`: halves and doublings cancel. NaN of no values."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


@dataclass(frozen=True)
class Group:
    """One ratio over the points of a dtype, thread count, phase and layout."""

    dtype: str
    threads: str
    phase: str
    layout: str
    ratio: str
    """`speedup`: torch / poolkit. `best`: best peer / poolkit. `limit`: poolkit / limit."""
    count: int
    mean: float
    lowest: float
    highest: float
    worst: str
    """The point where poolkit does worst: lowest speed-up, or farthest from the limit."""


def ratio_of(record: Record, ratio: str) -> float | None:
    """The median of a ratio in a point, or None where it was not measured."""
    if ratio == "limit":
        spread = record["over_limit"]
    else:
        spread = record["speedup"].get("torch" if ratio == "speedup" else record["best_peer"])
    return spread and spread["median"]


def groups(records: Sequence[Record]) -> list[Group]:
    """Every group that has points, in the order of the axes."""
    found = []
    for dtype, threads, phase, layout in itertools.product(
        DTYPES, reversed(THREADS), PHASES, LAYOUTS
    ):
        wanted = {"dtype": dtype, "threads": threads, "phase": phase, "layout": layout}
        members = [r for r in records if wanted.items() <= r.items() and r["elements"] > SMALL]
        for ratio in ("speedup", "best", "limit"):
            values = {
                f"{title(r)}, {r['best_peer']}" if ratio == "best" else title(r): value
                for r in members
                if (value := ratio_of(r, ratio)) is not None
            }
            if not values:
                continue
            pick = max if ratio == "limit" else min
            found.append(
                Group(
                    **wanted,
                    ratio=ratio,
                    count=len(values),
                    mean=geometric_mean(values.values()),
                    lowest=min(values.values()),
                    highest=max(values.values()),
                    worst=pick(values, key=values.__getitem__),
                )
            )
    return found


def title(record: Record) -> str:
    return f"{record['size']} {record['label']}"


@dataclass(frozen=True)
class Target:
    """A promise, whether it holds (None: this run cannot tell), and what was measured."""

    text: str
    holds: bool | None
    measured: str


def targets(
    records: Sequence[Record], overhead: Sequence[Record], networks: Sequence[Record]
) -> list[Target]:
    """The targets, from the records of single operators, of calls and of whole networks."""
    return [
        _speedup(records, "8x64x224x224", "max 2/2", 8),
        _speedup(records, "8x64x112x112", "max 3/2/1", 15),
        _mean_speedup(records, 15),
        *(_never_slower(records, dtype) for dtype in DTYPES),
        _no_faster_peer(records),
        *(_bound(records, bound) for bound in BOUNDS),
        *(_large_windows(records, family) for family in ("max", "avg")),
        *(_falls(records, dtype) for dtype in DTYPES if dtype != "float32"),
        _saved(records),
        _tiny(overhead, "inference", "a call in inference", 2),
        _tiny(overhead, "gradient", "a call that records for backward", 4),
        *(_network(networks, model, model.target) for model in MODELS if model.target),
        _training_never_slower(networks),
    ]


def _speedup(records: Sequence[Record], size: str, label: str, least: float) -> Target:
    text = f"contiguous float32 inference, {size} {label}: at least {least} x torch"
    wanted = {
        "size": size,
        "label": label,
        "dtype": "float32",
        "layout": "contiguous",
        "phase": "inference",
    }
    found = {
        r["threads"]: (r["thread_count"], value)
        for r in records
        if wanted.items() <= r.items() and (value := ratio_of(r, "speedup")) is not None
    }
    measured = ", ".join(
        f"{value:.1f} x on {count} thread{'s' * (count > 1)}" for count, value in found.values()
    )
    holds = found["all"][1] >= least if "all" in found else None
    return Target(text, holds, measured or "not measured")


def _mean_speedup(records: Sequence[Record], least: float) -> Target:
    text = f"contiguous float32 inference, all 2-D cases: mean at least {least} x torch"
    wanted = {"dtype": "float32", "layout": "contiguous", "phase": "inference", "rank": 2}
    values = [
        value
        for r in records
        if wanted.items() <= r.items()
        and r["threads"] == "all"
        and r["elements"] > SMALL
        and (value := ratio_of(r, "speedup")) is not None
    ]
    if not values:
        return Target(text, None, "not measured")
    mean = geometric_mean(values)
    return Target(text, mean >= least, f"{mean:.1f} x over {len(values)} points")


def _bound(records: Sequence[Record], bound: Bound) -> Target:
    found = bound.ratios(records)
    if not found:
        return Target(bound.text, None, "not measured")
    missed, (highest, worst) = bound.missed(records), found[0]
    mean = geometric_mean(ratio for ratio, _ in found)
    return Target(
        bound.text,
        not missed,
        f"{len(missed)} of {len(found)} points miss it; mean {mean:.2f}, highest {highest:.2f}, "
        f"{title(worst)} {worst['layout']} on {worst['thread_count']}",
    )


def _large_windows(records: Sequence[Record], family: str) -> Target:
    text = f"float32 inference, {family} 31x31 of 1000x1000: at most 1.5 x the time of 5x5"
    wanted = {"network": "Morphology", "phase": "inference", "dtype": "float32", "threads": "all"}
    took = {
        (r["layout"], r["kernel"][0]): r["seconds"]["poolkit"]["median"]
        for r in records
        if wanted.items() <= r.items() and r["family"] == family
    }
    ratios = {
        layout: took[layout, 31] / took[layout, 5]
        for layout in LAYOUTS
        if {(layout, 31), (layout, 5)} <= took.keys()
    }
    if not ratios:
        return Target(text, None, "not measured")
    measured = ", ".join(f"{value:.2f} x {layout}" for layout, value in ratios.items())
    return Target(text, max(ratios.values()) <= 1.5, measured)


def _falls(records: Sequence[Record], dtype: str) -> Target:
    """Of every point the share of float32's time, over the share of its bytes."""
    text = f"{dtype}: on average no more of float32's time than of its bytes, beyond {NOISE:.0%}"
    times: dict[tuple[Any, ...], dict[str, Record]] = {}
    for r in records:
        if r["phase"] == "inference" and r["elements"] > SMALL:
            key = (r["size"], r["label"], r["layout"], r["threads"])
            times.setdefault(key, {})[r["dtype"]] = r
    shares = []
    for by_dtype in times.values():
        if {"float32", dtype} <= by_dtype.keys():
            narrow, wide = by_dtype[dtype], by_dtype["float32"]
            time = [r["seconds"]["poolkit"]["median"] for r in (narrow, wide)]
            size = [r["read_bytes"] + r["written_bytes"] for r in (narrow, wide)]
            shares.append((time[0] / time[1], size[0] / size[1]))
    if not shares:
        return Target(text, None, "not measured")
    time, size = (geometric_mean(values) for values in zip(*shares, strict=True))
    return Target(
        text,
        time <= size * (1 + NOISE),
        f"{time:.2f} of the time, {size:.2f} of the bytes, over {len(shares)} points",
    )


def _saved(records: Sequence[Record]) -> Target:
    text = "kept for backward: a byte for each output of max (two above 256 taps), nothing of avg"
    found = [r for r in records if r["saved_bytes"] and r["family"] in ("max", "avg")]
    if not found:
        return Target(text, None, "not measured")
    more = [
        title(r)
        for r in found
        if r["saved_bytes"]["poolkit"] > offset_bytes(r["family"], r["taps"]) * r["output_elements"]
    ]
    measured = f"{len(more)} of {len(found)} points keep more"
    return Target(text, not more, measured + (f", first {more[0]}" if more else ""))


def _never_slower(records: Sequence[Record], dtype: str) -> Target:
    text = (
        f"{dtype}: nothing of {', '.join(NETWORKS)} above {SMALL:,} elements slower than torch "
        f"beyond {NOISE:.0%} noise"
    )
    measured = {
        f"{r['phase']} {title(r)} {r['layout']} on {r['thread_count']}": value
        for r in records
        if r["network"] in NETWORKS
        and r["dtype"] == dtype
        and r["elements"] > SMALL
        and (value := ratio_of(r, "speedup")) is not None
    }
    if not measured:
        return Target(text, None, "not measured")
    slower = [name for name, value in measured.items() if value < 1 - NOISE]
    worst = min(measured, key=measured.__getitem__)
    return Target(
        text,
        not slower,
        f"{len(slower)} of {len(measured)} slower; lowest {measured[worst]:.2f} x, {worst}",
    )


def _no_faster_peer(records: Sequence[Record]) -> Target:
    text = f"no peer faster than poolkit above {SMALL:,} elements, beyond {NOISE:.0%} noise"
    large = [r for r in records if r["elements"] > SMALL and r["best_peer"]]
    if not large:
        return Target(text, None, "not measured")
    lost = slower(large)
    points = len({id(r) for r, _ in lost})
    measured = f"{points} of {len(large)} points have one"
    if lost:
        r, peer = lost[0]
        value = r["speedup"][peer]["median"]
        measured += f"; lowest {value:.2f} x, {peer}, {r['phase']} {title(r)} {r['layout']}"
    return Target(text, not lost, measured)


def _tiny(overhead: Sequence[Record], kind: str, what: str, most: float) -> Target:
    text = f"tiny tensor, {what}: at most torch's + {most} us"
    extra = {
        f"{title(r)} on {r['thread_count']}": r["difference"]["median"]
        for r in overhead
        if r["kind"] == kind
    }
    if not extra:
        return Target(text, None, "not measured")
    measured = ", ".join(f"{value:+.2f} us {name}" for name, value in extra.items())
    return Target(text, max(extra.values()) <= most, measured)


def _network(networks: Sequence[Record], model: Model, least: float) -> Target:
    text = (
        f"contiguous float32 inference of {model.title}, batch {model.batch}: at least "
        f"{least} x torch"
    )
    wanted = {"model": model.name, "phase": "inference", "layout": "contiguous"}
    found = next((r for r in networks if wanted.items() <= r.items()), None)
    if found is None:
        return Target(text, None, "not measured")
    if found["wrong"]:
        return Target(text, False, "its result differs")
    value, count = found["speedup"]["torch"]["median"], found["thread_count"]
    return Target(text, value >= least, f"{value:.2f} x on {count} thread{'s' * (count > 1)}")


def _training_never_slower(networks: Sequence[Record]) -> Target:
    """Pooling is a small part of a step, so that 5 % would hide everything: rounds decide."""
    text = "no network's training step slower than torch's in nine of ten rounds"
    measured = [r for r in networks if r["phase"] == "step" and not r["wrong"]]
    if not measured:
        return Target(text, None, "not measured")
    lost = [r for r in measured if r["speedup"]["torch"]["p90"] < 1]
    worst = min(measured, key=lambda r: r["speedup"]["torch"]["median"])
    ratio = worst["speedup"]["torch"]
    return Target(
        text,
        not lost,
        f"{len(lost)} of {len(measured)} slower; lowest {ratio['median']:.2f} x "
        f"({ratio['p10']:.2f}-{ratio['p90']:.2f}), {worst['title']}",
    )


def slower(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Points and peers that beat poolkit there beyond noise, the worst first."""
    lost = [
        (ratio["median"], i, peer)
        for i, r in enumerate(records)
        for peer, ratio in r["speedup"].items()
        if ratio["median"] < 1 - NOISE
    ]
    return [(records[i], peer) for _, i, peer in sorted(lost)]
