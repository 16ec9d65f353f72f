"""What every process of test_distributed.py runs: `python ranks.py RANK PROCESSES FOLDER`.

Starting processes is slow, so all checks of as many processes run one after the other; what went
wrong, check by check, is left in FOLDER.
"""

import json
import random
import sys
import traceback
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import poolkit.functional as F
import poolkit.nn
from poolkit import ArgumentError
from poolkit.ops import sharding

CHECKS = {2: [], 4: []}


def check(processes):
    return lambda function: CHECKS[processes].append(function) or function


def bits(t):
    return t.contiguous().view(torch.uint8) if t.is_floating_point() else t


def assert_same(got, expected, what):
    """A DTensor has the bits and the strides of one process."""
    whole = got.full_tensor()
    assert whole.dtype == expected.dtype, what
    assert torch.equal(bits(whole), bits(expected)), what
    if expected.shape[1] > 1:  # the strides of an axis of one cell mean nothing
        assert got.stride() == expected.stride(), what


def compare(pool, x, mesh, placements, what="", exact=True):
    """Values, indices and gradients are those of one process; returns the result's placements."""
    alone = x.clone().requires_grad_(x.is_floating_point())
    shared = distribute_tensor(x, mesh, placements).requires_grad_(x.is_floating_point())
    expected, got = pool(alone), pool(shared)
    if isinstance(expected, tuple):
        assert_same(got[1], expected[1], f"indices: {what}")
        expected, got = expected[0], got[0]
    if exact:
        assert_same(got, expected, f"values: {what}")
    if x.is_floating_point():
        g = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
        expected.backward(g)
        got.backward(distribute_tensor(g, mesh, got.placements))
        if exact:
            assert_same(shared.grad, alone.grad, f"gradient: {what}")
        torch.testing.assert_close(shared.grad.full_tensor(), alone.grad)
    torch.testing.assert_close(got.full_tensor(), expected, equal_nan=True)
    return got.placements


class Sent:
    """The bytes that this process sends to others in halos."""

    def __enter__(self):
        self.bytes = 0
        self.exchange = sharding._exchange

        def counted(to_send, to_come, group):
            self.bytes += sum(x.nbytes for x in to_send)
            self.exchange(to_send, to_come, group)

        sharding._exchange = counted
        return self

    def __exit__(self, *_):
        sharding._exchange = self.exchange


def images(*shape, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype)


# ---- spatial axes -------------------------------------------------------------------------------


