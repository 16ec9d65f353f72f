"""The audit as a whole: what is run, in which order, and how the model is left."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import processor, show_config
from ..errors import ArgumentError
from ..window import as_int
from . import advice, head, swap
from .calls import has_no_gradient, is_exported
from .keep import evaluating, kept
from .measures import Pictures, moved, pictured, swept
from .progress import Steps, steps
from .report import Report, Stage, Totals, Unmeasured
from .sizes import Sizes
from .stages import stage
from .trace import Trace
from .units import by

Images = Tensor | str | os.PathLike[str] | None

PARTS = ("memory", "sizes", "time", "head", "aliasing", "fields", "consistency")
"""What can be skipped, in the order in which it is measured."""

UNCOUNTED = Unmeasured(
    "operations of activations, normalisation, biases and element-wise sums",
    "multiply-adds are those that torch's own counter knows (convolutions, products of matrices, "
    "attention), halved, and those of poolkit's blurs, as depthwise convolutions; comparisons and "
    "additions are those of the windows of the stages",
)


def run(
    model: Any,
    input: Tensor | Sequence[int],
    images: Images,
    skip: Collection[str],
    seconds: float,
    shifts: int,
    seed: int,
    name: str | None,
    progress: bool | None,
) -> Report:
    """See :func:`poolkit.audit`."""
    _check(skip, seconds, shifts)
    title = name or type(model).__name__
    model = _module(model)
    with kept(model), steps(progress, len(PARTS) + 2) as step:
        evaluating(model)
        x = _input(model, input, seed)
        pictures = _pictures(images, x, skip)
        audited = _Audit(model, x, title, step)
        audited.describe()
        parts: dict[str, Callable[[], None]] = {
            "memory": audited.memory,
            "sizes": audited.sizes,
            "time": lambda: audited.time(seconds),
            "head": audited.head,
            "aliasing": lambda: audited.aliasing(pictures),
            "fields": lambda: audited.fields(pictures, seed),
            "consistency": lambda: audited.consistency(pictures, shifts, seed),
        }
        for part, measure in parts.items():
            if part in skip:
                audited.missing(LABELS[part], "it was to be skipped")
            else:
                step(LABELS[part])
                measure()
        return audited.report()


LABELS = {
    "memory": "saved bytes of the whole model (the totals are sums of the stages)",
    "sizes": "input sizes",
    "time": "time",
    "head": "head",
    "aliasing": "aliasing",
    "fields": "effective receptive fields",
    "consistency": "shift consistency",
}


class _Audit:
    """A report in the making."""

    def __init__(self, model: nn.Module, x: Tensor, title: str, step: Steps) -> None:
        self.model, self.x, self.title, self.step = model, x, title, step
        self.stages: list[Stage] = []
        self.notes: list[Unmeasured] = [UNCOUNTED]
        self.smallest: tuple[int, ...] | None = None
        self.divides_by: tuple[int, ...] | None = None
        self.seconds: tuple[float | None, float | None] = (None, None)
        self.the_head: Any = None
        self.moves: tuple[Any, ...] = ()
        self.saved: tuple[int, int] | None = None

    def missing(self, what: str, why: str) -> None:
        """Note what was not measured."""
        self.notes.append(Unmeasured(what, why))

    def describe(self) -> None:
        """Run the model once, and say of every stage what follows from that."""
        self.step("one run")
        self.trace = Trace(self.model)
        try:
            self.trace.run(self.x)
        except Exception as error:
            raise ArgumentError(_failure(self.trace, self.x, error)) from error
        self.step("stages")
        self.stages = [stage(event) for event in self.trace.events]
        for lost in self.trace.lost:
            self.missing(f"receptive fields after {lost}", "it moves values in a way not followed")
        unseen = [s.name for s, e in zip(self.stages, self.trace.events, strict=True)
                  if e.call is None and s.kind not in ("slicing", "space to depth")]  # fmt: skip
        if unseen:
            self.missing(
                f"bytes and seconds of {', '.join(unseen)}", "it is part of a larger function"
            )

    def memory(self) -> None:
        """What a training step keeps, with torch's pooling and with poolkit's."""
        if reason := self._without_gradient():
            self.missing(LABELS["memory"], reason)
            return
        shape, dtype = self.x.shape, self.x.dtype
        evaluating(self.model, training=True)
        sides: tuple[swap.Side, ...] = ("torch", "poolkit")
        try:
            found = [swap.saved_in_training(self.model, shape, dtype, side) for side in sides]
            self.saved = (found[0].total, found[1].total)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the reason
            why = f"a training step without values failed: {_words(error)}"
            self.missing(LABELS["memory"], why)
        finally:
            evaluating(self.model)

    def _without_gradient(self) -> str | None:
        operator = has_no_gradient(self.model)
        return operator and f"the program calls {operator}, which has no gradient by itself"

    def sizes(self) -> None:
        """Which input sizes work, and which are even."""
        sizes = Sizes(self.model, self.x.shape, self.x.dtype)
        if sizes.trace(self.x.shape[2:]) is None:
            self.missing(LABELS["sizes"], "the model does not run on the meta device")
            return
        self.smallest, self.divides_by = sizes.smallest(), sizes.divides_by()
        if self.smallest is None:
            self.missing("the smallest input", "none was found in as many tries as are made")
        if self.divides_by is None:
            why = "of the sizes that were tried, no number has multiples that all drop nothing"
            if not sizes.takes_others():
                why = f"the model takes no other size than {by(self.x.shape[2:])}"
            self.missing("sizes that divide evenly", why)

    def time(self, seconds: float) -> None:
        """Of the whole model, and of every stage alone."""
        if self.x.is_meta:
            self.missing("time", "the model is on the meta device")
            return
        stock, ours = swap.timed_whole(self.model, self.x, seconds)
        self.seconds = (stock, ours)
        for i, event in enumerate(self.trace.events):
            if event.call is None:
                continue
            each = seconds / len(self.stages)
            stock, ours = swap.timed(event.call, each, self.x.device)
            self.stages[i] = replace(self.stages[i], seconds=ours, seconds_torch=stock)

    def head(self) -> None:
        """From the last map to the scores."""
        if self.x.is_meta:
            self.missing("head", "it is told by values, and the model is on the meta device")
            return
        self.the_head = head.describe(self.model, self.x)
        if self.the_head is None:
            self.missing("head", "the way from the last map to the scores was not recognised")

    def aliasing(self, pictures: Pictures) -> None:
        """How much every stride folds, of real pictures."""
        if isinstance(pictures, str):
            self.missing("aliasing", pictures)
            return
        shares = pictured(self.model, pictures, self.x)
        if len(shares) != len(self.stages):
            self.missing("aliasing", "the model has other stages for the pictures")
            return
        self.stages = [replace(s, aliasing=a) for s, a in zip(self.stages, shares, strict=True)]

    def fields(self, pictures: Pictures, seed: int) -> None:
        """How wide every stage looks, and whether its map moves along."""
        if isinstance(pictures, str):
            self.missing("effective receptive fields", pictures)
            return
        if reason := self._without_gradient():
            self.missing("effective receptive fields", reason)
            return
        try:
            found = swept(self.model, pictures, self.x, self.stages, seed)
        except RuntimeError as error:
            self.missing("effective receptive fields", f"no gradient: {_words(error)}")
            return
        self.stages = [
            replace(s, effective_field=width, feature_shift=apart)
            for s, (width, apart) in zip(self.stages, found, strict=True)
        ]

    def consistency(self, pictures: Pictures, shifts: int, seed: int) -> None:
        """How often the answer changes when the picture moves."""
        if isinstance(pictures, str):
            self.missing("shift consistency", pictures)
            return
        found = moved(self.model, pictures, self.x, shifts, seed, self.step)
        self.moves = found.consistency
        self.notes.extend(found.not_measured)

    def report(self) -> Report:
        """All of it."""
        if any(s.seconds is None for s in self.stages) and self.seconds[0] is not None:
            self.missing("seconds of slices", "they move nothing")
        saved = self.saved or (
            sum(s.saved_bytes_torch for s in self.stages),
            sum(s.saved_bytes for s in self.stages),
        )
        totals = Totals(
            parameters=sum(p.numel() for p in self.model.parameters()),
            multiply_adds=self.trace.multiply_adds,
            comparisons=sum(s.comparisons for s in self.stages),
            additions=sum(s.additions for s in self.stages),
            output_bytes=sum(s.output_bytes for s in self.stages),
            saved_bytes=saved[1],
            saved_bytes_torch=saved[0],
            index_bytes=sum(s.index_bytes for s in self.stages),
            index_bytes_torch=sum(s.index_bytes_torch for s in self.stages),
            seconds=self.seconds[1],
            seconds_torch=self.seconds[0],
            smallest_input=self.smallest,
            divides_by=self.divides_by,
        )
        found = Report(
            model=self.title,
            input_shape=tuple(self.x.shape),
            machine=_machine(self.x),
            stages=tuple(self.stages),
            totals=totals,
            head=self.the_head,
            consistency=self.moves,
            recommendations=(),
            not_measured=tuple(self.notes),
        )
        return replace(
            found, recommendations=advice.recommend(found, exported=is_exported(self.model))
        )


# ---- arguments ----------------------------------------------------------------------------------


def _check(skip: Collection[str], seconds: float, shifts: int) -> None:
    unknown = [part for part in skip if part not in PARTS]
    if isinstance(skip, str) or unknown:
        names = ", ".join(map(repr, PARTS))
        raise ArgumentError(f"audit: skip must hold some of {names}, got {skip!r}")
    as_int("audit", "shifts", shifts, 1)
    if not seconds >= 0:
        raise ArgumentError(f"audit: seconds must not be negative, got {seconds!r}")


def _module(model: Any) -> nn.Module:
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"audit: model must be a torch.nn.Module or an exported program, got {model!r:.80}"
        )
    return model


def _input(model: nn.Module, input: Any, seed: int) -> Tensor:
    state = [*model.parameters(), *model.buffers()]
    device = state[0].device if state else torch.get_default_device()
    if isinstance(input, Tensor):
        x = input.detach()
        shape: tuple[int, ...] = tuple(x.shape)
        if state and x.device != device:
            raise ArgumentError(
                f"audit: input must be on the model's device {device}, got {x.device}"
            )
    elif isinstance(input, Sequence) and not isinstance(input, str):
        shape = tuple(as_int("audit", "input", extent, 1) for extent in input)
        x = torch.empty(0)
    else:
        raise ArgumentError(
            "audit: input must be a batch or its shape, such as (8, 3, 224, 224), got "
            f"{type(input).__name__}"
        )
    if len(shape) < 3 or 0 in shape:
        raise ArgumentError(
            "audit: input must have a batch, channels and at least one axis more, none of them "
            f"empty, such as (8, 3, 224, 224), got {shape}"
        )
    if isinstance(input, Tensor):
        return x
    dtype = next((s.dtype for s in state if s.is_floating_point()), torch.get_default_dtype())
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype)


def _pictures(images: Images, x: Tensor, skip: Collection[str]) -> Pictures:
    """The pictures as the model takes them, or why there are none."""
    from .pictures import default_pictures, from_folder, normalised, unusable

    size = x.shape[2:]
    why = unusable(x.shape)
    if isinstance(images, Tensor):
        if images.ndim != x.ndim or images.shape[1] != x.shape[1] or len(images) < 2 or any(
            has < needs for has, needs in zip(images.shape[2:], size, strict=False)
        ):  # fmt: skip
            raise ArgumentError(
                f"audit: images must be at least two of {x.shape[1]} channels and the size of the "
                f"input {tuple(size)} or more, got {tuple(images.shape)}"
            )
        if x.is_meta:
            return "the model is on the meta device"
        return why or images.detach().to(x)
    if images is not None and not isinstance(images, (str, os.PathLike)):
        raise ArgumentError(
            f"audit: images must be a tensor, a folder or None, got {type(images).__name__}"
        )
    if images is not None and why is None:
        found = from_folder(Path(images), size, x.shape[1])
        if len(found) < 2:
            raise ArgumentError(f"audit: images must be at least two pictures, got 1 in {images}")
        return normalised(found).to(x)
    if x.is_meta:
        return "the model is on the meta device"
    if why is not None or {"aliasing", "fields", "consistency"} <= set(skip):
        return why or "it was to be skipped"
    try:
        return normalised(default_pictures(size, x.shape[1])).to(x)
    except ModuleNotFoundError as error:
        return f"the default photographs need {error.name}: pip install poolkit[tools]"


def _failure(trace: Trace, x: Tensor, error: Exception) -> str:
    """Which module failed first, and on what."""
    where = "the model itself"
    came: Sequence[Sequence[int]] = (tuple(x.shape),)
    if trace.frames:
        last = trace.frames[-1]
        where = f"module {last.name!r}" if last.name else where
        came = last.shapes
    sizes = ", ".join(str(tuple(shape)) for shape in came) or "no tensor"
    return (
        f"audit: the model fails on an input of shape {tuple(x.shape)}: {where}, which got "
        f"{sizes}, raised {_words(error)}"
    )


def _words(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]


def _machine(x: Tensor) -> dict[str, str]:
    config = show_config()
    where = torch.cuda.get_device_name(x.device) if x.device.type == "cuda" else processor()
    return {
        "processor": where,
        "device": x.device.type,
        "threads": str(config.threads),
        "kernels": config.isa or config.kernels,
        "poolkit": config.version,
        "torch": config.torch,
        "python": config.python,
        "platform": config.platform,
    }
