"""What the raw operators do with DTensors: who computes what, and which cells travel for it.

No window reaches over the batch or the channels: tensors that are sharded along these, or
replicated, are pooled as they lie. Along a spatial axis every rank computes its own part of the
result, as DTensor shares it out. What its windows hold beyond its own cells, the halo, comes from
the ranks that own it. Backward is the same the other way round: a rank fetches the gradients of all
outputs that hold its cells, and adds them up as one process does. Partial sums never travel, so the
bits are those of one process. What cannot be had like this is replicated along its axis first.

This module is imported when the first DTensor comes (functional/common.py): torch's part of it
takes seconds.
"""

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

# Those of torch.distributed cannot be compiled.
from torch.distributed._functional_collectives import all_to_all_single, wait_tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from ..errors import ArgumentError
from ..window import Axis, Piece, Window, holders, is_clipped, pack, piece, unpack
from . import NATIVE

CELLS, OUTPUTS = "cells", "outputs"


class Form(NamedTuple):
    """What the tensors of an operator have a value for: each cell or each output."""

    arguments: tuple[str, ...]
    result: str
    sums: bool = False
    whole: bool = False
    """Whether its spatial axes are never split: padding repeats cells, or indices name any cell."""


FORMS = {
    "max_pool": Form((CELLS,), OUTPUTS),
    "max_pool_offsets": Form((CELLS,), OUTPUTS),
    "pick": Form((CELLS, OUTPUTS), OUTPUTS),
    "scatter": Form((OUTPUTS, OUTPUTS), CELLS),
    "plane_indices": Form((OUTPUTS,), OUTPUTS),
    "avg_pool": Form((CELLS,), OUTPUTS, sums=True),
    "avg_pool_backward": Form((OUTPUTS,), CELLS, sums=True),
    "lp_pool": Form((CELLS,), OUTPUTS, sums=True),
    "lp_pool_backward": Form((OUTPUTS, OUTPUTS, CELLS), CELLS, sums=True),
    "blur_pool": Form((CELLS,), OUTPUTS, whole=True),
    "blur_pool_backward": Form((OUTPUTS,), CELLS, whole=True),
    "max_blur_pool": Form((CELLS,), OUTPUTS, whole=True),
    "put": Form((OUTPUTS, OUTPUTS), CELLS, whole=True),
    "put_backward": Form((CELLS, OUTPUTS), OUTPUTS, whole=True),
    "add_at": Form((OUTPUTS, OUTPUTS), CELLS, whole=True),
    "take": Form((CELLS, OUTPUTS), OUTPUTS, whole=True),
}


