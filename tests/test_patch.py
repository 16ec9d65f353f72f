"""Torch's own pooling on poolkit's kernels: who is served, what stays torch's, complete undo."""

import importlib.util
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch.autograd import forward_ad as fwad
from torch.nn.functional import max_pool2d as imported_by_name

import poolkit
from poolkit import cpu, ops
from poolkit import patch as patching
from poolkit.testing import assert_bit_equal, assert_close, sample

TF = torch.nn.functional

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not ops.NATIVE, reason="there is nothing to patch torch with"),
    # torch's own words about its own tools.
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated"),
]

NAMES = [override.name for override in patching._overrides()]


def table():
    """What torch's dispatcher knows of every overridden operator."""
    return [
        dump(f"aten::{name}")
        for name in NAMES
        for dump in (torch._C._dispatch_dump, torch._C._dispatch_dump_table)
    ]


STOCK = table()


@pytest.fixture(autouse=True)
def undone():
    """Whatever a test does, torch is as it was when it ends."""
    assert table() == STOCK
    yield
    assert table() == STOCK


@pytest.fixture
def patched():
    with poolkit.patched_torch():
        yield


def kernels(function, *args):
    """The names of poolkit's operators that a call arrives at."""
    with torch.autograd.profiler.profile() as profile:
        function(*args)
    names = {event.name for event in profile.function_events}
    return {name.removeprefix("poolkit::") for name in names if name.startswith("poolkit::")}


# ---- Who is served ------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.pool = torch.nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(self.pool(self.conv(x)), 2)


X = sample((2, 3, 16, 16))
NET = Net()
CALLERS = {
    "module": torch.nn.MaxPool2d(2),
    "functional": lambda x: TF.max_pool2d(x, 2),
    "imported by name": lambda x: imported_by_name(x, 2),
    "torch": lambda x: torch.max_pool2d(x, 2),
    "aten": lambda x: torch.ops.aten.max_pool2d(x, 2),
    "with indices": lambda x: TF.max_pool2d(x, 2, return_indices=True)[0],
    "network": NET,
    "subclass": lambda x: torch.max_pool2d(x.as_subclass(Subclass), 2).as_subclass(torch.Tensor),
    "parameter": lambda x: torch.max_pool2d(torch.nn.Parameter(x), 2).detach(),
}
PROGRAMS = {
    "scripted": lambda: torch.jit.script(NET),
    "traced": lambda: torch.jit.trace(NET, X),
    "exported": lambda: torch.export.export(NET, (X,)).module(),
}


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("caller", [*CALLERS, *PROGRAMS])
def test_every_way_to_call(caller):
    function = CALLERS[caller] if caller in CALLERS else PROGRAMS[caller]()
    stock = function(X)
    assert not kernels(function, X)
    with poolkit.patched_torch():
        assert kernels(function, X)
        result = function(X)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert kernels(function, X)
                assert_close(function(X), stock)
    assert type(result) is type(stock)
    assert_close(result, stock)
    assert not kernels(function, X)


FAMILIES = {
    "max_pool": (3, 2, 1, 1, True),
    "avg_pool": (3, 2, 1, True, False),
    "lp_pool": (2, 3, 2),
    "adaptive_max_pool": (3,),
    "adaptive_avg_pool": (3,),
}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, rank):
    """Values, gradients and what autograd keeps, in every mode."""
    x = sample((2, 3, *(8,) * rank), values="relu") + 1
    leaf = x.clone().requires_grad_()

    def pool(x):
        return getattr(TF, f"{family}{rank}d")(x, *FAMILIES[family])

    def gradient():
        return torch.autograd.grad(pool(leaf).square().sum(), leaf)[0]

    compare = assert_bit_equal if "max" in family else assert_close
    stock, slope = pool(x), gradient()
    with poolkit.patched_torch():
        kernel = {"max": "max_pool"}.get(family.split("_")[-2], "avg_pool")
        assert kernels(pool, x) & {kernel, "max_pool_offsets"}
        compare(pool(x), stock)
        compare(gradient(), slope)
        if (family, rank) != ("max_pool", 1):  # torch goes straight to its own code there
            with torch.inference_mode():
                assert kernels(pool, x) & {kernel, "max_pool_offsets"}
                compare(pool(x), stock)


