"""What downsampling costs a network, and where it hurts: :func:`audit` and its report."""

import os
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from .report import Report as Report

__all__ = ["Report", "audit"]


def audit(
    model: Any,
    input: Tensor | Sequence[int],
    images: Tensor | str | os.PathLike[str] | None = None,
    *,
    skip: Collection[str] = (),
    seconds: float = 1.0,
    shifts: int = 4,
    seed: int = 0,
    name: str | None = None,
    progress: bool | None = None,
) -> Report:
    r"""Measure what downsampling costs a model, and what it does to its answers.

    The model is run once with every operation watched, whoever calls it: modules, functions,
    methods of tensors, nodes of an exported program. A stage is one that shrinks a map, or pools.
    Of every stage the report has the sizes, what happens at the border, operations, bytes kept
    for training, times (these with torch's pooling and with poolkit's), where in the image a
    value looks (:class:`poolkit.audit.report.Field`), by its windows and by its gradient, and how
    much a stride folds; of the model the totals, the head, and how often its answer changes when
    the picture moves.

    Args:
        model: any module, or an exported program. Evaluation mode is used, but for what training
            keeps. On the meta device all is reported that needs no values.
        input: a batch as the model takes it, or its shape, such as ``(8, 3, 224, 224)``.
        images: pictures as the model takes them ``(N, C, H, W)``, somewhat larger than the input
            for moves of the camera; or a folder of PNG and JPEG files, or None for photographs
            that ship inside scikit-image, both normalised as ImageNet's.
        skip: what not to measure: any of ``"memory"`` (of the whole model), ``"sizes"``,
            ``"time"``, ``"head"``, ``"aliasing"``, ``"fields"`` (by gradient) and
            ``"consistency"``.
        seconds: to spend on the time of the whole model, and as much on that of all stages.
        shifts: moves of each picture and kind.
        seed: of all that is drawn.
        name: of the model, for the report; default its class.
        progress: show a bar on standard error. None: if rich is installed and it is a terminal.

    Shapes:
        input ``(N, C, *)``.

    Returns:
        A :class:`Report`. What could not be measured is None there, and ``not_measured`` says why.
        The model is as it was: modes, buffers, gradients, hooks; and so are the random states. That
        holds after an exception and an interrupt, too.

    Raises:
        ArgumentError: an input that is none, or that the model fails on: the message names the
            first module that failed and the sizes that it got.
        poolkit.imaging.ImageError: a folder without pictures, or a file that is none.

    Edge cases:
        A model without downsampling has a report without stages. A module that is called several
        times is a stage each time.

    Example:
        >>> import poolkit, torch
        >>> from poolkit.models import ResNet18
        >>> with torch.device("meta"):
        ...     report = poolkit.audit(ResNet18(), (8, 3, 224, 224))
        >>> report.totals.parameters, report.totals.multiply_adds // 8
        (11689512, 1814073344)
        >>> report.stages[1].name, report.stages[1].kind, report.stages[1].field[0].size
        ('maxpool', 'max', 11)

    Source: the measures are those of Araujo, Norris and Sim 2019 (receptive fields), Luo et al.
    2016, arXiv:1701.04128 (effective ones), and Zhang 2019, arXiv:1904.11486 (moves).
    """
    from .auditor import run  # poolkit alone stays light

    return run(model, input, images, skip, seconds, shifts, seed, name, progress)
