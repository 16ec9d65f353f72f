"""poolkit.rewrite: what each policy puts where, shapes, what moves along, and exact undo."""

import copy
import pickle
import re
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import poolkit
from poolkit import ArgumentError
from poolkit.models import SPPF, VGG16, AlexNet, BasicBlock, Bottleneck, ResNet, ResNet18
from poolkit.models.efficientnet import SqueezeExcitation
from poolkit.surgery import DownsampledConv2d, SharedPolyphasePool2d

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPED = ("antialias", "polyphase", "strided_conv", "gap_head")
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def drawn(model, seed=1):
    """The model in evaluation mode, with running statistics as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


class Functional(nn.Module):
    """Everything that shrinks is a call; dropout depends on the mode; the head flattens."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 5, padding=2), nn.Conv2d(16, 16, 3, 2, 1)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 20), nn.Linear(20, 7)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(F.relu(self.conv2(x)), (2, 2))
        x = F.dropout(F.relu(self.fc1(x.view(x.size(0), -1))), 0.5, self.training)
        return self.fc2(x)


def blocks(block=BasicBlock, **choices):
    return ResNet(block, (1, 1, 1), 7, width=16, **choices)


def nested():
    """A pool in two places, one in a container, and layers that shrink nothing."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.MaxPool2d(2), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7),
    )  # fmt: skip
    model[2].append(model[1])
    return model.append(nn.Dropout())


def fingerprint(model):
    """Every module as an object, with all that it is made of."""
    return [
        (name, module, type(module), dict(vars(module)), list(module._modules.items()),
         [(key, id(p), p.detach().clone()) for key, p in module.named_parameters(recurse=False)],
         [(key, id(b), b.clone()) for key, b in module._buffers.items()])
        for name, module in model.named_modules(remove_duplicate=False)
    ]  # fmt: skip


def same(before, after):
    return str(before) == str(after) and all(
        a[1] is b[1] and list(a[3]) == list(b[3]) for a, b in zip(before, after, strict=True)
    )


def moved(model, x, count=6):
    """How far circular shifts of the input move the output, relative to its size."""
    y = model(x)
    steps = [(dy, (5 * dy + 3) % 32) for dy in range(1, count + 1)]
    return max((model(x.roll(s, (2, 3))) - y).abs().max() for s in steps) / y.abs().max()


# ---- What all policies keep ---------------------------------------------------------------------


BUILDS = {
    "functional": Functional,
    "nested": nested,
    "residual": blocks,
    "bottleneck": lambda: blocks(Bottleneck, stem="d", shortcut="avg"),
}


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


# ---- Each policy --------------------------------------------------------------------------------


def test_accelerate_finds_calls_in_the_run():
    model = Functional().eval()
    assert not poolkit.rewrite(model, "accelerate")
    report = poolkit.rewrite(model, "accelerate", X)
    assert [(name, type(new)) for name, _, new in report] == [
        ("max_pool2d", poolkit.nn.MaxPool2d), ("avg_pool2d", poolkit.nn.AvgPool2d),
    ]  # fmt: skip
    assert set(dict(model.named_children())) == {
        "conv1", "conv2", "fc1", "fc2", "max_pool2d", "avg_pool2d", "dropout",
    }  # fmt: skip
    ones = model.fc1(torch.zeros(4000, 256))
    dropped = model.train().dropout(ones)
    assert 0.4 < (dropped == 0).float().mean() < 0.6  # the mode is the model's, not the trace's
    assert len(poolkit.restore(model)) == 2


def test_calls_in_traced_and_compiled_models():
    class Net(nn.Module):
        def forward(self, x):
            x = torch.max_pool2d(x, [2, 2], stride=[])
            x = poolkit.functional.max_pool2d(x, 3, 2, padding="same")
            return F.adaptive_avg_pool2d(F.lp_pool2d(x, 2, 2), 2)

    traced = torch.fx.symbolic_trace(Net())
    y = traced(X)
    report = poolkit.rewrite(traced, "strided_conv", X)
    assert [(name, item.stride) for name, _, item in report] == [
        ("max_pool2d", (2, 2)), ("max_pool2d_1", (2, 2)),
    ]  # fmt: skip
    (left,) = report.left
    assert left.reason.startswith("is no maximum, average or convolution over 2 axes: a function")
    report.undo()
    report = poolkit.rewrite(traced, lambda name, module: nn.Sequential(module), X)
    assert [type(old) for _, old, _ in report] == [
        nn.MaxPool2d, poolkit.nn.MaxPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d,
    ]  # fmt: skip
    assert torch.equal(traced(X), y)
    model = nested()
    report = poolkit.rewrite(torch.compile(model, backend="eager"), "strided_conv", X)
    assert model[1] is report[0].new


def test_antialias_blurs_after_the_activation():
    """Zhang's order, also where a block has one ReLU for two places; the first layer stays."""
    model = drawn(blocks())
    block = model.layer2[0]
    conv1, relu = block.conv1, block.relu
    report = poolkit.rewrite(model, "antialias", X)
    now = {name: type(new) for name, _, new in report}
    assert now["maxpool"] is poolkit.nn.MaxBlurPool2d
    assert now["layer2.0.conv1"] is nn.Conv2d
    assert [type(m) for m in block.relu] == [nn.ReLU, poolkit.nn.BlurPool2d]
    assert block.relu[0] is relu
    assert now["layer2.0.downsample.0"] is DownsampledConv2d
    assert [item.names for item in report.left] == [("conv1",)]
    x = torch.randn(1, 16, 8, 8)
    blur = poolkit.nn.BlurPool2d(3, 2)
    dense = F.conv2d(x, conv1.weight, None, 1, 1)
    branch = block.bn2(block.conv2(blur(block.bn1(dense).relu())))
    shortcut = block.downsample[1](F.conv2d(blur(x), model.layer2[0].downsample[0].weight))
    torch.testing.assert_close(block(x), (branch + shortcut).relu())


