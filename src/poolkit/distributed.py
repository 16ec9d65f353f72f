"""Pooling of tensors that several processes share: what works, and what has to be sent.

`DistributedDataParallel` and `fully_shard` (FSDP2) give each process plain tensors, which are
pooled like any others. What the functions of `poolkit.functional`, the modules of `poolkit.nn` and
their derivatives do with a `DTensor` depends on its placements:

- ``Shard`` of the batch or of the channels, ``Replicate``: every process pools what it has, and
  nothing is sent.
- ``Shard`` of a spatial axis: every process computes its part of the result, and gets from the
  others just the cells that its windows lack, or backward the gradients of the outputs that hold
  its cells. The result is sharded as the input is.
- The same with adaptive windows, a single output along the axis (global pooling), sums of large
  windows, a blur, unpooling, or reflected, replicated or circular padding: the axis is replicated
  first, which is what DTensor does where it has no better way, and the result is replicated along
  it.
- ``Partial`` and everything else: the same.

Spatial sharding gives the bits of one process, forward and backward: values, indices, ties, NaN and
signed zeros. Averages and norms are added up in one order whatever the extents if windows are
small. The order depends on the extents if their kernel sizes add up to more than 16, if more than
16 of them hold the same cell, if the padding before reaches a window's extent, or, with stride 1
and ``count_include_pad=False``, if the sharded axis alone is padded: these are the large windows
above. With the batch or the channels sharded maxima have the bits of one process too, and gradients
of averages differ from it by rounding where a process has few planes.

Fractional pooling, polyphase sampling and forward-mode derivatives are not for DTensors.

The rules are registered when a first DTensor is pooled, or when this module is imported.
"""

from dataclasses import dataclass

from .ops.sharding import CELLS, OUTPUTS, plan
from .window import Padding, as_int, fixed

__all__ = ["Share", "shares"]


@dataclass(frozen=True, slots=True)
class Share:
    """What one process has of an axis that is sharded, and what it lacks to pool it.

    ``missing`` is the number of cells that it needs and does not own: other processes send them.

    Args:
        cells: the cells that it owns, as ``Shard`` gives them out.
        outputs: the outputs that it computes, and owns.
        needed: the cells from the first to the last that the windows of these hold.

    Example:
        >>> from poolkit.distributed import Share
        >>> Share(cells=range(4, 8), outputs=range(2, 4), needed=range(3, 8)).missing
        1

    Source: the halo of domain decomposition; Dryden et al., "Improving Strong-Scaling of CNN
    Training by Exploiting Finer-Grained Parallelism", IPDPS 2019, arXiv:1903.06681.
    """

    cells: range
    outputs: range
    needed: range

    @property
    def missing(self) -> int:
        """How many cells other processes send."""
        return len(self.needed) - sum(cell in self.cells for cell in self.needed)


def shares(
    size: int,
    processes: int,
    kernel_size: int,
    stride: int | None = None,
    padding: Padding = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> list[Share]:
    """Who computes what, and who lacks what, if pooling is sharded along an axis.

    Output ``i`` holds cells ``i * stride - before + t * dilation``; a process that owns the outputs
    from ``a`` to ``b`` needs the cells of all of them.

    Args:
        size: cells of the axis.
        processes: how many share it.
        kernel_size: cells of a window along the axis.
        stride: step from window to window; default ``kernel_size``.
        padding: cells added on both sides: an int, a ``((before, after),)`` pair or a name, as in
            ``max_pool1d``.
        dilation: step between the cells of a window.
        ceil_mode: also keep a last window that hangs over the end.

    Returns:
        The share of each process. A forward pass sends ``missing`` cells, each of which is a row
        (or a column, or a slice) of the tensor.

    Raises:
        ArgumentError: a size that cannot be; it names the argument, what was expected and what
            came.

    Edge cases:
        The last processes have less than the others, or nothing, where the axis does not divide. A
        window that is longer than a neighbour's share needs cells of more processes than that one.
        With a single output only the first process would compute: pooling replicates the axis then.

    Example:
        >>> from poolkit.distributed import shares
        >>> for share in shares(16, 2, kernel_size=3, stride=2, padding=1):
        ...     print(share.cells, share.outputs, share.missing)
        range(0, 8) range(0, 4) 0
        range(8, 16) range(4, 8) 1

    Source: as `Share`.
    """
    processes = as_int("shares", "processes", processes, 1)
    size = as_int("shares", "size", size, 1)
    window = fixed("shares", 1, (1, size), kernel_size, stride, padding, dilation, ceil_mode, False)
    axis = plan(window.axes[0], processes, OUTPUTS)
    rows = zip(axis.owned[CELLS], axis.owned[OUTPUTS], axis.needed[CELLS], strict=True)
    return [Share(*row) for row in rows]
