"""Timing in turns: every contestant meets the same disturbances, and ratios are taken per round."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

SAMPLE = 100e-6  # seconds: shorter calls are repeated, a reading of the clock costs 0.1 us
MOST_TURNS = 5


@dataclass(frozen=True)
class Spread:
    """Median and 10-90 % range."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if len(values) == 1:
            return cls(*values * 3)
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), tenths[0], tenths[-1])


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector off: it would strike in the middle of a sample."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def in_turns(
    runs: Mapping[str, Callable[[], object]],
    seconds: float,
    warm_up: float = 0.02,
    most_rounds: int = 100,
) -> dict[str, list[float]]:
    """Seconds per call of each run: one number per round, the median of its samples in that round.

    A round goes through the contestants several times, in alternating order; one that is slow
    against the others has fewer turns. At least 5 rounds, or 3 if a round takes above 0.3 s, or one
    above 1 s; then as many as fit into `seconds`.
    """
    with no_collection():
        once = {name: _warm(run, warm_up) for name, run in runs.items()}
        repeats = {name: max(1, round(SAMPLE / max(t, 1e-7))) for name, t in once.items()}
        sample = {name: max(once[name], 1e-7) * repeats[name] for name in runs}
        slowest = max(sample.values())
        turns = {name: min(MOST_TURNS, max(1, int(slowest / sample[name]))) for name in runs}
        length = sum(sample[name] * turns[name] for name in runs)
        least = 5 if length < 0.3 else 3 if length < 1 else 1
        rounds: dict[str, list[float]] = {name: [] for name in runs}
        order = list(runs)
        deadline = time.perf_counter() + seconds
        for count in range(most_rounds):
            if count >= least and time.perf_counter() >= deadline:
                break
            samples: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(MOST_TURNS):
                for name in order:
                    if turn < turns[name]:
                        samples[name].append(_time(runs[name], repeats[name]))
            for name, values in samples.items():
                rounds[name].append(statistics.median(values))
            order.reverse()
    return rounds


def _time(run: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def _warm(run: Callable[[], object], seconds: float) -> float:
    """Run until `seconds` have passed, once at least; gives the fastest call."""
    fastest = spent = _time(run, 1)
    while spent < seconds:
        took = _time(run, 1)
        fastest, spent = min(fastest, took), spent + took
    return fastest
