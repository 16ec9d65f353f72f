"""One point: the input made, every peer's result checked, then all of them timed in turns."""

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from poolkit.testing import HALVES, assert_bit_equal, laid_out, sample
from poolkit.testing.memory import saved_bytes

from . import limit
from .caches import largest_cache
from .cases import DTYPES, Case, Point, steps, traffic
from .peers import POOLKIT, Peer
from .timing import Rounds, Spread, in_turns

ALL_THREADS = torch.get_num_threads()

Run = Callable[[], Tensor]
Record = dict[str, Any]
"""A measured point, as it stands in the JSON file."""


def measure(point: Point, peers: Sequence[Peer], seconds: float) -> Record:
    """Check and time one point.

    A peer whose result differs is not timed: ``wrong`` says how it differs. ``left_out`` says why
    a peer, or the limit, could not run.
    """
    taking_part = {peer.name: peer for peer in peers}
    set_threads(point.threads)
    x = _input(point.shape, point.dtype, point.layout)
    with _mode(point.phase):
        y = POOLKIT.prepare(_in(point, "inference"), x, x)()
        upstream = sample(tuple(y.shape), y.dtype, seed=1)
        runs: dict[str, Run] = {"poolkit": POOLKIT.prepare(point, x, upstream)}
        results = Checker(point, x, upstream, runs["poolkit"]())
        left_out, wrong = {}, {}
        for name, peer in taking_part.items():
            try:
                run = peer.prepare(point, x, upstream)
                results.check(peer.result(point, run()), peer.adds_like_torch)
            except AssertionError as error:
                wrong[name] = _first_line(error)
            except Exception as error:  # noqa: BLE001  libraries raise what they like
                left_out[name] = _first_line(error)
            else:
                runs[name] = run
        taking_part["poolkit"] = POOLKIT
        saved = None
        if point.phase == "training":
            saved = {
                n: saved_bytes(run) for n, run in runs.items() if taking_part[n].torch_autograd
            }
        timed: dict[str, Callable[[], object]] = dict(runs)
        read, written = traffic(point, x, y)
        outputs = y.numel()
        result = x if point.phase == "backward" else y
        size = result.numel() * result.element_size()
        del y, results, result
        try:
            backward = point.phase == "backward"
            source = torch.ones(read, dtype=torch.uint8) if backward else x
            timed["limit"] = limit.stream(source, written)
        except limit.LimitError as error:
            left_out["limit"] = str(error)
        pools = {name: taking_part.get(name, POOLKIT).pool for name in timed}
        # A single thread is the caller's: no pool has any to put to sleep.
        used = pools if torch.get_num_threads() > 1 else None
        rounds = settled(lambda: in_turns(timed, seconds, pools=used), size)
    return {
        **describe(point.case),
        "size": point.case.size(point.batch),
        "batch": point.batch,
        "dtype": point.dtype,
        "layout": point.layout,
        "threads": point.threads,
        "thread_count": torch.get_num_threads(),
        "phase": point.phase,
        "elements": x.numel(),
        "output_elements": outputs,
        "read_bytes": read,
        "written_bytes": written,
        "beyond_cache": read + written > largest_cache(),
        "saved_bytes": saved,
        "left_out": left_out,
        "wrong": wrong,
        **ratios(rounds),
    }


def settled(turns: Callable[[], Rounds], size: int) -> Rounds:
    """The rounds of ``turns()``; up to three times as many while it is undecided who is faster.

    That is, while the range of some peer's ratio reaches across 1. Where in memory a result of
    ``size`` bytes comes to lie is chance, and may double the time; so the further rounds are made
    while the places of the results before are taken.
    """
    rounds = turns()
    taken: list[bytearray] = []
    while len(taken) < 2 and any(
        speedup["p10"] <= 1 <= speedup["p90"] for speedup in ratios(rounds)["speedup"].values()
    ):
        taken.append(bytearray(size))
        for name, times in turns().items():
            rounds[name] += times
    return rounds


def set_threads(threads: str) -> None:
    """`"1"`, or `"all"`: as many as torch takes by itself."""
    torch.set_num_threads(1 if threads == "1" else ALL_THREADS)


def describe(case: Case) -> Record:
    """The columns that belong to the case alone."""
    return {
        "case": case.name,
        "network": case.network,
        "function": case.function,
        "family": case.family,
        "label": case.label,
        "rank": case.rank,
        "taps": case.taps,
        "kernel": list(case.kernel),
        "stride": list(case.stride),
        "width": case.shape[-1],
    }


def ratios(rounds: Rounds) -> Record:
    """Times, and ratios taken round by round: to the limit, and of every peer to poolkit."""
    ours = rounds["poolkit"]

    def ratio(above: list[float], below: list[float]) -> dict[str, float]:
        return asdict(Spread.of([a / b for a, b in zip(above, below, strict=True)]))

    others = {name: t for name, t in rounds.items() if name not in ("poolkit", "limit")}
    speedup = {name: ratio(times, ours) for name, times in others.items()}
    return {
        "rounds": len(ours),
        "seconds": {name: asdict(Spread.of(times)) for name, times in rounds.items()},
        "over_limit": ratio(ours, rounds["limit"]) if "limit" in rounds else None,
        "speedup": speedup,
        "best_peer": min(speedup, key=lambda name: speedup[name]["median"], default=None),
    }


