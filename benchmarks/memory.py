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
import resource
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import models
from .measure import saved_bytes
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


def _highest() -> int:
    """Bytes of this process's highest resident set."""
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: there Linux counts the parent's memory, too
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def step(net: nn.Module, x: Tensor, side: str) -> dict[str, int]:
    """Bytes of a training step of a side: its ``peak``, and those ``saved`` for backward."""
    run = functools.partial(models.step, net, x)
    with models.poolkits_pooling() if side == "poolkit" else nullcontext():
        before = _highest()
        run()
        peak = _highest() - before
        saved = saved_bytes(run, without=net.parameters())
    return {"peak": peak, "saved": saved}


def main(name: str, side: str) -> None:
    (case,) = (c for c in CASES if c.name == name)
    net, x = models.build(case.model).train(), models.image(case.model, case.batch)
    print(json.dumps(step(net, x, side)))


if __name__ == "__main__":
    main(*sys.argv[1:])
