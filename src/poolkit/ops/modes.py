"""What may be under way around a call, and what it asks of it: transforms, derivatives, compilers.

Functions of autograd carry what is under way to the raw operators, which would lose tangents,
gradients and mapped dimensions silently. ``torch.compile`` takes a Function without jvp, everything
else wants one: hence a pair of classes per operator, of which `apply` chooses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import Function
from torch.autograd import forward_ad as fwad
from torch.compiler import is_compiling

from ..window import Packed, unpack

transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active  # noqa: SLF001  no public name


def under_transform() -> bool:
    """Whether a transform or a forward derivative is under way."""
    return transforms_active() or fwad._current_level >= 0  # noqa: SLF001  no public name


def differentiates(x: Tensor) -> bool:
    """Whether the raw operators would lose a derivative or a mapped dimension."""
    return (x.requires_grad and is_grad_enabled()) or under_transform()


def apply(plain: Any, cls: Any, *args: Any) -> Any:
    """What the Function ``cls`` makes of ``args``; ``plain`` is the same without jvp."""
    if is_compiling():
        return plain.apply(*args)  # the class without jvp; Dynamo cannot follow cls.__base__
    if transforms_active():
        return cls.apply(*args)
    return _direct_apply[cls](*args)


def direct(cls: type[Function]) -> Callable[..., Any]:
    """``cls.apply`` without the 10 us that it spends on binding a signature that is known here."""
    apply: Callable[..., Any] = super(Function, cls).apply  # type: ignore[misc]  # not in torch's stubs
    return apply


def differentiable(cls: type[Function]) -> type[Function]:
    """Let `apply` take ``cls``, a Function that has a jvp."""
    _direct_apply[cls] = direct(cls)
    return cls


_direct_apply: dict[type[Function], Callable[..., Any]] = {}


def fold(info: Any, dims: Sequence[int | None], tensors: Sequence[Tensor], rank: int) -> Any:
    """The mapped dimension of ``tensors`` folded into the batch, and its inverse for a result."""
    moved = [
        t.movedim(d, 0) if d is not None else t.expand(info.batch_size, *t.shape)
        for t, d in zip(tensors, dims, strict=True)
    ]
    if moved[0].dim() == rank + 2:  # an unbatched input: the mapped dimension becomes its batch
        return moved, lambda result: result
    batch = moved[0].shape[:2]
    return [t.flatten(0, 1) for t in moved], lambda result: result.unflatten(0, batch)


def rank_of(window: Packed) -> int:
    """How many spatial axes the inputs have."""
    return unpack(window)[0].rank


def kept(window: Packed) -> Packed:
    """``window`` as a Function may keep it for its backward pass.

    Dynamo takes symbolic sizes over into the backward graph only if they were computed inside the
    Function.
    """
    if isinstance(window, str) or not is_compiling():
        return window
    return tuple([n + 0 for n in window])


def traceable(window: Packed) -> Packed:
    """The window as compiled autograd, which traces backward passes, can hand it to an operator."""
    if isinstance(window, str) and is_compiling():
        return tuple([int(n) for n in window.split()])
    return window
