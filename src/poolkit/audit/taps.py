"""The maps that stages put out, with their graph, from one run of a model."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .report import Stage

__all__ = ["maps", "tensors", "watched"]

Offer = Callable[[str, str | None, Any, Any], None]


def maps(model: nn.Module, input: Tensor, stages: Sequence[Stage]) -> list[Tensor | None]:
    """What every stage put out for ``input``; None where no call fits a stage.

    A stage that is a module puts out what the module returns. One that is a function (its name is
    that of the module whose ``forward`` calls it, a colon, and that of the function) is recognised
    by where it is called and by the sizes of what goes in and comes out, in the order of the calls;
    if both are equal, which is true of many a function, by its name too. Gradients are on as
    the caller has them. The maps are copies: what a later layer does in place does not reach them.

    Args:
        model: any module; it is run once, as it is, and its hooks are as before, also after an
            exception.
        input: any number of images of the size that the stages were found with.
        stages: in the order of their calls.
    """
    found: list[Tensor | None] = [None] * len(stages)
    waiting: dict[str, list[int]] = defaultdict(list)
    own = {module: name for name, module in model.named_modules()}
    names = {name: own[module] for name, module in model.named_modules(remove_duplicate=False)}
    for index, stage in enumerate(stages):
        scope, colon, _ = stage.name.rpartition(":")
        module = scope if colon else stage.name
        waiting[names.get(module, module) + colon].append(index)

    def offer(key: str, function: str | None, inputs: Any, output: Any) -> None:
        for result in tensors(output)[:1]:
            for index in waiting.get(key, ()):
                if _fits(stages[index], function, inputs, result):
                    found[index] = result.clone()
                    waiting[key].remove(index)
                    return

    watched(model, input, offer)
    return found


def watched(model: nn.Module, input: Tensor, offer: Offer) -> Any:
    """Run a model and offer every call of a module or function; the model's answer.

    ``offer`` gets the name of the module, or that of the innermost module and a colon; None for a
    module, or the function's name; what went in and what came out.
    """
    calls = _Calls(offer)
    hooks = []
    for name, module in model.named_modules():
        hooks += [
            module.register_forward_pre_hook(calls.entering(name)),
            module.register_forward_hook(calls.leaving(name), with_kwargs=True),
        ]
    try:
        with calls:
            return model(input)
    finally:
        for hook in hooks:
            hook.remove()


def tensors(values: Any) -> list[Tensor]:
    """Those anywhere in a structure of tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _fits(stage: Stage, function: str | None, inputs: Any, result: Tensor) -> bool:
    before, after = stage.input_shape[1:], stage.output_shape[1:]
    if result.shape[1:] != after or all(x.shape[1:] != before for x in tensors(inputs)):
        return False
    if function is None or before != after:
        return True
    named = stage.name.rpartition(":")[2]
    return named in function or function in named


class _Calls(TorchFunctionMode):
    """Every call of a function of torch or poolkit, and of a module, and where it was made."""

    def __init__(self, offer: Offer) -> None:
        super().__init__()
        self.offer = offer
        self.inside: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        scope = self.inside[-1] if self.inside else ""
        self.offer(f"{scope}:", getattr(func, "__name__", ""), (args, kwargs), result)
        return result

    def entering(self, name: str) -> Callable[..., None]:
        return lambda module, inputs: self.inside.append(name)

    def leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, keywords: Any, output: Any) -> None:
            self.inside.pop()
            self.offer(name, None, (inputs, keywords), output)

        return hook
