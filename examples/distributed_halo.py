"""Pool a large photograph that several processes share by rows, and compare with one process.

    torchrun --nproc-per-node 2 examples/distributed_halo.py --scale 4

The photograph (NASA, Eileen Collins, from scikit-image) is enlarged to 512 * scale rows and
columns. Each process owns as many rows as the others, pools them, and gets from the others just the
rows that its windows lack. Values and gradients are then compared with those of one process, bit by
bit. Times are the shortest of some runs; one process has its core for itself then.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import poolkit.functional as F
from poolkit.distributed import shares

try:
    import click
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from skimage.data import astronaut
except ModuleNotFoundError as missing:
    sys.exit(f"distributed_halo.py needs {missing.name}: pip install 'poolkit[examples]'")

ROWS = 2  # the dimension that is shared


@dataclass(frozen=True)
class Pool:
    """A pooling function, and the arguments that say which rows its windows hold."""

    name: str
    function: Callable[..., Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x, **self.arguments)


POOLS = (
    Pool("max 2/2", F.max_pool2d, {"kernel_size": 2}),
    Pool("max 3/2/1", F.max_pool2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    Pool("avg 3/1/1", F.avg_pool2d, {"kernel_size": 3, "stride": 1, "padding": 1}),
    Pool("max 13/1/6", F.max_pool2d, {"kernel_size": 13, "stride": 1, "padding": 6}),
    Pool("L2 3/2/1", partial(F.lp_pool2d, norm_type=2),
         {"kernel_size": 3, "stride": 2, "padding": 1}),
)  # fmt: skip


def photograph(scale: int) -> Tensor:
    """The picture as ``(1, 3, H, W)`` from 0 to 1."""
    image = torch.from_numpy(astronaut()).permute(2, 0, 1)[None].float() / 255
    return torch.nn.functional.interpolate(image, scale_factor=scale, mode="bilinear")


def shortest(runs: int, run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs that all processes begin together."""
    best = float("inf")
    for _ in range(runs):
        dist.barrier()
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    slowest = torch.tensor(best)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def there_and_back(pool: Pool, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The pooled ``x``, and its gradient where ``g`` is that of the result."""
    x = x.detach().requires_grad_()
    y = pool(x)
    (gradient,) = torch.autograd.grad(y, x, g)
    return y.detach(), gradient


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def compare(pool: Pool, x: Tensor, mesh: DeviceMesh, runs: int) -> str:
    """One line about a pooling: what travels, the times, and whether the bits are the same."""
    g = torch.randn(pool(x).shape, generator=torch.Generator().manual_seed(0))
    shared_x, shared_g = (distribute_tensor(t, mesh, [Shard(ROWS)]) for t in (x, g))
    expected = there_and_back(pool, x, g)
    got = there_and_back(pool, shared_x, shared_g)
    same = all(same_bits(a.full_tensor(), b) for a, b in zip(got, expected, strict=True))
    together = shortest(runs, lambda: there_and_back(pool, shared_x, shared_g))
    first = dist.get_rank() == 0
    alone = shortest(runs, lambda: there_and_back(pool, x, g) if first else None)
    rows = sum(share.missing for share in shares(x.shape[ROWS], mesh.size(), **pool.arguments))
    sent = rows * x[:, :, 0].nbytes
    verdict = "equal to one process, bit for bit" if same else "NOT EQUAL to one process"
    return (
        f"{pool.name:10} {rows:5} {sent / 1024:9.1f} {1e3 * alone:12.1f} {1e3 * together:9.1f}  "
        f"{verdict}"
    )


@click.command(context_settings={"show_default": True}, help=(__doc__ or "").split("\n\n")[0])
@click.option("--scale", type=click.IntRange(1, 32), default=4, help="Of 512 rows and columns.")
@click.option("--runs", type=click.IntRange(1, 1000), default=5, help="To take the shortest of.")
def main(scale: int, runs: int) -> None:
    if "WORLD_SIZE" not in os.environ:
        raise click.UsageError(
            "no group of processes: start it with "
            "torchrun --nproc-per-node 2 examples/distributed_halo.py"
        )
    torch.set_num_threads(1)  # the processes share the cores
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    console = Console(highlight=False, quiet=dist.get_rank() != 0, width=100)
    x = photograph(scale)
    lines = []
    console.print(f"{x.shape[2]} x {x.shape[3]} cells of 3 channels, {mesh.size()} processes")
    console.print("pooling     rows  kB sent  one proc. ms  shared ms  values and gradient")
    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for pool in progress.track(POOLS, description="pooling"):
            lines.append(compare(pool, x, mesh, runs))
            console.print(lines[-1])
    # gloo's threads let go of the last tensors a moment after they are done: not while Python ends.
    dist.barrier()
    dist.destroy_process_group()
    if any("NOT" in line for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
