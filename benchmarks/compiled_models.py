"""Whole networks through torch.compile: poolkit's pooling against torch's, and not compiled.

Inductor makes loops of torch's pooling and fuses them with what stands beside; poolkit's operators
are calls in its program. This measures what comes of it. What the compiler gains or loses by itself
shows in a twin without pooling, where strided slices make maps as small.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import profile

from . import models
from .measure import ratios, set_threads
from .models import Model, Record, Run
from .timing import in_turns

NAMES = ("model-resnet-18", "model-squeezenet", "model-inception-v3")
BATCH = 2


def measure(model: Model, phase: str, seconds: float) -> Record:
    """Compile with either pooling, and time both and poolkit's without the compiler in turns.

    ``speedup`` is that of compiled poolkit over ``torch``, compiled too, and over ``eager``, which
    is poolkit again; ``sliced`` that of the compiler over no compiler where nothing pools.
    ``operators`` are those of poolkit that the compiled network calls.
    """
    torch._dynamo.reset()
    runs = {name: _run(model, phase, name) for name in ("poolkit", "torch", "eager")}
    with torch._inductor.config.patch(fallback_random=True):  # the same dropout everywhere
        results = {name: run() for name, run in runs.items()}
    with profile() as seen:
        runs["poolkit"]()
    slices = {name: _run(model, phase, name, slice_instead) for name in ("poolkit", "eager")}
    rounds = in_turns(
        runs | {f"sliced {n}": run for n, run in slices.items()}, seconds, least_rounds=5
    )
    sliced = {name: rounds.pop(f"sliced {name}") for name in slices}
    return {
        "title": model.title,
        "size": model.size,
        "phase": phase,
        "operators": sorted({e.name for e in seen.events() if e.name.startswith("poolkit::")}),
        "difference": models.difference(results["eager"], results["poolkit"]),
        **ratios(rounds),
        "sliced": ratios(sliced)["speedup"]["eager"],
    }


def _run(
    model: Model,
    phase: str,
    name: str,
    taken: Callable[[nn.Module, Tensor], nn.Module] = lambda net, _: models.accelerated(net),
) -> Run:
    net, x = models.build(model).train(phase == "step"), models.image(model)
    if name != "torch":
        net = taken(net, x)
    compiled = net if name == "eager" else torch.compile(net)
    return functools.partial(models.step if phase == "step" else models.inference, compiled, x)


class Slice(nn.Module):
    """Cells ``step`` apart along each axis, ``out`` of them, in memory of their own."""

    def __init__(self, step: Sequence[int], out: Sequence[int]) -> None:
        super().__init__()
        self.cells = tuple(slice(0, (o - 1) * s + 1, s) for s, o in zip(step, out, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return x[(..., *self.cells)].clone()


def slice_instead(net: nn.Module, x: Tensor) -> nn.Module:
    """Have slices of the same sizes take the place of maxima and averages of fixed windows."""
    sizes = {}
    pools = {n: m for n, m in net.named_modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)}
    for name, module in pools.items():
        module.register_forward_hook(lambda _, __, y, name=name: sizes.update({name: y.shape[2:]}))
    with torch.no_grad():
        net(x)
    for name, out in sizes.items():
        step = pools[name].stride
        net.set_submodule(name, Slice((step, step) if isinstance(step, int) else step, out))
    return net


def table(records: Sequence[Record]) -> Table:
    """Ratios above 1 say that compiled poolkit is the faster one."""
    made = Table(
        "network", "input", "phase", "compiled torch / ours", "eager poolkit / ours",
        "without pooling, eager / compiled",
    )  # fmt: skip
    for record in records:
        over = [*(record["speedup"][name] for name in ("torch", "eager")), record["sliced"]]
        ratio = [f"{s['median']:.2f} ({s['p10']:.2f}-{s['p90']:.2f})" for s in over]
        made.add_row(record["title"], record["size"], record["phase"], *ratio)
    return made


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.compiled_models", description=__doc__)
    known = {m.name: m for m in models.MODELS}
    p.add_argument("--model", nargs="+", choices=known, default=NAMES, help="(%(default)s)")
    p.add_argument("--phase", nargs="+", choices=models.PHASES, default=models.PHASES)
    p.add_argument("--batch", type=int, default=BATCH, help="(%(default)s)")
    p.add_argument("--threads", choices=("1", "all"), default="all", help="(%(default)s)")
    p.add_argument("--seconds", type=float, default=60, help="per network (%(default)s)")
    return p


def main() -> None:
    args = parser().parse_args()
    if reason := models.missing():
        raise SystemExit(reason)
    set_threads(args.threads)
    console = Console()
    records = []
    for model in (replace(m, batch=args.batch) for m in models.MODELS if m.name in args.model):
        for phase in args.phase:
            records.append(measure(model, phase, args.seconds))
            console.print(table(records[-1:]))
            console.print(
                f"rounds {records[-1]['rounds']}, difference {records[-1]['difference']:.1e}, "
                f"operators {', '.join(records[-1]['operators'])}"
            )
    console.print(table(records))


if __name__ == "__main__":
    main()
