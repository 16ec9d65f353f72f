"""Leaving a model, and the process, as they were."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Undo whatever a block does to a model: also if it raises, or is interrupted.

    Modes, buffers and which objects they are, gradients, what requires them, hooks; and of the
    process the random states, the number of threads and whether gradients are on.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    hooks = [{name: dict(table) for name, table in _hooks(module)} for module in modules]
    buffers = [dict(module._buffers) for module in modules]  # noqa: SLF001  the objects
    values = {id(b): b.detach().clone() for table in buffers for b in table.values()
              if b is not None}  # fmt: skip
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        with _random_states():
            yield
    finally:
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for module, mode, tables, table in zip(modules, modes, hooks, buffers, strict=True):
            module.training = mode
            for name, entries in _hooks(module):
                _put_back(entries, tables.get(name, {}))
            _put_back(module._buffers, table)  # noqa: SLF001
        for buffer in (b for table in buffers for b in table.values() if b is not None):
            _rewrite(buffer, values[id(buffer)])


def evaluating(model: nn.Module, training: bool = False) -> None:
    """The mode, flag by flag: a ``train()`` of the model's own, or none as exported, is let be."""
    for module in model.modules():
        module.training = training


def _hooks(module: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, table)
        for name, table in vars(module).items()
        if "_hooks" in name and isinstance(table, dict)
    ]


def _put_back(table: Any, entries: dict[Any, Any]) -> None:
    if list(table.items()) != list(entries.items()) or any(
        table[key] is not value for key, value in entries.items()
    ):
        table.clear()
        table.update(entries)


def _rewrite(buffer: Tensor, value: Tensor) -> None:
    """Only where it differs: an unchanged buffer's version stays as well."""
    if buffer.is_meta or torch.equal(buffer, value):
        return
    with torch.no_grad():
        buffer.copy_(value)


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    own = random.getstate()
    array = sys.modules.get("numpy")
    theirs = array.random.get_state() if array is not None else None
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's own
    devices = range(torch.cuda.device_count()) if started else []
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(own)
        if array is not None:
            array.random.set_state(theirs)