# ---- who has what -------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How an axis is shared out, rank by rank.

    Of cells and of outputs: what each rank owns, what it needs to compute its result, and whether
    any of that travels.
    """

    pieces: list[Piece]
    owned: dict[str, list[range]]
    needed: dict[str, list[range]]
    travels: dict[str, bool]


@lru_cache(maxsize=1024)
def plan(axis: Axis, ranks: int, result: str) -> Plan:
    """Share out a fixed axis so that each rank computes what it owns of the result."""
    owned = {CELLS: _shares(axis.size, ranks), OUTPUTS: _shares(axis.out, ranks)}
    if result == CELLS:
        outputs = [holders(axis, cells) for cells in owned[CELLS]]
        pieces = [piece(axis, *both) for both in zip(outputs, owned[CELLS], strict=True)]
        needed = {CELLS: owned[CELLS], OUTPUTS: outputs}
    else:
        pieces = [piece(axis, outputs) for outputs in owned[OUTPUTS]]
        # Who has no output needs no cell: its piece is a matter of form.
        cells = [p.cells if own else own for p, own in zip(pieces, owned[OUTPUTS], strict=True)]
        needed = {CELLS: cells, OUTPUTS: owned[OUTPUTS]}
    travels = {
        kind: any(overlap(*both) != both[1] for both in zip(owned[kind], needed[kind], strict=True))
        for kind in (CELLS, OUTPUTS)
    }
    return Plan(pieces, owned, needed, travels)


def _shares(extent: int, ranks: int) -> list[range]:
    """What DTensor gives each rank of an axis: equal parts, of which the last are shorter or 0."""
    step = -(-extent // ranks)
    return [range(min(i * step, extent), min((i + 1) * step, extent)) for i in range(ranks)]


def overlap(a: range, b: range) -> range:
    """What two ranges have in common; ``b`` if that is empty."""
    start = max(a.start, b.start)
    return range(start, max(start, min(a.stop, b.stop))) if b else b


def splits_exactly(window: Window, axis: Axis, sums: bool) -> bool:
    """Whether parts of an axis are pooled to the bits of the whole."""
    # Adaptive windows depend on where they lie. Of one output every rank but one would have none.
    if axis.stride == 0 or axis.out == 1:
        return False
    return not sums or _has_one_order(window, axis)


def _has_one_order(window: Window, axis: Axis) -> bool:
    """Whether the kernels add up the same cells in the same order in a part of the axis.

    They do where windows are small. The order depends on the extents where windows are large
    (is_large in csrc/window.h) or many hold the same cell (csrc/adjoint.h).
    """
    if sum(a.kernel for a in window.axes) + 3 - window.rank > 16:  # an absent axis counts as 1
        return False
    held_by = [-(-a.kernel // a.stride) if a.stride else a.out // a.size + 2 for a in window.axes]
    if math.prod(held_by) > 16 or axis.before > (axis.kernel - 1) * axis.dilation:
        return False
    if window.include_pad or window.divisor or any(a.stride != 1 for a in window.axes):
        return True
    # Gradients are divided once added up where no window is clipped, and else before.
    return [a for a in window.axes if is_clipped(a)] != [axis]


# ---- the rule -----------------------------------------------------------------------------------


class Split(NamedTuple):
    """A spatial axis that a dimension of the mesh shares out, as this rank sees it."""

    number: int
    plan: Plan
    rank: int
    group: Any

    def owned(self, kind: str) -> range:
        """The cells or outputs that this rank owns."""
        return self.plan.owned[kind][self.rank]

    def computed(self, kind: str) -> range:
        """Those that its piece of the axis has."""
        piece = self.plan.pieces[self.rank]
        return piece.cells if kind == CELLS else piece.outputs


@torch.no_grad()
def _pool(name: str, _cls: Any, operator: Any, _types: Any, args: Any, _kwargs: Any) -> Any:
    """Compute an operator whose tensors are DTensors, with the signature of a dispatch rule."""
    form = FORMS[name]
    window, channels_last = unpack(args[-1])
    count = len(form.arguments)
    tensors, numbers = _on_one_mesh(name, args[:count]), args[count:-1]
    mesh = tensors[0].device_mesh
    # The last lies as the forward pass had it; gradients come as they happen to lie.
    placements = _accepted(window, tensors[-1], form)
    tensors = [
        t if t.placements == placements else t.redistribute(mesh, placements) for t in tensors
    ]
    splits = _splits(window, mesh, placements, tensors[0].dim() - window.rank, form.result)
    local = [
        _with_halo(name, t, kind, window.rank, splits)
        for t, kind in zip(tensors, form.arguments, strict=True)
    ]
    packed = pack(_piece(window, splits), channels_last) if splits else args[-1]
    if local[0].numel() == 0:  # of the batch or the channels this rank has none
        local = [x.to("meta") for x in local]
    results = operator.overloadpacket(*local, *numbers, packed)
    if name == "plane_indices" and splits:
        results = _in_whole_plane(results, window, splits)
    shape: tuple[int, ...] = tensors[0].shape
    if form.result == CELLS:
        shape, layout = window.input_shape(shape), _layout(len(shape), channels_last)
    else:
        shape, layout = window.output_shape(shape), suggest_memory_format(tensors[0])

    def wrapped(x: Tensor) -> DTensor:
        if x.is_meta:
            x = torch.empty_like(x, device=mesh.device_type)
        for split in splits:
            dim = x.dim() - window.rank + split.number
            x = _cut(x, dim, split.computed(form.result), split.owned(form.result))
        return DTensor.from_local(
            x.contiguous(memory_format=layout),
            mesh,
            placements,
            run_check=False,
            shape=torch.Size(shape),
            stride=torch.empty(shape, device="meta", memory_format=layout).stride(),
        )

    return wrapped(results) if isinstance(results, Tensor) else tuple(map(wrapped, results))


def _layout(dim: int, channels_last: bool) -> torch.memory_format:
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last if dim == 4 else torch.channels_last_3d


def _on_one_mesh(name: str, tensors: Sequence[Any]) -> list[DTensor]:
    meshes = [t.device_mesh if isinstance(t, DTensor) else None for t in tensors]
    if any(mesh is None or mesh != meshes[0] for mesh in meshes):
        kinds = ", ".join("a plain tensor" if mesh is None else str(mesh) for mesh in meshes)
        raise ArgumentError(f"{name}: all tensors must be DTensors of one mesh, got {kinds}")
    return list(tensors)


def _accepted(window: Window, x: DTensor, form: Form) -> tuple[Placement, ...]:
    """The placements of ``x``, but replicated where it cannot be pooled as it lies."""
    lead = x.dim() - window.rank
    taken: set[int] = set()

    def accepts(placement: Placement) -> bool:
        if type(placement) is not Shard:  # its subclasses share out in other orders
            return isinstance(placement, Replicate)
        if placement.dim < lead:
            return True
        if form.whole or placement.dim in taken:
            return False
        taken.add(placement.dim)
        return splits_exactly(window, window.axes[placement.dim - lead], form.sums)

    return tuple(placement if accepts(placement) else Replicate() for placement in x.placements)


def _splits(
    window: Window, mesh: DeviceMesh, placements: Sequence[Placement], lead: int, result: str
) -> list[Split]:
    return [
        Split(
            number := placement.dim - lead,
            plan(window.axes[number], mesh.size(i), result),
            mesh.get_local_rank(i),
            mesh.get_group(i),
        )
        for i, placement in enumerate(placements)
        if isinstance(placement, Shard) and placement.dim >= lead
    ]


def _piece(window: Window, splits: list[Split]) -> Window:
    """The windows that this rank computes, over the cells that it has for them."""
    axes = list(window.axes)
    for split in splits:
        axes[split.number] = split.plan.pieces[split.rank].axis
    return Window(tuple(axes), window.include_pad, window.divisor)


def _in_whole_plane(index: Tensor, window: Window, splits: list[Split]) -> Tensor:
    """Indices in the whole plane from those in the plane of the cells that this rank has."""
    cells = [range(axis.size) for axis in window.axes]
    for split in splits:
        cells[split.number] = split.computed(CELLS)
    result = torch.zeros_like(index)
    place = 1
    for axis, held in zip(reversed(window.axes), reversed(cells), strict=True):
        result += (index % len(held) + held.start) * place
        index = index // len(held)
        place *= axis.size
    return result


# ---- halos --------------------------------------------------------------------------------------


def _with_halo(name: str, x: DTensor, kind: str, rank: int, splits: list[Split]) -> Tensor:
    """The part of ``x`` that this rank computes with: axis after axis, so that corners come too."""
    local = x.to_local()
    lead = x.dim() - rank
    for split in splits:
        dim = lead + split.number
        if local.shape[dim] != len(split.owned(kind)):
            raise ArgumentError(
                f"{name}: of dimension {dim} of {tuple(x.shape)} this rank must have "
                f"{len(split.owned(kind))}, as DTensor shares them out, got a local tensor of "
                f"shape {tuple(local.shape)}"
            )
    for split in splits:
        local = _fetched(local, lead + split.number, kind, split, suggest_memory_format(x))
    return local


def _fetched(x: Tensor, dim: int, kind: str, split: Split, layout: torch.memory_format) -> Tensor:
    """``x`` with what this rank computes with along ``dim``: what it needs, and zeros beyond."""
    plan, me = split.plan, split.rank
    own, needed, computed = split.owned(kind), plan.needed[kind][me], split.computed(kind)
    if own == computed and not plan.travels[kind]:
        return x
    shape = (*x.shape[:dim], len(computed), *x.shape[dim + 1 :])
    whole = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if needed != computed:
        whole.zero_()
    to_send = [_cut(x, dim, own, overlap(own, other)) for other in plan.needed[kind]]
    to_come = [_cut(whole, dim, computed, overlap(other, needed)) for other in plan.owned[kind]]
    to_come[me].copy_(to_send[me])
    if plan.travels[kind]:
        nothing = x.narrow(dim, 0, 0)
        to_send[me] = to_come[me] = nothing
        _exchange(to_send, to_come, split.group)
    return whole


def _cut(x: Tensor, dim: int, held: range, part: range) -> Tensor:
    """The ``part`` of a dimension of which ``x`` has the indices ``held``."""
    return x.narrow(dim, part.start - held.start if part else 0, len(part))


def _exchange(to_send: list[Tensor], to_come: list[Tensor], group: Any) -> None:
    """Send every rank of ``group`` a tensor, and fill one with what it sends."""
    sent = torch.cat([x.flatten() for x in to_send])
    size = sent.element_size()
    counts = [x.numel() for x in to_come]
    came = all_to_all_single(  # bytes: not every backend sends every dtype
        sent.view(torch.uint8),
        [n * size for n in counts],
        [x.numel() * size for x in to_send],
        group,
    )
    came = wait_tensor(came)  # type: ignore[no-untyped-call]  # torch's
    parts = came.view(sent.dtype).split(counts)
    for x, values in zip(to_come, parts, strict=True):
        x.copy_(values.view(x.shape))


for _name in FORMS if NATIVE else ():  # without kernels there are no operators
    for _overload in (_name, f"{_name}.text"):
        torch.library.register_torch_dispatch(
            f"poolkit::{_overload}", DTensor, partial(_pool, _name)
        )
