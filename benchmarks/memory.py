"""Memory of a training step: its peak, and what autograd keeps from forward to backward.

The peak is by how much the step raises the highest resident set of its process. Every step has a
process of its own. Whatever the step makes resident counts, as the system sees it: activations,
what autograd keeps, gradients, scratch memory of every library. The weights and the input were
there before.

What autograd keeps is counted in a second step of that process, which measures no peak any more:
every storage that one of its tensors is in, once, without the weights, which are there anyway.
"""

import functools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import poolkit
from poolkit.testing.memory import highest_resident_set, saved_bytes

from . import models
from .models import Model

SIDES = ("torch", "poolkit")

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A training step of a network on a batch."""

    name: str
    model: Model
    batch: int = 8

    @property
    def size(self) -> str:
        return f"{self.batch}x3x{self.model.side}x{self.model.side}"


CASES = tuple(
    Case(model.name.replace("model-", "memory-"), model)
    for model in models.MODELS
    if model.title in ("ResNet-50", "VGG16")
)


def measure(case: Case) -> Record:
    """Bytes of either side. Errors: RuntimeError with what the process said last."""
    found = {}
    for side in SIDES:
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", case.name, side],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{case.name}, {side}: {last}")
        found[side] = json.loads(run.stdout)
    peaks, saved = ({side: found[side][what] for side in SIDES} for what in ("peak", "saved"))
    names = {"case": case.name, "title": case.model.title, "size": case.size}
    return names | {"bytes": peaks, "saved_bytes": saved}


def step(net: nn.Module, x: Tensor, side: str) -> dict[str, int]:
    """Bytes of a training step of a side: its ``peak``, and those ``saved`` for backward."""
    if side == "poolkit":
        poolkit.accelerate(net)
    run = functools.partial(models.step, net, x)
    before = highest_resident_set()
    run()
    peak = highest_resident_set() - before
    saved = saved_bytes(run, without=net.parameters())
    return {"peak": peak, "saved": saved}


def main(name: str, side: str) -> None:
    (case,) = (c for c in CASES if c.name == name)
    net, x = models.build(case.model).train(), models.image(case.model, case.batch)
    print(json.dumps(step(net, x, side)))


if __name__ == "__main__":
    main(*sys.argv[1:])