def draw(r):
    """A pooling function with arguments, and an input with ties, signed zeros and NaN."""
    rank = r.choice((1, 2, 2, 2, 3))
    sizes = [r.randint(1, 24 if rank < 3 else 9) for _ in range(rank)]
    kernel = [r.randint(1, 5 if rank < 3 else 3) for _ in range(rank)]
    arguments = {
        "kernel_size": kernel,
        "stride": [r.choice((1, 1, 2, 3, 5)) for _ in range(rank)],
        "padding": [(r.randint(0, k // 2), r.randint(0, k // 2)) for k in kernel],
        "dilation": [r.choice((1, 1, 1, 2, 3)) for _ in range(rank)],
        "ceil_mode": r.random() < 0.4,
    }
    family = r.choice(("max", "avg", "lp"))
    x = images(r.choice((1, 2, 5)), r.choice((1, 2, 3, 17)), *sizes, seed=r.randrange(10**9))
    if family == "max":
        arguments["return_indices"] = r.random() < 0.5
        x = (2 * x).round() / 2  # has -0.0 too
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.02] = torch.nan
    elif family == "avg":
        arguments["count_include_pad"] = r.random() < 0.5
        arguments["divisor_override"] = r.choice((None, None, 3))
    else:
        arguments["norm_type"] = 2
        arguments["absolute"] = r.random() < 0.5
    x = x.to(r.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16)))
    if rank > 1 and r.random() < 0.5:
        x = x.to(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
    function = getattr(F, f"{family}_pool{rank}d")
    return function, arguments, x, r.randrange(rank) + 2


@check(2)
def any_window_split_along_any_axis(mesh):
    r = random.Random(20)
    split = {}
    for _ in range(90):
        function, arguments, x, dim = draw(r)
        try:
            function(x, **arguments)
        except ArgumentError:
            continue
        what = f"{function.__name__} {arguments} of {tuple(x.shape)} {x.dtype} {x.stride()}, {dim}"
        kept = compare(partial(function, **arguments), x, mesh, [Shard(dim)], what)
        if kept == (Shard(dim),):
            split[function.__name__] = split.get(function.__name__, 0) + 1
    assert min(split[f"{f}_pool2d"] for f in ("max", "avg", "lp")) > 5, split


@check(2)
def only_the_halo_travels(mesh):
    x = images(2, 3, 16, 10)
    row = 2 * 3 * 10 * 4
    cases = [  # rows, and rows of gradients and of one-byte offsets, that either process sends
        ({"kernel_size": 2}, (0, 0), (0, 0), 5),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (1, 0), (0, 1), 5),
        ({"kernel_size": 5, "stride": 1, "padding": 2}, (2, 2), (2, 2), 10),
    ]
    for arguments, rows, gradients, columns in cases:
        shared = distribute_tensor(x, mesh, [Shard(2)]).requires_grad_()
        with Sent() as sent:
            y = F.max_pool2d(shared, **arguments)
        assert sent.bytes == rows[mesh.get_local_rank()] * row, arguments
        with Sent() as sent:
            y.backward(y.detach())
        expected = gradients[mesh.get_local_rank()] * 2 * 3 * columns * (4 + 1)
        assert sent.bytes == expected, arguments


@check(2)
def whole_numbers_and_no_gradient(mesh):
    x = images(2, 3, 11, 10) * 9
    for dtype in (torch.int8, torch.int64, torch.bool):
        compare(lambda t: F.max_pool2d(t, 3, 2, 1), x.to(dtype), mesh, [Shard(2)], str(dtype))
    with torch.inference_mode():
        compare(lambda t: F.max_pool2d(t, 3, 2, 1), x.to(torch.int8), mesh, [Shard(3)])


@check(2)
def derivatives_of_gradients(mesh):
    x, v = images(2, 3, 12, 10).double(), images(2, 3, 12, 10, seed=1).double()

    def second(x, v):
        x.requires_grad_()
        y = F.max_pool2d(x, 3, 2, 1) ** 2 + F.avg_pool2d(x, 3, 2, 1) ** 2
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad((g * v).sum(), x)[0]

    got = second(*(distribute_tensor(t, mesh, [Shard(2)]) for t in (x, v)))
    assert got.placements == (Shard(2),)
    assert_same(got, second(x, v), "second derivative")


@check(2)
def what_cannot_be_split_is_replicated(mesh):
    x = images(2, 3, 20, 22)
    for pool in (
        lambda t: F.adaptive_max_pool2d(t, 7, return_indices=True),
        lambda t: F.adaptive_avg_pool2d(t, 7),
        F.global_avg_pool2d,
        F.global_max_pool2d,
        lambda t: F.avg_pool2d(t, 13, 1, 6),
        F.blur_pool2d,
        F.max_blur_pool2d,
    ):
        assert compare(pool, x, mesh, [Shard(2)]) == (Replicate(),)
    assert compare(lambda t: F.adaptive_max_pool2d(t, 10), x, mesh, [Shard(2)]) == (Shard(2),)
    assert compare(lambda t: F.max_pool2d(t, 13, 1, 6), x, mesh, [Shard(2)]) == (Shard(2),)
    with torch.no_grad():  # an operator of its own
        y = F.max_blur_pool2d(distribute_tensor(x, mesh, [Shard(2)]), 3, 2, 1)
    assert y.placements == (Replicate(),)
    assert_same(y, F.max_blur_pool2d(x, 3, 2, 1), "maxima, blurred")
    summands = DTensor.from_local(x, mesh, [Partial()])
    assert_same(F.max_pool2d(summands, 2), F.max_pool2d(x + x, 2), "partial")