def test_inference_writes_no_indices(patched):
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert kernels(torch.nn.MaxPool2d(2), X) == {"max_pool"}
            assert kernels(torch.nn.MaxPool3d(2), X) == {"max_pool"}


def test_training_keeps_a_byte_per_output(patched):
    x = X.clone().requires_grad_()
    for function, kept in [
        (lambda: TF.max_pool2d(x, 2), 2 * 3 * 8 * 8),
        (lambda: TF.max_pool2d(x, 2, return_indices=True)[0], 2 * 3 * 8 * 8),
        (lambda: TF.avg_pool2d(x, 2), 0),
        (lambda: TF.adaptive_avg_pool2d(x, 3), 0),
        (lambda: TF.adaptive_max_pool2d(x, 3), 2 * 3 * 3 * 3),
    ]:
        saved = []

        def pack(t, saved=saved):
            saved.append(t.nbytes)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            function()
        assert sum(saved) == kept


def test_integers_of_max_pool2d(patched):
    x = sample((1, 2, 6, 6), torch.uint8)
    assert kernels(torch.nn.MaxPool2d(2), x) == {"max_pool"}


# ---- What stays torch's -------------------------------------------------------------------------

AD = {
    "max": lambda x: TF.max_pool2d(x.sin(), 3, 2, 1),
    "indices": lambda x: TF.max_pool2d(x.sin(), 3, 2, 1, return_indices=True)[0],
    "max1d": lambda x: TF.max_pool1d(x.sin().flatten(0, 1), 2),
    "max3d": lambda x: TF.max_pool3d(x.sin(), 2),
    "avg": lambda x: TF.avg_pool2d(x.sin(), 3, 2, 1),
    "adaptive avg": lambda x: TF.adaptive_avg_pool2d(x.sin(), 3),
    "adaptive max": lambda x: TF.adaptive_max_pool2d(x.sin(), 3),
}


def squared(f):
    return lambda x: f(x).square().sum()


