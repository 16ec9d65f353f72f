"""The geometry, against brute force and against torch's output sizes."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poolkit import ArgumentError
from poolkit import functional as F
from poolkit import window as W

fixed_examples = settings(derandomize=True, deadline=None, database=None, max_examples=400)

sizes = st.integers(1, 12)
kernels = st.integers(1, 6)
strides = st.integers(1, 5)
dilations = st.integers(1, 9)
pads = st.integers(0, 9)


def axis(size, kernel, stride=None, pad=(0, 0), dilation=1, ceil=False):
    """The only axis of a 1-D window, whether or not its windows hold a cell."""
    window = W.fixed("f", 1, (1, 1, size), kernel, stride, [pad] if isinstance(pad, tuple) else pad,
                     dilation, ceil, False)  # fmt: skip
    return window.axes[0]


def cells(axis, i):
    """The real cells of output i, by definition."""
    positions = [i * axis.stride - axis.before + t * axis.dilation for t in range(axis.kernel)]
    return [p for p in positions if 0 <= p < axis.size]


# ---- Sizes --------------------------------------------------------------------------------------


def brute_size(size, kernel, stride, before, after, dilation, ceil):
    """Windows are counted one by one: those that fit, and in ceil mode one that hangs over the
    end, but then none that starts behind the input."""
    extent, end = dilation * (kernel - 1) + 1, size + after
    count, start = 0, -before
    while start + extent <= end or (ceil and start + extent < end + stride):
        if ceil and start >= size:
            break
        count, start = count + 1, start + stride
    return count


@fixed_examples
@given(sizes, kernels, strides, pads, pads, dilations, st.booleans())
def test_sizes_by_counting(size, kernel, stride, before, after, dilation, ceil):
    expected = brute_size(size, kernel, stride, before, after, dilation, ceil)
    if expected < 1:
        with pytest.raises(ArgumentError, match="output size"):
            axis(size, kernel, stride, (before, after), dilation, ceil)
    else:
        assert axis(size, kernel, stride, (before, after), dilation, ceil).out == expected


@fixed_examples
@given(sizes, kernels, strides, st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_sizes_are_torch_s(size, kernel, stride, pad, dilation, ceil):
    assume(2 * pad <= kernel)
    x = torch.zeros(1, 1, size, 2)
    try:
        expected = torch.nn.functional.max_pool2d(
            x, (kernel, 1), (stride, 1), (pad, 0), (dilation, 1), ceil
        ).shape[2]
    except RuntimeError:
        with pytest.raises(ArgumentError):
            axis(size, kernel, stride, (pad, pad), dilation, ceil)
    else:
        assert axis(size, kernel, stride, (pad, pad), dilation, ceil).out == expected


@fixed_examples
@given(sizes, kernels, strides, dilations, st.booleans())
def test_same(size, kernel, stride, dilation, ceil):
    """ceil(L / s) windows, padding shared evenly, the odd cell after ("same_lower": before)."""
    upper = axis(size, kernel, stride, "same", dilation, ceil)
    lower = axis(size, kernel, stride, "same_lower", dilation, ceil)
    assert upper.out == lower.out == math.ceil(size / stride)
    assert (upper.before, upper.after) == (lower.after, lower.before)
    assert upper.after - upper.before in (0, 1)
    extent = dilation * (kernel - 1) + 1
    assert upper.before + upper.after == max((upper.out - 1) * stride + extent - size, 0)


def test_ceil_drops_several_windows():
    """With padding behind alone, several windows would start in it."""
    assert axis(4, 1, 1, (0, 5), 1, False).out == 9
    assert axis(4, 1, 1, (0, 5), 1, True).out == 4


def test_ceil_rescues_a_negative_size():
    """A kernel longer than the input gives one window, if ceil mode lets it hang over."""
    assert axis(4, 6, 5, (0, 0), 1, True).out == 1
    with pytest.raises(ArgumentError):
        axis(4, 6, 5, (0, 0), 1, False)


@fixed_examples
@given(st.integers(1, 30), st.integers(0, 40))
def test_adaptive(size, out):
    """Windows [floor(iL/O), ceil((i+1)L/O)): as a fixed axis where that is one, else marked by
    stride 0; the kernel bounds their length."""
    a = W.adaptive("f", 1, (1, 1, size), out, True).axes[0]
    assert (a.size, a.out) == (size, out)
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        assert end - start <= a.kernel
        if a.stride:
            assert cells(a, i) == list(range(start, end))
        assert W.spans(a)[i] == range(start, end)
    assert len(W.spans(a)) == out


@fixed_examples
@given(sizes, kernels, strides, pads, pads, dilations, st.booleans())
def test_spans(size, kernel, stride, before, after, dilation, ceil):
    """The cells of every window, also of one that holds none."""
    try:
        a = axis(size, kernel, stride, (before, after), dilation, ceil)
    except ArgumentError:
        return
    assert [list(span) for span in W.spans(a)] == [cells(a, i) for i in range(a.out)]


# ---- Empty windows ------------------------------------------------------------------------------


@settings(fixed_examples, max_examples=1500)
@given(sizes, kernels, strides, pads, pads, st.integers(1, 30), st.booleans())
def test_first_empty_window(size, kernel, stride, before, after, dilation, ceil):
    """Found in closed form, and the first one."""
    try:
        a = axis(size, kernel, stride, (before, after), dilation, ceil)
    except ArgumentError:
        return
    empty = [i for i in range(a.out) if not cells(a, i)]
    assert W.first_empty_window(a) == (empty[0] if empty else None)


@settings(fixed_examples, max_examples=300)
@given(st.integers(1, 10), st.integers(1, 7), st.integers(1, 60), st.integers(0, 200),
       st.integers(1, 200))  # fmt: skip
def test_first_empty_window_of_wide_gaps(size, kernel, stride, before, dilation):
    """Many windows start before the input, and their taps jump over it."""
    assume(before <= (kernel - 1) * dilation)
    try:
        a = axis(size, kernel, stride, (before, 2 * before), dilation)
    except ArgumentError:
        return
    empty = [i for i in range(a.out) if not cells(a, i)]
    assert W.first_empty_window(a) == (empty[0] if empty else None)


def test_empty_window_is_named():
    with pytest.raises(ArgumentError, match=r"f: window 0 of axis H holds no cell .*dilation 5"):
        W.fixed("f", 2, (1, 1, 4, 4), 2, 1, 1, (5, 1), False, True)
    with pytest.raises(ArgumentError, match=r"window 4 of axis W"):
        W.fixed("f", 2, (1, 1, 4, 4), (1, 1), 1, [(0, 0), (0, 3)], 1, False, True)


# ---- Huge numbers -------------------------------------------------------------------------------

HUGE = [2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1]


@pytest.mark.parametrize("huge", HUGE)
def test_huge_arguments(huge):
    """The right answer or an ArgumentError, never a wrapped product or a hang."""
    assert axis(4, 2, huge).out == 1
    assert axis(4, 2, huge, ceil=True).out == 1
    for ceil in (False, True):
        with pytest.raises(ArgumentError):
            axis(4, huge, 1, (0, 0), 1, ceil=False)
        with pytest.raises(ArgumentError):
            axis(4, 2, 1, (0, 0), huge, ceil=False)
        with pytest.raises(ArgumentError):
            axis(4, huge, huge, (huge, huge), huge, ceil=ceil)
    assert axis(4, 1, 1, (0, 0), min(huge, 2**61)).out == 4


@pytest.mark.parametrize("huge", HUGE)
def test_huge_results_are_refused(huge):
    """Before any memory is asked for."""
    if huge >= 2**40:
        with pytest.raises(ArgumentError, match="more elements than memory can address"):
            W.adaptive("f", 2, (2**20, 8, 4, 4), (huge, 1), True)
    with pytest.raises(ArgumentError):
        W.fixed("f", 2, (1, 1, 4, 4), 1, 1, huge, 1, False, False)


@pytest.mark.parametrize("huge", HUGE)
def test_same_with_huge_kernels(huge):
    if huge <= 2**40:
        assert axis(4, huge, 1, "same").out == 4
        assert axis(4, huge, 1, "same").before == (huge - 1) // 2
    else:
        with pytest.raises(ArgumentError, match="64-bit"):
            axis(4, huge, 1, "same")


def test_first_empty_window_is_fast_for_huge_gaps():
    """Euclid's algorithm, not a loop over windows."""
    a = W.Axis(10, 2**60, 2, 3, 2**61, 0, 2**61)
    assert W.first_empty_window(a) is not None


