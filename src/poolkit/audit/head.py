"""From the last map to the scores: flatten and linear layers, or a global pool."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from .report import Head
from .taps import Results, tensors

__all__ = ["describe"]

LARGER = (1.5, 2.0)  # times the input's size: even sizes stay divisible by what divided them


def describe(model: nn.Module, input: Tensor) -> Head | None:
    """What a model does with its last map, what that costs, and whether other sizes work.

    The last map is the last value with more than one cell that any function of the model returns.
    What comes after it is the head; its parameters are those that its functions take. Its kind is
    told by values: the first vector of as many numbers as the map has channels is ``"gap"`` if
    these are means, ``"gmp"`` if maxima, of two such vectors ``"gap + gmp"``; as many numbers as
    the map has cells are ``"flatten"``, or ``"flatten + fc"`` with parameters behind. A model that
    puts out a map has the kind ``"none"``.

    Multiply-adds are those that torch's own counter knows (convolutions, linear layers, products of
    matrices), for the whole batch. Two larger inputs are tried, on the meta device where the model
    can run there, else with one image.

    Args:
        model: any module, run as it is, in evaluation mode.
        input: a batch that it takes, with values: means and maxima must differ.

    Shapes:
        input ``(N, C, *)``.

    Returns:
        None if the way to the scores is another one, such as attention or a sequence of cells.

    Example:
        >>> import torch
        >>> from poolkit.audit.head import describe
        >>> from poolkit.models import ResNet18
        >>> head = describe(ResNet18().eval(), torch.rand(1, 3, 64, 64))
        >>> head.kind, head.name, head.grid, head.parameters, head.any_size
        ('gap', 'avgpool', (2, 2), 513000, True)
    """
    log = _Log(model, input)
    with torch.no_grad(), log.counter:
        output = log.run(input)
    scores = next(iter(tensors(output)), None)
    if log.map is None or scores is None:
        return None
    kind, name = log.kind()
    if scores is log.map or _cells(scores, input) > 1:
        kind, name = "none", ""
    elif kind is None:
        return None
    channels, grid = log.map.shape[1], tuple(log.map.shape[2:])
    total = sum(parameter.numel() for parameter in model.parameters())
    classes = scores.shape[1] if scores.ndim > 1 else 1
    own = sum(parameter.numel() for parameter in log.parameters)
    averaged = (channels + 1) * classes  # as global average pooling and one linear layer
    if kind == "gap" and not own:
        averaged = 0  # the map's channels are the scores
    tried = tuple((size, _works(model, input, size)) for size in _sizes(input))
    return Head(
        kind=kind,
        name=name,
        grid=grid,
        parameters=own,
        share=own / total if total else 0.0,
        gap_parameters=averaged if kind != "none" else None,
        multiply_adds=(log.counter.get_total_flops() - log.before) // 2,
        any_size=all(works for _, works in tried),
        sizes_tried=tried,
    )


def _cells(value: Tensor, input: Tensor) -> int:
    """Of a map, with as many axes as the input; 1 for anything else."""
    return math.prod(value.shape[2:]) if value.ndim == input.ndim else 1


class _Log(Results):
    """The last map of a run, and what came after it."""

    def __init__(self, model: nn.Module, input: Tensor) -> None:
        super().__init__(model)
        self.input = input
        self.counter = FlopCounterMode(display=False)
        self.map: Tensor | None = None
        self.before = 0  # floating-point operations up to the map
        self.vectors: list[tuple[str, Tensor]] = []
        self.parameters: set[nn.Parameter] = set()

    def seen(self, where: str, function: str, inputs: Any, result: Tensor) -> None:
        if result.ndim < 2 or len(result) != len(self.input):
            return
        if _cells(result, self.input) > 1:
            self.map, self.before = result, self.counter.get_total_flops()
            self.vectors, self.parameters = [], set()
            return
        if result.ndim in (2, self.input.ndim):
            self.vectors.append((where + function if where.endswith(":") else where, result))
        self.parameters |= {x for x in tensors(inputs) if isinstance(x, nn.Parameter)}

    def kind(self) -> tuple[str | None, str]:
        """And the name of the layer, or of the function as that of a stage."""
        assert self.map is not None
        cells = self.map.flatten(2)
        pools: dict[str, str] = {}
        for name, vector in self.vectors:
            values = vector.flatten(1)
            if values.shape[1] == cells[0].numel():
                return "flatten + fc" if self.parameters else "flatten", name
            for kind, pooled in (("gap", cells.mean(2)), ("gmp", cells.amax(2))):
                if values.shape == pooled.shape and _close(values, pooled):
                    pools.setdefault(kind, name)
        kinds = sorted(pools)
        return (" + ".join(kinds), pools[kinds[0]]) if kinds else (None, "")


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal to the rounding of another order of additions."""
    size = float(b.abs().max()) if b.numel() else 0.0
    tolerance = 1e-5 if a.dtype in (torch.float32, torch.float64) else 1e-2
    return bool(((a - b).abs() <= tolerance * size).all())


def _sizes(input: Tensor) -> list[tuple[int, ...]]:
    return [tuple(math.ceil(extent * times) for extent in input.shape[2:]) for times in LARGER]


def _works(model: nn.Module, input: Tensor, size: tuple[int, ...]) -> bool:
    """Whether the model runs with an input of this size."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weightless = {name: value.to("meta") for name, value in state.items()}
    larger = input.new_empty((1, input.shape[1], *size), device="meta")
    return _runs(lambda: functional_call(model, weightless, (larger,))) or _runs(
        lambda: model(input.new_zeros(larger.shape))
    )


def _runs(run: Callable[[], object]) -> bool:
    try:
        with torch.no_grad():
            run()
    except Exception:  # noqa: BLE001 - whatever a model raises, that is the answer
        return False
    return True
