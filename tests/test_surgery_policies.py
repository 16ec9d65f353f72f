"""poolkit.rewrite: what each policy puts where."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import poolkit
from poolkit.models import SPPF, VGG16, AlexNet, ResNet18
from poolkit.models.efficientnet import SqueezeExcitation
from poolkit.surgery import DownsampledConv2d
from rewriting import BUILDS, Functional, X, blocks, drawn, moved, nested

pytestmark = pytest.mark.usefixtures("one_thread")


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
