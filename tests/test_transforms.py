"""Every family through torch.func, autocast, checkpoints, copies, and the other modes of torch."""

import copy
import io
import pickle

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from poolkit import ArgumentError, nn
from poolkit import functional as F
from poolkit.testing import HALVES, assert_bit_equal, assert_close, sample

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own forward mode says so when it is first used.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
]


def unpool(duplicates):
    kernel, stride = (2, 2) if duplicates == "error" else (3, 2)  # overlapping windows repeat

    def function(x):
        y, i = F.max_pool2d(x, kernel, stride, return_indices=True)
        size = x.shape[2:]
        return F.max_unpool2d(y, i, kernel, stride, output_size=size, duplicates=duplicates)

    return function


def fractional(pool):
    def function(x):
        size = (x.shape[0], x.shape[1], 2)  # FX cannot take a part of a shape
        samples = torch.full(size, 0.3, dtype=x.dtype, device=x.device)
        return pool(x, 2, output_ratio=0.7, _random_samples=samples)

    return function


def polyphase_unpool(x):
    y, phase = F.polyphase_pool2d(x, 3, return_phase=True)
    return F.polyphase_unpool2d(y, phase, 3)


FUNCTIONS = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_with_indices": lambda x: F.max_pool2d_with_indices(x, 3, 2, 1, 1, True),
    "max_reflect": lambda x: F.max_pool2d(x, 3, 2, 1, padding_mode="reflect"),
    "avg": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "avg_circular": lambda x: F.avg_pool2d(x, 3, 2, 1, padding_mode="circular"),
    "blur": lambda x: F.blur_pool2d(x, (3, 4)),
    "blur_circular": lambda x: F.blur_pool2d(x, 4, 3, 2, padding_mode="circular"),
    "max_blur": lambda x: F.max_blur_pool2d(x, 3, 2, 1),
    "lp_2": lambda x: F.lp_pool2d(x, 2, 2),
    "lp_2_absolute": lambda x: F.lp_pool2d(x, 2, 2, absolute=True, padding=1),
    "lp_3": lambda x: F.lp_pool2d(x, 3, 2, absolute=True),
    "lp_inf": lambda x: F.lp_pool2d(x, float("inf"), 2),
    "adaptive_max": lambda x: F.adaptive_max_pool2d_with_indices(x, (3, 2)),
    "adaptive_avg": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "global_max": F.global_max_pool2d,
    "global_avg": F.global_avg_pool2d,
    "polyphase": lambda x: F.polyphase_pool2d(x, return_phase=True),
    "polyphase_unpool": polyphase_unpool,
    "space_to_depth": lambda x: F.depth_to_space2d(F.space_to_depth2d(x, (1, 2)), (1, 2)),
    "gem": lambda x: F.gem_pool2d(x, 3, 2, 1, True),
    "global_gem": lambda x: F.global_gem_pool2d(x.abs()),
    "global_avg_max": F.global_avg_max_pool2d,
    "global_cat_avg_max": F.global_cat_avg_max_pool2d,
    "fractional_max": fractional(F.fractional_max_pool2d_with_indices),
    "fractional_avg": fractional(F.fractional_avg_pool2d),
} | {f"unpool_{d}": unpool(d) for d in ("last", "sum", "max", "mean", "error")}  # fmt: skip

every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def outputs(y):
    return y if isinstance(y, tuple) else (y,)


def assert_same(got, expected):
    for a, b in zip(outputs(got), outputs(expected), strict=True):
        assert_close(a, b)


def first(function):
    return lambda x: outputs(function(x))[0]


def point(*shape, dtype=torch.float64):
    return sample(shape, dtype)


# ---- torch.func ---------------------------------------------------------------------------------


@every_function
def test_vmap(function):
    x = point(3, 2, 2, 7, 6)
    parts = [outputs(function(part)) for part in x]
    assert_same(torch.vmap(function)(x), tuple(map(torch.stack, zip(*parts, strict=True))))


