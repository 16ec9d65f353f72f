"""How wide a stage looks, by its gradient, and whether its map moves along with the image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import shift
from .consistency import along
from .report import Stage
from .taps import maps

__all__ = ["feature_shifts", "fields", "width"]

SHARE = 0.95


def fields(
    model: nn.Module, input: Tensor, stages: Sequence[Stage], *, seed: int = 0
) -> list[tuple[float, ...] | None]:
    r"""The effective receptive field of every stage: how wide it looks, not how wide it could.

    .. math:: E(p) = \sum_{n, c} \Big( \frac{\partial}{\partial x_{ncp}}
              \sum_k v_{nk} \, y_{nk}(\text{centre}) \Big)^2, \quad v_{nk} = \pm 1

    The squared gradient of the stage's middle value with regard to the image, its channels k taken
    with random signs, added over the images n and their channels c. Along each axis E is added over
    the other axes; the field is the smallest number of neighbouring pixels that holds 95 % of it.

    Args:
        model: any module whose result has a gradient, run as it is; its parameters get none.
        input: images as the model takes them.
        stages: in the order of their calls; sizes of the images must be theirs.
        seed: of the signs; torch's own random state is neither read nor moved.

    Shapes:
        input ``(N, C, *)``; one number for each axis of ``*``, in pixels, or None for a stage that
        was not recognised or has no gradient.

    Edge cases:
        It depends on the weights and the images, and grows in training (Luo et al.). A max pool has
        the gradient of the maximum alone.

    Source: Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks", 2016, arXiv:1701.04128.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[float, ...] | None] = []
    with torch.enable_grad():
        x = input.detach().clone().requires_grad_()
        for y in maps(model, x, stages):
            energy = None if y is None else _energy(y, x, generator)
            found.append(None if energy is None else width(energy))
    return found


def _energy(y: Tensor, x: Tensor, generator: torch.Generator) -> Tensor | None:
    """``(*)``, in float64 on the CPU; None if nothing of ``x`` reaches the middle of ``y``."""
    if y.ndim < 2 or y.grad_fn is None:
        return None
    middle = y
    for extent in y.shape[2:]:
        middle = middle.select(2, extent // 2)
    signs = torch.randint(2, middle.shape, generator=generator).to(middle) * 2 - 1
    gradients = torch.autograd.grad(
        (middle * signs).sum(), x, retain_graph=True, materialize_grads=True
    )
    energy: Tensor = gradients[0].double().square().sum((0, 1)).cpu()
    return energy if 0 < float(energy.sum()) < math.inf else None


def width(energy: Tensor) -> tuple[float, ...]:
    """Along each axis, the smallest number of neighbouring cells that hold 95 % of the energy.

    Example:
        >>> import torch
        >>> from poolkit.audit.effective import width
        >>> width(torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.01], [0.0, 0.0, 0.0, 0.0, 0.0]]))
        (1.0, 2.0)
    """
    result = []
    for axis in range(energy.ndim):
        others = [other for other in range(energy.ndim) if other != axis]
        profile = energy.double().sum(others) if others else energy.double()
        before = torch.cat([profile.new_zeros(1), profile.cumsum(0)])
        ends = torch.searchsorted(before, before[:-1] + SHARE * before[-1])
        starts = torch.arange(len(profile))
        result.append(float((ends - starts)[ends <= len(profile)].min()))
    return tuple(result)


def feature_shifts(model: nn.Module, input: Tensor, stages: Sequence[Stage]) -> list[float | None]:
    r"""How far every stage's map is from moving along when the image moves by one pixel.

    .. math:: \frac{\lVert y(T_1 x) - T_{1/S}\, y(x) \rVert_2}{\lVert T_{1/S}\, y(x) \rVert_2}

    The image is rolled by one pixel, down and to the right in turn. The map y of a stage with
    effective stride S should move by 1/S of its cells, which is done by the Fourier transform
    (:func:`poolkit.shift.fourier`), whose answer is the only one for a map without aliasing. The
    result is the mean over images and directions: 0 for a stage that is equivariant, such as any
    with stride 1 and circular padding.

    Args:
        model: any module, run as it is, once more than images have axes.
        input: images as the model takes them.
        stages: in the order of their calls. S is that of their field; without one, of the sizes.

    Shapes:
        input ``(N, C, *)``; one number for each stage, or None where it was not recognised or its
        map is neither ``(N, C, *)`` nor ``(N, C)``.

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, arXiv:1904.11486,
    section 4.2 (by cosine distance).
    """
    axes = input.ndim - 2
    with torch.no_grad():
        still = maps(model, input, stages)
        distances: list[list[Tensor]] = [[] for _ in stages]
        for axis in range(axes):
            steps = [int(other == axis) for other in range(axes)]
            moved = maps(model, shift.roll(input, steps), stages)
            for stage, before, after, found in zip(stages, still, moved, distances, strict=True):
                if before is None or after is None or before.ndim not in (2, input.ndim):
                    continue
                cells = [float(s) / _stride(stage, input, before, a) for a, s in enumerate(steps)]
                expected = along(before, cells) if before.ndim > 2 else before
                found.append(shift.relative_l2(expected, after))
    means = [float(torch.cat(found).mean()) if found else math.inf for found in distances]
    return [mean if math.isfinite(mean) else None for mean in means]


def _stride(stage: Stage, input: Tensor, output: Tensor, axis: int) -> float:
    """Pixels between neighbouring cells of a map."""
    if stage.field is not None:
        return stage.field[axis].stride
    return input.shape[2 + axis] / output.shape[2 + axis] if output.ndim > 2 else 1.0