@pytest.mark.parametrize(
    "window", [(3, 2, 0), (2, 2, 0), (3, 2, 1), (4, 2, 1), (5, 3, 2), (3, 3, 0), ((3, 2), 2, 0)]
)
def test_antialias_keeps_the_sizes_of_ceil_mode(window):
    """Of the input given, and of every other; no window is of padding alone."""
    pool = nn.MaxPool2d(*window, ceil_mode=True)
    model = nn.Sequential(nn.ReLU(), pool)
    assert not poolkit.rewrite(model, "antialias", torch.zeros(1, 2, 8, 9)).left
    for size in range(5, 14):
        x = torch.rand(1, 2, size, size + 2)
        y = model(x)
        assert y.shape == pool(x).shape
        assert y.isfinite().all()


def test_antialias_leaves_a_window_of_padding_alone():
    x = torch.zeros(1, 2, 9, 9)
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 3, ceil_mode=True))
    assert len(poolkit.rewrite(model, "antialias", x)) == 1  # of this size there is none
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 3, ceil_mode=True))
    (left,) = poolkit.rewrite(model, "antialias", x[..., :7]).left
    assert left.reason.endswith("give a size of which it drops nothing")


def test_antialias_options():
    model = nested()
    x = torch.randn(1, 3, 64, 64)
    report = poolkit.rewrite(model, "antialias", x, blur=5, exclude=["2.*"], min_channels=17)
    assert [name for name, _, _ in report] == ["6"]
    assert model[6].kernel_size in {5, (5, 5)}
    assert [item.names for item in report.left] == [("3",)]


