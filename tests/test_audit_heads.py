"""The heads of networks, as the audit finds and counts them."""

import pytest
import torch
import torch.nn.functional as stock
from torch import nn

from poolkit.audit import head
from poolkit.models import VGG16, AlexNet, EfficientNetB0, ResNet18, ResNet50, UNet

pytestmark = pytest.mark.usefixtures("one_thread")


HEADS = [
    (AlexNet, "flatten + fc", (6, 6), 58_631_144, 95.96, 257_000, 58_621_952, 2_726_696),
    (VGG16, "flatten + fc", (7, 7), 123_642_856, 89.36, 513_000, 123_633_664, 15_227_688),
    (ResNet18, "gap", (7, 7), 513_000, 4.39, 513_000, 512_000, None),
    (ResNet50, "gap", (7, 7), 2_049_000, 8.02, 2_049_000, 2_048_000, None),
    (EfficientNetB0, "gap", (7, 7), 1_281_000, 24.2, 1_281_000, 1_280_000, None),
]


@pytest.mark.parametrize(
    ("build", "kind", "grid", "parameters", "share", "gap", "multiply_adds", "total"), HEADS
)
def test_published_heads(build, kind, grid, parameters, share, gap, multiply_adds, total):
    """At a size where AlexNet's and VGG16's own adaptive average makes the published grid."""
    model = without_drawing(build)
    if kind == "gap":
        grid = (2, 2)
    found = head.describe(model, torch.rand(1, 3, 64, 64))
    assert (found.kind, found.grid, found.parameters) == (kind, grid, parameters)
    assert 100 * found.share == pytest.approx(share, abs=0.05 if share == 24.2 else 0.005)
    assert (found.gap_parameters, found.multiply_adds) == (gap, multiply_adds)
    if total is not None:
        whole = sum(parameter.numel() for parameter in model.parameters())
        assert whole - found.parameters + found.gap_parameters == total
    assert found.any_size
    assert found.sizes_tried == (((96, 96), True), ((128, 128), True))


def without_drawing(build):
    """A network with weights that cost no time: small waves instead of random numbers."""
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu").eval()
    pattern = 0.05 * torch.sin(torch.arange(1009.0))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim > 1:
                tensor.flatten()[:] = pattern.repeat(tensor.numel() // 1009 + 1)[: tensor.numel()]
            else:
                tensor.fill_(1)
    return model


class Both(nn.Module):
    """Means, in two steps, beside maxima, by functions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.conv(x).relu_()
        return self.fc(torch.cat([x.mean(3).mean(2), x.amax((2, 3))], 1))


class Plain(nn.Module):
    """A flatten by ``view`` and weights that no module holds; ``grid`` is all that it takes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.weight = nn.Parameter(torch.rand(5, 8 * 7 * 7))

    def forward(self, x):
        return stock.linear(self.conv(x).view(len(x), -1), self.weight)


def test_kinds_of_heads():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16)
    both = head.describe(Both(), x)
    assert (both.kind, both.name, both.grid) == ("gap + gmp", ":mean", (14, 14))
    assert (both.parameters, both.gap_parameters) == (16 * 5 + 5, 8 * 5 + 5)
    assert both.multiply_adds == 2 * 16 * 5
    plain = head.describe(Plain(), x)
    assert (plain.kind, plain.name, plain.parameters) == ("flatten + fc", ":view", 8 * 7 * 7 * 5)
    assert not plain.any_size
    assert plain.sizes_tried == (((24, 24), False), ((32, 32), False))
    maxima = head.describe(ResNet18(10, head="gmp").eval(), torch.rand(2, 3, 64, 64))
    assert (maxima.kind, maxima.name, maxima.parameters) == ("gmp", "avgpool", 5130)
    unet = head.describe(UNet(2, channels=(4, 6, 8)).eval(), x)
    assert (unet.kind, unet.grid, unet.parameters) == ("none", (16, 16), 0)
    assert unet.gap_parameters is None
    assert unet.any_size
    words = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Linear(16, 5), nn.Flatten())
    assert head.describe(words, x) is None
    line = nn.Sequential(nn.Conv1d(2, 8, 4, 4), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert head.describe(line, torch.rand(2, 2, 32)).grid == (8,)


def test_a_pool_that_is_a_map_of_one_cell():
    """Convolutions of 1 x 1 behind the pool are part of the head."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1))
    found = head.describe(net, torch.rand(2, 3, 16, 16))
    assert (found.kind, found.name, found.parameters) == ("gap", "1", 36)
    assert (found.gap_parameters, found.multiply_adds) == (36, 64)
