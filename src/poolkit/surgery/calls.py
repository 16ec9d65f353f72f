"""Functional pooling made modules: a ``forward`` that calls functions becomes its traced graph.

``F.max_pool2d(x, 2)`` in the ``forward`` of a module is no module that could be swapped. The module
is traced by ``torch.fx``, its children as they are, and every such call becomes a call of a new
child. The module stays the object that it is, with its names, parameters, hooks and mode; it gets
an attribute ``forward``, which is what torch calls.
"""

import copy
import inspect
from collections.abc import Callable, Container, Mapping
from itertools import chain, count
from types import CodeType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn import Module

from .. import functional
from .. import nn as pools
from .journal import Journal
from .modules import POINTWISE, twin

_MAX = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
        "divisor_override")  # fmt: skip
_LP = ("input", "norm_type", "kernel_size", "stride", "ceil_mode")
_ADAPTIVE = ("input", "output_size", "return_indices")

Functions = Mapping[Callable[..., Any], tuple[type[Module], tuple[str, ...]]]
"""The module of each function, and the names of its arguments in their order."""

POOLS: Functions = {
    getattr(home, f"{name}{rank}d"): (getattr(modules, f"{kind}{rank}d"), arguments)
    for home, modules in ((F, nn), (torch, nn), (functional, pools))
    for name, kind, arguments in (
        ("max_pool", "MaxPool", _MAX),
        ("avg_pool", "AvgPool", _AVG),
        ("lp_pool", "LPPool", _LP),
        ("adaptive_max_pool", "AdaptiveMaxPool", _ADAPTIVE),
        ("adaptive_avg_pool", "AdaptiveAvgPool", _ADAPTIVE),
    )
    for rank in (1, 2, 3)
    if hasattr(home, f"{name}{rank}d")
}

# A trace has the training mode of its moment for good; the module has the model's.
DROPOUT: Functions = {
    getattr(F, name): (kind, ("input", "p", "training", "inplace"))
    for name, kind in (
        ("dropout", nn.Dropout), ("dropout1d", nn.Dropout1d), ("dropout2d", nn.Dropout2d),
        ("dropout3d", nn.Dropout3d),
    )
}  # fmt: skip
ACTIVATIONS: Functions = {
    function: (kind, ("input", *names))
    for function, kind, names in (
        (F.relu, nn.ReLU, ("inplace",)),
        (torch.relu, nn.ReLU, ()),
        (F.leaky_relu, nn.LeakyReLU, ("negative_slope", "inplace")),
        (F.silu, nn.SiLU, ("inplace",)),
        (F.gelu, nn.GELU, ()),
        (torch.tanh, nn.Tanh, ()),
    )
}


class UntraceableError(Exception):
    """Why a module's ``forward`` cannot become a graph."""


class Traced:
    """The ``forward`` of a module as its graph says it, with the module's own children.

    Copies and pickles of the module have one of their own.
    """

    def __init__(self, module: Module, graph: fx.Graph) -> None:
        self.module, self.graph = module, graph
        self._function: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the graph computes."""
        return self.method(*args, **kwargs)

    @property
    def method(self) -> MethodType:
        """The graph as a method of the module."""
        if self._function is None:
            self._function = type(fx.GraphModule(self.module, self.graph)).forward
        return MethodType(self._function, self.module)

    @property
    def __code__(self) -> CodeType:  # `torch.export` reads these off any ``forward``
        return self.method.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.method)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_function": None}


def make_modules(
    owner: Module, name: str, functions: Functions, journal: Journal, *, alone: bool
) -> list[Module]:
    """Let children of ``owner`` do what it calls ``functions`` for; returns them.

    With ``alone``, an activation that it calls several times becomes several, and all of them are
    returned.

    Raises:
        UntraceableError: with the reason; nothing was changed.
    """
    graph, made = _graph(owner, functions, alone=alone)
    for key, module in made.items():
        module.training = owner.training
        journal.set(owner._modules, key, module, f"{name}.{key}".lstrip("."))  # noqa: SLF001
    if made:
        journal.set(vars(owner), "forward", Traced(owner, graph), f"{name}.forward".lstrip("."))
    tables = {id(module._forward_hooks) for module in made.values()}  # noqa: SLF001  twins share them
    return [child for child in owner.children() if id(child._forward_hooks) in tables]  # noqa: SLF001


def graph_of(owner: Module) -> fx.Graph:
    """The graph of a module's ``forward``, its children as they are.

    Raises:
        UntraceableError: with the reason.
    """
    forward = vars(owner).get("forward")
    return forward.graph if isinstance(forward, Traced) else _graph(owner, {})[0]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True


def _graph(
    owner: Module, functions: Functions, *, alone: bool = False
) -> tuple[fx.Graph, dict[str, Module]]:
    if "forward" in vars(owner):
        raise UntraceableError("has a forward of its own")
    training, traces = owner.training, []
    try:
        for mode in (not training, training):
            owner.training = mode
            graph = _Tracer().trace(owner)
            made = _to_children(owner, graph, {**functions, **DROPOUT})
            traces.append((graph, made | (_one_each(owner, graph) if alone else {})))
    except Exception as error:  # noqa: BLE001  whatever the model's code raises about proxies
        reason = str(error).strip().partition("\n")[0]
        raise UntraceableError(f"cannot be traced by torch.fx: {reason}") from None
    finally:
        owner.training = training
    if len({graph.python_code("self").src for graph, _ in traces}) > 1:
        raise UntraceableError("does something else in training than in evaluation")
    graph, made = traces[-1]
    return copy.deepcopy(graph), made  # an edited graph remembers targets that no pickle can have


def _to_children(owner: Module, graph: fx.Graph, functions: Functions) -> dict[str, Module]:
    """Calls of functions become calls of modules, in the graph; the modules by name."""
    made: dict[str, Module] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in functions:
            continue
        kind, names = functions[node.target]
        arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        x = arguments.pop("input")
        if node.target in DROPOUT:
            arguments.pop("training", None)
        if not arguments.get("stride", True):  # an empty list is torch's way to say None
            del arguments["stride"]
        if node.all_input_nodes != [x]:  # an argument that the forward computes
            continue
        key = _free(owner, node.name, made)
        made[key] = kind(**arguments)
        with graph.inserting_after(node):
            call = graph.call_module(key, (x,))
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    return made


def _one_each(owner: Module, graph: fx.Graph) -> dict[str, Module]:
    """Later calls of an activation become calls of its twins, in the graph; the twins by name."""
    made: dict[str, Module] = {}
    seen = set[str]()
    for node in graph.nodes:
        module = getattr(owner, node.target, None) if node.op == "call_module" else None
        if isinstance(module, POINTWISE) and not list(module.parameters()):
            if node.target in seen:
                key = _free(owner, node.target, made)
                made[key] = twin(module)
                node.target = key
            seen.add(node.target)
    return made


def _free(owner: Module, name: str, made: Container[str]) -> str:
    """A name that the owner has no attribute of."""
    names = chain([name], (f"{name}_{number}" for number in count(1)))
    return next(free for free in names if not hasattr(owner, free) and free not in made)