def under_autograd(f, x):
    """A functorch gradient, itself differentiated by plain autograd."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(torch.func.grad(squared(f))(x).square().sum(), x)


def twice(f, x):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(squared(f)(x), x, create_graph=True)
    return torch.autograd.grad(g.square().sum(), x)


def dual(f, x):
    """A forward-mode derivative of plain tensors."""
    with fwad.dual_level():
        return fwad.unpack_dual(f(fwad.make_dual(x, x + 1)))


def reverse_over_dual(f, x):
    x = x.clone().requires_grad_()
    with fwad.dual_level():
        value, tangent = fwad.unpack_dual(f(fwad.make_dual(x, x.detach() + 1)))
        return value, tangent, *torch.autograd.grad(tangent.square().sum(), x)


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(squared(f))(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x + 1,)),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](f(x)),
    "hessian": lambda f, x: torch.func.hessian(squared(f))(x),
    "vmap": lambda f, x: torch.vmap(f)(torch.stack([x, x + 1])),
    "vmap of grad": lambda f, x: torch.vmap(torch.func.grad(squared(f)))(torch.stack([x, x + 1])),
    "autograd.hessian": lambda f, x: torch.autograd.functional.hessian(squared(f), x),
    "grad under autograd": under_autograd,
    "twice": twice,
    "dual": dual,
    "reverse over dual": reverse_over_dual,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_derivatives_and_transforms(transform):
    x = sample((2, 2, 4, 4), torch.float64)
    for f in AD.values():
        stock = TRANSFORMS[transform](f, x)
        with poolkit.patched_torch():
            result = TRANSFORMS[transform](f, x)
        torch.testing.assert_close(result, stock, rtol=1e-12, atol=1e-12)


def test_gradcheck(patched):
    x = sample((1, 2, 4, 4), torch.float64).requires_grad_()
    for f in AD.values():
        assert torch.autograd.gradcheck(f, x)
        assert torch.autograd.gradgradcheck(f, x)


def test_autocast_keeps_torch_s_rule(patched):
    half = X.bfloat16()
    with torch.autocast("cpu"):
        assert TF.max_pool3d(half, 2).dtype is torch.float32
        assert TF.avg_pool3d(half, 2).dtype is torch.float32
        assert TF.max_pool2d(half, 2).dtype is torch.bfloat16
        assert kernels(lambda: TF.max_pool3d(half, 2)) == {"max_pool"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: TF.max_pool2d(X, 0),
        lambda: TF.max_pool2d(X, 2, padding=2),
        lambda: TF.max_pool2d(X, 3, 1, 2),  # poolkit itself would compute this
        lambda: TF.avg_pool1d(X[0], 3, 1, 2),
        lambda: TF.max_pool2d(X, 2, stride=0),
        lambda: TF.max_pool2d(X, 20),
        lambda: TF.max_pool2d(X[0, 0], 2),
        lambda: TF.max_pool2d(X > 0, 2),
        lambda: TF.max_pool2d(X, "2"),
        lambda: TF.max_pool2d(X.to_sparse(), 2),
        lambda: TF.max_pool2d(X.numpy(), 2),
        lambda: TF.max_pool3d(X.to(torch.complex64), 2),
        lambda: TF.avg_pool2d(X, 2, divisor_override=0),
        lambda: TF.avg_pool2d(X.int(), 2),
        lambda: TF.avg_pool3d(X.half(), 2),
        lambda: TF.adaptive_avg_pool2d(X, -1),
        lambda: TF.adaptive_max_pool2d(X, (1, 2, 3)),
    ],
)
def test_exceptions_are_torch_s_own(call):
    with pytest.raises(Exception, match=r".") as stock:
        call()
    with poolkit.patched_torch(), pytest.raises(type(stock.value)) as error:
        call()
    assert type(error.value) is type(stock.value)
    # Of a missing kernel, torch lists the registered ones below the first line.
    assert str(error.value).partition("\n")[0] == str(stock.value).partition("\n")[0]


def test_what_poolkit_refuses_torch_computes(patched):
    x = torch.ones(1, 1, 4, 4)
    assert TF.max_pool2d(x, 2, 1, 1, 5).tolist() == [[[[-torch.inf]]]]


@pytest.mark.filterwarnings("ignore")  # quantisation is deprecated
@pytest.mark.parametrize("make", [
    lambda x: x.to("meta"), torch.Tensor.to_mkldnn, torch._neg_view,
    lambda x: torch.quantize_per_tensor(x, 0.05, 10, torch.quint8),
], ids=["meta", "mkldnn", "negative", "quantised"])  # fmt: skip
def test_unusual_tensors(make):
    x = make(X)
    stock = TF.max_pool2d(x, 2)
    with poolkit.patched_torch():
        assert "max_pool" not in kernels(torch.nn.MaxPool2d(2), x)
        result = TF.max_pool2d(x, 2)
    assert (result.shape, result.layout, result.device) == (stock.shape, stock.layout, stock.device)
    if not x.is_meta:
        assert torch.equal(*(t.dequantize() if t.is_quantized else t.to_dense()
                             for t in (result, stock)))  # fmt: skip


def test_tracers_see_torch_s_operators():
    def graph(trace):
        return [str(node.target) for node in trace().graph.nodes]

    def fx():
        return torch.fx.experimental.proxy_tensor.make_fx(NET)(X)

    def program():
        return torch.export.export(NET, (X,))

    def decomposed():
        return torch.export.export(torch.nn.AdaptiveAvgPool2d(2), (X,)).run_decompositions()

    stock = [graph(trace) for trace in (fx, program, decomposed)]
    with poolkit.patched_torch():
        assert [graph(trace) for trace in (fx, program, decomposed)] == stock
        assert "poolkit" not in str(torch.jit.trace(NET, X).inlined_graph)
    assert [graph(trace) for trace in (fx, program, decomposed)] == stock


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_code(patched):
    """Compiled under the patch, it gives the right results, and goes on doing so without it."""

    def function(x):
        return TF.max_pool2d(x, 3, 2, 1), TF.avg_pool2d(x, 7, 1)

    stock = function(X)
    compiled = torch.compile(function)
    torch.testing.assert_close(compiled(X), stock)
    assert kernels(compiled, X) == {"avg_pool"}  # of 49 cells, for which it generates no code
    poolkit.unpatch_torch()
    try:
        assert not kernels(compiled, X)
        torch.testing.assert_close(compiled(X), stock)
    finally:
        poolkit.patch_torch()


# ---- Libraries ----------------------------------------------------------------------------------


def check_network(network, x):
    """The same result and the same gradient, and pooling was served."""

    def step(x):
        x = x.clone().requires_grad_()
        y = network(x)
        return y, *torch.autograd.grad(y.square().sum(), x)

    stock = step(x)
    with poolkit.patched_torch():
        assert kernels(network, x)
        result = step(x)
    torch.testing.assert_close(result, stock, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 9, 20), (2, 9, 6, 7), (1, 9, 3, 4, 5)])
def test_local_response_normalization(shape):
    """Torch averages across channels by pooling, of windows of one cell of each."""
    check_network(torch.nn.LocalResponseNorm(5, 0.5), sample(shape))


@pytest.mark.filterwarnings("ignore")
def test_monai():
    data = pytest.importorskip("monai.data")
    from monai.networks.blocks import MaxAvgPool
    from monai.networks.nets import BasicUNet

    torch.manual_seed(0)
    network = BasicUNet(spatial_dims=2, features=(4, 4, 4, 4, 4, 4)).eval()
    check_network(network, sample((1, 1, 32, 32)))
    block = MaxAvgPool(spatial_dims=2, kernel_size=2)
    check_network(block, sample((1, 2, 8, 8)))
    with poolkit.patched_torch():
        meta = block(data.MetaTensor(sample((1, 2, 8, 8))))
    assert isinstance(meta, data.MetaTensor)


@pytest.mark.filterwarnings("ignore")
def test_pytorchcv():
    models = pytest.importorskip("pytorchcv.models.squeezenet")
    torch.manual_seed(0)
    network = models.squeezenet_v1_1().eval()
    check_network(network.features, sample((1, 3, 64, 64)))


KERAS = """
import numpy, torch, keras, poolkit
assert keras.backend.backend() == "torch"
x = numpy.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
layers = [keras.layers.MaxPooling2D(2), keras.layers.AveragePooling2D(3, 2, padding="same"),
          keras.layers.GlobalAveragePooling2D(), keras.layers.MaxPooling2D(3, 2, padding="same")]
