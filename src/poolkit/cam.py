"""Class activation maps: where in the image a network with a GAP head found its class."""

from collections.abc import Sequence

import torch
import torch.nn.functional as stock
from torch import Tensor

from .errors import ArgumentError, DtypeError

__all__ = ["class_activation_map"]

_WHERE = "class_activation_map"


def class_activation_map(
    features: Tensor,
    weight: Tensor,
    classes: int | Tensor | None = None,
    size: int | Sequence[int] | None = None,
) -> Tensor:
    r"""How much each place of the last feature map adds to the logit of a class.

    .. math:: M_c(i, j) = \sum_k w_{ck} f_k(i, j), \qquad
              \operatorname{logit}_c = \frac{1}{HW} \sum_{i,j} M_c(i, j) + b_c

    This holds for a head of global average pooling and one linear layer, and for no other: the mean
    and the sum over channels can change places. The mean of a map (before resizing) plus the bias
    is the logit, so the map divides the logit among the places of the image.

    Args:
        features: the feature map that goes into global average pooling, ``(N, C, H, W)`` or
            ``(C, H, W)``.
        weight: the linear layer's weight, ``(classes, C)``.
        classes: whose map: a class number for all images, an int64 tensor ``(N,)`` of one for each
            image, or None for the maps of all classes. Negative numbers are refused.
        size: height and width of the result, an int for both; usually those of the image. None
            leaves the map as large as ``features``.

    Shapes:
        ``(N, C, H, W), (K, C) -> (N, K, H', W')`` for all classes, ``-> (N, H', W')`` for one class
        of each image. Without N in, without N out.

    Dtypes:
        Floating point, the same for both; so is the result. Its unit is that of the logits.
        Differentiable in ``features`` and ``weight``.

    Raises:
        ArgumentError: a shape, class or size that cannot be. It is a ``ValueError`` and a
            ``RuntimeError``.
        DtypeError: integers, or two different dtypes. It is a ``TypeError`` and a
            ``RuntimeError``.

    Edge cases:
        Resizing is bilinear with pixels as areas (``align_corners=False``): no value leaves the
        range of the map, but the mean is only about that of the map. A NaN in one place spoils that
        place alone, and its neighbours if resized. Maps have signs: below zero a place speaks
        against the class.

    Example:
        >>> import torch
        >>> from poolkit.cam import class_activation_map
        >>> features, head = torch.rand(2, 64, 7, 7), torch.nn.Linear(64, 10)
        >>> maps = class_activation_map(features, head.weight, classes=3, size=(224, 320))
        >>> maps.shape
        torch.Size([2, 224, 320])
        >>> logits = head(features.mean((2, 3)))
        >>> small = class_activation_map(features, head.weight)
        >>> torch.allclose(small.mean((2, 3)) + head.bias, logits, atol=1e-5)
        True

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
    """
    _check(features, weight)
    wanted = _sizes(size)
    batch = features if features.ndim == 4 else features[None]
    chosen = _chosen(classes, weight, len(batch))
    if chosen is None:
        maps = torch.einsum("nchw,kc->nkhw", batch, weight)
    else:
        maps = torch.einsum("nchw,nc->nhw", batch, weight[chosen].expand(len(batch), -1))[:, None]
    if wanted is not None:
        maps = stock.interpolate(maps, wanted, mode="bilinear", align_corners=False)
    if chosen is not None:
        maps = maps[:, 0]
    return maps if features.ndim == 4 else maps[0]


def _check(features: Tensor, weight: Tensor) -> None:
    for name, value in (("features", features), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise ArgumentError(f"{_WHERE}: {name} must be a tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise DtypeError(f"{_WHERE}: {name} must be floating point, got {value.dtype}")
    if features.ndim not in (3, 4):
        raise ArgumentError(
            f"{_WHERE}: features must be (N, C, H, W) or (C, H, W), got {tuple(features.shape)}"
        )
    channels = features.shape[-3]
    if weight.ndim != 2 or weight.shape[1] != channels or not len(weight):
        raise ArgumentError(
            f"{_WHERE}: weight must be (classes, {channels}), one column for each channel of "
            f"features {tuple(features.shape)}, got {tuple(weight.shape)}"
        )
    if 0 in features.shape[-2:]:
        raise ArgumentError(f"{_WHERE}: features have no cell: {tuple(features.shape)}")
    if features.dtype != weight.dtype:
        raise DtypeError(
            f"{_WHERE}: features and weight must have one dtype, got {features.dtype} and "
            f"{weight.dtype}"
        )


def _chosen(classes: object, weight: Tensor, images: int) -> Tensor | None:
    """The class of each image, ``(N,)`` or ``(1,)``; None for all classes."""
    if classes is None:
        return None
    if isinstance(classes, Tensor):
        if classes.dtype != torch.int64 or classes.shape != (images,):
            raise ArgumentError(
                f"{_WHERE}: classes must be an int, None or an int64 tensor of shape ({images},), "
                f"got {classes.dtype} of shape {tuple(classes.shape)}"
            )
        chosen = classes
    elif isinstance(classes, int) and not isinstance(classes, bool):
        chosen = torch.tensor([classes], device=weight.device)
    else:
        raise ArgumentError(f"{_WHERE}: classes must be an int, None or a tensor, got {classes!r}")
    if bool(((chosen < 0) | (chosen >= len(weight))).any()):
        raise ArgumentError(
            f"{_WHERE}: classes must be from 0 to {len(weight) - 1}, got {chosen.tolist()}"
        )
    return chosen


def _sizes(size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    parts = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size,) * 2
    if len(parts) != 2 or not all(type(part) is int and part > 0 for part in parts):
        raise ArgumentError(
            f"{_WHERE}: size must be a positive int, or height and width, got {size!r}"
        )
    return parts
