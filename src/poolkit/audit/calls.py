"""Running a model with every call of a module and a function known: its place, its name.

Functions are torch's and poolkit's, methods of tensors too; in an exported program, whose nodes
call the dispatcher directly, the operations themselves.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Function = Callable[..., Any]


class Frame(NamedTuple):
    """A call of a module that is under way."""

    name: str
    whole: bool
    """The module is a layer: what it calls goes by its name alone."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the tensors that came in."""


class Calls(TorchFunctionMode):
    """Follows a run. A subclass may put another function in the place of one that is called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.frames: list[Frame] = []

    def call(self, function: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What a function of the model gives."""
        return function(*args, **keywords)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def run(self, *inputs: Any) -> Any:
        """What the model gives."""
        with self.following(), self:
            if is_exported(self.model):
                return _Exported(self).run(*inputs)
            return self.model(*inputs)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Keep :attr:`frames`; after an exception they are those in which it was raised."""
        self.frames.clear()
        handles: list[Any] = []
        try:
            for name, module in self.model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # takes no hooks of this kind
                handles.append(
                    module.register_forward_pre_hook(self._entering(name), with_kwargs=True)
                )
                handles.append(module.register_forward_hook(self._leaving(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, keywords: Any) -> None:
            tensors = [v for v in tree_leaves((args, keywords)) if isinstance(v, Tensor)]
            shapes = tuple(tuple(tensor.shape) for tensor in tensors)
            self.frames.append(Frame(name, is_layer(module), shapes))

        return hook

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Those above it raised something that the model dealt with.
            while self.frames and self.frames.pop().name != name:
                pass

        return hook


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a single layer of torch or poolkit, or of a subclass."""
    if next(module.children(), None) is not None:
        return False
    return any(
        kind.__module__.startswith(("torch.nn.modules.", "poolkit.nn"))
        for kind in type(module).__mro__
        if kind is not nn.Module
    )


def has_no_gradient(model: nn.Module) -> str | None:
    """The first of poolkit's operators that a graph of ``model`` calls as they are, if any.

    A program exported for inference does; only the functions that it was made of have gradients.
    """
    for module in model.modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            if getattr(node.target, "namespace", None) == "poolkit":
                return str(node.target)
    return None


def is_exported(model: nn.Module) -> bool:
    """Whether a model is the module of an exported program, whose nodes know their layers."""
    return isinstance(model, fx.GraphModule) and any(
        node.op == "call_function" and "nn_module_stack" in node.meta for node in model.graph.nodes
    )


class _Exported(fx.Interpreter):
    def __init__(self, calls: Calls) -> None:
        module = calls.model
        assert isinstance(module, fx.GraphModule)
        super().__init__(module)
        self.calls = calls

    def run_node(self, n: fx.Node) -> Any:
        stack = list((n.meta.get("nn_module_stack") or {}).values())
        name, kind = stack[-1] if stack else ("", "")
        title = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        whole = title.startswith(("torch.nn.modules.", "poolkit.nn"))
        whole &= not title.startswith("torch.nn.modules.container.")
        shapes = [
            tuple(value.shape)
            for value in map(self.env.get, n.all_input_nodes)
            if isinstance(value, Tensor)
        ]
        self.calls.frames.append(Frame(name, whole, tuple(shapes)))
        result = super().run_node(n)
        self.calls.frames.pop()
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.calls.call(target, args, kwargs)


def title(function: Any) -> str:
    """The name of a function or of an operation, as users know it."""
    name: str
    if isinstance(function, torch._ops.OpOverload):  # noqa: SLF001  its only name
        name = function._opname  # noqa: SLF001
    else:
        name = getattr(function, "__name__", type(function).__name__)
    return {"__getitem__": "slice"}.get(name, name).strip("_")
