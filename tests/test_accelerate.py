"""poolkit.accelerate and restore: what changes, what stays, what is refused."""

import copy
import doctest
import importlib
import io
import pickle
import sys

import pytest
import torch
from torch import nn

import poolkit
from poolkit import ArgumentError
from poolkit import window as W
from poolkit.testing import assert_average_close, assert_bit_equal, assert_close, sample

# The package's attribute of this name is the function.
accelerate_module = sys.modules["poolkit.accelerate"]
OURS, STOCK = accelerate_module.OURS, accelerate_module.STOCK

pytestmark = pytest.mark.usefixtures("one_thread")


def stock_modules():
    """One of each pooling module of torch, with arguments that are not the defaults."""
    for rank in (1, 2, 3):
        made = {
            "MaxPool": ((3, 2, 1, 1), {"return_indices": True, "ceil_mode": True}),
            "AvgPool": ((3, 2, 1), {"ceil_mode": True, "count_include_pad": False}),
            "LPPool": ((2, 3, 2), {"ceil_mode": True}),
            "AdaptiveMaxPool": ((3,), {"return_indices": True}),
            "AdaptiveAvgPool": ((3,), {}),
            "MaxUnpool": ((3, 2, 1), {}),
            "FractionalMaxPool": ((2,), {"output_size": 3, "return_indices": True}),
        }
        for name, (args, kwargs) in made.items():
            if hasattr(nn, f"{name}{rank}d"):
                yield getattr(nn, f"{name}{rank}d")(*args, **kwargs)


def rank_of(module):
    return int(type(module).__name__[-2])


def called(module):
    """The results for a random input that asks for its gradient, and the gradient."""
    x = sample((2, 3, *(7,) * rank_of(module))).requires_grad_()
    torch.manual_seed(3)
    if "Unpool" in type(module).__name__:
        indices = torch.arange(x[0, 0].numel()).reshape(x.shape[2:]).expand(x.shape)
        results = (module(x, indices),)
    else:
        results = module(x)
        results = results if isinstance(results, tuple) else (results,)
    (g,) = torch.autograd.grad(results[0].square().sum(), x)
    return *results, g


def small():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)),
        nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip


# ---- Every module of torch ----------------------------------------------------------------------


def test_every_stock_class_has_a_module_here():
    pools = {name for name in dir(nn) if "Pool" in name or "MaxUnpool" in name}
    assert pools == {kind.__name__ for kind in OURS}
    assert {type(module) for module in stock_modules()} == set(OURS)


@pytest.mark.parametrize("module", list(stock_modules()), ids=lambda m: type(m).__name__)
def test_same_results_and_put_back_exactly(module):
    kind, before, shown, expected = type(module), dict(vars(module)), repr(module), called(module)
    (swap,) = poolkit.accelerate(module)
    assert (swap.names, swap.old, swap.new) == (("",), kind, OURS[kind])
    assert type(module) is getattr(poolkit.nn, kind.__name__)
    assert repr(module) == shown
    exact = "Max" in kind.__name__
    for got, wanted in zip(called(module), expected, strict=True):
        (assert_bit_equal if exact else assert_close)(got, wanted)
    assert len(poolkit.restore(module)) == 1
    assert type(module) is kind
    assert list(vars(module)) == list(before)
    assert all(vars(module)[key] is value for key, value in before.items())


def test_poolkit_computes():
    """The stock function is not what runs: poolkit keeps one byte per output, torch an index."""
    model = nn.Sequential(nn.MaxPool2d(2))
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    assert "MaxPool2DWithIndices" in type(model(x).grad_fn).__name__
    poolkit.accelerate(model)
    assert "MaxPool2DWithIndices" not in type(model(x).grad_fn).__name__
    poolkit.restore(model)
    assert "MaxPool2DWithIndices" in type(model(x).grad_fn).__name__


# ---- What stays ---------------------------------------------------------------------------------