# ---- Arguments ----------------------------------------------------------------------------------

GOOD = [
    (2, (2, 2)),
    ([2], (2, 2)),
    ((2, 3), (2, 3)),
    ([2, 3], (2, 3)),
    (np.int64(2), (2, 2)),
    ((np.int32(2), 3), (2, 3)),
    (torch.Size([2, 3]), (2, 3)),
]
BAD = [True, 2.0, "2", None, (), (2, 3, 4), (2, True), (2, 2.0), (2, None), 0, -1, (2, 0), 2**63,
       torch.tensor(2.5), np.float64(2), np.bool_(True), ((2, 2), (2, 2)), ..., {2: 3}]  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), GOOD)
def test_ints(given, wanted):
    assert W.as_ints("f", "kernel_size", given, 2, 1) == wanted
    assert all(type(n) is int for n in W.as_ints("f", "kernel_size", given, 2, 1))


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize("name", ["kernel_size", "stride", "dilation"])
def test_bad_ints(bad, name):
    if name == "stride" and (bad is None or (isinstance(bad, tuple) and not bad)):
        return  # these mean the kernel size
    x = torch.zeros(1, 1, 6, 6)
    arguments = {"kernel_size": 2, "stride": 1, "dilation": 1, name: bad}
    with pytest.raises(ArgumentError, match=f"max_pool2d: {name}"):
        F.max_pool2d(x, **arguments)
    F.max_pool2d(x, 2, 1)
    with pytest.raises(ArgumentError):  # also from the cache
        F.max_pool2d(x, **arguments)


