"""What every operation of torch does to receptive fields, and which of them are stages.

Operations are named as torch's dispatcher names them, where all calls arrive: those of modules, of
functions, of methods and of exported programs. An operation that has no rule keeps the places of
its inputs if its result has their shape, and loses them otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .. import window as geometry
from ..window import Axis, Window
from . import fields
from .fields import Part, Sight


@dataclass(frozen=True)
class Found:
    """An operation that is a stage."""

    kind: str
    window: Window
    ceil_mode: bool = False
    starts: tuple[int, ...] = ()
    """Of a slice: its first cells."""
    weights: int = 0
    """Of poolkit's blurs: multiply-adds of an output, those of a depthwise convolution."""
    dense: Window | None = None
    """Of blurred maxima: the windows of these."""


class Op(NamedTuple):
    """A call of an operation."""

    name: str
    args: Sequence[Any]
    keywords: dict[str, Any]
    out: Any
    sight: Callable[[Any], Sight | None]

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """An argument, by place or by name."""
        return self.args[place] if len(self.args) > place else self.keywords.get(name, default)

    @property
    def result(self) -> Tensor:
        """The first tensor that comes out."""
        first: Tensor = self.out if isinstance(self.out, Tensor) else self.out[0]
        return first


Outcome = tuple[Sight | None, Found | None]
Rule = Callable[[Op, Sight], Outcome]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register what an operation of these names does, given the sight of its first argument."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def outcome(op: Op) -> Outcome:
    """The sight of the result, and the stage that the operation is."""
    seen = [s for s in map(op.sight, tree_leaves((op.args, op.keywords))) if s is not None]
    if not seen:
        return None, None
    found = RULES.get(op.name)
    first = op.args[0] if op.args else None
    sight = op.sight(first[0] if isinstance(first, (list, tuple)) and first else first)
    if found is not None and (sight is not None or op.name in ANY_ARGUMENT):
        return found(op, sight or seen[0])
    shape = op.result.shape
    if all(_spreads(s.shape, shape) for s in seen):
        return fields.joined(seen, shape), None
    return fields.constant(shape, fields.merged(seen), op.name), None


