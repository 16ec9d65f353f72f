"""Who takes part. A peer is one class: what it is, whether it can run here, how it runs a point."""

import poolkit.functional

from .. import stock
from .base import Eager, Peer, Unsupported
from .compiled import Compiled
from .jax import JAX
from .onednn import OneDNN
from .onnx_runtime import OnnxRuntime
from .openvino import OpenVINO

__all__ = ["OPTIONS", "PEERS", "POOLKIT", "Eager", "Peer", "Unsupported", "chosen"]

POOLKIT = Eager("poolkit", poolkit.functional)
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Eager("torch", stock),
        Compiled(),
        OneDNN(),
        OnnxRuntime(),
        OpenVINO(),
        JAX(),
    )
}
OPTIONS = {name.lower().replace(" ", ""): name for name in PEERS}
"""What the command line calls them."""


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
    return peers, missing