def test_nested_shared_and_held_elsewhere():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.MaxPool2d(2)
            self.again = self.pool
            self.blocks = nn.ModuleList([nn.Sequential(nn.ReLU(), self.pool), nn.AvgPool2d(2)])
            self.heads = nn.ModuleDict({"a": nn.AdaptiveAvgPool2d(1)})
            self.heads["b"] = self.heads["a"]
            self.plain = [self.pool]

    net = Net()
    pool, objects = net.pool, list(net.modules())
    report = poolkit.accelerate(net)
    assert [swap.names for swap in report] == [
        ("pool", "again", "blocks.0.1"), ("blocks.1",), ("heads.a", "heads.b"),
    ]  # fmt: skip
    assert all(a is b for a, b in zip(objects, net.modules(), strict=True))
    assert net.again is net.blocks[0][1] is net.plain[0] is pool
    assert type(pool) is poolkit.nn.MaxPool2d
    assert report[0] is next(iter(report))
    assert report[1:] == tuple(report)[1:]
    assert str(report) == (
        "module                   was                         is now\n"
        "pool, again, blocks.0.1  torch.nn.MaxPool2d          poolkit.nn.MaxPool2d\n"
        "blocks.1                 torch.nn.AvgPool2d          poolkit.nn.AvgPool2d\n"
        "heads.a, heads.b         torch.nn.AdaptiveAvgPool2d  poolkit.nn.AdaptiveAvgPool2d"
    )
    assert [swap.names for swap in poolkit.restore(net)] == [swap.names for swap in report]
    assert {type(m) for m in net.modules()} & set(STOCK) == set()


def test_mode_dtype_device_and_state_dict():
    samples = torch.rand(1, 1, 2, dtype=torch.float64)
    model = nn.Sequential(nn.MaxPool2d(2), nn.FractionalMaxPool2d(2, 2, _random_samples=samples))
    model.train()
    model[0].eval()
    model.requires_grad_(False)
    model[0].mine = "a note"
    poolkit.accelerate(model)
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    assert list(model.state_dict()) == ["1._random_samples"]
    assert model.state_dict()["1._random_samples"].data_ptr() == samples.data_ptr()
    assert model[0].mine == "a note"
    x = sample((1, 1, 8, 8), torch.float64)
    expected = model(x)
    assert expected.dtype is torch.float64
    stock = nn.Sequential(nn.MaxPool2d(2), nn.FractionalMaxPool2d(2, 2, _random_samples=samples))
    assert_bit_equal(expected, stock(x))
    stock.load_state_dict(model.state_dict())
    model.load_state_dict(stock.state_dict())
    assert model.half()[1]._random_samples.dtype is torch.float16
    assert model.to("meta")(x.half().to("meta")).shape == (1, 1, 2, 2)
    poolkit.restore(model)
    assert model[1]._random_samples.is_meta


def hooked(module, log):
    """Hooks of every kind, which write down what they are called with."""

    def note(kind, keep=None):
        def hook(_, *args, **kwargs):
            flat = [a.sum().item() if isinstance(a, torch.Tensor) else type(a) for a in args]
            log.append((kind, flat, kwargs))
            return keep

        return hook

    module.register_forward_pre_hook(note("pre"))
    module.register_forward_pre_hook(note("pre, kwargs"), with_kwargs=True)
    module.register_forward_hook(note("forward"))
    module.register_forward_hook(note("forward, kwargs"), with_kwargs=True, prepend=True)
    module.register_forward_hook(note("always"), always_call=True)
    module.register_forward_hook(lambda _, args, y: y + 1)
    module.register_full_backward_pre_hook(note("full backward pre"))
    module.register_full_backward_hook(note("full backward"))
    module.register_state_dict_pre_hook(note("state dict pre"))
    module.register_state_dict_post_hook(note("state dict"))
    module.register_load_state_dict_pre_hook(note("load pre"))
    module.register_load_state_dict_post_hook(note("load"))


def test_hooks_are_called_as_before():
    log, model = [], small()
    for pool in (model[1], model[2][1]):
        hooked(pool, log)
    legacy = small()
    legacy[1].register_backward_hook(lambda *_: log.append("backward"))

    def everything():
        log.clear()
        x = sample((1, 1, 8, 8)).requires_grad_()
        y = model(x)
        y.sum().backward()
        legacy(x).sum().backward()
        model.load_state_dict(model.state_dict())
        with pytest.raises(RuntimeError):
            model[1](torch.ones(1))  # hooks that are always called are called now too
        model[1](input=x)
        return y, list(log)

    y, expected = everything()
    assert {"backward", *(entry[0] for entry in expected if entry != "backward")} == {
        "backward", "pre", "pre, kwargs", "forward", "forward, kwargs", "always",
        "full backward pre", "full backward", "state dict pre", "state dict", "load pre", "load",
    }  # fmt: skip
    for change in (poolkit.accelerate, poolkit.restore):
        change(model)
        change(legacy)
        got, entries = everything()
        assert_bit_equal(got, y)
        assert entries == expected


