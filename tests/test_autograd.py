"""Derivatives of every order, transforms, compiler, threads, modes, what backward keeps."""

import threading
from typing import ClassVar

import pytest
import torch
from torch.autograd import forward_ad as fwad
from torch.autograd import gradcheck, gradgradcheck

from poolkit import functional as F
from poolkit import nn, ops, testing
from poolkit import window as W
from poolkit.testing import assert_bit_equal, assert_close, assert_same_strides, laid_out, sample

TF = torch.nn.functional

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own forward mode says so when it is first used.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
]

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
needs_kernels = pytest.mark.skipif(
    not ops.NATIVE,
    reason="the reference alone is no operator, and neither inductor nor jit takes it",
)


def distinct(*shape, dtype=torch.float64, seed=0):
    """All cells differ by at least 0.1 or so: finite differences do not change the winners."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (order.to(dtype) / 10 - count / 20).reshape(shape)


def operators(rank):
    """Name and function of every differentiable operator of a rank, for inputs of extent 4."""

    def at(name, *args, **kwargs):
        function = getattr(F, f"{name}{rank}d")
        return name, lambda x: function(x, *args, **kwargs)

    samples = torch.full((2, 2, rank), 0.4, dtype=torch.float64)
    index = torch.arange(4**rank).flip(0).reshape((4,) * rank).expand(2, 2, *(4,) * rank)
    return [
        at("max_pool", 3, 2, 1),
        at("max_pool", 2, 1, ((1, 0),) * rank, 2, True, padding_mode="zeros"),
        at("max_pool", 2, 1, 1, padding_mode="reflect"),
        at("avg_pool", 3, 2, 1, True, False),
        at("avg_pool", 2, 1, "same", divisor_override=-3, dilation=2),
        at("avg_pool", 2, 1, 1, padding_mode="circular"),
        at("adaptive_max_pool", 3),
        at("adaptive_avg_pool", 3),
        at("global_max_pool"),
        at("global_avg_pool"),
        at("lp_pool", 2, 2, 1),
        at("lp_pool", 3, 2, absolute=True, padding=1),
        at("polyphase_pool", 3, norm_type=1),
        at("polyphase_unpool", torch.tensor([1, 0]), 2, 7),
        at("space_to_depth", 2),
        at("gem_pool", 3, 2, 1, True, p=2.5, eps=0.05),
        at("global_gem_pool", torch.tensor([2.0, 5.0]), 0.05),
        at("global_avg_max_pool"),
        at("global_cat_avg_max_pool"),
        at("fractional_max_pool", 2, 3, _random_samples=samples),
        at("fractional_avg_pool", 2, 3, _random_samples=samples),
        ("max_unpool", lambda x: getattr(F, f"max_unpool{rank}d")(x, index, 1)),
    ]  # fmt: skip


CASES = [
    pytest.param(rank, function, id=f"{name}{rank}d-{i}")
    for rank in (1, 2, 3)
    for i, (name, function) in enumerate(operators(rank))
]
every_case = pytest.mark.parametrize(("rank", "function"), CASES)


def point(rank, **kwargs):
    return distinct(2, 2, *(4,) * rank, **kwargs)


# ---- Derivatives --------------------------------------------------------------------------------


@every_case
def test_gradcheck(rank, function):
    x = point(rank).requires_grad_()
    assert gradcheck(function, x, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, x, fast_mode=True)


@pytest.mark.parametrize(("rank", "function"), [c for c in CASES if c.values[0] == 2])
def test_gradcheck_batched(rank, function):
    """Vectorised over tangents and over gradients, forward over reverse."""
    x = point(rank).requires_grad_()
    assert gradcheck(
        function, x, check_batched_grad=True, check_forward_ad=True,
        check_batched_forward_grad=True, fast_mode=True,
    )  # fmt: skip
    assert gradgradcheck(function, x, check_fwd_over_rev=True, fast_mode=True)


@every_case
def test_forward_mode(rank, function):
    """dual_level, func.jvp and the product of backward agree."""
    x, t = point(rank), sample((2, 2, *(4,) * rank), torch.float64, seed=1)
    with fwad.dual_level():
        y, dual = fwad.unpack_dual(function(fwad.make_dual(x, t)))
    value, tangent = torch.func.jvp(function, (x,), (t,))
    assert_close(value, y)
    assert_close(tangent, dual)
    g = sample(tuple(y.shape), torch.float64, seed=2)
    (back,) = torch.func.vjp(function, x)[1](g)
    assert_close((back * t).sum(), (g * dual).sum())


@every_case
def test_func_grad_and_hessian(rank, function):
    x = point(rank)[:, :1] if rank == 1 else None

    def loss(x):
        return function(x).pow(3).sum()

    full = point(rank)
    leaf = full.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert_close(torch.func.grad(loss)(full), expected)
    if x is not None:
        hessian = torch.func.hessian(loss)(full)
        reverse = torch.func.jacrev(torch.func.jacrev(loss))(full)
        assert_close(hessian, reverse)
        assert hessian.abs().sum() > 0


@every_rank
@pytest.mark.parametrize("dtype", testing.HALVES)
def test_half_types(rank, dtype):
    """Values and gradients of float32, rounded."""
    x = point(rank).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    for name in ("max_pool", "avg_pool"):
        function = getattr(F, f"{name}{rank}d")
        y, z = function(x, 3, 2, 1), function(wide, 3, 2, 1)
        assert_close(y, z.to(dtype))
        assert_close(
            torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(z.sum(), wide)[0].to(dtype)
        )


def test_second_order_of_ties():
    """The gradient of a tie goes to the first winner, at every order."""
    x = torch.ones(1, 1, 4, requires_grad=True)
    y = F.max_pool1d(x, 2)
    (g,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    assert g.flatten().tolist() == [2, 0, 2, 0]
    (h,) = torch.autograd.grad(g.sum(), x)
    assert h.flatten().tolist() == [2, 0, 2, 0]


# ---- vmap ---------------------------------------------------------------------------------------


@every_case
def test_vmap(rank, function):
    """Over every dimension, nested, and grad below vmap."""
    x = distinct(3, 2, 2, *(4,) * rank)
    expected = torch.stack([function(part) for part in x])
    assert_close(torch.vmap(function)(x), expected)
    for dim in (1, x.dim() - 1):
        assert_close(torch.vmap(function, in_dims=dim)(x.movedim(0, dim)), expected)
        assert_close(torch.vmap(function, out_dims=dim)(x), expected.movedim(0, dim))
    nested = torch.vmap(torch.vmap(function))(torch.stack([x, 2 * x]))
    assert_close(nested[0], expected)
    assert_close(nested[1], torch.stack([function(2 * part) for part in x]))

    def loss(x):
        return function(x).pow(2).sum()

    each = torch.stack([torch.func.grad(loss)(part) for part in x])
    assert_close(torch.vmap(torch.func.grad(loss))(x), each)
    tangents = distinct(3, 2, 2, *(4,) * rank, seed=1)
    _, got = torch.vmap(lambda x, t: torch.func.jvp(function, (x,), (t,)))(x, tangents)
    assert_close(got, torch.stack([torch.func.jvp(function, (a,), (b,))[1]
                                   for a, b in zip(x, tangents, strict=True)]))  # fmt: skip


@every_rank
def test_vmap_of_unbatched_inputs_and_indices(rank):
    x = distinct(5, 2, *(4,) * rank)
    function = getattr(F, f"max_pool{rank}d")
    values, indices = torch.vmap(lambda x: function(x, 2, return_indices=True))(x)
    expected = function(x, 2, return_indices=True)
    assert_bit_equal(values, expected[0])
    assert_bit_equal(indices, expected[1])
    deep = distinct(2, 3, 2, *(4,) * rank)
    values = torch.vmap(torch.vmap(lambda x: function(x, 3, 2, 1)))(deep)
    assert_bit_equal(values, torch.stack([function(d, 3, 2, 1) for d in deep]))


@every_rank
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_vmap_over_fractional_samples(rank, kind):
    function = getattr(F, f"fractional_{kind}_pool{rank}d")
    x, u = distinct(2, 2, *(5,) * rank), sample((3, 2, 2, rank), torch.float64).sigmoid()
    got = torch.vmap(lambda u: function(x, 2, 3, _random_samples=u))(u)
    assert_close(got, torch.stack([function(x, 2, 3, _random_samples=v) for v in u]))


@every_rank
def test_vmap_over_indices(rank):
    function = getattr(F, f"max_unpool{rank}d")
    x = distinct(3, 1, 2, *(2,) * rank)
    indices = torch.stack([torch.arange(2**rank).roll(s) for s in range(3)])
    indices = indices.reshape(3, 1, 1, *(2,) * rank).expand(x.shape)
    expected = torch.stack([function(a, i, 1) for a, i in zip(x, indices, strict=True)])
    assert_close(torch.vmap(lambda x, i: function(x, i, 1))(x, indices), expected)
    one = torch.vmap(lambda i: function(x[0], i, 1))(indices)
    assert_close(one, torch.stack([function(x[0], i, 1) for i in indices]))


@pytest.mark.parametrize("where", [(0, None), (None, 0), (0, 0), (1, 0)])
def test_vmap_of_the_adjoints(where):
    """pick and scatter over each argument that can be batched."""
    window = W.fixed("f", 2, (2, 2, 4, 4), 2, 2, 0, 1, False, True)
    x = distinct(3, 2, 2, 4, 4)
    y, offsets = torch.stack([ops.max_pool(p, window) for p in x]), torch.stack(
        [ops.max_pool_offsets(p, window)[1] for p in x]
    )  # fmt: skip
    for function, t in ((ops.pick, x), (ops.scatter, y)):
        batch = [
            t if where[0] is not None else t[0],
            offsets if where[1] is not None else offsets[0],
        ]
        single = [
            [b if d is None else b[i] for b, d in zip(batch, where, strict=True)] for i in range(3)
        ]
        batch = [b if not d else b.movedim(0, d) for b, d in zip(batch, where, strict=True)]
        got = torch.vmap(function, in_dims=(*where, None))(*batch, window.packed)
        assert_close(got, torch.stack([function(a, o, window.packed) for a, o in single]))


# ---- What is kept -------------------------------------------------------------------------------


def kept(function, x):
    """Bytes that autograd keeps, and the tensors."""
    tensors = []

    def pack(t):
        tensors.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(x)
    return sum(t.numel() * t.element_size() for t in tensors), tensors, y


@every_rank
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
def test_saved_bytes(rank, layout):
    """Max: one byte per output. Average: nothing."""
    x = laid_out(sample((2, 3, *(8,) * rank)), layout).detach().requires_grad_()
    for name in ("max_pool", "adaptive_max_pool"):
        count, tensors, y = kept(lambda x: getattr(F, f"{name}{rank}d")(x, 2), x)  # noqa: B023
        assert count == y.numel()
        assert [t.dtype for t in tensors] == [torch.uint8]
    count, _, (y, _) = kept(lambda x: getattr(F, f"max_pool{rank}d")(x, 2, return_indices=True), x)
    assert count == y.numel()
    for name, args in (
        ("avg_pool", (3, 2, 1)),
        ("adaptive_avg_pool", (3,)),
        ("global_avg_pool", ()),
    ):
        assert kept(lambda x: getattr(F, f"{name}{rank}d")(x, *args), x)[0] == 0  # noqa: B023


@pytest.mark.parametrize(("taps", "size"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_saved_bytes_of_large_windows(taps, size):
    x = sample((1, 1, taps + 3)).requires_grad_()
    count, _, y = kept(lambda x: F.max_pool1d(x, taps, 1), x)
    assert count == size * y.numel()


def test_nothing_is_kept_in_inference():
    x = sample((1, 2, 8, 8))
    leaf = x.clone().requires_grad_()
    with torch.no_grad():
        assert kept(lambda x: F.max_pool2d(x, 2), leaf)[0] == 0
        assert not F.max_pool2d(leaf, 2).requires_grad
    with torch.inference_mode():
        y = F.max_pool2d(leaf, 2)
        assert y.is_inference()
        assert_bit_equal(y.clone(), F.max_pool2d(x, 2))
        F.avg_pool2d(x, 2)
    assert kept(lambda x: F.max_pool2d(x, 2), x)[0] == 0


# ---- The compiler -------------------------------------------------------------------------------


def net(x):
    a, i = F.max_pool2d(x, 3, 2, 1, 1, True, return_indices=True)
    b = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
    return a.sum() + (b * a).sum() + F.lp_pool2d(x, 2, 2).square().sum() + i.sum()


def adaptive_net(x):
    y = F.adaptive_avg_pool2d(x, 3) * F.adaptive_max_pool2d(x, 3) + F.global_avg_pool2d(x)
    return y.sum()


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("net", [net, adaptive_net])
def test_compile(net, dynamic, fresh_compiler):
    """One graph, forward and backward, for several sizes and layouts."""
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((2, 3, 9, 8), (1, 4, 12, 15)):
        x = laid_out(
            sample(size), "channels_last" if size[0] == 1 else "contiguous"
        ).requires_grad_()
        y = compiled(x)
        (g,) = torch.autograd.grad(y, x)
        wanted = net(x)
        assert_close(y, wanted)
        assert_close(g, torch.autograd.grad(wanted, x)[0])


@pytest.mark.filterwarnings("ignore")
def test_compile_arguments_from_the_shape(fresh_compiler):
    """Symbolic sizes as arguments, and a permuted input, whose strides are symbolic."""

    def function(x):
        y, i = F.max_pool2d(x.transpose(2, 3), 2, return_indices=True)
        whole = F.avg_pool2d(x, tuple(x.shape[2:])) + F.max_pool2d(x, x.shape[2:])
        return whole, F.max_unpool2d(y, i, 2, output_size=x.transpose(2, 3).shape)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 3, 9, 8), (1, 4, 12, 15)):
        x = sample(size).requires_grad_()
        got, expected = compiled(x), function(x)
        for a, b in zip(got, expected, strict=True):
            assert_close(a, b)
        a, b = (torch.autograd.grad(sum(y.sum() for y in ys), x)[0] for ys in (got, expected))
        assert_close(a, b)


@every_rank
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fractional(rank, dynamic, fresh_compiler):
    largest, mean = (getattr(F, f"fractional_{kind}_pool{rank}d") for kind in ("max", "avg"))

    def function(x, u):
        y, i = largest(x, 2, output_ratio=0.7, return_indices=True, _random_samples=u)
        return y, i, mean(x, 2, 3, _random_samples=u)

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (6, 9):
        x = sample((2, 3, *(size,) * rank)).requires_grad_()
        u = torch.rand(2, 3, rank, generator=torch.Generator().manual_seed(size))
        gradients = []
        for y, i, z in (compiled(x, u), function(x, u)):
            gradients.append([y, i, z, *torch.autograd.grad(y.square().sum() + z.sum(), x)])
        for got, expected in zip(*gradients, strict=True):
            assert_close(got, expected)


@needs_kernels
@pytest.mark.filterwarnings("ignore")
def test_compile_with_inductor(fresh_compiler):
    def step(x):
        y = F.max_pool2d(torch.relu(x), 3, 2, 1)
        return F.avg_pool2d(y, 2).sum()

    compiled = torch.compile(step, fullgraph=True)
    x = sample((1, 2, 9, 9)).requires_grad_()
    y = compiled(x)
    assert_close(y, step(x))
    assert_close(torch.autograd.grad(y, x)[0], torch.autograd.grad(step(x), x)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_compile_integers(dtype, fresh_compiler):
    compiled = torch.compile(
        lambda x: F.max_pool1d(x, 3, 2, 1), fullgraph=True, backend="aot_eager"
    )
    x = sample((2, 3, 9), dtype, "extreme")
    assert_bit_equal(compiled(x), F.max_pool1d(x, 3, 2, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model = torch.nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, ceil_mode=True),
                                nn.AdaptiveAvgPool2d((3, 2)))  # fmt: skip
    x = sample((2, 3, 16, 16))
    dims = {0: torch.export.Dim("n", min=1, max=64)}
    program = torch.export.export(model, (x,), dynamic_shapes=(dims,), strict=strict)
    for n in (2, 5):
        x = sample((n, 3, 16, 16), seed=n)
        assert_close(program.module()(x), model(x))


@needs_kernels
def test_opcheck():
    window = W.fixed("f", 2, (2, 3, 7, 6), (3, 2), 2, 1, 1, True, True)
    for layout in ("contiguous", "channels_last"):
        x = laid_out(sample((2, 3, 7, 6)), layout)
        packed = window.packed_last if layout == "channels_last" else window.packed
        values, offsets = torch.ops.poolkit.max_pool_offsets(x, packed)
        g = sample(tuple(values.shape), seed=1)
        for name, args in {
            "max_pool": (x,),
            "max_pool_offsets": (x,),
            "pick": (x, offsets),
            "scatter": (g, offsets),
            "plane_indices": (offsets,),
            "avg_pool": (x,),
            "avg_pool_backward": (g,),
        }.items():
            operator, tests = getattr(torch.ops.poolkit, name), ("test_schema", "test_faketensor")
            integers = [int(n) for n in packed.split()]
            torch.library.opcheck(operator.text, (*args, packed), test_utils=tests)
            torch.library.opcheck(operator.default, (*args, integers), test_utils=tests)
            results = operator(*args, packed), operator(*args, integers)
            torch.testing.assert_close(*results, rtol=0, atol=0)


@every_rank
@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_meta_strides(rank, layout):
    """Fake and meta tensors have the strides, dtypes and shapes of real ones."""
    x = laid_out(sample((2, 3, *(6,) * rank)), layout)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
    shadow = torch.empty_strided(x.shape, x.stride(), device="meta")
    for name, args in (
        ("max_pool", (3, 2, 1)), ("avg_pool", (3, 2, 1)), ("adaptive_max_pool", (4,)),
        ("adaptive_avg_pool", (4,)), ("lp_pool", (2, 2)), ("global_avg_pool", ()),
    ):  # fmt: skip
        function = getattr(F, f"{name}{rank}d")
        for other in (fake, shadow):
            with mode if other is fake else torch.no_grad():
                got = function(other, *args)
            assert got.shape == function(x, *args).shape
            assert got.dtype is x.dtype
            assert_same_strides(got, function(x, *args), name)
            assert got.device.type == other.device.type


# ---- Threads and determinism --------------------------------------------------------------------


@every_rank
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(rank, layout, dtype, keep_threads):
    shape = (2, 20, *{1: (6000,), 2: (90, 80), 3: (20, 22, 18)}[rank])
    x = laid_out(sample(shape, dtype, "relu"), layout)
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        outputs = []
        for name, args in (
            ("max_pool", (3, 2, 1)), ("avg_pool", (3, 1, 1)), ("adaptive_max_pool", (7,)),
            ("adaptive_avg_pool", (7,)), ("global_avg_pool", ()),
        ):  # fmt: skip
            leaf = x.detach().requires_grad_()
            y = getattr(F, f"{name}{rank}d")(leaf, *args)
            g = sample(tuple(y.shape), seed=1).to(dtype)
            outputs += [y, *torch.autograd.grad(y, leaf, g)]
        results.append(outputs)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_bit_equal(a, b)


def test_python_threads():
    x = sample((4, 16, 40, 40))
    expected = F.max_pool2d(x, 3, 2, 1)
    failures = []

    def work():
        for _ in range(20):
            leaf = x.clone().requires_grad_()
            y = F.max_pool2d(leaf, 3, 2, 1)
            y.sum().backward()
            if not torch.equal(y, expected) or leaf.grad.sum() != y.numel():
                failures.append(y)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---- Modes and tracers ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", testing.HALVES)
@every_rank
def test_autocast(rank, dtype):
    """The dtype of pooling never changes."""
    for given in (torch.float32, *testing.HALVES):
        x = sample((1, 2, *(6,) * rank), given)
        with torch.autocast("cpu", dtype):
            for name, args in (
                ("max_pool", (2,)), ("avg_pool", (2,)), ("lp_pool", (2, 2)),
                ("adaptive_avg_pool", (2,)), ("fractional_max_pool", (2, 3)),
            ):  # fmt: skip
                assert getattr(F, f"{name}{rank}d")(x, *args).dtype is given


def test_module_is_called_twice_in_one_graph():
    pool = nn.MaxPool2d(2, 1)
    x = distinct(1, 1, 4, 4).requires_grad_()
    (g,) = torch.autograd.grad(pool(pool(x)).sum(), x)
    (expected,) = torch.autograd.grad(TF.max_pool2d(TF.max_pool2d(x, 2, 1), 2, 1).sum(), x)
    assert_bit_equal(g, expected)


def test_partial_requires_grad():
    a, b = sample((1, 1, 4)).requires_grad_(), sample((1, 1, 4), seed=1)
    y = F.max_pool1d(a, 2) * F.max_pool1d(b, 2)
    assert torch.autograd.grad(y.sum(), a)[0].shape == a.shape
    assert not F.max_pool1d(b, 2).requires_grad
    assert not F.max_pool1d(a, 2, return_indices=True)[1].requires_grad


def test_fx_tracing():
    def f(x):
        return F.avg_pool2d(F.max_pool2d(x, 2), 2)

    graph = torch.fx.symbolic_trace(f)
    assert [n.target.__name__ for n in graph.graph.nodes if n.op == "call_function"] == [
        "max_pool2d", "avg_pool2d"
    ]  # fmt: skip
    x = sample((1, 2, 8, 8))
    assert_bit_equal(graph(x), f(x))


def test_tensor_subclass():
    class Logged(torch.Tensor):
        calls: ClassVar[list[str]] = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.calls.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs or {})

    x = sample((1, 2, 8, 8)).as_subclass(Logged)
    assert isinstance(F.max_pool2d(x, 2), Logged)
    assert "max_pool2d" in Logged.calls


@needs_kernels
@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated and says so, in several ways
def test_jit_trace():
    """A traced function computes what the function does."""

    def net(x):
        return F.max_pool2d(x, 3, 2, 1) + F.adaptive_avg_pool2d(x, 4)

    x = sample((2, 3, 8, 8))
    assert_bit_equal(torch.jit.trace(net, x)(x), net(x))
