"""Inputs and situations that broke other pooling code: autograd, compiler, modes, threads, copies.

Tests are numbered as the list of traps.
"""

import copy
import functools
import subprocess
import sys
import threading

import pytest
import torch

from poolkit import functional as F
from poolkit import nn, testing
from poolkit.testing import (
    assert_bit_equal,
    assert_same_strides,
    gradient,
    laid_out,
    sample,
)

pytestmark = pytest.mark.usefixtures("keep_threads")

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def test_20_one_module_in_two_places():
    pool = nn.MaxPool2d(2, 1)
    model, stock = (
        torch.nn.Sequential(pool, pool),
        torch.nn.Sequential(*[torch.nn.MaxPool2d(2, 1)] * 2),
    )
    x = sample((1, 2, 6, 6), values="relu")
    assert_bit_equal(gradient(model, x), gradient(stock, x))
    a = x.clone().requires_grad_()
    b = x.clone().requires_grad_()
    (pool(a).sum() + pool(a * 2).sum()).backward()
    (stock[0](b).sum() + stock[0](b * 2).sum()).backward()
    assert_bit_equal(a.grad, b.grad)


@every_rank
@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool"])
def test_20_input_changed_in_place(rank, name):
    """The gradient is the original input's."""
    function = getattr(F, f"{name}{rank}d")
    x = sample((1, 2, *(4,) * rank)).requires_grad_()
    expected = gradient(lambda x: function(x, 2), x)
    inner = x * 1
    y = function(inner, 2)
    inner.neg_()
    assert_bit_equal(torch.autograd.grad(y.sum(), x)[0], expected)


def test_21_gradcheck_with_ties():
    """Quantised maps tie; the gradient goes to the first winner, as one subgradient does."""
    x = sample((1, 2, 6, 6), torch.float64, "relu")
    perturbed = (
        x + 1e-3 * torch.linspace(1, 0, 72, dtype=torch.float64).reshape(x.shape)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: F.max_pool2d(x, 3, 2, 1), perturbed)
    assert torch.autograd.gradgradcheck(lambda x: F.max_pool2d(x, 3, 2, 1), perturbed)
    assert_bit_equal(gradient(lambda x: F.max_pool2d(x, 3, 2, 1), x),
                     gradient(lambda x: F.max_pool2d(x, 3, 2, 1), perturbed))  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_22_dynamic_shapes_and_integers():
    def f(x):
        return F.max_pool2d(x, 3, 2, 1, 1, True), F.avg_pool2d(x.long(), 3, 2)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(1, 2, 9, 8), (3, 2, 12, 11), (2, 5, 7, 20)]:
        x = sample(shape, torch.int32)
        for a, b in zip(compiled(x), f(x), strict=True):
            assert_bit_equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_23_large_windows_and_fractional_under_compile():
    def f(x, u):
        return F.max_pool2d(x, 7, 3, 3), F.fractional_max_pool2d(x, 2, 5, _random_samples=u)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    x, u = sample((1, 2, 20, 20)), torch.rand(1, 2, 2)
    for a, b in zip(compiled(x, u), f(x, u), strict=True):
        assert_bit_equal(a, b)


@every_rank
def test_24_modes(rank):
    x = sample((1, 2, *(4,) * rank))
    leaf = x.clone().requires_grad_()
    for dtype in testing.HALVES:
        with torch.autocast("cpu", dtype):
            y = getattr(F, f"max_pool{rank}d")(leaf.to(dtype), 2)
            assert y.dtype is dtype
            y.float().sum().backward()
    with torch.inference_mode():
        assert not getattr(F, f"avg_pool{rank}d")(leaf, 2).requires_grad
    with torch.no_grad():
        assert not getattr(F, f"max_pool{rank}d")(leaf, 2).requires_grad
    both = torch.cat([leaf, x])
    assert gradient(getattr(F, f"global_avg_pool{rank}d"), both).shape == both.shape


def test_25_python_threads_and_one_thread():
    x = sample((2, 8, 30, 30))
    expected = F.max_pool2d(x, 3, 2, 1)
    torch.set_num_threads(1)
    assert_bit_equal(F.max_pool2d(x, 3, 2, 1), expected)
    results = [None] * 6

    def work(i):
        results[i] = F.max_pool2d(x, 3, 2, 1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for r in results:
        assert_bit_equal(r, expected)


def test_25_data_loader_worker():
    """In a process of its own: the worker is forked, and must not inherit this one's threads."""
    code = """
import torch, poolkit.functional as F
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return F.max_pool2d(torch.full((1, 8, 8), float(i)), 2)
if __name__ == "__main__":
    print([b.mean().item() for b in torch.utils.data.DataLoader(Data(), num_workers=1)])
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert run.stdout.strip() == "[0.0, 1.0, 2.0, 3.0]", run.stderr


@every_layout
@pytest.mark.parametrize("dtype", testing.FLOATS)
def test_26_determinism(dtype, layout):
    x = laid_out(sample((3, 33, 50, 50), dtype, "special"), layout)
    seen = []
    for threads in (1, 2, 4, 1):
        torch.set_num_threads(threads)
        for name in ("max_pool2d", "avg_pool2d"):
            function = getattr(F, name)
            pool = functools.partial(function, kernel_size=3, stride=2, padding=1)
            seen.append((name, pool(x), gradient(pool, x)))
    for name, y, g in seen[2:]:
        first = seen[0] if name == seen[0][0] else seen[1]
        assert_bit_equal(y, first[1])
        assert_bit_equal(g, first[2])


def test_27_fake_strides_and_copies():
    x = sample((4, 3, 6, 5)).permute(1, 0, 3, 2)
    meta = torch.empty_strided(x.shape, x.stride(), device="meta")
    for function in (lambda x: F.max_pool2d(x, 2), lambda x: F.adaptive_avg_pool2d(x, (2, 1))):
        assert_same_strides(function(meta), function(x))
    module = nn.AvgPool2d(3, padding="same")
    assert repr(copy.deepcopy(module)) == repr(module)
    module.load_state_dict(torch.nn.AvgPool2d(3).state_dict())