def test_calls_are_left_as_they_are():
    class Net(nn.Module):
        def forward(self, x):
            return nn.functional.max_pool2d(x, 2).mean((2, 3))

    with pytest.warns(UserWarning, match=r"^accelerate: the model has no stock pooling module$"):
        report = poolkit.accelerate(Net())
    assert len(report) == 0
    assert not report
    assert str(report) == "no module was changed"


class Own(nn.MaxPool2d):
    """A user's module."""


class OwnNorm(nn.LocalResponseNorm):
    """A user's, which need not average as torch's does."""


def test_what_is_left_is_named_with_the_reason():
    model = nn.Sequential(
        Own(2), nn.MaxPool2d(2), nn.LPPool2d(2, 2), nn.AvgPool2d(1), poolkit.nn.MaxPool2d(2),
        nn.LocalResponseNorm(5), OwnNorm(5),
    )  # fmt: skip
    model[1].forward = lambda x: x[..., ::2, ::2]
    model[2].dilation = 3
    model[3].register_buffer("padding_mode", torch.ones(1))
    kinds = [type(module) for module in model]
    with pytest.warns(UserWarning, match=r"no stock pooling module \(7 left as they are, because"):
        report = poolkit.accelerate(model)
    assert len(report) == 0
    assert [(item.names, item.reason) for item in report.left] == [
        (("0",), "is a subclass"),
        (("1",), "has a forward of its own"),
        (("2",), "has an attribute 'dilation' that poolkit's class would read"),
        (("3",), "has an attribute 'padding_mode' that poolkit's class would read"),
        (("4",), "is poolkit's already"),
        (("5",), "averages inside a function of torch, which poolkit.patch_torch reaches"),
        (("6",), "is a subclass"),
    ]
    assert "test_accelerate.Own" in str(report).splitlines()[3]
    assert [type(module) for module in model] == kinds
    with pytest.warns(UserWarning, match=r"^restore: the model has no accelerated module$"):
        poolkit.restore(model)
    assert [type(module) for module in model] == kinds


def test_parametrised_modules():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    samples = torch.rand(1, 1, 2)
    pools = nn.MaxPool2d(2), nn.FractionalMaxPool2d(2, 2, _random_samples=samples)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), *pools)
    nn.utils.parametrize.register_parametrization(model[0], "weight", Half())
    nn.utils.parametrize.register_parametrization(model[2], "_random_samples", Half())
    x = sample((1, 1, 8, 8))
    expected = model(x)
    report = poolkit.accelerate(model)
    assert [swap.names for swap in report] == [("1",)]
    assert [(item.names, item.reason) for item in report.left] == [(("2",), "is a subclass")]
    assert_bit_equal(model(x), expected)
    # Parametrised after it was accelerated: its class is no longer one that could be given back.
    fractional = nn.FractionalMaxPool2d(2, 2, _random_samples=samples)
    poolkit.accelerate(fractional)
    nn.utils.parametrize.register_parametrization(fractional, "_random_samples", Half())
    with pytest.warns(UserWarning, match="because each is a subclass"):
        assert len(poolkit.restore(fractional)) == 0
    nn.utils.parametrize.remove_parametrizations(fractional, "_random_samples")
    assert len(poolkit.restore(fractional)) == 1


# ---- Twice, copies, errors ----------------------------------------------------------------------


def test_twice_changes_nothing_more():
    model = small()
    poolkit.accelerate(model)
    with pytest.warns(UserWarning, match=r"3 left as they are, because each is poolkit's already"):
        report = poolkit.accelerate(model)
    assert (len(report), len(report.left)) == (0, 3)
    assert len(poolkit.restore(model)) == 3
    with pytest.warns(UserWarning, match=r"^restore: the model has no accelerated module$"):
        assert len(poolkit.restore(model)) == 0


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved])
def test_copies_work_and_can_be_restored(copied):
    model = small()
    model.built_with_poolkit = poolkit.nn.MaxPool2d(2)
    x = sample((1, 1, 8, 8))
    expected = model[:4](x)
    poolkit.accelerate(model)
    twin = copied(model)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert_close(twin[:4](x), expected)
    assert len(poolkit.restore(twin)) == 3
    assert_bit_equal(twin[:4](x), expected)
    assert type(twin.built_with_poolkit) is poolkit.nn.MaxPool2d
    assert type(model[1]) is poolkit.nn.MaxPool2d
    assert len(poolkit.restore(model[2])) == 1  # a part alone
    assert len(poolkit.restore(model)) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_all_or_nothing(monkeypatch, error, at):
    model = small()

    def state():
        return [(type(m), list(vars(m))) for m in model.modules()]

    become = accelerate_module._become
    calls = []

    def failing(module, kind):
        calls.append(module)
        become(module, kind)
        if len(calls) == at + 1:
            raise error

    for change in (poolkit.accelerate, poolkit.restore):
        before = state()
        calls.clear()
        monkeypatch.setattr(accelerate_module, "_become", failing)
        with pytest.raises(error):
            change(model)
        monkeypatch.setattr(accelerate_module, "_become", become)
        assert state() == before
        change(model)
        assert state() != before


