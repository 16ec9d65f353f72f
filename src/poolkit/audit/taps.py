"""The maps that stages put out, with their graph, from one run of a model."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .calls import Calls, Function, title
from .report import Stage

__all__ = ["Results", "maps", "tensors"]


def maps(model: nn.Module, input: Tensor, stages: Sequence[Stage]) -> list[Tensor | None]:
    """What every stage put out for ``input``; None where no call fits a stage.

    A stage is recognised by where it is called and by the size of what comes out, in the order of
    the calls; outside a layer also by the size of what goes in and, if both are equal, which is
    true of many a function, by its name. Gradients are on as the caller has them. The maps are
    copies: what a later layer does in place does not reach them.

    Args:
        model: any module; it is run once, as it is, and its hooks are as before, also after an
            exception.
        input: any number of images of the size that the stages were found with.
        stages: in the order of their calls.
    """
    taps = _Taps(model, stages)
    taps.run(input)
    return taps.found


def tensors(values: Any) -> list[Tensor]:
    """Those anywhere in a structure of tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class Results(Calls):
    """Sees the result of every function that a model calls, not of those that these call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._running = False

    def seen(self, where: str, function: str, inputs: Any, result: Tensor) -> None:
        """The first tensor that a function gave.

        ``where`` is the name of the layer that called it; of a module that is none, its name and a
        colon: with the name of the function, that of a stage.
        """
        raise NotImplementedError

    def call(self, function: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """The function's result."""
        if self._running:
            return function(*args, **keywords)
        self._running = True
        try:
            output = function(*args, **keywords)
            frame = self.frames[-1] if self.frames else None
            where = "" if frame is None else frame.name
            if frame is None or not frame.whole:
                where += ":"
            for result in tensors(output)[:1]:
                self.seen(where, title(function), (args, keywords), result)
        finally:
            self._running = False
        return output


class _Taps(Results):
    def __init__(self, model: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__(model)
        self.stages = stages
        self.found: list[Tensor | None] = [None] * len(stages)
        self.waiting: dict[str, list[int]] = defaultdict(list)
        for index, stage in enumerate(stages):
            scope, colon, _ = stage.name.rpartition(":")
            self.waiting[scope + colon or stage.name].append(index)

    def seen(self, where: str, function: str, inputs: Any, result: Tensor) -> None:
        for index in self.waiting.get(where, ()):
            if _fits(self.stages[index], function, inputs, result):
                self.found[index] = result.clone()
                self.waiting[where].remove(index)
                return


def _fits(stage: Stage, function: str, inputs: Any, result: Tensor) -> bool:
    before, after = stage.input_shape[1:], stage.output_shape[1:]
    _, colon, named = stage.name.rpartition(":")
    if result.shape[1:] != after:
        return False
    if not colon:
        return True  # a layer may pad what it got before it calls the function
    if all(x.shape[1:] != before for x in tensors(inputs)):
        return False
    return before != after or named in function or function in named