@every_function
def test_derivatives(function):
    """grad, vjp, jvp, jacrev, jacfwd and hessian are those of autograd."""
    pool, x, t = first(function), point(1, 1, 6, 6), point(1, 1, 6, 6).cos()

    def loss(x):
        return pool(x).pow(3).sum()

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    assert_close(torch.func.grad(loss)(x), slope)
    (curved,) = torch.autograd.grad((slope * t).sum(), leaf)
    hessian = torch.func.hessian(loss)(x)
    assert_close(torch.tensordot(hessian, t, 4), curved)
    assert curved.any()
    jacobian = torch.func.jacrev(pool)(x)
    assert_close(torch.func.jacfwd(pool)(x), jacobian)
    _, tangent = torch.func.jvp(pool, (x,), (t,))
    assert_close(torch.tensordot(jacobian, t, 4), tangent)


def test_hessian_of_a_small_net():
    """With respect to the parameters: forward over reverse and reverse over reverse."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2, 1), torch.nn.Tanh(), nn.LPPool2d(2, 2),
        torch.nn.Conv2d(2, 2, 1), nn.AvgPool2d(2, 1), nn.GlobalAvgPool2d(flatten=True),
    ).double()  # fmt: skip
    x, parameters = point(2, 1, 12, 12), dict(net.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(net, parameters, x).square().sum()

    hessian = torch.func.hessian(loss)(parameters)
    reverse = torch.func.jacrev(torch.func.jacrev(loss))(parameters)
    for name, row in hessian.items():
        for other, block in row.items():
            assert_close(block, reverse[name][other])
    assert hessian["0.weight"]["4.weight"].any()


def test_repeated_indices_are_found_below_transforms():
    x, i = point(2, 1, 1, 2, 2), torch.tensor([[[[[0, 1], [2, 3]]]], [[[[0, 1], [2, 0]]]]])

    def function(x, i):
        return F.max_unpool2d(x, i, 1, duplicates="error")

    assert_close(torch.vmap(function)(x, i.clamp(min=0)[:1].expand_as(i)), x)
    for call in (
        lambda: torch.vmap(function)(x, i),
        lambda: torch.vmap(function, in_dims=(0, None))(x, i[1]),
        lambda: torch.func.grad(lambda x: function(x, i[1]).sum())(x[1]),
    ):
        with pytest.raises(ArgumentError, match="duplicates='error', and an index repeats another"):
            call()


# ---- modes --------------------------------------------------------------------------------------


@every_function
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast(function, dtype):
    """Pooling keeps the dtype that it is given, and its gradient reaches the weights."""
    for given in (torch.float32, *HALVES):
        x = point(1, 2, 7, 6, dtype=given)
        with torch.autocast("cpu", dtype):
            got = function(x)
        assert outputs(got)[0].dtype is given
        for a, b in zip(outputs(got), outputs(function(x)), strict=True):
            assert_bit_equal(a, b)
    conv = torch.nn.Conv2d(2, 2, 1)
    with torch.autocast("cpu", dtype):
        y = first(function)(conv(point(1, 2, 8, 8, dtype=torch.float32)))
    assert y.dtype is dtype
    y.float().square().sum().backward()
    assert conv.weight.grad.any()


@every_function
def test_inference_mode(function):
    x = point(1, 2, 7, 6)
    with torch.inference_mode():
        got = function(x.clone())
        assert all(y.is_inference() for y in outputs(got))
    assert_same(tuple(y.clone() for y in outputs(got)), function(x))


@every_function
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(function, reentrant):
    pool = first(function)
    x, y = point(2, 2, 7, 6).requires_grad_(), point(2, 2, 7, 6).requires_grad_()
    checkpoint(lambda x: pool(x * 2), x, use_reentrant=reentrant).square().sum().backward()
    pool(y * 2).square().sum().backward()
    assert_bit_equal(x.grad, y.grad)


@every_function
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_meta_and_fake(function, layout):
    """Shapes, dtypes and strides without values, forward and backward."""
    x = point(2, 3, 7, 6).contiguous(memory_format=layout)
    expected = outputs(function(x))
    meta = torch.empty_like(x, device="meta", requires_grad=True)
    got = outputs(function(meta))
    with FakeTensorMode() as mode:
        fake = outputs(function(mode.from_tensor(x)))
    for y, z, e in zip(got, fake, expected, strict=True):
        assert y.is_meta
        assert (y.shape, y.dtype, y.stride()) == (e.shape, e.dtype, e.stride())
        assert (z.shape, z.dtype, z.stride()) == (e.shape, e.dtype, e.stride())
    got[0].sum().backward()
    assert meta.grad.shape == x.shape


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every_function
def test_deterministic_algorithms(function, deterministic):
    """Nothing here has to be refused, and gradients are the same bits as ever."""
    pool, x = first(function), point(2, 2, 7, 6).requires_grad_()
    (slope,) = torch.autograd.grad(pool(x).square().sum(), x)
    torch.use_deterministic_algorithms(False)
    assert_bit_equal(slope, torch.autograd.grad(pool(x).square().sum(), x)[0])


@every_function
def test_fx_function(function):
    """A traced function calls poolkit's public functions by name and computes the same."""
    graph = torch.fx.symbolic_trace(function)
    names = {n.target.__module__ for n in graph.graph.nodes if n.op == "call_function"}
    assert any(name.startswith("poolkit.functional") for name in names)
    x = point(1, 2, 7, 6)
    assert_same(graph(x), function(x))