stock = [layer(x).detach().numpy() for layer in layers]
with poolkit.patched_torch(), torch.autograd.profiler.profile() as profile:
    patched = [layer(x).detach().numpy() for layer in layers]
for a, b in zip(stock, patched):
    numpy.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
names = {event.name for event in profile.function_events}
assert {"poolkit::max_pool", "poolkit::avg_pool"} <= names, names
"""


def test_keras():
    if importlib.util.find_spec("keras") is None:  # importing it here would choose a back end
        pytest.skip("keras is not installed")
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-P", "-c", KERAS], env=environment, check=True)


# ---- On and off ---------------------------------------------------------------------------------


def test_patches_nest():
    poolkit.patch_torch()
    with poolkit.patched_torch():
        poolkit.patch_torch()
        poolkit.unpatch_torch()
        assert kernels(torch.nn.MaxPool2d(2), X)
    assert kernels(torch.nn.MaxPool2d(2), X)
    poolkit.unpatch_torch()
    assert table() == STOCK


def test_unpatching_the_unpatched():
    for _ in range(2):
        with pytest.raises(poolkit.ArgumentError, match=r"^unpatch_torch: torch is not patched$"):
            poolkit.unpatch_torch()
    with poolkit.patched_torch():
        assert kernels(torch.nn.MaxPool2d(2), X)


def test_an_exception_inside_undoes_the_patch():
    with pytest.raises(KeyError), poolkit.patched_torch():
        raise KeyError
    assert table() == STOCK


def test_nothing_is_left_half_patched(monkeypatch):
    register, count = torch.library.Library.impl, [0]

    def failing(*args, **kwargs):
        count[0] += 1
        if count[0] == 9:
            raise KeyboardInterrupt
        return register(*args, **kwargs)

    monkeypatch.setattr(torch.library.Library, "impl", failing)
    with pytest.raises(KeyboardInterrupt):
        poolkit.patch_torch()
    assert table() == STOCK
    with pytest.raises(poolkit.ArgumentError):
        poolkit.unpatch_torch()


def test_without_kernels_torch_is_left_alone(monkeypatch):
    monkeypatch.setattr(cpu, "isa", lambda: None)
    with pytest.raises(cpu.LibraryError, match=r"^patch_torch: no native library"):
        poolkit.patch_torch()
    with pytest.raises(RuntimeError), poolkit.patched_torch():
        pass


def test_no_warning_and_no_filter_is_left():
    before = list(warnings.filters)
    with poolkit.patched_torch():
        pass
    assert list(warnings.filters) == before


def test_backward_after_the_undo():
    x = X.clone().requires_grad_()
    with poolkit.patched_torch():
        y = TF.max_pool2d(x, 3, 2)
    (got,) = torch.autograd.grad(y.sum(), x)
    (stock,) = torch.autograd.grad(TF.max_pool2d(x, 3, 2).sum(), x)
    assert_bit_equal(got, stock)


# ---- Threads ------------------------------------------------------------------------------------


def test_threads_patch_and_pool_at_once():
    stock, errors = TF.max_pool2d(X, 3, 2, 1), []

    def work(number):
        try:
            for turn in range(60):
                if (turn + number) % 3:
                    assert torch.equal(TF.max_pool2d(X, 3, 2, 1), stock)
                else:
                    with poolkit.patched_torch():
                        assert torch.equal(TF.max_pool2d(X, 3, 2, 1), stock)
        except BaseException as error:  # noqa: BLE001  it would be lost with the thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    TF.max_pool2d(X, 2)  # overrides that had to stay go with the next call
    assert table() == STOCK


def test_overrides_stay_while_a_thread_may_be_in_one():
    pooled, end = threading.Event(), threading.Event()

    def work():
        TF.max_pool2d(X, 2)
        pooled.set()
        while not end.is_set():  # at work, for all that can be seen from outside
            sum(range(1000))

    poolkit.patch_torch()
    thread = threading.Thread(target=work)
    thread.start()
    pooled.wait()
    poolkit.unpatch_torch()
    try:
        assert table() != STOCK
        assert not kernels(torch.nn.MaxPool2d(2), X)
        with poolkit.patched_torch():
            assert kernels(torch.nn.MaxPool2d(2), X)
        assert table() != STOCK
    finally:
        end.set()
        thread.join()
    assert_bit_equal(TF.max_pool2d(X, 3, 2, 1), poolkit.functional.max_pool2d(X, 3, 2, 1))
    assert table() == STOCK


def test_waiting_threads_do_not_hinder_the_undo():
    pooled, end = threading.Event(), threading.Event()

    def work():
        TF.max_pool2d(X, 2)
        pooled.set()
        end.wait()

    poolkit.patch_torch()
    thread = threading.Thread(target=work)
    thread.start()
    pooled.wait()
    while not patching._waits(sys._current_frames()[thread.ident].f_code):
        pass
    poolkit.unpatch_torch()
    end.set()
    assert table() == STOCK
    thread.join()
