"""Pooling in several processes: the checks of ranks.py, and how processes share an axis."""

import doctest
import json
import math
import os
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import poolkit.distributed
from poolkit import ArgumentError
from poolkit.ops import NATIVE, sharding
from poolkit.window import Window, fixed, pack, spans

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not NATIVE, reason="sharding rules are those of the native operators"),
]

RANKS = str(Path(__file__).with_name("ranks.py"))
CHECKS = runpy.run_path(RANKS)["CHECKS"]

native = torch.ops.poolkit


@pytest.mark.parametrize("processes", CHECKS)
def test_in_every_process(processes, tmp_path):
    """All checks of a group of processes, started once."""
    # What they say goes to files: one that waits for a reader holds up the others.
    said = [tmp_path / f"said-{rank}" for rank in range(processes)]
    started = []
    for rank, path in enumerate(said):
        command = [sys.executable, "-P", RANKS, str(rank), str(processes), str(tmp_path)]
        with path.open("w") as file:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            started.append(subprocess.Popen(command, stderr=file, env=environment))
    try:
        codes = [process.wait(timeout=240) for process in started]
    except subprocess.TimeoutExpired:
        codes = [process.poll() for process in started]
        for process in started:
            process.kill()
            process.wait()
    assert codes == [0] * processes, "\n".join(path.read_text() for path in said)
    names = [check.__name__ for check in CHECKS[processes]]
    for rank in range(processes):
        found = json.loads((tmp_path / f"{processes}-{rank}.json").read_text())
        assert list(found) == names
        wrong = [f"{name}:\n{error}" for name, error in found.items() if error]
        assert not wrong, f"in process {rank}: " + "\n".join(wrong)


# ---- the plan -----------------------------------------------------------------------------------


def cut(x, dim, part, held):
    """The ``part`` of a dimension, with NaN or the largest integer where it is not ``held``."""
    shape = (*x.shape[:dim], len(part), *x.shape[dim + 1 :])
    nothing = math.nan if x.is_floating_point() else torch.iinfo(x.dtype).max
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    result = torch.empty(shape, dtype=x.dtype, memory_format=layout).fill_(nothing)
    if held:
        to = result.narrow(dim, held.start - part.start, len(held))
        to.copy_(x.narrow(dim, held.start, len(held)))
    return result


def shared(name, tensors, window, number, ranks):
    """The operator's first result, computed piece by piece by as many ranks."""
    form = sharding.FORMS[name]
    dim = number + 2
    plan = sharding.plan(window.axes[number], ranks, form.result)
    last = not tensors[0].is_contiguous()
    parts = []
    for rank, piece in enumerate(plan.pieces):
        has = {"cells": piece.cells, "outputs": piece.outputs}
        own = plan.owned[form.result][rank]
        if not own:
            continue
        local = [
            cut(x, dim, has[kind], plan.needed[kind][rank])
            for x, kind in zip(tensors, form.arguments, strict=True)
        ]
        axes = list(window.axes)
        axes[number] = piece.axis
        packed = pack(Window(tuple(axes), window.include_pad, window.divisor), last)
        result = getattr(native, name)(*local, packed)
        result = result[0] if isinstance(result, tuple) else result
        parts.append(result.narrow(dim, own.start - has[form.result].start, len(own)))
    return torch.cat(parts, dim)