def call_overhead(case: Case, threads: str, seconds: float) -> list[Record]:
    """Microseconds of one call on a tensor so small that nothing else counts, torch's and ours.

    ``inference``; ``gradient``: the call that records for backward; ``step``: that and backward.
    """
    set_threads(threads)
    x = _input((case.batches[0], *case.shape), "float32", "contiguous")
    leaf = x.clone().requires_grad_()
    records = []
    for kind in ("inference", "gradient", "step"):
        runs = {
            name: _call(getattr(module, case.function), case.args, kind, x, leaf)
            for name, module in (
                ("poolkit", POOLKIT.functional),
                ("torch", torch.nn.functional),
            )
        }
        with _mode("inference" if kind == "inference" else "training"):
            rounds = in_turns(runs, seconds, most_rounds=1000)
        pairs = zip(rounds["poolkit"], rounds["torch"], strict=True)
        difference = [1e6 * (ours - theirs) for ours, theirs in pairs]
        records.append(
            {
                **describe(case),
                "size": case.size(case.batches[0]),
                "threads": threads,
                "thread_count": torch.get_num_threads(),
                "kind": kind,
                "rounds": len(difference),
                "microseconds": {
                    name: asdict(Spread.of([1e6 * t for t in times]))
                    for name, times in rounds.items()
                },
                "difference": asdict(Spread.of(difference)),
            }
        )
    return records


def _call(
    function: Callable[..., Tensor], args: tuple[Any, ...], kind: str, x: Tensor, leaf: Tensor
) -> Callable[[], object]:
    if kind == "inference":
        return lambda: function(x, *args)
    if kind == "gradient":
        return lambda: function(leaf, *args)
    upstream = torch.ones_like(function(x, *args))
    return lambda: torch.autograd.grad(function(leaf, *args), leaf, upstream)


def _first_line(error: Exception) -> str:
    """What an exception says, short; its type where it says nothing."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


class Checker:
    """poolkit's result of a point; a peer's must equal it.

    Maxima to the bit, and their float32 gradients too if the peer adds them in torch's order. All
    else up to the roundings that both may make in windows whose absolute values sum to `size`.
    """

    def __init__(self, point: Point, x: Tensor, upstream: Tensor, ours: Tensor) -> None:
        self._point, self._x, self._upstream, self._ours = point, x, upstream, ours

    @functools.cached_property
    def _bound(self) -> Tensor:
        point, x = self._point, self._x
        # Absolute values would change which cells win a maximum, and get its gradient.
        chosen = point.phase == "backward" and "max" in point.case.family
        magnitude = x if chosen else x.abs()
        size = POOLKIT.prepare(point, magnitude, self._upstream.abs())().detach().float()
        count, eps = steps(point.case, x.dtype)
        # Nothing is closer than the smallest number and a rounding on either side.
        info = torch.finfo(x.dtype)
        return size.mul_(count * eps + info.eps).add_(info.tiny)

    def check(self, theirs: Tensor, adds_like_torch: bool) -> None:
        """Errors: AssertionError that names the first difference."""
        ours = self._ours
        sums = self._point.phase == "backward" and (not adds_like_torch or ours.dtype in HALVES)
        if self._point.case.family == "max" and not sums:
            assert_bit_equal(theirs, ours, "result")
            return
        for what in ("shape", "dtype"):
            got, expected = getattr(theirs, what), getattr(ours, what)
            assert got == expected, f"result: {what} {got} is not {expected}"
        error = (theirs.detach().float() - ours.detach().float()).abs_()
        wrong = ~(error <= self._bound)  # a NaN is wrong, too
        if wrong.any():
            place = tuple(wrong.nonzero()[0].tolist())
            raise AssertionError(
                f"result: {int(wrong.sum())} of {wrong.numel()} differ, first at {place}: "
                f"{theirs[place].item()!r} is not {ours[place].item()!r}"
            )


def _mode(phase: str) -> AbstractContextManager[Any]:
    return torch.inference_mode() if phase == "inference" else nullcontext()


def _in(point: Point, phase: str) -> Point:
    return Point(point.case, point.batch, point.dtype, point.layout, point.threads, phase)


@functools.lru_cache(maxsize=1)  # neighbouring points share it
def _values(shape: tuple[int, ...], dtype: str) -> Tensor:
    with torch.inference_mode(False):
        return sample(shape, DTYPES[dtype])


@functools.lru_cache(maxsize=1)
def _input(shape: tuple[int, ...], dtype: str, layout: str) -> Tensor:
    with torch.inference_mode(False):
        return laid_out(_values(shape, dtype), layout)


def load() -> float | None:
    """The system's load average over the last minute, where it tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
