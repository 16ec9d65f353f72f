"""The policy ``gap_head``: global average pooling and one linear layer for a chain of them."""

import itertools
import math
from dataclasses import dataclass

from torch import nn
from torch.nn import Module

from .. import nn as pools
from ..accelerate import Left, title
from .calls import UntraceableError, graph_of
from .modules import POINTWISE
from .plan import Plan, Scan

BETWEEN = (*POINTWISE, nn.Linear, nn.BatchNorm1d, nn.LayerNorm, nn.Dropout, nn.Identity)


class _NoHeadError(Exception):
    """Why there is no head to replace."""


@dataclass(frozen=True)
class _Head:
    """From the last map to the scores."""

    pool: Module
    """The last module that puts out a map."""
    channels: int
    layers: list[Module]
    """What follows the flattening, up to the last linear layer."""

    @property
    def linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


def gap_head(scan: Scan) -> Plan:
    """One linear layer over global means for a flattened map and its fully connected layers."""
    plan = Plan()
    try:
        head = _find(scan)
        old, superfluous = _place(scan, head)
    except (_NoHeadError, UntraceableError) as reason:
        plan.left.append(Left(("",), type(scan.model), str(reason)))
        return plan
    last = head.linear[-1]
    new: Module = nn.Linear(head.channels, last.out_features, last.bias is not None)
    before = sum(p.numel() for layer in head.layers for p in layer.parameters())
    after = sum(p.numel() for p in new.parameters())
    now = f"{title(nn.Linear)}({head.channels}, {last.out_features})"
    if isinstance(head.pool, nn.AdaptiveAvgPool2d):
        plan.swap(head.pool, pools.GlobalAvgPool2d(), same_shape=False)
    else:  # a channel's values are neighbours in a flattened map
        means = nn.Unflatten(1, (head.channels, -1)), pools.GlobalAvgPool1d(flatten=True)
        new, now = nn.Sequential(*means, new), f"global average, {now}"
    plan.swap(old, new, now, same_shape=old is not head.linear[0] or len(head.linear) == 1)
    for layer in superfluous:
        plan.swap(layer, nn.Identity(), same_shape=False)
    plan.notes.append(
        f"The head had {before:,} parameters and has {after:,}, which are new: the model needs "
        "fine-tuning."
    )
    return plan


def flattens(scan: Scan) -> bool:
    """Whether the head reads every cell of its map on its own."""
    try:
        _find(scan)
    except _NoHeadError:
        return False
    return True


def _find(scan: Scan) -> _Head:
    assert scan.run is not None
    leaves = [call for call in scan.run.calls if not any(call.module.children())]
    maps = [i for i, call in enumerate(leaves) if [len(shape) for shape in call.output] == [4]]
    if not maps:
        raise _NoHeadError("puts out no 2-D map")
    last_map, tail = leaves[maps[-1]], leaves[maps[-1] + 1 :]
    while tail and not isinstance(tail[-1].module, nn.Linear):
        tail.pop()
    layers = [call.module for call in tail if not isinstance(call.module, nn.Flatten)]
    if not layers:
        raise _NoHeadError("has no linear layer after its last map")
    head = _Head(last_map.module, last_map.output[0][1], layers)
    read, values = head.linear[0].in_features, math.prod(last_map.output[0][1:])
    if read == head.channels:
        raise _NoHeadError("averages globally already")
    if read != values:
        raise _NoHeadError(f"reads {read} values where the last map has {values}")
    for layer in layers:
        if not isinstance(layer, BETWEEN):
            raise _NoHeadError(f"has a {title(type(layer))} in its head")
        if len(scan.calls(layer)) > 1:
            raise _NoHeadError(f"calls {scan.names[layer][0]} several times")
    return head


def _place(scan: Scan, head: _Head) -> tuple[Module, list[Module]]:
    """The module for which the new one comes, and those that have nothing to do any more."""
    first = head.linear[0]
    if len(head.linear) == 1:
        return first, []
    paths = [scan.names[layer][0].split(".") for layer in head.layers]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    whole = scan.model.get_submodule(".".join(common))
    assert scan.run is not None
    inside = {m for m in whole.modules() if not any(m.children()) and scan.calls(m)}
    if whole is not scan.model and inside == set(head.layers):
        return whole, []
    chain = head.layers[head.layers.index(first) :]
    _check_straight(whole, chain)
    return first, chain[1:]


def _check_straight(owner: Module, chain: list[Module]) -> None:
    """Refuse a chain with something between its layers, which would work on the scores."""
    children = {module: name for name, module in owner.named_children()}
    nodes = {node.target: node for node in graph_of(owner).nodes if node.op == "call_module"}
    for layer, following in itertools.pairwise(chain):
        node = nodes.get(children.get(layer, ""))
        after = nodes.get(children.get(following, ""))
        if node is None or after is None or list(node.users) != [after]:
            raise _NoHeadError("has something that is no module between its linear layers")
