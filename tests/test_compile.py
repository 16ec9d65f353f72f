"""torch.compile: one graph, dynamic sizes, forward and backward, results equal to eager."""

import re

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code

from poolkit import functional as F
from poolkit import nn, ops
from poolkit.testing import assert_close, laid_out, sample

pytestmark = [
    pytest.mark.usefixtures("one_thread", "fresh_compiler"),
    pytest.mark.filterwarnings("ignore"),  # the compiler's own deprecations
]
needs_kernels = pytest.mark.skipif(
    not ops.NATIVE, reason="the reference alone is no operator, and inductor does not take it"
)


@pytest.fixture
def fresh_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def fixed(x):
    values, indices = F.max_pool2d_with_indices(x, 3, 2, 1, 1, True)
    return (values, indices, F.avg_pool2d(x, 3, 2, "same"), F.lp_pool2d(x, 2, 2),
            F.lp_pool2d(x, 3, 2, absolute=True), F.lp_pool2d(x, float("inf"), 2),
            F.max_pool2d(x, 3, 2, 1, padding_mode="reflect"), F.blur_pool2d(x),
            F.max_blur_pool2d(x, 3, 2, 1, padding_mode="replicate"))  # fmt: skip


def beyond(x):
    y, phase = F.polyphase_pool2d(x, return_phase=True)
    return (y, phase, F.polyphase_unpool2d(y, phase, 2, x.shape[2:]), F.global_avg_max_pool2d(x),
            F.gem_pool2d(x, 3, 2, 1, True), F.global_gem_pool2d(x, x.detach().mean().exp()),
            F.space_to_depth2d(F.depth_to_space2d(y.repeat(1, 4, 1, 1))))  # fmt: skip


def unpooled(x):
    y, i = F.max_pool2d(x, 3, 2, return_indices=True)
    found = [
        F.max_unpool2d(y, i, 3, 2, output_size=x.shape[2:], duplicates=duplicates)
        for duplicates in ("last", "sum", "max", "mean")
    ]
    y, i = F.max_pool2d(x, 2, return_indices=True)
    return (*found, F.max_unpool2d(y, i, 2, output_size=x.shape[2:], duplicates="error"))


def slope(found, x):
    return torch.autograd.grad(sum(y.square().sum() for y in found if y.is_floating_point()), x)[0]


def assert_equal_to_eager(compiled, function, x):
    x.requires_grad_()
    got, expected = compiled(x), function(x)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b)
    assert_close(slope(got, x), slope(expected, x))


@pytest.mark.parametrize("function", [fixed, beyond, unpooled])
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_graph(function, dynamic):
    """What test_autograd.py does not compile."""
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((2, 3, 10, 8), (4, 3, 13, 14)):
        assert_equal_to_eager(compiled, function, sample(size))


def test_repeated_indices_are_found_when_it_runs():
    compiled = torch.compile(
        lambda x, i: F.max_unpool2d(x, i, 1, duplicates="error"), fullgraph=True,
        backend="aot_eager",
    )  # fmt: skip
    x, i = sample((1, 1, 2, 2)), torch.arange(4).reshape(1, 1, 2, 2)
    assert_close(compiled(x, i), x)
    with pytest.raises(RuntimeError, match="duplicates='error', and an index repeats another"):
        compiled(x, i.clamp(max=2))


@pytest.mark.parametrize("mark", [False, True])
def test_no_recompilation(mark):
    """Sizes that are marked dynamic, or seen to change once, make no more programs."""
    counter = CompileCounterWithBackend("aot_eager")

    def function(x):
        return F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, 3)

    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for n, side in ((2, 12), (3, 13), (5, 17), (8, 20)):
        x = sample((n, 3, side, side + 1))
        if mark:
            for axis in (0, 2, 3):
                torch._dynamo.mark_dynamic(x, axis)
        for a, b in zip(compiled(x), function(x), strict=True):
            assert_close(a, b)
    assert counter.frame_count == (1 if mark else 2)


def test_compiled_autograd():
    """The backward pass of a forward pass that was not compiled."""

    def step(x):
        found = F.max_pool2d(x, 3), F.max_pool2d_with_indices(x, 2)[0], F.avg_pool2d(x, 2)
        sum(y.square().sum() for y in (*found, F.lp_pool2d(x, 2, 2))).backward()
        return x.grad

    x = sample((2, 3, 9, 8))
    expected = step(x.clone().requires_grad_())
    compiler = torch.compile(backend="eager", fullgraph=True, dynamic=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        assert_close(step(x.clone().requires_grad_()), expected)


# ---- inductor -----------------------------------------------------------------------------------


@needs_kernels
def test_inductor():
    """Each operator in one program, for two sizes and layouts, forward and backward."""

    def function(x):
        values, indices = F.max_pool2d_with_indices(torch.relu(x), 3, 2, 1)
        return values, indices, F.avg_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, (3, 2))

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for size, layout in (((2, 3, 10, 8), "contiguous"), ((4, 3, 13, 14), "channels_last")):
        assert_equal_to_eager(compiled, function, laid_out(sample(size), layout).detach())


@needs_kernels
def test_inductor_s_memory_format_is_kept():
    """Inductor makes convolutions channels-last: poolkit's operators follow, forward and back."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(8, 16, 3), nn.MaxPool2d(3, 2, 1), torch.nn.Conv2d(16, 16, 3),
        nn.AvgPool2d(2), torch.nn.Conv2d(16, 8, 3),
    )  # fmt: skip
    compiled, x = torch.compile(net, fullgraph=True), sample((2, 8, 30, 30))

    def step():
        y = compiled(x)
        y.square().sum().backward()
        return y

    y, programs = run_and_get_code(step)
    strides = re.findall(
        r"assert_size_stride\(\w+, \(([\d, ]+)\), \(([\d, ]+)\), 'torch.ops.poolkit.(\w+)",
        "\n".join(programs),
    )
    assert {name for *_, name in strides} == {
        "max_pool_offsets", "avg_pool", "scatter", "avg_pool_backward"
    }  # fmt: skip
    assert all(stride.split(", ")[1] == "1" for _, stride, _ in strides)
    assert_close(y, net(x))
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).square().sum().backward()
    for a, p in zip(got, net.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4)
