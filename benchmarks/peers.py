"""Who takes part. A peer is one class: what it is, whether it can run here, how it runs a point."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional
from torch import Tensor

import poolkit.functional

from .cases import Point


class Unsupported(RuntimeError):  # noqa: N818  not an error: a peer need not know every case
    """The peer has no kernel for the point; the message says why."""


class Peer(ABC):
    """A library that computes the cases."""

    name: str

    @abstractmethod
    def missing(self) -> str:
        """Why it cannot run on this machine, or "" if it can."""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Tensor]:
        """What is timed: a call that computes the point's phase and gives its result.

        ``x`` is the input in the point's dtype and layout; ``upstream`` is the gradient of the
        output, in any layout. Everything that a user would do once (compile, convert the layout,
        bind buffers) is done here. Forward gives the output, backward the input's gradient; what
        is not a Tensor of torch is converted without a copy. ``torch.set_num_threads`` has been
        called; a peer with threads of its own takes as many.

        Errors: :class:`Unsupported`; RuntimeError and TypeError count as the same.
        """


class Eager(Peer):
    """A module with the functions of `torch.nn.functional`."""

    def __init__(self, name: str, functional: ModuleType) -> None:
        self.name = name
        self.functional = functional

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return str(torch.__version__)

    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Tensor]:
        case, functional = point.case, self.functional
        function, args = getattr(functional, case.function), case.args
        if point.phase == "inference":
            return lambda: function(x, *args)
        leaf = x.detach().requires_grad_()
        if point.phase == "training":
            return lambda: function(leaf, *args)
        y = function(leaf, *args)
        gradient = torch.empty_like(y).copy_(upstream)  # laid out like this peer's own output
        return lambda: torch.autograd.grad(y, leaf, gradient, retain_graph=True)[0]


POOLKIT = Eager("poolkit", poolkit.functional)
PEERS: dict[str, Peer] = {"torch": Eager("torch", torch.nn.functional)}
PLANNED = ("torch.compile", "oneDNN", "ONNX Runtime", "OpenVINO", "JAX")
"""Peers without a class yet: every report names them as missing."""


def chosen(names: list[str] | None) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can run, and why the others cannot."""
    peers, missing = [], {}
    for name, peer in PEERS.items():
        if names is not None and name not in names:
            missing[name] = "not asked for"
        elif reason := peer.missing():
            missing[name] = reason
        else:
            peers.append(peer)
    return peers, missing | dict.fromkeys(PLANNED, "the benchmark cannot run it yet")
