"""The stock pooling modules of a model made poolkit's, and back.

No module is exchanged: it gets another class. ``poolkit.nn.MaxPool2d`` subclasses
``torch.nn.MaxPool2d`` and its instances hold nothing that a stock one lacks, so the class is all
that differs. Whatever refers to the module goes on referring to it: one parent or several, hooks, a
plain list, a traced graph; and a model that is itself a pooling module needs no parent. All that is
left to undo is the class; a mark on the module tells it from poolkit's modules that the user built.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch.nn import Module

from . import nn
from .errors import ArgumentError
from .table import aligned

__all__ = ["Left", "Report", "Swap", "accelerate", "restore"]

OURS: dict[type[Module], type[Module]] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__ if hasattr(torch.nn, name)
}
"""Poolkit's class for each stock one."""
STOCK = {ours: stock for stock, ours in OURS.items()}

# In the module's own dictionary: copies and pickles of an accelerated model can be restored too.
MARK = "_accelerated"


@dataclass(frozen=True)
class Swap:
    """A module whose class was changed."""

    names: tuple[str, ...]
    """Every qualified name that the module has in the model; the model itself is ``""``."""
    old: type[Module]
    new: type[Module]


@dataclass(frozen=True)
class Left:
    """A pooling module that was left as it is."""

    names: tuple[str, ...]
    kind: type[Module]
    reason: str


@dataclass(frozen=True)
class Report(Sequence[Swap]):
    """What :func:`accelerate` or :func:`restore` did: a sequence of swaps. `str` is a table."""

    swaps: tuple[Swap, ...]
    left: tuple[Left, ...] = ()
    """Pooling modules that were left as they are, each with the reason."""

    @overload
    def __getitem__(self, index: int) -> Swap: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Swap, ...]: ...
    def __getitem__(self, index: int | slice) -> Swap | tuple[Swap, ...]:
        return self.swaps[index]

    def __len__(self) -> int:
        return len(self.swaps)

    def __str__(self) -> str:
        rows = [("module", "was", "is now")]
        rows += [(shown(s.names), title(s.old), title(s.new)) for s in self.swaps]
        kept = [("left as it is", "class", "because it")]
        kept += [(shown(item.names), title(item.kind), item.reason) for item in self.left]
        parts = [aligned(rows)] if self.swaps else ["no module was changed"]
        return "\n\n".join([*parts, aligned(kept)] if self.left else parts)


def accelerate(model: Module) -> Report:
    """Make every stock pooling module of a model poolkit's, in place.

    The modules stay the objects that they are and get the class of the same name from
    ``poolkit.nn``. Names, sharing, hooks, mode, buffers, arguments and state dicts are untouched.
    The 20 pooling modules of ``torch.nn`` are taken: max, average, Lp, adaptive, fractional and
    unpooling. Results are torch's, up to the deviations that the documentation lists.

    What is no module is left as it is: ``x.mean((2, 3))``; calls such as ``F.max_pool2d(x, 2)`` and
    the average inside local response normalization, which :func:`poolkit.patch_torch` reaches. So
    are modules of a subclass, because their ``forward`` is their own, and what ``torch.jit`` has
    compiled; the report says so. Models wrapped by ``DataParallel`` or ``torch.compile`` and those
    traced by ``torch.fx`` are changed inside. A module that only a plain list or dict holds is not
    part of the model, for torch neither. ``torch.jit.script`` cannot compile poolkit's modules:
    restore the model before it. A whole model that was saved with poolkit's modules needs poolkit
    to load; state dicts need it neither way.

    Args:
        model: any module, in any mode and on any device. One that is itself a stock pooling module
            is changed too.

    Returns:
        What was changed, by qualified name, and what was left with the reason; ``print`` shows it
        as a table. It is empty, with a warning, if there is nothing to change.

    Raises:
        ArgumentError: `model` is no module, or contains itself.

    If anything is raised the model is as it was.

    Example:
        >>> import poolkit, torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2))
        >>> print(poolkit.accelerate(model))
        module  was                 is now
        1       torch.nn.MaxPool2d  poolkit.nn.MaxPool2d
        >>> len(poolkit.restore(model))
        1
    """
    found = pooling_modules("accelerate", model)
    reasons = [why_not(module) for module, _ in found]
    plan = [f for f, reason in zip(found, reasons, strict=True) if reason is None]
    left = [
        Left(names, type(module), reason)
        for (module, names), reason in zip(found, reasons, strict=True)
        if reason is not None
    ]
    return _change("accelerate", plan, OURS, left)