@pytest.mark.parametrize("change", [poolkit.accelerate, poolkit.restore])
def test_bad_input(change):
    name = change.__name__
    for bad in (None, [nn.MaxPool2d(2)], nn.MaxPool2d, lambda x: x, torch.ones(2)):
        with pytest.raises(ArgumentError, match=rf"^{name}: model must be a torch.nn.Module, got"):
            change(bad)
    loop = nn.Sequential(nn.MaxPool2d(2))
    loop.me = loop
    with pytest.raises(ArgumentError, match=f"^{name}: the model contains itself"):
        change(loop)
    assert type(loop[0]) is nn.MaxPool2d


def test_restore_loses_no_option_silently():
    model = small()
    poolkit.accelerate(model)
    model[2][1].padding_mode = "reflect"
    message = r"^restore: 2\.1 has padding_mode='reflect', which torch\.nn\.AvgPool2d lacks"
    with pytest.raises(ArgumentError, match=message):
        poolkit.restore(model)
    assert type(model[1]) is poolkit.nn.MaxPool2d
    del model[2][1].padding_mode
    assert len(poolkit.restore(model)) == 3


# ---- Wrapped and compiled models ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and warns of what it traces
def test_torchscript_is_left_as_it_is():
    x = sample((1, 1, 8, 8))
    for compiled in (torch.jit.script(small().eval()), torch.jit.trace(small().eval(), x)):
        model = nn.Sequential(compiled, nn.Flatten(1), nn.MaxPool1d(1))
        expected = model(x)
        report = poolkit.accelerate(model)
        assert [swap.names for swap in report] == [("2",)]
        assert [item.names for item in report.left] == [("0.1",), ("0.2.1",), ("0.3",)]
        assert {item.reason for item in report.left} == {"was compiled by torch.jit"}
        assert_bit_equal(model(x), expected)
        assert [swap.names for swap in poolkit.restore(model)] == [("2",)]
        with pytest.warns(UserWarning, match="was compiled by torch.jit"):
            poolkit.accelerate(compiled)
    model = small().eval().requires_grad_(False)
    poolkit.accelerate(model)
    assert_bit_equal(torch.jit.trace(model, x)(x), model(x))


def test_fx_graph_shares_the_modules():
    model = small()
    x = sample((1, 1, 8, 8))
    expected, graph = model(x), torch.fx.symbolic_trace(model)
    assert [swap.names for swap in poolkit.accelerate(graph)] == [("1",), ("2.1",), ("3",)]
    assert type(model[1]) is poolkit.nn.MaxPool2d
    assert_close(graph(x), expected)
    for twin in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert_bit_equal(twin(x), graph(x))
        assert len(poolkit.restore(twin)) == 3
        assert_bit_equal(twin(x), expected)
    assert_bit_equal(torch.fx.symbolic_trace(model)(x), model(x))
    poolkit.restore(model)
    assert_bit_equal(graph(x), expected)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = small()

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_model_is_compiled_anew(in_place):
    targets = []

    def backend(graph, _):
        targets.append([str(node.target) for node in graph.graph.nodes])
        return graph

    model = Net().requires_grad_(False)
    x = sample((1, 1, 8, 8))
    expected = model(x)
    torch._dynamo.reset()
    if in_place:
        compiled = model
        model.compile(backend=backend)
    else:
        compiled = torch.compile(model, backend=backend)
    assert_bit_equal(compiled(x), expected)
    assert not any("poolkit" in target for target in targets[-1])
    prefix = "layers" if in_place else "_orig_mod.layers"
    names = [swap.names for swap in poolkit.accelerate(compiled)]
    assert names == [(f"{prefix}.{name}",) for name in ("1", "2.1", "3")]
    assert_close(compiled(x), expected)
    assert len([target for target in targets[-1] if target.startswith("poolkit.")]) == 3
    poolkit.restore(compiled)
    assert_bit_equal(compiled(x), expected)


