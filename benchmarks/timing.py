"""Timing in turns: every contestant meets the same disturbances, and ratios are taken per round."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

SAMPLE = 100e-6  # seconds: shorter calls are repeated, a reading of the clock costs 0.1 us
MOST_SAMPLES = 5
LONG = 10e-3  # seconds: in a call this long, waking threads and filling caches count for nothing
SETTLES = 2e-3  # seconds until threads are awake and caches hold what is used now
QUIET, MOST_WAIT = 10e-3, 2.0  # seconds; systems account for other threads every 4 ms or so


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


def keep_memory(gib: int = 2) -> bool:
    """Have the C library keep what is freed, for the rest of the process. False where it cannot.

    By default it gives large results back to the system, unless a hole happens to fit the next one:
    pages that are new take longer than pooling does, and which contestant meets them is chance.
    It begins with so many GiB that were written to; holes in these join again when they are freed.
    """
    most_mappings, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, memset, free = libc.mallopt, libc.malloc, libc.memset, libc.free
    except (AttributeError, OSError, TypeError):
        return False
    if not mallopt(most_mappings, 0) or not mallopt(trim_threshold, -1):
        return False
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    memset.restype, memset.argtypes = None, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    if piece := malloc(gib << 30):
        memset(piece, 1, gib << 30)
        free(piece)
    return True


Rounds = dict[str, list[float]]
"""Of each contestant, seconds per call, round by round."""


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
    least_rounds: int = 3,
    pools: Mapping[str, str] | None = None,
) -> Rounds:
    """Seconds per call of each run: one number per round, the median of its samples in that round.

    A round goes through the contestants, in alternating order. Each makes calls that are not timed,
    for two milliseconds and one at least, so that it finds its own threads awake and its own data
    in the caches, and then some samples; a slow one fewer. Where the next contestant has other
    threads (``pools`` names them), those of the last one are given the time to fall asleep: they
    spin for up to a second after their work. At least 5 rounds, or ``least_rounds`` if one takes
    above 0.3 s (a single one has no range, and would settle by chance who is faster); then as many
    as fit into `seconds`.
    """
    pools = pools or {}
    with no_collection():
        # One pool after the other: every change of threads costs a wait.
        order = sorted(runs, key=lambda name: pools.get(name, ""))
        once = {}
        for name in _quiet_between(order, pools):
            once[name] = _warm(runs[name], warm_up)
        order.reverse()  # as after every round: its last threads are the next one's first
        repeats = {name: max(1, round(SAMPLE / max(t, 1e-7))) for name, t in once.items()}
        sample = {name: max(once[name], 1e-7) * repeats[name] for name in runs}
        slowest = max(sample.values())
        samples = {name: min(MOST_SAMPLES, max(1, int(slowest / sample[name]))) for name in runs}
        length = sum(sample[name] * samples[name] for name in runs)
        least = max(least_rounds, 5) if length < 0.3 else least_rounds
        rounds: Rounds = {name: [] for name in runs}
        deadline = time.perf_counter() + seconds
        for count in range(most_rounds):
            if count >= least and time.perf_counter() >= deadline:
                break
            for name in _quiet_between(order, pools):
                if once[name] < LONG:
                    _warm(runs[name], SETTLES)
                values = [_time(runs[name], repeats[name]) for _ in range(samples[name])]
                rounds[name].append(statistics.median(values))
            order.reverse()
    return rounds


def _quiet_between(order: Sequence[str], pools: Mapping[str, str]) -> Iterator[str]:
    """The names in their order, after a wait where the threads change."""
    last = None
    for name in order:
        if last is not None and pools.get(name) != pools.get(last):
            quiet()
        yield name
        last = name


def quiet() -> None:
    """Wait until no thread of this process works any more."""
    deadline = time.perf_counter() + MOST_WAIT
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(QUIET)
        if time.process_time() - before < QUIET / 5:
            return


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
