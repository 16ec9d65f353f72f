"""How much of a map a stride cannot represent, and folds."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ArgumentError

__all__ = ["folded_energy"]

# Of the map's energy; less than this is what rounding leaves of a map that does not vary.
ROUNDING = 1e-12
PLANES = 64  # transformed at once


def folded_energy(before: Tensor, stride: Sequence[int]) -> float:
    r"""Share of a map's energy that lies beyond the Nyquist limit of the grid after a stride.

    .. math:: 1 - \frac{\sum_k E_k \prod_a w(k_a)}{\sum_k E_k}, \quad
              w(k) = 1,\ \tfrac12,\ 0 \text{ for } |k| <, =, > \tfrac{L}{2s}

    E is the energy spectrum of the map, k the frequency along an axis of L cells, s its stride. A
    wave counts if it is too fast along any axis. At the limit itself what the coarser grid keeps of
    a wave depends on its phase: half of it counts.

    The mean of each channel is taken off first, as no stride changes it: the share is one of the
    variation. Then Hann's window hides the seam between the ends of the map, which is no edge in
    it, but would be one in its spectrum; a wave is spread over the frequencies next to its own.
    Energies of all channels and images are added before the division.

    Args:
        before: the map that the stride takes every s-th cell of. Of a strided convolution or pool
            that is its result with stride 1, not its input.
        stride: one for each of the last axes.

    Shapes:
        ``(*, H, W)`` for two strides.

    Dtypes:
        real; the result is a number from 0 to 1.

    Raises:
        ArgumentError: a stride below 1, or more of them than axes.

    Edge cases:
        0 for a map that does not vary and for strides of 1; about :math:`1 - 1/s^2` for white noise
        and s along both axes. NaN or an infinity gives NaN. Maps of a few cells have few
        frequencies: the share is coarse.

    Example:
        >>> import torch
        >>> from poolkit.audit.aliasing import folded_energy
        >>> board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 1.0
        >>> round(folded_energy(board, (2, 2)), 6), folded_energy(board, (1, 1))
        (1.0, 0.0)

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, arXiv:1904.11486,
    names the cause; Harris, "On the Use of Windows for Harmonic Analysis with the Discrete Fourier
    Transform", 1978, the window.
    """
    axes = len(stride)
    if not 0 < axes <= before.ndim or min(stride) < 1:
        raise ArgumentError(
            f"folded_energy: stride must be positive, one for each of at most {before.ndim} axes, "
            f"got {tuple(stride)}"
        )
    shape = before.shape[-axes:]
    window = _outer([_hann(extent) for extent in shape]).to(before.device)
    kept = _outer([_kept(extent, s) for extent, s in zip(shape, stride, strict=True)])
    # The transform of real values has only one half of the last axis' frequencies.
    half = shape[-1] // 2 + 1
    stands_for = torch.full((half,), 2.0)
    stands_for[0] = 1
    if shape[-1] % 2 == 0:
        stands_for[-1] = 1
    kept = kept[..., :half]
    weights = torch.stack([kept * stands_for, torch.ones_like(kept) * stands_for])
    sums = torch.zeros(2, dtype=torch.float64)  # energy that is kept, and all of the variation
    raw = 0.0  # that of the map with its mean, by Parseval's theorem in the same unit
    for planes in torch.split(before.detach().reshape(-1, *shape), PLANES):
        x = planes.to(torch.float32)
        mean = (x * window.square()).flatten(1).sum(1) / window.square().sum()
        varying = (x - mean.view(-1, *[1] * axes)) * window
        energy = torch.fft.rfftn(varying, dim=tuple(range(1, axes + 1))).abs().square()
        sums += (weights * energy.sum(0, dtype=torch.float64).cpu()).flatten(1).sum(1)
        raw += float((x * window).square().sum(dtype=torch.float64)) * math.prod(shape)
    inside, total = sums.tolist()
    if not math.isfinite(total):
        return math.nan
    return 0.0 if total <= ROUNDING * raw else min(1.0, max(0.0, 1 - inside / total))


def _outer(vectors: Sequence[Tensor]) -> Tensor:
    """The product of one vector for each axis."""
    result = torch.ones(())
    for vector in vectors:
        result = result[..., None] * vector
    return result


def _hann(extent: int) -> Tensor:
    """Hann's window with its zeros half a cell outside the map: no cell is lost."""
    place = (torch.arange(extent, dtype=torch.float64) + 0.5) / extent
    return (math.pi * place).sin().square().float()


def _kept(extent: int, stride: int) -> Tensor:
    """What the coarser grid keeps of each frequency of an axis, in the order of the transform."""
    frequency = torch.arange(extent)
    frequency = torch.minimum(frequency, extent - frequency)
    beyond = (2 * stride * frequency - extent).sign()
    return (1 - beyond) / 2 if stride > 1 else torch.ones(extent)
