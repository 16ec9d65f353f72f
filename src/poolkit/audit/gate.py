"""Figures of a report that a build may insist on: ``poolkit audit --fail-under KEY=VALUE``."""

import math
from collections.abc import Callable, Mapping

from ..errors import ArgumentError
from .report import Report

__all__ = ["KEYS", "below", "limit"]


def _top1(*kinds: str) -> Callable[[Report], float | None]:
    def lowest(report: Report) -> float | None:
        found = [c.top1.mean for c in report.consistency if c.top1 and c.kind in kinds]
        return min(found, default=None)

    return lowest


def _similarity(report: Report) -> float | None:
    return min((1 - c.distance.mean for c in report.consistency), default=None)


def _speedup(report: Report) -> float | None:
    stock, ours = report.totals.seconds_torch, report.totals.seconds
    return stock / ours if stock is not None and ours else None


KEYS: dict[str, Callable[[Report], float | None]] = {
    "consistency": _top1("roll", "crop", "fractional"),
    "roll": _top1("roll"),
    "crop": _top1("crop"),
    "fractional": _top1("fractional"),
    "similarity": _similarity,
    "speedup": _speedup,
}
"""``consistency`` is the lowest share, over the kinds of moves, of moved pictures that keep their
top class (the mean, not its interval's end), ``roll``, ``crop`` and ``fractional`` that of one
kind; ``similarity`` is 1 less the largest mean distance of logits; ``speedup`` is the time of a
forward pass with torch's pooling over that with poolkit's."""


def limit(text: str) -> tuple[str, float]:
    """``consistency=0.95`` as a key and a number.

    Raises:
        ArgumentError: anything else.
    """
    key, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if key not in KEYS or not math.isfinite(number):
        raise ArgumentError(
            f"expected KEY=NUMBER with one of {', '.join(KEYS)}, such as consistency=0.95, got "
            f"{text!r}"
        )
    return key, number


def below(report: Report, limits: Mapping[str, float]) -> list[str]:
    """A sentence for each figure that is below its limit, or was not measured."""
    found = []
    for key, least in limits.items():
        value = KEYS[key](report)
        if value is None:
            found.append(f"{key} was not measured, so nothing shows that it is {least:g} or more")
        elif value < least:
            found.append(f"{key} is {value:.4g}, below {least:g}")
    return found
