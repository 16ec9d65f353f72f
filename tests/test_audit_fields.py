"""Receptive fields by arithmetic are those that gradients show, through any way of writing them."""

import pytest
import torch
import torch.nn.functional as F

import poolkit.functional as PF
from poolkit.audit import fields
from poolkit.audit.trace import Trace

SIDE = 64


def conv(x, kernel, stride=1, padding=0, dilation=1, out=1, groups=1):
    """All weights are 1: no tap is without a gradient, and none cancels another."""
    weight = torch.ones(out, x.shape[1] // groups, kernel, kernel)
    return F.conv2d(x, weight, None, stride, padding, dilation, groups)


def up(x, kernel, stride, padding):
    weight = torch.ones(x.shape[1], 1, kernel, kernel)
    return F.conv_transpose2d(x, weight, stride=stride, padding=padding)


def blocks(x):
    n, c, h, w = x.shape
    x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, 4 * c, h // 2, w // 2)


def tokens(x):
    """Patches as a linear layer sees them, and a map again."""
    n, c, h, w = x.shape
    x = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(n, -1, 16 * c)
    x = F.linear(x, torch.ones(2, 16 * c)).transpose(1, 2)
    return x.reshape(n, 2, h // 4, w // 4)


def merged(x):
    x = x.permute(0, 2, 3, 1)
    parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.cat(parts, -1).permute(0, 3, 1, 2)


def circular(x, amount):
    return F.pad(x, (amount,) * 4, mode="circular")


def unet(x):
    down = conv(F.avg_pool2d(conv(x, 3, padding=1), 2), 3, padding=1)
    return conv(torch.cat([F.interpolate(down, scale_factor=2), x], 1), 3, padding=1)


def residual(x):
    x = conv(x, 3, 2, 1)
    return conv(conv(x, 3, 1, 1), 3, 1, 1) + x


def misaligned(x):
    return conv(x, 4, 2, 1) + conv(x, 3, 2, 1)


NETS = {
    "convolutions": lambda x: conv(conv(x, 7, 2, 3), 3, 2, 1),
    "dilation": lambda x: conv(conv(x, 3, 1, 2, dilation=2), 3, 3),
    "averages": lambda x: F.avg_pool2d(conv(F.avg_pool2d(x, 3, 2, 1), 3), 2),
    "poolkit's average": lambda x: PF.avg_pool2d(x, 3, 2, ((0, 1), (1, 0))),
    "norm": lambda x: F.lp_pool2d(x + 1, 2, 3, 2),
    "slices": lambda x: conv(x, 3)[..., 1::2, ::3],
    "crop and padding": lambda x: F.pad(conv(x[..., 3:-2, 5:], 3, 2), (4, 0, 1, 2)),
    "reflection": lambda x: conv(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 2),
    "circular padding": lambda x: conv(circular(x, 2), 5, 2),
    "pixel_unshuffle": lambda x: conv(F.pixel_unshuffle(conv(x, 3), 2), 3),
    "space to depth by reshape": lambda x: conv(blocks(conv(x, 3, 1, 1)), 3),
    "windows by reshape": lambda x: x.view(1, 1, 16, 4, 16, 4).mean((3, 5)),
    "windows by unfold": lambda x: conv(x.unfold(2, 3, 2).unfold(3, 3, 2).mean((-1, -2)), 3),
    "patches and a linear layer": tokens,
    "im2col": lambda x: F.unfold(x, 5, padding=2, stride=3).sum(1).view(1, 1, 22, 22),
    "slices of all phases": lambda x: conv(merged(x), 3),
    "channels last linear": lambda x: F.linear(
        conv(x, 3, 2, out=4).permute(0, 2, 3, 1), torch.ones(2, 4)
    ).permute(0, 3, 1, 2),
    "residual": residual,
    "branches side by side": lambda x: torch.cat([conv(x, 1, 2), conv(x, 5, 2, 2)], 1),
    "branches off each other": misaligned,
    "groups": lambda x: conv(conv(x, 3, 2, out=4), 3, 2, groups=4, out=4),
    "adaptive": lambda x: conv(F.adaptive_avg_pool2d(conv(x, 3, 1, 1), 16), 3),
    "rows alone": lambda x: F.avg_pool2d(conv(x, 3), (1, 4), (1, 2)),
    "written into a part": lambda x: written(x),  # noqa: PLW0108 - it is defined below
    "stacked": lambda x: torch.stack([conv(x, 3, 2), conv(x, 3, 2)]).sum(0),
    "split": lambda x: sum(conv(x, 3, 2, out=4).split(2, 1)),
}


def written(x):
    y = x.new_zeros(1, 1, SIDE + 3, SIDE + 3)
    y[..., 1:-2, 3:] = x
    return conv(y, 3, 2)


UPSAMPLED = {
    "nearest": lambda x: conv(F.interpolate(conv(x, 3, 2, 1), scale_factor=2), 3),
    "bilinear": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"),
    "transposed": lambda x: up(F.avg_pool2d(x, 4), 2, 2, 0),
    "transposed and overlapping": lambda x: up(conv(x, 3, 2, 1), 4, 2, 1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(conv(x, 3, 2, 1, out=4), 2),
    "U-Net": unet,
}


class Net(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def arithmetic(net):
    x = torch.rand(1, 1, SIDE, SIDE)
    trace, seen = Trace(Net(net)), {}
    run = trace.model.forward
    trace.model.forward = lambda x: seen.setdefault("y", run(x))
    trace.run(x)
    sight = trace.sight(seen["y"])
    assert not sight.lost
    assert not trace.lost
    return fields.seen(sight), seen["y"].shape[2:]


def by_gradient(net, cell):
    """The extent and the middle, along both axes, of what an output cell of all channels sees."""
    x = torch.rand(1, 1, SIDE, SIDE, requires_grad=True)
    y = net(x)[0, :, cell[0], cell[1]].sum()
    (gradient,) = torch.autograd.grad(y, x)
    found = []
    for axis in (0, 1):
        read = gradient[0, 0].abs().sum(1 - axis).nonzero().flatten()
        first, last = int(read[0]), int(read[-1])
        found.append((last - first + 1, (first + last) / 2))
    return found


@pytest.mark.parametrize("name", [*NETS, *UPSAMPLED])
def test_fields_are_those_of_gradients(name):
    net = {**NETS, **UPSAMPLED}[name]
    lines, extents = arithmetic(net)
    middle = [extent // 2 // 2 * 2 for extent in extents]
    cells = [[m + i for m in middle] for i in range(4)]
    shown = [by_gradient(net, cell) for cell in cells]
    for axis, line in enumerate(lines):
        field = line.report()
        assert field.size == field.local == max(sizes[axis][0] for sizes in shown)
        off = [
            sizes[axis][1] - (field.start + cell[axis] * field.stride)
            for sizes, cell in zip(shown, cells, strict=True)
        ]
        assert sum(off) == 0
        if name in NETS:
            assert off == [0] * 4


def test_alignment_of_branches():
    assert [line.aligned for line in arithmetic(residual)[0]] == [True] * 2
    assert [line.aligned for line in arithmetic(unet)[0]] == [True] * 2
    assert [line.aligned for line in arithmetic(misaligned)[0]] == [False] * 2


def test_shortest_path():
    line = arithmetic(residual)[0][0].report()
    assert (line.smallest, line.size) == (3, 11)
