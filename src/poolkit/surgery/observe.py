"""One run of a model, watched: which module saw what, in which order."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..errors import ArgumentError

Input = Tensor | Sequence[Any]
Shape = tuple[int, ...]


class Like(NamedTuple):
    """Where tensors are, and of which type."""

    device: torch.device
    dtype: torch.dtype


class Call(NamedTuple):
    """One call of a module: what its first tensor was, and the shapes that it gave."""

    module: Module
    input: Shape
    """``()`` if it was given no tensor."""
    like: Like | None
    output: tuple[Shape, ...]


@dataclass
class Run:
    """What a run of a model did."""

    calls: list[Call] = field(default_factory=list)
    functions: list[tuple[Module, Callable[..., Any]]] = field(default_factory=list)
    """Functions of interest, each with the module whose ``forward`` called it."""
    outputs: tuple[Tensor, ...] = ()

    def of(self, module: Module) -> list[Call]:
        """The calls of a module."""
        return [call for call in self.calls if call.module is module]


def observe(
    model: Module,
    input: Input,
    functions: Collection[Callable[..., Any]] = (),
    what: str = "the model",
) -> Run:
    """Run the model once, in evaluation mode and without gradients, and leave no trace in it.

    The calls are in the order in which they end. The model's own hooks are called.

    Raises:
        ArgumentError: the model fails on the input; the innermost module is named.
    """
    run, stack = Run(), [model]
    names = {module: name for name, module in model.named_modules()}
    arguments = (input,) if isinstance(input, Tensor) else tuple(input)

    def enter(module: Module, args: Any, kwargs: Any) -> None:
        stack.append(module)

    def leave(module: Module, args: Any, kwargs: Any, output: Any) -> None:
        stack.pop()
        first = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), None)
        run.calls.append(
            Call(
                module,
                () if first is None else tuple(first.shape),
                None if first is None else Like(first.device, first.dtype),
                tuple(tuple(t.shape) for t in tree_leaves(output) if isinstance(t, Tensor)),
            )
        )

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in functions:
                run.functions.append((stack[-1], func))
            return func(*args, **(kwargs or {}))

    with _untouched(model), ExitStack() as hooks:
        # Twins have one table of hooks, which is called for each of them.
        tables = {id(module._forward_hooks): module for module in names}  # noqa: SLF001
        for module in tables.values():
            for handle in (
                module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True),
                module.register_forward_hook(leave, with_kwargs=True),
            ):
                hooks.callback(handle.remove)
        try:
            with Watch():
                output = model(*arguments)
        except Exception as error:
            where = names[stack[-1]] or "the model itself"
            given = ", ".join(
                str(tuple(a.shape)) if isinstance(a, Tensor) else repr(a) for a in arguments
            )
            raise ArgumentError(
                f"rewrite: {what} fails on the given input ({given}), in {where}: {error}"
            ) from error
    run.outputs = tuple(t for t in tree_leaves(output) if isinstance(t, Tensor))
    return run


@contextmanager
def _untouched(model: Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and random numbers come back."""
    modes = {module: module.training for module in model.modules()}
    tables = {module: dict(module._buffers) for module in modes}  # noqa: SLF001  assignments too
    values = [(b, b.clone()) for table in tables.values() for b in table.values() if b is not None]
    devices = {t.device for t in (*model.parameters(), *model.buffers())}
    cards = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(cards), torch.no_grad():
        try:
            for module in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
                module._buffers.update(tables[module])  # noqa: SLF001
            for buffer, value in values:
                if not buffer.is_meta and not torch.equal(buffer, value):
                    buffer.copy_(value)
