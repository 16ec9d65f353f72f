"""What a peer is, and the peers that are modules of torch functions."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..cases import Point


class Unsupported(RuntimeError):  # noqa: N818  not an error: a peer need not know every case
    """The peer has no kernel for the point; the message says why."""


class Peer(ABC):
    """A library that computes the cases."""

    name: str
    needs: tuple[str, ...] = ()
    """Modules that it imports; its version is that of the first one's distribution."""
    pool: str = "torch"
    """Whose threads it runs on: idle threads of one pool spin for a while and slow another's."""
    is_torch: bool = False
    """Whether its version is torch's."""
    torch_autograd: bool = False
    """Whether autograd can be asked what it keeps for backward."""
    adds_like_torch: bool = False
    """Whether it adds a gradient's terms in torch's order, so that they are equal to the bit."""

    def missing(self) -> str:
        """Why it cannot run on this machine, or "" if it can."""
        for need in self.needs:
            try:
                importlib.import_module(need)
            except (ImportError, OSError) as error:  # OSError: a library of the system is missing
                return f"cannot import {need}: {str(error).partition(chr(10))[0][:100]}"
        return ""

    def version(self) -> str:
        return metadata.version(self.needs[0])

    def start(self, threads: int) -> None:  # noqa: B027  most peers have nothing to start
        """Called once before the first point, with the largest number of threads of the run."""

    @abstractmethod
    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Any]:
        """What is timed: a call that computes the point's phase and gives its result.

        ``x`` is the input in the point's dtype and layout; ``upstream`` is the gradient of the
        output, in any layout. Everything that a user would do once (compile, convert the layout,
        bind buffers) is done here. Forward gives the output, backward the input's gradient.
        ``torch.set_num_threads`` has been called; a peer with threads of its own takes as many.

        Errors: :class:`Unsupported`; any other exception counts as the same.
        """

    def result(self, point: Point, value: Any) -> Tensor:
        """What the call gave, as a tensor in torch's order of axes."""
        return value


class Eager(Peer):
    """A module with the functions of `torch.nn.functional`."""

    is_torch = True
    torch_autograd = True
    adds_like_torch = True

    def __init__(self, name: str, functional: ModuleType) -> None:
        self.name = name
        self.functional = functional

    def version(self) -> str:
        return str(torch.__version__)

    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Tensor]:
        function = getattr(self.functional, point.case.function)
        return with_autograd(point, function, x, laid_out_like(upstream), *point.case.args)


def with_autograd(
    point: Point,
    function: Callable[..., Tensor],
    x: Tensor,
    gradient: Callable[[Tensor], Tensor],
    *args: Any,
) -> Callable[[], Tensor]:
    """The phase of a torch function; ``gradient`` makes the gradient of the output it is given."""
    if point.phase == "inference":
        return lambda: function(x, *args)
    leaf = x.detach().requires_grad_()
    if point.phase == "training":
        return lambda: function(leaf, *args)
    y = function(leaf, *args)
    upstream = gradient(y)
    return lambda: torch.autograd.grad(y, leaf, upstream, retain_graph=True)[0]


def laid_out_like(upstream: Tensor) -> Callable[[Tensor], Tensor]:
    """``upstream`` in the layout of a peer's own output, as a network would hand it over."""
    return lambda y: torch.empty_like(y).copy_(upstream)


def forward_only(point: Point) -> None:
    if point.phase != "inference":
        raise Unsupported("computes inference alone")