def draw_window(r, sums):
    """Any window of two axes, small and large, and as many planes as draw other kernels."""
    sizes = [r.choice((r.randint(1, 24), r.randint(50, 90))) for _ in range(2)]
    kernel = [r.choice((r.randint(1, 5), r.randint(1, 12), size)) for size in sizes]
    stride = [r.choice((1, 1, 2, 3, 5)) for _ in range(2)] if r.random() < 0.7 else 1
    padding = [r.choice(((0, 0), (r.randint(0, k // 2), r.randint(0, k // 2)))) for k in kernel]
    real = sums and r.random() < 0.4
    shape = (r.choice((1, 2)), r.choice((1, 3, 17)), *sizes)
    window = fixed("f", 2, shape, kernel, stride, padding, [r.choice((1, 1, 2)) for _ in range(2)],
                   r.random() < 0.5, real or not sums, not real)  # fmt: skip
    return shape, window


def assert_exact(shape, window, number, ranks, sums, last=False, seed=0):
    """Pieces have the bits of the whole, forward and backward, what is not needed being NaN."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    g = torch.randn(window.output_shape(shape), generator=generator)
    if last:
        x, g = (t.to(memory_format=torch.channels_last) for t in (x, g))
    packed, how = pack(window, last), (window, number, ranks)
    if sums:
        assert torch.equal(native.avg_pool(x, packed), shared("avg_pool", (x,), *how)), how
        back, got = native.avg_pool_backward(g, packed), shared("avg_pool_backward", (g,), *how)
    else:
        y, offsets = native.max_pool_offsets(x, packed)
        assert torch.equal(y, shared("max_pool", (x,), *how)), how
        back = native.scatter(g, offsets, packed)
        got = shared("scatter", (g, offsets), *how)
    assert torch.equal(back, got), how


def test_pieces_have_the_bits_of_the_whole():
    r = random.Random(1)
    split = joined = 0
    while split < 400:
        sums = r.random() < 0.7
        try:
            shape, window = draw_window(r, sums)
        except ArgumentError:
            continue
        number = r.randrange(2)
        if not sharding.splits_exactly(window, window.axes[number], sums):
            joined += 1
            continue
        split += 1
        last = r.random() < 0.5 and shape[1] > 1
        assert_exact(shape, window, number, r.choice((2, 3, 5)), sums, last, split)
    assert joined > 20


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "dilation"),
    [
        ((5, 3, 6, 11), (2, 11), 2, 1),  # each piece is one window: summed in rows all the same
        ((5, 3, 8, 3), (4, 3), 4, (2, 1)),  # not these, which end in padding that counts
    ],
)
def test_a_piece_that_is_one_window(shape, kernel, stride, dilation):
    window = fixed("f", 2, shape, kernel, stride, 0, dilation, True, False)
    assert sharding.splits_exactly(window, window.axes[0], True)
    assert_exact(shape, window, 0, window.axes[0].out, sums=True)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "last"),
    [
        ((1, 1, 10, 3), (10, 1), 1, False),  # a piece is one column, the whole is not
        ((1, 1, 10, 40), (10, 1), 1, False),
        ((1, 3, 7, 6), (3, 1), (2, 1), True),  # channels of a piece do not fill a register
        ((2, 3, 7, 20), (3, 1), (2, 1), False),
        ((1, 1, 4, 4, 2), (4, 4, 1), 1, False),
        ((1, 2, 6, 5, 20), (2, 3, 1), (2, 1, 1), False),
    ],
)
def test_pieces_along_an_axis_without_windows(shape, kernel, stride, last):
    rank = len(shape) - 2
    window = fixed("f", rank, shape, kernel, stride, 0, 1, False, True)
    for ranks in (2, 3):
        assert_exact(shape, window, rank - 1, ranks, sums=True, last=last)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_shares(ranks):
    """What is needed reaches from the first to the last cell of a rank's windows, no further."""
    r = random.Random(ranks)
    for _ in range(200):
        size, k, s, d = r.randint(1, 30), r.randint(1, 6), r.randint(1, 7), r.randint(1, 3)
        arguments = (size, ranks, k, s, r.randint(0, k // 2), d, r.random() < 0.5)
        try:
            window = fixed("f", 1, (1, size), *arguments[2:], True)
        except ArgumentError:
            continue
        cells = spans(window.axes[0])
        got = poolkit.distributed.shares(*arguments)
        assert [c for share in got for c in share.cells] == list(range(size))
        assert [o for share in got for o in share.outputs] == list(range(len(cells)))
        for share in got:
            held = {c for output in share.outputs for c in cells[output]}
            assert held <= set(share.needed)
            if held:
                assert min(held) - d < share.needed[0] <= min(held)
                assert max(held) <= share.needed[-1] < max(held) + d
            assert share.missing == len(set(share.needed) - set(share.cells))
    with pytest.raises(ArgumentError, match="processes must be from 1"):
        poolkit.distributed.shares(8, 0, 2)
    with pytest.raises(ArgumentError, match="size must be from 1"):
        poolkit.distributed.shares(0, ranks, 2)
    with pytest.raises(ArgumentError, match="kernel_size must be an int"):
        poolkit.distributed.shares(8, ranks, 2.0)


def test_import_is_lazy():
    """Importing poolkit does not import torch's DTensor, which takes as long as torch itself."""
    code = "import sys, poolkit; sys.exit('torch.distributed.tensor' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", poolkit.distributed.__all__)
def test_docstring(name):
    thing = getattr(poolkit.distributed, name)
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    assert found.examples
    report = []
    assert doctest.DocTestRunner(verbose=False).run(found, out=report.append).failed == 0, report


# ---- the example --------------------------------------------------------------------------------

HALO = str(Path(__file__).parents[1] / "examples" / "distributed_halo.py")


def run(*options, folder):
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return subprocess.run(
        [*torchrun, "--standalone", HALO, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )


def test_example(tmp_path):
    result = run("--scale", "1", "--runs", "1", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("512 x 512 cells of 3 channels, 2 processes")
    sent = re.findall(r"^(\S+ \S+) +(\d+) +([\d.]+) .* equal to one process, bit for bit$",
                      result.stdout, re.MULTILINE)  # fmt: skip
    assert sent == [  # rows of 512 cells, 3 channels and 4 bytes
        ("max 2/2", "0", "0.0"),
        ("max 3/2/1", "1", "6.0"),
        ("avg 3/1/1", "2", "12.0"),
        ("max 13/1/6", "12", "72.0"),
        ("L2 3/2/1", "1", "6.0"),
    ]
    assert not list(tmp_path.iterdir())


def test_example_alone(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    result = subprocess.run(
        [sys.executable, "-P", HALO],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "no group of processes: start it with torchrun" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
