"""The maps that stages put out, with their graph, from one run of a model."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .report import Stage

__all__ = ["maps"]


def maps(model: nn.Module, input: Tensor, stages: Sequence[Stage]) -> list[Tensor | None]:
    """What every stage put out for ``input``; None where no call fits a stage.

    A stage that is a module puts out what the module returns. One that is a function (its name is
    that of the module whose ``forward`` calls it, a colon, and that of the function) is recognised
    by where it is called and by the sizes of what goes in and comes out, in the order of the calls.
    Gradients are on as the caller has them. The maps are copies: what a later layer does in place
    does not reach them.

    Args:
        model: any module; it is run once, as it is, and its hooks are as before, also after an
            exception.
        input: any number of images of the size that the stages were found with.
        stages: in the order of their calls.
    """
    found: list[Tensor | None] = [None] * len(stages)
    waiting: dict[str, deque[int]] = defaultdict(deque)
    for index, stage in enumerate(stages):
        scope, colon, _ = stage.name.rpartition(":")
        waiting[scope + colon or stage.name].append(index)

    def offer(key: str, inputs: Any, output: Any) -> None:
        queue = waiting.get(key)
        result = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
        if not queue or result is None:
            return
        stage = stages[queue[0]]
        sizes = {tuple(leaf.shape[1:]) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
        if tuple(result.shape[1:]) == stage.output_shape[1:] and stage.input_shape[1:] in sizes:
            found[queue.popleft()] = result.clone()

    calls = _Calls(offer)
    hooks = []
    for name, module in model.named_modules():
        hooks += [
            module.register_forward_pre_hook(calls.entering(name)),
            module.register_forward_hook(calls.leaving(name), with_kwargs=True),
        ]
    try:
        with calls:
            model(input)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _Calls(TorchFunctionMode):
    """Every call of a function of torch or poolkit, and of a module, and where it was made."""

    def __init__(self, offer: Callable[[str, Any, Any], None]) -> None:
        super().__init__()
        self.offer = offer
        self.inside: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.offer(f"{self.inside[-1] if self.inside else ''}:", (args, kwargs), result)
        return result

    def entering(self, name: str) -> Callable[..., None]:
        return lambda module, inputs: self.inside.append(name)

    def leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, keywords: Any, output: Any) -> None:
            self.inside.pop()
            self.offer(name, (inputs, keywords), output)

        return hook
