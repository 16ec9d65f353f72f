"""Whole networks with random weights: as they are, and after `poolkit.accelerate`."""

import copy
import functools
import importlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import poolkit

from .measure import ratios, set_threads
from .timing import in_turns

PACKAGE = "pytorchcv"
PHASES = ("inference", "step")
CLOSE = {"inference": (torch.float32, 1e-4), "step": (torch.float64, 1e-9)}
"""In which dtype results are compared, and how far apart they may be: averages are rounded
differently. In training networks amplify that until float32 gradients say nothing."""
LONGER = 10
"""A network's time as a multiple of a point's: pooling is a small part of it, so more rounds."""

Record = dict[str, Any]
Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Model:
    name: str
    title: str
    module: str
    function: str
    batch: int = 8
    side: int = 224
    target: float | None = None
    """The least speed-up of contiguous inference that is promised on two threads."""
    flat: bool = False
    """Its `forward` views features as vectors, of which channels-last tensors have no view."""
    line: str = "accelerate"
    """The one line that makes it faster: "patch_torch" where some pooling is a call in a function,
    as in that for local response normalization, and no module that could be replaced."""

    @property
    def size(self) -> str:
        return f"{self.batch}x3x{self.side}x{self.side}"


MODELS = (
    Model(
        "model-alexnet",
        "AlexNet",
        "alexnet",
        "alexnet",
        target=1.2,
        flat=True,
        line="patch_torch",
    ),
    Model("model-vgg11", "VGG-11", "vgg", "vgg11", target=1.12, flat=True),
    Model("model-vgg16", "VGG16", "vgg", "vgg16", batch=2, flat=True),
    Model("model-resnet-18", "ResNet-18", "resnet", "resnet18", target=1.13),
    Model("model-resnet-50", "ResNet-50", "resnet", "resnet50", batch=2),
    Model("model-densenet-121", "DenseNet-121", "densenet", "densenet121", target=1.05),
    Model("model-bn-inception", "BN-Inception", "bninception", "bninception", target=1.35),
    Model(
        "model-inception-v3", "Inception-v3", "inceptionv3", "inceptionv3", side=299, target=1.22
    ),
    Model("model-squeezenet", "SqueezeNet 1.1", "squeezenet", "squeezenet_v1_1", target=1.6),
    Model("model-shufflenet-v2", "ShuffleNet-v2", "shufflenetv2", "shufflenetv2_w1", target=1.14),
    Model("model-unet", "U-Net", "unet", "unet_cityscapes", batch=1, side=256),
)


def missing() -> str:
    """Why the models cannot be made here, or ""."""
    try:
        importlib.import_module(f"{PACKAGE}.models.{MODELS[0].module}")
    except ImportError as error:
        return f"{error}; install it with --no-deps: its models need torch alone"
    return ""


def build(model: Model) -> nn.Module:
    torch.manual_seed(0)
    module = importlib.import_module(f"{PACKAGE}.models.{model.module}")
    net = getattr(module, model.function)()
    return nn.Sequential(net.features, nn.Flatten(), net.output) if model.flat else net


def image(model: Model, batch: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch or model.batch, 3, model.side, model.side, generator=generator)


def accelerated(net: nn.Module) -> nn.Module:
    """A twin of ``net``, of the same weights, whose pooling `poolkit.accelerate` took."""
    shared = {id(t): t for t in (*net.parameters(), *net.buffers())}
    twin = copy.deepcopy(net, shared)
    poolkit.accelerate(twin)
    return twin


def inference(net: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return _tensors(net(x))


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Forward and backward; gives the gradients, without any update, so that steps repeat."""
    torch.manual_seed(0)  # dropout
    net.zero_grad()
    loss = sum(y.square().mean() for y in _tensors(net(x)))
    loss.backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def _tensors(output: Any) -> list[Tensor]:
    """Some networks have auxiliary outputs in training."""
    return [output] if isinstance(output, Tensor) else list(output)


def measure(model: Model, phase: str, layout: str, seconds: float) -> Record:
    """Check that results are equal as far as rounding allows, and time both in turns."""
    set_threads("all")
    dtype, allowed = CLOSE[phase]
    apart = difference(*(run() for run in _runners(model, phase, layout, dtype, 2)))
    record = {
        "model": model.name,
        "title": model.title,
        "size": model.size,
        "phase": phase,
        "layout": layout,
        "threads": "all",
        "thread_count": torch.get_num_threads(),
        "difference": apart,
        "wrong": not apart <= allowed,
    }
    if record["wrong"]:
        return record
    stock, ours = _runners(model, phase, layout, torch.float32, model.batch)
    runs = {"poolkit": ours, "torch": stock}
    record |= ratios(in_turns(runs, LONGER * seconds, least_rounds=5))
    if phase == "inference":
        record["share"] = pooling_share(*stock.args)
    return record


def pooling_share(net: nn.Module, x: Tensor) -> float:
    """The part of a network's inference that torch's pooling takes; the median of three runs.

    With stock pooling it bounds the speed-up: `1 / (1 - share)` if pooling took no time at all.
    """
    shares = []
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            inference(net, x)
        events = seen.events()
        pooling = sum(event.self_cpu_time_total for event in events if _pools(event))
        shares.append(pooling / sum(event.self_cpu_time_total for event in events))
    return statistics.median(shares)


def _pools(event: Any) -> bool:
    """Whether a profiled call is of a pooling operator, or inside one."""
    return "_pool" in event.name or (event.cpu_parent is not None and _pools(event.cpu_parent))


def _runners(
    model: Model, phase: str, layout: str, dtype: torch.dtype, most: int
) -> list[functools.partial[list[Tensor]]]:
    """The network with stock pooling, and with poolkit's, on a batch of at most ``most``."""
    net, x = build(model).to(dtype), image(model, min(model.batch, most)).to(dtype)
    if layout == "channels_last":
        net, x = (t.to(memory_format=torch.channels_last) for t in (net, x))
    net.train(phase == "step")
    run = step if phase == "step" else inference
    if model.line == "patch_torch":
        return [functools.partial(run, net, x), functools.partial(_patched, run, net, x)]
    return [functools.partial(run, some, x) for some in (net, accelerated(net))]


def _patched(run: Callable[[nn.Module, Tensor], list[Tensor]], *args: Any) -> list[Tensor]:
    with poolkit.patched_torch():
        return run(*args)


def difference(theirs: list[Tensor], ours: list[Tensor]) -> float:
    """The norm of the difference over the norm: of all results as one vector."""
    pairs = list(zip(theirs, ours, strict=True))
    apart = sum(float((a - b).double().square().sum()) for a, b in pairs)
    size = sum(float(a.double().square().sum()) for a, _ in pairs)
    return (apart / size) ** 0.5