def restore(model: Module) -> Report:
    """Undo :func:`accelerate`: every module that it changed is torch's again, in place.

    A copy or a pickle of an accelerated model can be restored as well, and a part of it alone.
    Poolkit's modules that were built as such stay.

    Args:
        model: an accelerated model, or any other.

    Returns:
        What was changed, by qualified name; empty, with a warning, if nothing was accelerated.

    Raises:
        ArgumentError: `model` is no module, or contains itself; or an accelerated module was given
            an option since then that torch lacks, and would forget it.

    If anything is raised the model is as it was.

    Example:
        >>> import copy, poolkit, torch
        >>> model = torch.nn.AvgPool2d(2)
        >>> _ = poolkit.accelerate(model)
        >>> twin = copy.deepcopy(model)
        >>> print(poolkit.restore(twin))
        module       was                   is now
        (the model)  poolkit.nn.AvgPool2d  torch.nn.AvgPool2d
    """
    marked = [(m, names) for m, names in pooling_modules("restore", model) if MARK in vars(m)]
    plan = [(m, names) for m, names in marked if type(m) in STOCK]
    left = [Left(n, type(m), "is a subclass") for m, n in marked if type(m) not in STOCK]
    for module, names in plan:
        for option in _options(module, STOCK[type(module)], type(module)):
            raise ArgumentError(
                f"restore: {shown(names)} has {option}={getattr(module, option)!r}, which "
                f"{title(STOCK[type(module)])} lacks; delete that attribute first"
            )
    return _change("restore", plan, STOCK, left)


Found = tuple[Module, tuple[str, ...]]


def pooling_modules(where: str, model: Module) -> list[Found]:
    """The modules of a model that pool, in their order, each once with all its names."""
    if not isinstance(model, Module):
        raise ArgumentError(f"{where}: model must be a torch.nn.Module, got {model!r:.80}")
    names: dict[int, list[str]] = {}
    modules: dict[int, Module] = {}
    try:
        for name, module in model.named_modules(remove_duplicate=False):
            if _is_pooling(module):
                modules[id(module)] = module
                names.setdefault(id(module), []).append(name)
    except RecursionError:
        raise ArgumentError(f"{where}: the model contains itself") from None
    return [(module, tuple(names[key])) for key, module in modules.items()]


def _is_pooling(module: Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        original = getattr(module, "original_name", None)
        return any(original == stock.__name__ for stock in OURS)
    return isinstance(module, (*OURS, torch.nn.LocalResponseNorm))


def why_not(module: Module) -> str | None:
    """The reason to leave a pooling module as it is, if there is one."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "was compiled by torch.jit"
    if kind is torch.nn.LocalResponseNorm:
        return "averages inside a function of torch, which poolkit.patch_torch reaches"
    if any(kind is getattr(nn, name) for name in nn.__all__):
        return "is poolkit's already"
    if kind not in OURS:
        return "is a subclass"
    if "forward" in vars(module):
        return "has a forward of its own"
    for option in _options(module, kind, OURS[kind]):
        return f"has an attribute {option!r} that poolkit's class would read"
    return None


def _options(module: Module, stock: type[Module], ours: type[Module]) -> list[str]:
    """Attributes of the instance that mean something to poolkit's class alone."""
    own = {*vars(module), *module._parameters, *module._buffers, *module._modules}  # noqa: SLF001  `dir` lists the class's too
    return sorted(own & (set(dir(ours)) - set(dir(stock))))


def _change(
    where: str, plan: list[Found], classes: dict[type[Module], type[Module]], left: list[Left]
) -> Report:
    """Give each module of the plan its class of ``classes``: all of them, or none."""
    swaps = [Swap(names, type(module), classes[type(module)]) for module, names in plan]
    modules = [module for module, _ in plan]
    try:
        for module, swap in zip(modules, swaps, strict=True):
            _become(module, swap.new)
    except BaseException:
        for module, swap in zip(modules, swaps, strict=True):
            _become(module, swap.old)
        raise
    if not swaps:
        _warn(where, left)
    return Report(tuple(swaps), tuple(left))


def _warn(where: str, left: list[Left]) -> None:
    nothing = {"accelerate": "no stock pooling module", "restore": "no accelerated module"}
    reasons = " or ".join(sorted({item.reason for item in left}))
    rest = f" ({len(left)} left as they are, because each {reasons})" if left else ""
    warnings.warn(f"{where}: the model has {nothing[where]}{rest}", stacklevel=4)


def _become(module: Module, kind: type[Module]) -> None:
    if kind in STOCK:
        vars(module)[MARK] = True
    module.__class__ = kind
    if kind in OURS:
        vars(module).pop(MARK, None)


def shown(names: Sequence[str]) -> str:
    """Qualified names as a table shows them."""
    return ", ".join(name or "(the model)" for name in names)


def title(kind: type[Module]) -> str:
    """The class as users import it: ``torch.nn.MaxPool2d``, wherever torch keeps it."""
    stock = getattr(torch.nn, kind.__qualname__, None) is kind
    module = "torch.nn" if stock else kind.__module__
    return f"{module}.{kind.__qualname__}"
