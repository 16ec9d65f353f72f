"""Time and memory of two functions that claim to do the same: checked, then taken in turns."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from poolkit.testing import memory

Operator = Callable[[torch.Tensor], torch.Tensor]


class ResultsDifferError(RuntimeError):
    """Two operators that should agree do not, so timing them would compare different work."""


@dataclass(frozen=True)
class Comparison:
    """Two operators on one input: seconds (medians) and bytes.

    ``difference`` is the largest absolute one of any value or gradient, ``spread`` the largest
    ratio of a median to the fastest tenth of its runs: high if something else used the machine.
    """

    forward: tuple[float, float]
    training: tuple[float, float]
    saved: tuple[int, int]
    difference: float
    spread: float


def compare(stock: Operator, ours: Operator, x: torch.Tensor, seconds: float) -> Comparison:
    """Check that both agree in value and gradient, then measure both.

    ``seconds`` is the time to spend, about half on inference and half on forward plus backward.
    """
    difference = check_equal(stock, ours, x)
    leaf = x.clone().requires_grad_()
    upstream = torch.ones_like(stock(x))

    def infer(operator: Operator) -> Callable[[], object]:
        def step() -> object:
            with torch.inference_mode():
                return operator(x)

        return step

    def train(operator: Operator) -> Callable[[], object]:
        return lambda: torch.autograd.grad(operator(leaf), leaf, upstream)

    forward = in_turns([infer(stock), infer(ours)], seconds / 2)
    training = in_turns([train(stock), train(ours)], seconds / 2)
    runs = forward + training
    return Comparison(
        forward=(statistics.median(forward[0]), statistics.median(forward[1])),
        training=(statistics.median(training[0]), statistics.median(training[1])),
        saved=(saved_bytes(stock, x), saved_bytes(ours, x)),
        difference=difference,
        spread=max(
            statistics.median(times) / statistics.quantiles(times, n=10)[0] for times in runs
        ),
    )


def check_equal(stock: Operator, ours: Operator, x: torch.Tensor) -> float:
    """The largest absolute difference in value or gradient.

    Errors: :class:`ResultsDifferError` beyond what the order of additions can explain.
    """
    largest = 0.0
    results = []
    for operator in (stock, ours):
        leaf = x.clone().requires_grad_()
        y = operator(leaf)
        # A gradient that differs from cell to cell, so that a misplaced one is seen.
        upstream = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
        (gradient,) = torch.autograd.grad(y, leaf, upstream)
        results.append((y.detach(), gradient))
    for a, b in zip(*results, strict=True):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-5, atol=1e-6):
            raise ResultsDifferError(
                f"poolkit and torch disagree on an input of shape {tuple(x.shape)}; not timed"
            )
        largest = max(largest, float((a - b).abs().max()))
    return largest


def in_turns(steps: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Seconds per call of each step, many times; in turns, so that a disturbance hits all."""
    inner = []
    for step in steps:
        step()
        start = time.perf_counter()
        step()
        once = time.perf_counter() - start
        # Short calls are repeated within one sample: a clock reading costs 0.1 us.
        inner.append(max(1, min(1000, int(2e-4 / max(once, 1e-7)))))
    samples: list[list[float]] = [[] for _ in steps]
    deadline = time.perf_counter() + seconds
    collecting = gc.isenabled()
    gc.disable()
    try:
        while len(samples[0]) < 5 or (time.perf_counter() < deadline and len(samples[0]) < 500):
            for index, step in enumerate(steps):
                start = time.perf_counter()
                for _ in range(inner[index]):
                    step()
                samples[index].append((time.perf_counter() - start) / inner[index])
    finally:
        if collecting:
            gc.enable()
    return samples


def saved_bytes(operator: Operator, x: torch.Tensor) -> int:
    """Bytes of the tensors that ``operator`` asks autograd to keep from forward to backward."""
    return memory.saved_bytes(lambda: operator(x.clone().requires_grad_()))