def pyramid():
    """Pools of both kinds, a depthwise convolution, squeeze and excitation, and SPPF."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding="same"), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.AvgPool2d(3, 2, 1), SqueezeExcitation(8, 4),
        SPPF(8, 8, 3), nn.Conv2d(8, 8, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 7),
    )  # fmt: skip


@pytest.mark.parametrize("build", [pyramid, BUILDS["residual"], BUILDS["bottleneck"]])
def test_polyphase_makes_scores_invariant_to_circular_shifts(build):
    torch.manual_seed(0)
    model = drawn(build())
    with torch.no_grad():
        assert moved(model, X) > 1e-3
        report = poolkit.rewrite(model, "polyphase", X)
        assert moved(model, X) < 1e-5
    assert not report.left
    now, before = re.findall(r"by (\d\.\de[-+]\d+)", report.notes[0])
    assert float(now) < 1e-5
    assert float(before) > 1e-3


def test_polyphase_for_every_shift_of_a_resnet():
    torch.manual_seed(0)
    model = drawn(ResNet18(7))
    poolkit.rewrite(model, "polyphase", X)
    x = X[:1]
    shifts = torch.cat([x.roll((dy, dx), (2, 3)) for dy in range(32) for dx in range(32)])
    with torch.no_grad():
        scores = torch.cat([model(part) for part in shifts.split(128)])
    torch.testing.assert_close(scores, scores[:1].expand_as(scores), atol=1e-5, rtol=1e-5)


def test_polyphase_needs_its_conditions():
    """A shortcut with a phase of its own, zero padding or a flattened map break invariance."""
    torch.manual_seed(0)
    model = drawn(blocks())
    poolkit.rewrite(model, "polyphase", X)
    follower = model.layer2[0].downsample[0].down
    assert not follower.leads
    follower.leads, follower.phase = True, type(follower.phase)()
    assert moved(model, X) > 1e-3

    model = drawn(blocks())
    report = poolkit.rewrite(model, "polyphase", X, exclude="layer1.*")
    assert moved(model, X) > 1e-4

    model = drawn(blocks(head="fc"))
    report = poolkit.rewrite(model, "polyphase", X)
    assert "flattens" in report.notes[0]
    assert moved(model, X) > 1e-4


@pytest.mark.parametrize(
    ("shrink", "inner"),
    [
        (nn.Conv2d(3, 4, (2, 3), 2, (0, 1)), slice(1, -1)), (nn.MaxPool2d(2), slice(None)),
        (nn.AvgPool2d((3, 4), 2, 1), slice(1, -1)), (nn.Conv2d(3, 4, 4, 4), slice(None)),
    ],
)  # fmt: skip
def test_polyphase_windows_start_where_they_did(shrink, inner):
    model = nn.Sequential(shrink, nn.ReLU())
    poolkit.rewrite(model, "polyphase", X)
    dense, stride = copy.deepcopy(model[0]), shrink.stride
    setattr(dense, "down" if isinstance(shrink, nn.Conv2d) else "1", nn.Identity())
    step = stride[0] if isinstance(stride, tuple) else stride
    found = dense(X)[..., ::step, ::step]
    torch.testing.assert_close(found[..., inner, inner], shrink(X)[..., inner, inner])


def test_polyphase_leaves_what_does_not_divide():
    model = nn.Sequential(
        nn.MaxPool2d(3, 2), nn.Conv2d(3, 3, 3), poolkit.nn.MaxPool2d(2, 2, "same"),
        nn.MaxPool2d(2, dilation=2),
    )  # fmt: skip
    report = poolkit.rewrite(model, "polyphase", X)
    assert not report
    assert {item.names: item.reason for item in report.left} == {
        ("0",): "drops cells of its map at the border, or adds some: give it other padding",
        ("1",): "crops its map",
        ("2",): "has padding 'same'",
        ("3",): "has dilation=2",
    }
    odd = poolkit.rewrite(nn.Sequential(nn.MaxPool2d(2)), "polyphase", torch.zeros(1, 3, 9, 8))
    assert odd.left[0].reason == "gets a map of 9 x 8, which its stride of 2 x 2 does not divide"


def test_a_program_is_left_with_a_reason():
    x = torch.zeros(1, 3, 8, 8)
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2)), (x,))
    report = poolkit.rewrite(program.module(), "accelerate", x)
    assert not report
    assert "(the model)" in str(report)
    assert report.left[0].reason.startswith("was exported: rewrite the model before")


@pytest.mark.parametrize(("net", "count"), [(VGG16, 15_227_688), (AlexNet, 2_726_696)])
def test_gap_head_of_known_networks(net, count):
    with torch.device("meta"):
        model, expected = net(), net(head="gap")
    before = sum(p.numel() for p in model.classifier.parameters())
    report = poolkit.rewrite(model, "gap_head", torch.empty(1, 3, 224, 224, device="meta"))
    assert sum(p.numel() for p in model.parameters()) == count
    assert list(model.state_dict()) == list(expected.state_dict())
    assert [change.name for change in report] == ["avgpool.0", "classifier"]
    assert f"The head had {before:,} parameters and has" in report.notes[0]
    assert "needs fine-tuning" in report.notes[0]


def test_gap_head_of_pytorchcv():
    """Its networks flatten by a call, and keep their linear layers in a block of its own class."""
    vgg = pytest.importorskip("pytorchcv.models.vgg", reason="pytorchcv is not installed")
    from pytorchcv.models.alexnet import alexnet

    with torch.device("meta"):
        model = vgg.vgg16()
    poolkit.rewrite(model, "gap_head", torch.empty(1, 3, 224, 224, device="meta"))
    assert sum(p.numel() for p in model.parameters()) == 15_227_688

    with torch.device("meta"):
        model = alexnet(num_classes=7).eval()
    poolkit.rewrite(model, "gap_head", torch.empty(1, 3, 224, 224, device="meta"))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.02)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.output[-1](model.features(x).mean((2, 3)))
        torch.testing.assert_close(model(x), expected)
        assert model(torch.randn(1, 3, 256, 256)).shape == (1, 7)  # any size now


def test_gap_head_of_layers_in_forward():
    """Linear layers with functional activations between: the trace shows that nothing is lost."""
    model = Functional().eval()
    report = poolkit.rewrite(model, "gap_head", X)
    assert [name for name, _, _ in report] == ["fc1", "relu_2", "dropout", "fc2"]
    means = F.avg_pool2d(F.relu(model.conv2(F.max_pool2d(F.relu(model.conv1(X)), 2))), 2)
    torch.testing.assert_close(model(X), model.fc1[-1](means.mean((2, 3))))


def test_gap_head_refused():
    class Scaled(Functional):
        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            x = F.avg_pool2d(F.relu(self.conv2(x)), (2, 2))
            return self.fc2(self.fc1(x.flatten(1)) * 2)

    for model, reason in [
        (blocks(), "averages globally already"),
        (Scaled(), "has something that is no module between its linear layers"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), "has no linear layer after its last map"),
    ]:
        report = poolkit.rewrite(model, "gap_head", X)
        assert (len(report), report.left[0].reason) == (0, reason)


def test_a_function_as_policy():
    model = nested()
    asked = []

    def policy(name, module):
        asked.append(name)
        if name == "2":
            return nn.Sequential(nn.SiLU(), nn.MaxPool2d(2), nn.MaxPool2d(2))
        return nn.SiLU() if isinstance(module, nn.ReLU) else None

    report = poolkit.rewrite(model, policy, X)
    assert [name for name, _, _ in report] == ["2", "5"]
    assert "2.0" not in asked
    assert "" not in asked
    report.undo()
    calls = []
    poolkit.rewrite(Functional(), lambda name, module: calls.append((name, type(module))), X)
    assert ("max_pool2d", nn.MaxPool2d) in calls
    wrapped = poolkit.rewrite(model, lambda n, m: nn.Sequential(m) if n == "1" else None, X)
    assert wrapped[0].new[0] is wrapped[0].old is model[1][0]


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


# ---- The command --------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``poolkit rewrite`` on a small network; gives (exit status, stdout, stderr)."""
    pytest.importorskip("click")
    from poolkit import cli
    from poolkit.audit.auditor import PARTS

    skipped = [word for part in PARTS for word in ("--skip", part)]
    loading = types.ModuleType("poolkit.loading")
    loading.load_model = lambda name: {"tiny": tiny, "relu": nn.ReLU}[name]()
    monkeypatch.setitem(sys.modules, "poolkit.loading", loading)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["rewrite", *map(str, arguments), *skipped])
        return exit_.value.code, *capsys.readouterr()

    return call