def _spreads(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a shape is broadcast to another."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(a in (1, b) for a, b in pairs)


# ---- windows ------------------------------------------------------------------------------------


def through(sight: Sight, window: Window) -> Sight:
    """A window over the last dimensions."""
    first = len(sight.dims) - window.rank
    for dim, axis in enumerate(window.axes, first):
        sight = fields.windowed(sight, dim, axis)
    return sight


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(op: Op, sight: Sight) -> Outcome:
    return _pool(op, sight, "max", op.arg(3, "padding", 0), op.arg(4, "dilation", 1), 5)


@rule("avg_pool2d", "avg_pool3d")
def _avg_pool(op: Op, sight: Sight) -> Outcome:
    return _pool(op, sight, "avg", op.arg(3, "padding", 0), 1, 4)


def _pool(op: Op, sight: Sight, kind: str, padding: Any, dilation: Any, ceil_at: int) -> Outcome:
    ceil_mode = bool(op.arg(ceil_at, "ceil_mode", False))
    kernel, stride = op.arg(1, "kernel_size"), op.arg(2, "stride", None)
    rank = 3 if "3d" in op.name else 2
    window = geometry.fixed(op.name, rank, op.args[0].shape, kernel, stride, padding, dilation,
                            ceil_mode, False)  # fmt: skip
    return through(sight, window), Found(kind, window, ceil_mode)


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_pool(op: Op, sight: Sight) -> Outcome:
    shape = op.args[0].shape
    rank = 3 if "3d" in op.name else 2
    window = geometry.adaptive(op.name, rank, shape, op.arg(1, "output_size"), False)
    return adaptive(sight, window, "max" if "max" in op.name else "avg")


def adaptive(sight: Sight, window: Window, reduction: str) -> Outcome:
    """An adaptive window, or a global one."""
    after = through(sight, window)
    wide = [axis for axis in window.axes if axis.size > 1]
    if wide and all(axis.out == 1 for axis in wide):
        first = len(sight.dims) - window.rank
        dims = sight.dims[first:]
        after = fields.global_over(after, {p.axis for d in dims for p in d if p.axis is not None})
        return after, Found(f"global {reduction}", window)
    return after, Found(f"adaptive {reduction}", window)


@rule("max_pool", "max_pool_offsets", "avg_pool", "l2_pool", "lp_pool")
def _packed(op: Op, sight: Sight) -> Outcome:
    """Poolkit's own operators, as exported programs call them."""
    packed = next(a for a in op.args[1:] if isinstance(a, str) or geometry.is_sequence(a))
    window, _ = geometry.unpack(packed)
    kind = "max" if op.name.startswith("max") else "avg" if op.name == "avg_pool" else "lp"
    whole = all(a.out == 1 and a.kernel == a.size for a in window.axes)
    uneven = any(a.stride == 0 for a in window.axes)
    if kind != "lp" and (whole or uneven):
        return adaptive(sight, window, kind)
    return through(sight, window), Found(kind, window, hangs_over(window))


def hangs_over(window: Window) -> bool:
    """Whether a last window is there that only ``ceil_mode`` keeps."""
    return any(
        a.stride and a.out > (a.size + a.before + a.after - (a.kernel - 1) * a.dilation - 1)
        // a.stride + 1
        for a in window.axes
    )  # fmt: skip


@rule("fractional_max_pool2d", "fractional_max_pool3d")
def _fractional(op: Op, sight: Sight) -> Outcome:
    x, rank = op.args[0], 3 if "3d" in op.name else 2
    kernel = geometry.as_ints(op.name, "kernel_size", op.args[1], rank, 1)
    return scattered(sight, x.shape[-rank:], op.result.shape[-rank:], kernel)


def scattered(
    sight: Sight, sizes: Sequence[int], outs: Sequence[int], kernels: Sequence[int]
) -> Outcome:
    """Windows at pseudo-random places: their mean distance."""
    first = len(sight.dims) - len(sizes)
    axes = []
    for dim, (size, out, kernel) in enumerate(zip(sizes, outs, kernels, strict=True), first):
        step = Fraction(size - kernel, out - 1) if out > 1 else Fraction(size)
        sight = fields.resized(sight, dim, out, kernel, step, Fraction(kernel - 1, 2))
        axes.append(Axis(size, out, kernel, 0, 0, 0, 1))
    return sight, Found("fractional", Window(tuple(axes)))


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def _convolution(op: Op, sight: Sight) -> Outcome:
    x, weight, _, stride, padding, dilation, transposed, _, groups = op.args[:9]
    rank = len(weight.shape) - 2
    stride, padding, dilation = (
        tuple(v) * rank if len(v) == 1 else tuple(v) for v in (stride, padding, dilation)
    )
    first = len(sight.dims) - rank
    was_image = sight.is_image
    sight = fields.absorbed(sight, [first - 1], keep=True)
    sight = sight.with_dim(first - 1, (Part(op.result.shape[first - 1]),))
    sizes, outs = x.shape[first:], op.result.shape[first:]
    if transposed:
        for i in range(rank):
            k, s = weight.shape[2 + i], stride[i]
            centre = Fraction(2 * padding[i] - (k - 1) * dilation[i], 2 * s)
            taps = -(-k // s) if dilation[i] == 1 else k
            sight = fields.resized(sight, first + i, outs[i], taps, Fraction(1, s), centre)
        return sight, None
    window = Window(
        tuple(
            Axis(size, out, k, s, p, p, d)
            for size, out, k, s, p, d in zip(
                sizes, outs, weight.shape[2:], stride, padding, dilation, strict=True
            )
        )
    )
    after = through(sight, window)
    if max(stride) == 1:
        return after, None
    depthwise = groups == x.shape[first - 1] == op.result.shape[first - 1] > 1
    if depthwise and not isinstance(weight, torch.nn.Parameter):
        kind = "blur"
    elif was_image and all(a.kernel == a.stride and not a.before for a in window.axes):
        kind = "patch embedding"
    else:
        kind = "strided conv"
    return after, Found(kind, window)


# ---- sums ---------------------------------------------------------------------------------------

REDUCTIONS = {"mean": "avg", "sum": "avg", "amax": "max", "max": "max"}


@rule("mean", "sum", "amax", "amin", "max", "min", "std", "var", "var_mean", "std_mean", "norm",
      "logsumexp", "linalg_vector_norm", "prod")  # fmt: skip
def _reduction(op: Op, sight: Sight) -> Outcome:
    if len(op.args) > 1 and isinstance(op.args[1], Tensor):  # the larger of two tensors
        return fields.joined([s for s in map(op.sight, op.args[:2]) if s], op.result.shape), None
    given = op.arg(2 if "norm" in op.name else 1, "dim", None)
    rank = len(sight.dims)
    dims = [given] if isinstance(given, int) else list(given or range(rank))
    dims = [dim % rank for dim in dims]
    keep = op.result.ndim == rank
    window = reduced(sight, dims)
    after = fields.absorbed(sight, dims, keep)
    if window is None:
        return after, None
    if not (whole := _swallowed(sight, dims)):
        coarse = {p.axis: p.step for dim in after.dims for p in dim if p.axis is not None}
        for axis, step in coarse.items():
            assert axis is not None
            after = after.with_line(axis, replace(after.lines[axis], stride=step))
    after = fields.global_over(after, whole)
    reduction = REDUCTIONS.get(op.name)
    kind = f"global {reduction}" if whole else reduction
    return after, Found(kind, window) if reduction and kind else None


def _swallowed(sight: Sight, dims: Sequence[int]) -> set[int]:
    """Axes of the image of which no dimension but ``dims`` walks along any part."""
    rest = {p.axis for i, dim in enumerate(sight.dims) if i not in dims for p in dim}
    return {p.axis for i in dims for p in sight.dims[i] if p.axis is not None} - rest


def reduced(sight: Sight, dims: Sequence[int]) -> Window | None:
    """The windows that a sum over dimensions has along the axes of the image."""
    axes = []
    for axis in range(len(sight.lines)):
        parts = [(i in dims, p) for i, dim in enumerate(sight.dims) for p in dim if p.axis == axis]
        kernel = math.prod(p.length for inside, p in parts if inside)
        out = math.prod(p.length for inside, p in parts if not inside)
        steps = [p.step for inside, p in parts if not inside and p.length > 1]
        unit = min((p.step for _, p in parts), default=Fraction(1))
        stride = int(min(steps) / unit) if steps and kernel > 1 else 1
        size = (out - 1) * stride + kernel
        axes.append(Axis(size, out, kernel, stride, 0, 0, 1))
    return Window(tuple(axes)) if any(axis.kernel > 1 for axis in axes) else None


@rule("mm", "addmm", "bmm", "baddbmm", "matmul", "linear")
def _product(op: Op, sight: Sight) -> Outcome:
    a, b = op.args[1:3] if "add" in op.name else op.args[:2]
    left, right = op.sight(a), op.sight(b)
    shape = op.result.shape
    if left is not None and right is not None:  # attention: which place, the values decide
        both = fields.merged([left, right])
        both = fields.global_over(both, range(len(both.lines)))
        return replace(both, dims=(*left.dims[:-1], (Part(shape[-1]),))), None
    if left is not None:
        after = fields.absorbed(left, [len(left.dims) - 1], keep=True)
        return after.with_dim(len(left.dims) - 1, (Part(shape[-1]),)), None
    if right is not None:
        after = fields.absorbed(right, [len(right.dims) - 2], keep=True)
        return after.with_dim(len(right.dims) - 2, (Part(shape[-2]),)), None
    return fields.constant(shape, sight, op.name), None


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
      "_scaled_dot_product_attention_math")  # fmt: skip
def _attention(op: Op, sight: Sight) -> Outcome:
    seen = fields.merged([s for s in map(op.sight, op.args[:3]) if s is not None])
    after = fields.global_over(replace(seen, dims=sight.dims), range(len(seen.lines)))
    return after.with_dim(len(sight.dims) - 1, (Part(op.result.shape[-1]),)), None


@rule("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "empty_like",
      "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")  # fmt: skip
def _fresh(op: Op, sight: Sight) -> Outcome:
    return None, None


ANY_ARGUMENT = {"mm", "addmm", "bmm", "baddbmm", "matmul", "cat", "stack", "copy_"}
"""Operations whose first argument may be a weight."""

# ---- normalisation ------------------------------------------------------------------------------


def _axes(sight: Sight, dims: Sequence[int]) -> set[int]:
    return {p.axis for dim in dims for p in sight.dims[dim] if p.axis is not None}


@rule("_softmax", "_log_softmax", "cumsum", "sort")
def _softmax(op: Op, sight: Sight) -> Outcome:
    dim = op.arg(1, "dim", -1)
    return fields.global_over(sight, _axes(sight, [dim]), direct=True), None


@rule("native_layer_norm")
def _layer_norm(op: Op, sight: Sight) -> Outcome:
    last = range(-len(op.args[1]), 0)
    return fields.global_over(sight, _axes(sight, last), direct=True), None


@rule("native_group_norm")
def _group_norm(op: Op, sight: Sight) -> Outcome:
    return fields.global_over(sight, range(len(sight.lines)), direct=True), None


@rule("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "miopen_batch_norm")
def _batch_norm(op: Op, sight: Sight) -> Outcome:
    own = next((a for a in op.args[1:] if isinstance(a, bool)), False)  # statistics of the batch
    return (fields.global_over(sight, range(len(sight.lines)), direct=True) if own else sight), None