def test_data_parallel():
    model = small()
    wrapped = nn.DataParallel(model)
    x = sample((2, 1, 8, 8))
    expected = wrapped(x)
    names = [swap.names for swap in poolkit.accelerate(wrapped)]
    assert names == [("module.1",), ("module.2.1",), ("module.3",)]
    assert_close(wrapped(x), expected)
    replica = model[1]._replicate_for_data_parallel()
    assert_bit_equal(replica(x), nn.MaxPool2d(2)(x))
    poolkit.restore(wrapped)
    assert_bit_equal(wrapped(x), expected)


def test_examples():
    found = doctest.testmod(accelerate_module)
    assert (found.failed, found.attempted) == (0, 9)


# ---- Networks -----------------------------------------------------------------------------------


def checked(module, args, y):
    """A forward hook: the output of an accelerated module is what torch's would be."""
    (x,) = args
    if type(module) is poolkit.nn.AvgPool2d:
        m = module
        assert_average_close(y, x, W.fixed(
            "f", 2, x.shape, m.kernel_size, m.stride, m.padding, 1, m.ceil_mode,
            not m.count_include_pad, m.count_include_pad, m.divisor_override,
        ))  # fmt: skip
    else:
        assert_bit_equal(y, STOCK[type(module)].forward(module, x))


def check_network(model, x):
    """Accelerated, every pooling module gives what it should; restored, the output is as before."""
    model.eval()
    shown, keys = repr(model), list(model.state_dict())
    with torch.inference_mode():
        expected = model(x)
        report = poolkit.accelerate(model)
        pools = [model.get_submodule(swap.names[0]) for swap in report]
        called = []
        for pool in pools:
            assert type(pool) in STOCK
            pool.register_forward_hook(checked)
            pool.register_forward_hook(lambda module, *_: called.append(module))
        got = model(x)
        assert set(called) == set(pools)
        assert_close(got, expected)
        if all("Max" in swap.old.__name__ for swap in report):
            assert_bit_equal(got, expected)
        assert (repr(model), list(model.state_dict())) == (shown, keys)
        assert len(poolkit.restore(model)) == len(report)
        assert {type(pool) for pool in pools} & set(STOCK) == set()
        for pool in pools:
            pool._forward_hooks.clear()
        assert_bit_equal(model(x), expected)
    return report


@pytest.mark.parametrize(
    ("family", "name", "size", "pools"),
    [
        ("resnet", "resnet18", 224, 2), ("squeezenet", "squeezenet_v1_1", 224, 4),
        ("inceptionv3", "inceptionv3", 299, 14), ("densenet", "densenet121", 224, 5),
    ],
)  # fmt: skip
def test_networks(family, name, size, pools):
    models = pytest.importorskip(f"pytorchcv.models.{family}", reason="pytorchcv is not installed")
    torch.manual_seed(0)
    report = check_network(getattr(models, name)(), sample((1, 3, size, size)))
    assert len(report) == pools


@pytest.mark.filterwarnings("ignore")
def test_unet():
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")
    torch.manual_seed(0)
    for rank, sizes in ((2, (48, 64)), (3, (16, 32, 16))):
        net = nets.BasicUNet(spatial_dims=rank, features=(4, 4, 8, 8, 8, 4))
        report = check_network(net, sample((1, 1, *sizes)))
        assert [swap.old for swap in report] == [getattr(nn, f"MaxPool{rank}d")] * 4


@pytest.mark.parametrize("name", ["AlexNet", "VGG16", "ResNet18", "EfficientNetB0", "Darknet53"])
def test_poolkit_s_own_networks_are_not_affected(name):
    with torch.device("meta"):
        model = getattr(importlib.import_module("poolkit.models"), name)()
    before = [(type(m), dict(vars(m))) for m in model.modules()]
    for change in (poolkit.accelerate, poolkit.restore):
        with pytest.warns(UserWarning, match=f"^{change.__name__}: the model has no"):
            report = change(model)
        assert {item.reason for item in report.left} <= {"is poolkit's already"}
        assert [(type(m), dict(vars(m))) for m in model.modules()] == before
