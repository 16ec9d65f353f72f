"""A model by its name, as command lines give it."""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import logging
import os
import pkgutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from .errors import ArgumentError

__all__ = ["load_model"]

PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})


def load_model(name: str) -> nn.Module:
    """Make the model that a name stands for.

    Modules and files are imported, which runs their code. Pickled modules are refused: they look
    like data and run code, too. What an exported program pickles is read as weights only.

    Args:
        name: one of

            - ``package.module:factory``: what is called without arguments and returns a module, or
              a module itself; ``factory`` may be a path of attributes. The current folder is
              searched first;
            - ``file.py:factory``: the same in a file, which finds its neighbours;
            - ``file.pt2``: an exported program, as ``torch.export.save`` writes it;
            - a class of :mod:`poolkit.models`, such as ``ResNet18``;
            - a name of pytorchcv, such as ``mobilenet_w1``, where that is installed.

    Returns:
        The module, with random weights unless the factory or the program brings its own.

    Raises:
        ArgumentError: no such module, file or name, code that failed, or what came is no module.

    Example:
        >>> from poolkit.loading import load_model
        >>> type(load_model("ResNet18")).__name__
        'ResNet18'
        >>> load_model("Resnet18")
        Traceback (most recent call last):
        poolkit.errors.ArgumentError: no model 'Resnet18': did you mean ResNet18 ...
    """
    suffix = Path(name).suffix.lower()
    if suffix in PICKLES:
        raise ArgumentError(
            f"cannot load {name}: unpickling a module runs whatever code the file holds; give a "
            "factory, such as file.py:make, that builds the model and loads a state dict with "
            "torch.load(..., weights_only=True)"
        )
    if suffix == ".pt2":
        return _exported(name)
    place, colon, attributes = name.rpartition(":")
    if colon:
        return _built(name, place, attributes)
    if suffix == ".py":
        raise ArgumentError(f"cannot load {name}: say what to call in it, such as {name}:make")
    return _known(name)


def _exported(name: str) -> nn.Module:
    if not zipfile.is_zipfile(name):
        reason = "it is no archive" if Path(name).is_file() else "there is no such file"
        raise ArgumentError(f"cannot load {name}: {reason}; expected what torch.export.save writes")
    try:
        with _weights_only(), _silent("torch.export"):
            return torch.export.load(name).module()
    except Exception as error:
        raise ArgumentError(
            f"cannot load {name}: expected what torch.export.save writes, got {_words(error)}"
        ) from error


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """A switch of torch: its loader of programs would unpickle anything where it must."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    """No traceback in the log of what we say in a sentence."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _built(name: str, place: str, attributes: str) -> nn.Module:
    """What ``place:attributes`` makes."""
    file = place.endswith(".py")
    if file and not Path(place).is_file():
        raise ArgumentError(f"cannot load {name}: there is no file {place}")
    if not attributes or not all(part.isidentifier() for part in attributes.split(".")):
        raise ArgumentError(
            f"cannot load {name}: expected package.module:factory or file.py:factory, got "
            f"{attributes!r} for the factory"
        )
    with _searching(Path(place).resolve().parent if file else Path.cwd()):
        try:
            found: Any = _run_file(place) if file else importlib.import_module(place)
        except (Exception, SystemExit) as error:
            raise ArgumentError(f"cannot import {place}: {_words(error)}") from error
        for part in attributes.split("."):
            if not hasattr(found, part):
                has = [each for each in vars(found) if not each.startswith("_")]
                raise ArgumentError(f"{place} has no {attributes!r}{_close(part, has)}")
            found = getattr(found, part)
        return _called(name, found)


@contextlib.contextmanager
def _searching(folder: Path) -> Iterator[None]:
    """Import from a folder first, but where Python was told not to (``python -P``)."""
    before = sys.path[:]
    if not sys.flags.safe_path:
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _run_file(path: str) -> ModuleType:
    title = f"_{Path(path).stem}"  # no module that others import may be hidden by it
    spec = importlib.util.spec_from_file_location(title, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018  it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module  # dataclasses, among others, look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[title]
        raise
    return module


def _called(name: str, factory: Any) -> nn.Module:
    """The module, or what the factory returns."""
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ArgumentError(
            f"cannot load {name}: expected a module, or what returns one, got "
            f"{type(factory).__name__}"
        )
    needs = _needs(factory)
    if needs:
        raise ArgumentError(
            f"cannot load {name}: it is called without arguments, and needs {', '.join(needs)}; "
            "give a function that passes them"
        )
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise ArgumentError(f"cannot load {name}: it raised {_words(error)}") from error
    if isinstance(made, torch.export.ExportedProgram):
        return made.module()
    if not isinstance(made, nn.Module):
        raise ArgumentError(
            f"cannot load {name}: expected a torch.nn.Module from it, got {type(made).__name__}"
        )
    return made


def _needs(factory: Callable[..., Any]) -> list[str]:
    """The arguments that have no default."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of some functions written in C
        return []
    return [
        p.name for p in parameters if p.default is p.empty and p.kind not in
        {p.VAR_POSITIONAL, p.VAR_KEYWORD}
    ]  # fmt: skip


def _known(name: str) -> nn.Module:
    """One of poolkit.models, or of pytorchcv."""
    from . import models

    ours = {
        each: factory
        for each, factory in vars(models).items()
        if inspect.isclass(factory) and issubclass(factory, nn.Module) and not _needs(factory)
    }
    if name in ours:
        return _called(name, ours[name])
    factory = _pytorchcv(name) if name.isidentifier() else None
    if factory is not None:
        return _called(name, factory)
    raise ArgumentError(
        f"no model {name!r}{_close(name, ours)}; expected package.module:factory, file.py:factory, "
        f"file.pt2, one of {', '.join(sorted(ours))}, or a name of pytorchcv, where installed"
    )


def _pytorchcv(name: str) -> Callable[..., Any] | None:
    """Its function of that name; its own list imports torchvision, most of its files do not."""
    try:
        package = importlib.import_module("pytorchcv.models")
    except ModuleNotFoundError:
        return None
    files = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    # Files are named after families: the longest name that begins alike is nearly always it.
    likely = [file for file in files if name.startswith(file.partition("_")[0])]
    likely.sort(key=len, reverse=True)
    for file in dict.fromkeys([*likely, *files]):
        spec = importlib.util.find_spec(f"pytorchcv.models.{file}")
        source = "" if spec is None or spec.origin is None else Path(spec.origin).read_text("utf-8")
        if f"\ndef {name}(" in source:
            module = importlib.import_module(f"pytorchcv.models.{file}")
            function: Callable[..., Any] = getattr(module, name)
            return lambda: function(pretrained=False)
    return None


def _close(name: str, among: Any) -> str:
    """``: did you mean ...``, if there is something like it."""
    lowered = {each.lower(): each for each in among}
    close = difflib.get_close_matches(name.lower(), lowered, n=3)
    return f": did you mean {' or '.join(lowered[each] for each in close)}?" if close else ""


def _words(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]