def there_and_back(duplicates):
    def pool(t):
        values, indices = F.max_pool2d(t, 3, 2, return_indices=True)  # several share a cell
        return F.max_unpool2d(values, indices, 3, 2, duplicates=duplicates)

    return pool


@check(2)
def what_reads_whole_planes_shares_the_rest(mesh):
    pools = (
        there_and_back("last"),
        there_and_back("sum"),
        lambda t: F.max_pool2d(t, 3, 2, 1, padding_mode="reflect", return_indices=True),
        lambda t: F.avg_pool2d(t, 3, 1, "same", padding_mode="replicate"),
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        x = images(3, 5, 13, 11).to(memory_format=layout)
        for number, pool in enumerate(pools):
            for placement in (Shard(0), Shard(1), Replicate()):
                shared = distribute_tensor(x, mesh, [placement])
                with CommDebugMode() as communication:
                    pool(shared)
                assert communication.get_total_counts() == 0, (number, placement)
                assert compare(pool, x, mesh, [placement], str(number)) == (placement,)
            assert compare(pool, x, mesh, [Shard(2)], str(number)) == (Replicate(),)


@check(2)
def compiled(mesh):
    torch._dynamo.config.suppress_errors = False
    pool = torch.compile(lambda t: F.max_pool2d(t, 3, 2, 1), fullgraph=True, backend="aot_eager")
    assert compare(pool, images(2, 3, 12, 10), mesh, [Shard(2)]) == (Shard(2),)


# ---- batch and channels -------------------------------------------------------------------------


@check(2)
def batch_and_channels_send_nothing(mesh):
    pools = (
        lambda t: F.max_pool2d(t, 3, 2, 1, return_indices=True),
        lambda t: F.avg_pool2d(t, 3, 2, 1),
        lambda t: F.adaptive_avg_pool2d(t, 5),
        F.global_avg_pool2d,
        poolkit.nn.LPPool2d(2, 3),
        lambda t: F.blur_pool2d(t, 4, padding_mode="circular"),
        lambda t: F.max_blur_pool2d(t, 3, 2, 1),
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        for placement in (Shard(0), Shard(1), Replicate()):
            for number, pool in enumerate(pools):
                x = images(3, 5, 12, 10).to(memory_format=layout)
                shared = distribute_tensor(x, mesh, [placement]).requires_grad_()
                with CommDebugMode() as communication:
                    y = pool(shared)
                    y = y[0] if isinstance(y, tuple) else y
                    y.backward(y.detach())
                assert communication.get_total_counts() == 0
                assert y.placements == shared.grad.placements == (placement,)
                compare(pool, x, mesh, [placement], str(placement), exact=number == 0)
    # One process has no image, or no channel.
    for placement in (Shard(0), Shard(1)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = images(1, 1, 12, 10).to(memory_format=layout)
            compare(pools[0], x, mesh, [placement])


@check(2)
def bad_input(mesh):
    x = images(2, 3, 12, 10)
    shared = distribute_tensor(x, mesh, [Shard(2)])
    uneven = DTensor.from_local(x[:, :, :4], mesh, [Shard(2)], shape=x.shape, stride=x.stride())
    window = F.common.fixed("f", 2, x, 3, 2, 1, 1, False, True).packed
    cases = [
        (lambda: F.max_pool2d(uneven, 3), "must have 6, as DTensor shares them out, got a local"),
        (lambda: torch.ops.poolkit.pick(shared, x, window), "must be DTensors of one mesh, got"),
        (lambda: F.max_pool2d(shared, 0), "kernel_size must be from 1"),
        (lambda: F.avg_pool2d(shared, 99), "would have the output size"),
    ]
    for call, words in cases:
        try:
            call()
        except ArgumentError as error:
            assert words in str(error), error  # noqa: PT017  no pytest in these processes
        else:
            raise AssertionError(words)


# ---- training -----------------------------------------------------------------------------------


def network(pools, pool):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), getattr(pools, f"{pool}Pool2d")(3, 2, 1),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), getattr(pools, f"{pool}Pool2d")(2),
        nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def losses(net, mesh):
    """Of all processes, over some steps; each process has images of its own."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    labels = torch.arange(32) % 4  # the quarter that is brighter
    quarters = torch.eye(4).reshape(4, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    x = images(32, 1, 8, 8, seed=mesh.get_local_rank()) + 2 * quarters[labels]
    curve = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        curve.append(total.item())
    return curve


def curves(mesh, share):
    for pool in ("Max", "Avg"):
        stock, ours = (losses(share(network(pools, pool)), mesh) for pools in (nn, poolkit.nn))
        assert stock[-1] < 0.8 * stock[0], stock
        if pool == "Max":
            assert ours == stock
        else:
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=0)


@check(2)
def data_parallel_training(mesh):
    curves(mesh, nn.parallel.DistributedDataParallel)


@check(2)
def fully_sharded_training(mesh):
    def share(net):
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                fully_shard(layer, mesh=mesh)
        return fully_shard(net, mesh=mesh)

    curves(mesh, share)


# ---- four processes -----------------------------------------------------------------------------


@check(4)
def halos_from_beyond_the_neighbour(mesh):
    windows = [  # kernel, stride, padding, dilation
        (7, 1, (3, 3), 1),
        (3, 1, (3, 3), 3),
        (2, 3, (0, 1), 1),
        (1, 4, (0, 0), 1),
    ]
    for size in (1, 5, 7, 13):  # processes have up to 4 cells, and some have none
        x = images(2, 3, size, 6)
        for k, s, padding, d in windows:
            arguments = {
                "kernel_size": (k, 3),
                "stride": (s, 2),
                "padding": (padding, (1, 1)),
                "dilation": (d, 1),
            }
            for function in (F.max_pool2d, F.avg_pool2d):
                try:
                    function(x, **arguments)
                except ArgumentError:  # too small, or a window without a cell
                    continue
                what = f"{size} cells, {arguments}"
                compare(partial(function, **arguments), x, mesh, [Shard(2)], what)


@check(4)
def two_dimensions_of_processes(mesh):
    grid = init_device_mesh("cpu", (2, 2))
    x = images(2, 3, 13, 11)
    for placements, kept in [
        ((Shard(2), Shard(3)), (Shard(2), Shard(3))),
        ((Shard(3), Shard(2)), (Shard(3), Shard(2))),
        ((Shard(0), Shard(2)), (Shard(0), Shard(2))),
        ((Shard(3), Shard(1)), (Shard(3), Shard(1))),
        ((Shard(2), Shard(2)), (Shard(2), Replicate())),
        ((Replicate(), Shard(3)), (Replicate(), Shard(3))),
    ]:
        for layout in (torch.contiguous_format, torch.channels_last):
            laid_out = x.to(memory_format=layout)
            pool = lambda t: F.max_pool2d(t, 5, 2, 2, return_indices=True)  # noqa: E731
            assert compare(pool, laid_out, grid, placements, str(placements)) == kept
            pool = lambda t: F.avg_pool2d(t, 3, 1, 1, count_include_pad=False)  # noqa: E731
            exact = not {Shard(0), Shard(1)} & set(placements)
            assert compare(pool, laid_out, grid, placements, str(placements), exact) == kept


def main(rank, processes, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{processes}", rank=rank,
                            world_size=processes, timeout=timedelta(seconds=120))  # fmt: skip
    mesh = init_device_mesh("cpu", (processes,))
    outcome = {}
    for function in CHECKS[processes]:
        try:
            function(mesh)
            outcome[function.__name__] = ""
        except Exception:  # noqa: BLE001  the test that asks for this check shows it
            outcome[function.__name__] = traceback.format_exc()
    dist.destroy_process_group()
    with open(f"{folder}/{processes}-{rank}.json", "w") as file:  # noqa: PTH123
        json.dump(outcome, file)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
