"""Whole networks with random weights: torch against torch with poolkit's pooling."""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional
from torch import Tensor, nn

import poolkit.functional

from .measure import ratios, set_threads
from .timing import in_turns

PACKAGE = "pytorchcv"
PHASES = ("inference", "step")
CLOSE = {"inference": (torch.float32, 1e-4), "step": (torch.float64, 1e-9)}
"""In which dtype results are compared, and how far apart they may be: averages are rounded
differently. In training networks amplify that until float32 gradients say nothing."""

Record = dict[str, Any]
Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Model:
    name: str
    title: str
    module: str
    function: str
    batch: int = 4
    side: int = 224
    flat: bool = False
    """Its `forward` views features as vectors, of which channels-last tensors have no view."""

    @property
    def size(self) -> str:
        return f"{self.batch}x3x{self.side}x{self.side}"


MODELS = (
    Model("model-alexnet", "AlexNet", "alexnet", "alexnet", flat=True),
    Model("model-vgg16", "VGG16", "vgg", "vgg16", batch=2, flat=True),
    Model("model-resnet-18", "ResNet-18", "resnet", "resnet18"),
    Model("model-resnet-50", "ResNet-50", "resnet", "resnet50", batch=2),
    Model("model-inception-v3", "Inception-v3", "inceptionv3", "inceptionv3", batch=2, side=299),
    Model("model-squeezenet", "SqueezeNet", "squeezenet", "squeezenet_v1_0"),
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


@contextmanager
def poolkits_pooling() -> Iterator[None]:
    """torch.nn.functional's pooling functions, and so torch.nn's modules, are poolkit's."""
    stock = torch.nn.functional
    names = [name for name in poolkit.functional.__all__ if hasattr(stock, name)]
    before = {name: getattr(stock, name) for name in names}
    try:
        for name in names:
            setattr(stock, name, getattr(poolkit.functional, name))
        yield
    finally:
        for name, function in before.items():
            setattr(stock, name, function)


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
    run = _runner(model, phase, layout, dtype, min(model.batch, 2))
    apart = difference(run(), with_poolkit(run))
    del run
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
    run = _runner(model, phase, layout, torch.float32, model.batch)
    runs = {"poolkit": functools.partial(with_poolkit, run), "torch": run}
    return record | ratios(in_turns(runs, seconds, least_rounds=3))


def with_poolkit(run: Run) -> list[Tensor]:
    with poolkits_pooling():
        return run()


def _runner(model: Model, phase: str, layout: str, dtype: torch.dtype, batch: int) -> Run:
    net, x = build(model).to(dtype), image(model, batch).to(dtype)
    if layout == "channels_last":
        net, x = (t.to(memory_format=torch.channels_last) for t in (net, x))
    net.train(phase == "step")
    return functools.partial(step if phase == "step" else inference, net, x)


def difference(theirs: list[Tensor], ours: list[Tensor]) -> float:
    """The norm of the difference over the norm: of all results as one vector."""
    pairs = list(zip(theirs, ours, strict=True))
    apart = sum(float((a - b).double().square().sum()) for a, b in pairs)
    size = sum(float(a.double().square().sum()) for a, _ in pairs)
    return (apart / size) ** 0.5
