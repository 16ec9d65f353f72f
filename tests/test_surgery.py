"""poolkit.rewrite: shapes stay, what moves along, exact undo, and nothing half done."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import poolkit
from poolkit import ArgumentError
from poolkit.models import AlexNet
from poolkit.surgery import DownsampledConv2d, SharedPolyphasePool2d
from rewriting import BUILDS, SHAPED, Functional, X, blocks, drawn, fingerprint, nested, same

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- What all policies keep ---------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["accelerate", *SHAPED])
@pytest.mark.parametrize("build", BUILDS)
def test_shapes_stay_and_undo_is_exact(policy, build):
    torch.manual_seed(0)
    model = drawn(BUILDS[build]())
    y, keys, mode = model(X), list(model.state_dict()), policy != "antialias"
    model.train(mode)
    before, state = fingerprint(model), torch.random.get_rng_state()
    report = poolkit.rewrite(model, policy, X)
    if policy in {"accelerate", "antialias", "polyphase"}:  # which draw no weights
        assert torch.equal(torch.random.get_rng_state(), state)
        assert list(model.state_dict()) == keys
    assert all(part.training is mode for part in model.modules())
    assert same(before, fingerprint(model)) == (not report)
    got = model.eval()(X)
    assert got.shape == y.shape
    if policy == "accelerate":
        torch.testing.assert_close(got, y)
    else:
        assert torch.equal(got, y) == (not report)
    model.train(mode)
    for _ in range(2):
        report.undo()
        assert same(before, fingerprint(model))
    assert torch.equal(model.eval()(X), y)


@pytest.mark.parametrize(
    ("copied", "build", "policy"),
    [
        (copy.deepcopy, "functional", "antialias"),
        (copy.deepcopy, "residual", "polyphase"),
        (lambda model: pickle.loads(pickle.dumps(model)), "residual", "antialias"),
    ],
)
def test_copies_train_and_export(copied, build, policy):
    """A copy has a forward of its own: it uses its own weights."""
    model = drawn(BUILDS[build]())
    poolkit.rewrite(model, policy, X)
    twin = copied(model)
    shared = [m for m in twin.modules() if isinstance(m, SharedPolyphasePool2d)]
    assert all(down.phase.chosen is None for down in shared)
    y = model(X)
    assert torch.equal(twin(X), y)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(twin(X), y)
    twin.train()(X).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    twin.eval()
    torch.testing.assert_close(torch.export.export(twin, (X,)).module()(X), twin(X))


def test_trained_weights_stay_after_undo():
    """Twins share their parameters with the modules that they stand for."""
    model = drawn(blocks())
    conv = model.layer2[0].conv1
    report = poolkit.rewrite(model, "polyphase", X)
    assert type(model.layer2[0].conv1) is DownsampledConv2d
    assert model.layer2[0].conv1.weight is conv.weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(X).square().sum().backward()
    optimizer.step()
    model.double()
    trained = {key: value.clone() for key, value in model.state_dict().items()}
    report.undo()
    assert model.layer2[0].conv1 is conv
    assert model.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())
    assert model(X.double()).dtype is torch.float64


def test_mode_changes_reach_the_old_modules():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 8, 8), nn.Flatten(),
        nn.Sequential(nn.Linear(64, 9), nn.Dropout(), nn.Linear(9, 7)),
    )  # fmt: skip
    old = model[2]
    report = poolkit.rewrite(model, "gap_head", X)
    model.eval()
    report.undo()
    assert model[2] is old
    assert not any(module.training for module in model.modules())


def test_later_rewriting_is_undone_first():
    model = drawn(nested())
    before = fingerprint(model)
    first = poolkit.rewrite(model, "accelerate", X)
    middle = fingerprint(model)
    second = poolkit.rewrite(model, "strided_conv", X)
    with pytest.raises(ArgumentError, match=r"^undo: 1 was changed since; take that back first"):
        first.undo()
    assert model[1] is second[0].new
    poolkit.undo(second)
    assert same(middle, fingerprint(model))
    poolkit.undo(first)
    assert same(before, fingerprint(model))


def test_shared_modules_are_replaced_once():
    model = nested()
    report = poolkit.rewrite(model, "strided_conv", X)
    assert [change.name for change in report] == ["1", "2.2", "2.1", "6"]
    assert model[1] is model[2][2] is report[0].new is report[1].new
    assert str(report).splitlines()[:3] == [
        "module  was                 is now",
        "1, 2.2  torch.nn.MaxPool2d  poolkit.nn.StridedConv2d(16)",
        "2.1     torch.nn.MaxPool2d  poolkit.nn.StridedConv2d(16)",
    ]
    name, old, new = report[-1]
    assert (name, type(old), type(new)) == ("6", nn.AvgPool2d, poolkit.nn.StridedConv2d)


def test_hooks_move():
    log = []
    model = drawn(nested())
    handles = [
        model[1].register_forward_pre_hook(lambda m, args: log.append("pre")),
        model[1].register_forward_hook(lambda m, args, y: log.append(tuple(y.shape))),
        model[1].register_full_backward_hook(lambda m, grad, grads: log.append("backward")),
    ]
    poolkit.rewrite(model, "strided_conv", X)
    new = model[1]
    assert type(new) is poolkit.nn.StridedConv2d
    log.clear()
    model(X).sum().backward()
    twice = ["pre", (2, 16, 16, 16), "pre", (2, 16, 4, 4), "backward", "backward"]
    assert log == twice
    for handle in handles:
        handle.remove()
    model(X)
    assert log == twice


def test_parametrised_and_frozen_convolutions():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    for policy in ("antialias", "polyphase"):
        model = drawn(blocks()).requires_grad_(False)
        conv = model.layer2[0].conv1
        conv.weight.requires_grad_(True)
        nn.utils.parametrize.register_parametrization(conv, "weight", Half())
        y, keys = model(X), list(model.state_dict())
        report = poolkit.rewrite(model, policy, X)
        new = model.layer2[0].conv1
        assert new.stride == (1, 1)
        assert torch.equal(new.weight, conv.weight)
        assert list(model.state_dict()) == keys
        model(X).sum().backward()
        original = conv.parametrizations.weight.original
        assert original.grad is not None
        assert [p for p in model.parameters() if p.requires_grad] == [original]
        report.undo()
        assert torch.equal(model(X), y)


def test_device_and_dtype_of_new_weights():
    model = drawn(nested()).to(torch.float64)
    poolkit.rewrite(model, "strided_conv", X.double())
    assert model(X.double()).dtype is torch.float64
    model = AlexNet(7).to("meta")
    poolkit.rewrite(model, "gap_head", torch.empty(1, 3, 224, 224, device="meta"))
    assert model.classifier.weight.is_meta


# ---- Nothing half done --------------------------------------------------------------------------


def test_a_changed_shape_is_undone_and_refused():
    model = nested()
    before = fingerprint(model)

    def policy(name, module):
        return nn.MaxPool2d(3, 2) if isinstance(module, nn.MaxPool2d) else None

    message = (
        r"^rewrite: 1, 2\.2 \(torch\.nn\.MaxPool2d\) gave \(2, 16, 16, 16\), \(2, 16, 4, 4\), "
        r"and \(2, 16, 15, 15\), \(2, 16, 3, 3\) as torch\.nn\.MaxPool2d; the model was left"
    )
    with pytest.raises(ArgumentError, match=message):
        poolkit.rewrite(model, policy, X)
    assert same(before, fingerprint(model))
    with pytest.raises(ArgumentError, match=r"^rewrite: the rewritten model fails .* in 3: "):
        poolkit.rewrite(model, lambda n, m: nn.Conv2d(1, 1, 1) if n == "3" else None, X)
    assert same(before, fingerprint(model))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_an_interrupt_leaves_nothing(monkeypatch, error, at):
    from poolkit.surgery.journal import Journal

    change, count = Journal.set, []

    def failing(self, *args):
        change(self, *args)
        count.append(args)
        if len(count) == at + 1:
            raise error

    monkeypatch.setattr(Journal, "set", failing)
    model = Functional().train()
    before = fingerprint(model)
    with pytest.raises(error):
        poolkit.rewrite(model, "gap_head", X)
    assert same(before, fingerprint(model))


def test_the_runs_leave_no_trace():
    """Modes, statistics, buffers that are assigned, gradients and random numbers stay."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("steps", torch.zeros(()))
            self.pool = nn.MaxPool2d(2)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            self.count = self.count + 1
            self.steps += 1
            return self.pool(self.norm(F.dropout(x)))

    model = Counting()
    model.norm.eval()
    before, state = fingerprint(model), torch.random.get_rng_state()
    report = poolkit.rewrite(model, lambda name, module: None, X)
    assert same(before, fingerprint(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert str(report) == "no module was changed"
    assert len(report) == 0


def test_forwards_that_cannot_be_traced_are_named():
    class Branching(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 2) if x.sum() > 0 else F.max_pool2d(x, 2) + 1

    class Moody(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 2) * (2 if self.training else 1)

    class Optional(nn.Module):
        def forward(self, x, other=False):
            return F.max_pool2d(x, 2) * (1 if other is False else 2)

    model = nn.Sequential(Branching(), Moody(), Optional())
    before = fingerprint(model)
    report = poolkit.rewrite(model, "accelerate", X)
    first, second, third = report.left
    assert [item.names for item in report.left] == [
        ("0:max_pool2d",), ("1:max_pool2d",), ("2:max_pool2d",),
    ]  # fmt: skip
    assert first.reason.startswith("cannot be traced by torch.fx: symbolically traced variables")
    assert second.reason == "does something else in training than in evaluation"
    assert third.reason == "computes something else once it is traced"
    assert same(before, fingerprint(model))


def test_bad_input():
    model = nested()
    for bad in (None, nn.MaxPool2d, [model], torch.ones(2)):
        with pytest.raises(ArgumentError, match=r"^rewrite: model must be a torch.nn.Module, got"):
            poolkit.rewrite(bad, "accelerate")
    for bad in ("blur", None, nn.MaxPool2d, 3):
        with pytest.raises(ArgumentError, match=r"^rewrite: policy must be one of 'accelerate', "):
            poolkit.rewrite(model, bad)
    for policy in SHAPED:
        with pytest.raises(ArgumentError, match=rf"^rewrite: policy '{policy}' needs an input"):
            poolkit.rewrite(model, policy)
    with pytest.raises(ArgumentError, match=r"^rewrite: input must be a tensor or a tuple"):
        poolkit.rewrite(model, "antialias", "1x3x32x32")
    with pytest.raises(
        ArgumentError,
        match=r"^rewrite: the model fails on the given input \(\(1, 1, 8, 8\)\), in 0",
    ):
        poolkit.rewrite(model, "antialias", torch.ones(1, 1, 8, 8))
    with pytest.raises(ArgumentError, match=r"^rewrite: include must name modules .* got 'x\.\*'"):
        poolkit.rewrite(model, "accelerate", include="x.*")
    with pytest.raises(ArgumentError, match=r"^rewrite: exclude must be a name"):
        poolkit.rewrite(model, "accelerate", exclude=3)
    with pytest.raises(ArgumentError, match=r"^rewrite: 0\.weight has no shape yet"):
        poolkit.rewrite(nn.Sequential(nn.LazyConv2d(3, 3)), "accelerate")
    with pytest.raises(ArgumentError, match=r"^rewrite: the policy must give a module or None"):
        poolkit.rewrite(model, lambda name, module: 3)
    loop = nn.Sequential(nn.MaxPool2d(2))
    loop.me = loop
    with pytest.raises(ArgumentError, match=r"^rewrite: the model contains itself"):
        poolkit.rewrite(loop, "accelerate")


def test_the_model_itself_is_left():
    report = poolkit.rewrite(nn.MaxPool2d(2), "accelerate")
    assert [(item.names, item.reason) for item in report.left] == [(("",), "is the model itself")]
