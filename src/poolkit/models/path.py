"""Where a network shrinks its feature maps, read off the network while it runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ArgumentError

Kind = Literal[
    "max pool", "avg pool", "lp pool", "strided conv", "adaptive max", "adaptive avg",
    "global max", "global avg", "flatten", "linear",
]  # fmt: skip

_FIXED: dict[Kind, tuple[type[nn.Module], ...]] = {
    "max pool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "avg pool": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "lp pool": (nn.LPPool1d, nn.LPPool2d, nn.LPPool3d),
}
_ADAPTIVE: dict[str, tuple[type[nn.Module], ...]] = {
    "max": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    "avg": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Step:
    """One layer on the way from the image to the scores.

    Args:
        name: the layer's name in the network, such as ``"layer2.0.conv2"``.
        kind: ``"max pool"``, ``"avg pool"``, ``"lp pool"``, ``"strided conv"``, ``"adaptive max"``,
            ``"adaptive avg"``, ``"global max"``, ``"global avg"``, ``"flatten"`` or ``"linear"``.
        window: kernel/stride/padding of a window, the output size of an adaptive pool, else "".
        input: size of what came in, without the batch: ``(C, H, W)``, or ``(C,)`` for vectors.
        output: size of what came out, the same way.
        parameters: how many numbers the layer has learned.
        side: True if a later layer put out a larger map again: this one was beside the path, as the
            global average of squeeze and excitation is, or the network has a way back up.

    Example:
        >>> from poolkit.models import Step
        >>> print(Step("pool", "max pool", "2/2", (64, 8, 8), (64, 4, 4), 0, side=False))
        max pool 2/2 (64, 8, 8) -> (64, 4, 4)
    """

    name: str
    kind: Kind
    window: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    side: bool

    @property
    def operator(self) -> str:
        """Kind and window in one line."""
        return f"{self.kind} {self.window}".strip()

    def __str__(self) -> str:
        return f"{self.operator} {self.input} -> {self.output}"


def downsampling_path(model: nn.Module, input: Tensor) -> tuple[Step, ...]:
    """Run ``model`` once and list the layers that shrink its maps, in the order of their calls.

    Recognised by their classes, subclasses too: fixed, adaptive and global pools (those with stride
    1 as well), convolutions with a stride, ``Flatten`` of more than one cell, and linear layers,
    which are the head. Functions, such as ``torch.nn.functional.max_pool2d`` in a ``forward``, are
    no layers and stay unseen.

    The network runs in evaluation mode and without gradients; it is left as it was, also if it
    raises. On the meta device (:class:`torch.device` ``"meta"``, model and input) nothing is
    computed and no memory is needed.

    Args:
        model: any module; in one call a layer may run any number of times.
        input: a batch that ``model`` takes, such as ``(1, 3, 224, 224)``.

    Shapes:
        One :class:`Step` for each call of such a layer.

    Raises:
        ArgumentError: ``input`` is no tensor with a batch and at least one axis more.

    Example:
        >>> import torch
        >>> from poolkit.models import ResNet18, downsampling_path
        >>> with torch.device("meta"):
        ...     steps = downsampling_path(ResNet18(), torch.empty(1, 3, 224, 224))
        >>> print(steps[0])
        strided conv 7/2/3 (3, 224, 224) -> (64, 112, 112)
        >>> print(steps[-1])
        linear (512,) -> (1000,)
    """
    given: object = input
    if not isinstance(given, Tensor) or given.ndim < 2:
        came = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ArgumentError(
            "downsampling_path: input must be a tensor with a batch and at least one axis more, "
            f"such as (1, 3, 224, 224), got {came}"
        )
    calls: list[_Call] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, keywords: dict[str, Any], output: Any) -> None:
            tensors = [value for value in (*inputs, *keywords.values()) if _is_batch(value)]
            first = output[0] if isinstance(output, tuple) else output  # return_indices
            if tensors and _is_batch(first):
                calls.append(
                    _Call(name, module, tuple(tensors[0].shape[1:]), tuple(first.shape[1:]))
                )

        return hook

    training = {module: module.training for module in model.modules()}
    hooks = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    try:
        model.eval()
        with torch.no_grad():
            model(input)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return _steps(calls)


def _is_batch(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2


class _Call(NamedTuple):
    name: str
    module: nn.Module
    before: tuple[int, ...]
    after: tuple[int, ...]


def _steps(calls: Sequence[_Call]) -> tuple[Step, ...]:
    steps = []
    largest = 1  # cells of the largest map that any later layer puts out
    for name, module, before, after in reversed(calls):
        found = _recognise(module, before, after)
        if found:
            kind, window = found
            parameters = sum(parameter.numel() for parameter in module.parameters())
            side = _cells(after) < largest
            steps.append(Step(name, kind, window, before, after, parameters, side))
        largest = max(largest, _cells(after))
    return tuple(reversed(steps))


def _cells(size: tuple[int, ...]) -> int:
    return math.prod(size[1:])


def _recognise(
    module: nn.Module, before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[Kind, str] | None:
    for kind, classes in _FIXED.items():
        if isinstance(module, classes):
            return kind, _window(module)
    for reduction, classes in _ADAPTIVE.items():
        if isinstance(module, classes):
            return _adaptive(reduction, after)
    if isinstance(module, _CONVOLUTIONS) and max(module.stride) > 1:
        return "strided conv", _window(module)
    if isinstance(module, nn.Flatten) and _cells(before) > 1:
        return "flatten", ""
    return ("linear", "") if isinstance(module, nn.Linear) else None


def _adaptive(reduction: str, after: tuple[int, ...]) -> tuple[Kind, str]:
    if _cells(after) == 1:
        return ("global max" if reduction == "max" else "global avg"), ""
    return ("adaptive max" if reduction == "max" else "adaptive avg"), _number(after[1:])


def _window(module: Any) -> str:
    """kernel/stride/padding; no padding is not written."""
    padding = getattr(module, "padding", 0)
    parts = [_number(module.kernel_size), _number(module.stride or module.kernel_size)]
    return "/".join(parts if _number(padding) == "0" else [*parts, _number(padding)])


def _number(value: Any) -> str:
    """One number where all axes agree, else one per axis."""
    if not isinstance(value, tuple):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 else "x".join(map(str, value))
