"""Networks that the tests of poolkit.rewrite work on, and how they compare them."""

import torch
import torch.nn.functional as F
from torch import nn

from poolkit.models import BasicBlock, Bottleneck, ResNet

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


BUILDS = {
    "functional": Functional,
    "nested": nested,
    "residual": blocks,
    "bottleneck": lambda: blocks(Bottleneck, stem="d", shortcut="avg"),
}