@pytest.mark.parametrize(
    "bad",
    [-1, True, 1.0, "full", "SAME", (1, 2, 3), ((1, 2),) * 3, ((1, 2, 3),) * 2, ((1, 2), 3),
     ((1, -2), (0, 0)), ((1, 2.0), (0, 0)), None],
    ids=repr,
)  # fmt: skip
def test_bad_padding(bad):
    with pytest.raises(ArgumentError, match="max_pool2d: padding"):
        F.max_pool2d(torch.zeros(1, 1, 6, 6), 4, 1, bad)


def test_padding_forms():
    wanted = ((1, 1), (1, 1))
    for form in (
        1,
        (1,),
        (1, 1),
        [1, 1],
        ((1, 1), (1, 1)),
        [(1, 1)],
        [[1, 1], [1, 1]],
        np.int64(1),
    ):
        assert W.normalise_padding("f", form, 2) == wanted, form
    assert W.normalise_padding("f", "valid", 2) == ((0, 0), (0, 0))
    assert W.normalise_padding("f", (1, 2), 2) == ((1, 1), (2, 2))


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (1, 1, 1, 4, 4), (1, 1, 0, 4), (1, 0, 4, 4)])
def test_bad_shapes(shape):
    with pytest.raises(ArgumentError, match=r"max_pool2d: .*got"):
        F.max_pool2d(torch.zeros(shape), 2)


@pytest.mark.parametrize("flag", [1, 0, None, "yes", 1.0])
def test_flags_are_bools(flag):
    with pytest.raises(ArgumentError, match="ceil_mode must be a bool"):
        F.max_pool1d(torch.zeros(1, 1, 4), 2, ceil_mode=flag)
    with pytest.raises(ArgumentError, match="count_include_pad must be a bool"):
        F.avg_pool1d(torch.zeros(1, 1, 4), 2, count_include_pad=flag)


def test_errors_are_those_of_torch_too():
    with pytest.raises(RuntimeError):
        F.max_pool1d(torch.zeros(1, 1, 4), 5)
    with pytest.raises(ValueError, match="output size"):
        F.max_pool1d(torch.zeros(1, 1, 4), 5)
    with pytest.raises(TypeError):
        F.avg_pool1d(torch.zeros(1, 1, 4, dtype=torch.uint8), 2)
    assert isinstance(pickle.loads(pickle.dumps(ArgumentError("x"))), ValueError)


anything = st.one_of(
    st.integers(-3, 6), st.sampled_from(HUGE), st.booleans(), st.floats(), st.none(),
    st.text(max_size=3),
    st.lists(st.one_of(st.integers(-2, 6), st.sampled_from(HUGE), st.none()), max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=3),
)  # fmt: skip


@settings(fixed_examples, max_examples=600)
@given(
    st.lists(st.integers(0, 5), max_size=6), anything, anything, anything, anything, anything,
    st.sampled_from(["max_pool", "avg_pool"]), st.integers(1, 3),
)  # fmt: skip
def test_nothing_crashes(shape, kernel, stride, padding, dilation, ceil, family, rank):
    """Whatever the arguments: a result, or one of poolkit's two exceptions."""
    function = getattr(F, f"{family}{rank}d")
    try:
        y = function(torch.zeros(shape), kernel, stride, padding, dilation=dilation, ceil_mode=ceil)
    except ArgumentError as error:
        assert str(error).startswith(f"{family}{rank}d: ")  # noqa: PT017  no error is fine too
    else:
        assert y.dim() == len(shape)


# ---- The window itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taps", "dtype"),
    [(1, torch.uint8), (256, torch.uint8), (257, torch.uint16), (65536, torch.uint16),
     (65537, torch.int32)],
)  # fmt: skip
def test_offset_dtype(taps, dtype):
    assert W.fixed("f", 1, (1, 1, taps), taps, 1, 0, 1, False, True).offset_dtype is dtype


@fixed_examples
@given(st.lists(st.tuples(*[st.integers(0, 99)] * 7), min_size=1, max_size=3), st.booleans(),
       st.integers(-5, 5), st.booleans())  # fmt: skip
def test_pack_and_unpack(axes, include, divisor, last):
    window = W.Window(tuple(W.Axis(*a) for a in axes), include, divisor)
    assert W.unpack(window.packed_last if last else window.packed) == (window, last)