def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2))


def test_command_writes_a_state_dict_and_a_program(run, tmp_path):
    torch.manual_seed(0)
    model = tiny()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    given = "tiny", "--policy", "polyphase", "--input", "2x3x32x32"
    given = *given, "--weights", tmp_path / "weights.pt", "--out"
    status, out, _ = run(*given, tmp_path / "new.pt")
    assert status == 0
    assert out.splitlines()[0].split() == ["module", "was", "is", "now"]
    assert "tiny -> tiny, polyphase, input 2 x 3 x 32 x 32" in out
    assert re.search(r"^1\.1 +max -> polyphase +16x16", out, re.MULTILINE)
    assert out.splitlines()[-1] == str(tmp_path / "new.pt")
    report = poolkit.rewrite(model, "polyphase", X)
    model.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))
    assert run(*given, tmp_path / "new.pt2")[0] == 0
    program = torch.export.load(tmp_path / "new.pt2").module()
    torch.testing.assert_close(program(X), model(X))
    assert report
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.pt", "new.pt2", "weights.pt"]


def test_command_refuses(run, tmp_path):
    class Code:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    (tmp_path / "code.pt").write_bytes(pickle.dumps(Code(), protocol=2))
    (tmp_path / "other.pt").mkdir()
    out = "--out", tmp_path / "new.pt"
    given = "tiny", "--policy", "antialias", "--input"
    for arguments, sentence in [
        ((*given, "1xx3", *out), "expected sizes such as 1x3x224x224, got '1xx3'"),
        ((*given, "1x3x32x32", "--out", tmp_path / "new.zip"), "--out must end in .pt or .pt2"),
        ((*given, "1x3x32x32", "--out", tmp_path / "none/new.pt"), "No such file or directory"),
        ((*given, "1x3x32x32", "--out", tmp_path / "other.pt"), "Is a directory"),
        ((*given, "1x3x32x32", "--weights", tmp_path / "code.pt", *out), "cannot load "),
        (
            (*given, "1x4x32x32", *out),
            "the model fails on an input of shape (1, 4, 32, 32): module",
        ),
    ]:
        status, printed, error = run(*arguments)
        assert (status, printed, error.count("\n")) == (2, "", 1)
        assert sentence in error
    assert run("relu", *given[1:], "1x3x8x8", *out)[:2] == (1, "no module was changed\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["code.pt", "other.pt"]