# ---- modules ------------------------------------------------------------------------------------


def network(kind):
    """The same network of poolkit's modules or torch's; each pooling takes part."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), kind.MaxPool2d(3, 2, 1),
        kind.AvgPool2d(2, 1), kind.LPPool2d(2, 2),
        kind.FractionalMaxPool2d(2, 4, _random_samples=torch.full((2, 3, 2), 0.3)),
        kind.AdaptiveMaxPool2d(3), kind.AdaptiveAvgPool2d((2, 1)), torch.nn.Flatten(),
    )  # fmt: skip


def test_state_dicts_load_both_ways():
    """With `weights_only`, between poolkit's modules and torch's."""
    ours, stock = network(nn), network(torch.nn)
    assert list(ours.state_dict()) == list(stock.state_dict())
    x = sample((2, 1, 36, 36))
    for source, target in ((ours, stock), (stock, ours)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.add_(torch.randn_like(parameter))
        buffer = io.BytesIO()
        torch.save(source.state_dict(), buffer)
        buffer.seek(0)
        target.load_state_dict(torch.load(buffer, weights_only=True))
        assert_close(target(x), source(x))


def test_copies_compute_the_same():
    net, x = network(nn), sample((2, 1, 36, 36))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_bit_equal(twin(x), net(x))
        twin(x).sum().backward()
    assert net[0].weight.grad is None


def test_fx_module():
    """Tracing goes through the modules to poolkit's functions; the traced module copies too."""
    net, x = network(nn).eval(), sample((2, 1, 36, 36))
    traced = torch.fx.symbolic_trace(net)
    called = [n.target.__name__ for n in traced.graph.nodes if n.op == "call_function"]
    assert {"max_pool2d", "avg_pool2d", "lp_pool2d", "fractional_max_pool2d"} < set(called)
    assert_bit_equal(traced(x), net(x))
    assert_bit_equal(copy.deepcopy(traced)(x), net(x))


def test_module_built_on_meta():
    """Built on meta, given memory, loaded: as large models are."""
    with torch.device("meta"):
        net = network(nn)
    net = net.to_empty(device="cpu")
    net.load_state_dict(network(torch.nn).state_dict())
    x = sample((2, 1, 36, 36))
    assert_close(net(x), network(torch.nn)(x))
