"""Targets of the time over the limit: the points that each speaks of, and those that miss it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .measure import Record

SMALL = 4096
"""Up to so many elements the cost of a call counts, not the kernel."""


@dataclass(frozen=True)
class Bound:
    """At most so many times the limit, in every point that it speaks of."""

    text: str
    most: float
    speaks_of: Callable[[Record], bool]

    def ratios(self, records: Sequence[Record]) -> list[tuple[float, Record]]:
        """`poolkit / limit` and the point, the worst first: float32 above 4,096 elements."""
        found = [
            (r["over_limit"]["median"], i)
            for i, r in enumerate(records)
            if r["dtype"] == "float32"
            and r["elements"] > SMALL
            and r["over_limit"] is not None
            and self.speaks_of(r)
        ]
        return [(ratio, records[i]) for ratio, i in sorted(found, reverse=True)]

    def missed(self, records: Sequence[Record]) -> list[tuple[float, Record]]:
        return [(ratio, r) for ratio, r in self.ratios(records) if ratio > self.most]


def _large_window(r: Record) -> bool:
    return bool(r["kernel"]) and min(r["kernel"][-2:]) >= 5 and set(r["stride"]) == {1}


def _small_window(r: Record) -> bool:
    return bool(r["kernel"]) and max(r["kernel"]) <= 3


def _in_phase(phase: str) -> Callable[[Record], bool]:
    return lambda r: bool(r["phase"] == phase)


_forward = _in_phase("inference")

BOUNDS = (
    Bound(
        "inference, windows up to 3x3, more bytes than the largest cache holds: at most 1.5 x "
        "the limit",
        1.5,
        lambda r: _forward(r) and _small_window(r) and r["beyond_cache"],
    ),
    Bound(
        "inference, planes 7 to 35 wide, other windows than of 5 and more with stride 1: at most "
        "3 x the limit",
        3,
        lambda r: _forward(r) and 7 <= r["width"] <= 35 and not _large_window(r),
    ),
    Bound(
        "inference, windows of 5 to 31, stride 1: at most 6 x the limit",
        6,
        lambda r: _forward(r) and _large_window(r),
    ),
    Bound("training forward: at most 1.8 x its own limit", 1.8, _in_phase("training")),
    Bound("backward: at most 1.8 x its own limit", 1.8, _in_phase("backward")),
)
