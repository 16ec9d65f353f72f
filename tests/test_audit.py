"""The audit: which stages it sees, what it says of them, and how it leaves the model."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import poolkit
import poolkit.functional as PF
from poolkit import ArgumentError, audit, models
from poolkit.audit.auditor import PARTS
from poolkit.imaging import save_png
from poolkit.testing import memory
from poolkit.window import Axis, spans


def only(*parts):
    return [part for part in PARTS if part not in parts]


class Net(nn.Module):
    """A network around a function of the map that a convolution puts out."""

    def __init__(self, function, rank=2):
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](3, 8, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


def found(function, shape=(2, 3, 16, 20), rank=2):
    report = audit(Net(function, rank), shape, skip=PARTS)
    return [(s.name, s.kind, s.input_shape[1:], s.output_shape[1:]) for s in report.stages]


MAP, HALF = (8, 16, 20), (8, 8, 10)
BINOMIAL = torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])).expand(8, 1, 3, 3) / 16

FUNCTIONS = {
    "max": (lambda x: F.max_pool2d(x, 2), ("max_pool2d", "max", MAP, HALF)),
    "max with indices": (
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        ("max_pool2d", "max", MAP, HALF),
    ),
    "avg": (lambda x: F.avg_pool2d(x, 2), ("avg_pool2d", "avg", MAP, HALF)),
    "lp": (lambda x: F.lp_pool2d(x, 3.0, 2), ("lp_pool2d", "lp", MAP, HALF)),
    "poolkit's": (lambda x: PF.max_pool2d(x, 2), ("max_pool2d", "max", MAP, HALF)),
    "poolkit's, circular": (
        lambda x: PF.avg_pool2d(x, 3, 2, 1, padding_mode="circular"),
        ("avg_pool2d", "avg", MAP, HALF),
    ),
    "poolkit's norm": (lambda x: PF.lp_pool2d(x, 3, 2), ("lp_pool2d", "lp", MAP, HALF)),
    "poolkit's global": (
        PF.global_max_pool2d,
        ("global_max_pool2d", "global max", MAP, (8, 1, 1)),
    ),
    "mean": (lambda x: x.mean((2, 3)), ("mean", "global avg", MAP, (8,))),
    "torch.mean": (lambda x: torch.mean(x, (-1, -2)), ("mean", "global avg", MAP, (8,))),
    "amax": (lambda x: x.amax((2, 3), keepdim=True), ("amax", "global max", MAP, (8, 1, 1))),
    "max of cells": (
        lambda x: x.flatten(2).max(-1).values,
        ("max", "global max", (8, 320), (8,)),
    ),
    "generalised mean": (
        lambda x: x.clamp(1e-6).pow(3).mean((2, 3)).pow(1 / 3),
        ("mean", "lp", MAP, (8,)),
    ),
    "adaptive to 1": (
        lambda x: F.adaptive_avg_pool2d(x, 1),
        ("adaptive_avg_pool2d", "global avg", MAP, (8, 1, 1)),
    ),
    "adaptive": (
        lambda x: F.adaptive_max_pool2d(x, (3, 4)),
        ("adaptive_max_pool2d", "adaptive max", MAP, (8, 3, 4)),
    ),
    "area": (
        lambda x: F.interpolate(x, size=(8, 10), mode="area"),
        ("interpolate", "adaptive avg", MAP, HALF),
    ),
    "slices": (lambda x: x[..., ::2, ::2], ("slice", "slicing", MAP, HALF)),
    "nearest": (
        lambda x: F.interpolate(x, scale_factor=0.5),
        ("interpolate", "slicing", MAP, HALF),
    ),
    "blur": (
        lambda x: F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), BINOMIAL, stride=2, groups=8),
        ("conv2d", "blur", (8, 18, 22), HALF),
    ),
    "pixel_unshuffle": (
        lambda x: F.pixel_unshuffle(x, 2),
        ("pixel_unshuffle", "space to depth", MAP, (32, 8, 10)),
    ),
    "all phases": (
        lambda x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
        ("slice", "space to depth", MAP, (32, 8, 10)),
    ),
    "reshape": (
        lambda x: x.view(2, 8, 8, 2, 10, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 32, 8, 10),
        ("reshape", "space to depth", (8, 2, 2, 8, 10), (32, 8, 10)),
    ),
    "windows by hand": (
        lambda x: x.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2)),
        ("amax", "max", (8, 7, 9, 3, 3), (8, 7, 9)),
    ),
    "fractional": (
        lambda x: F.fractional_max_pool2d(x, 2, output_size=(9, 9)),
        ("fractional_max_pool2d", "fractional", MAP, (8, 9, 9)),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_stages(name):
    function, (called, *rest) = FUNCTIONS[name]
    assert found(function) == [(f":{called}", *rest)]


def test_one_and_three_axes():
    name = ":max_pool1d", "max", (8, 17), (8, 8)
    assert found(lambda x: F.max_pool1d(x, 3, 2), (1, 3, 17), 1) == [name]
    name = ":avg_pool3d", "avg", (8, 4, 6, 6), (8, 2, 3, 3)
    assert found(lambda x: F.avg_pool3d(x, 2), (1, 3, 4, 6, 6), 3) == [name]


def test_no_stages_of_what_does_not_pool():
    assert found(lambda x: torch.relu(x.flatten(1)) + x.mean(1).flatten(1).mean() * 0) == [
        (":mean", "global avg", (320,), ())
    ]
    assert found(lambda x: F.layer_norm(x, (20,)).softmax(1)[:, ::2].transpose(2, 3)) == []
    report = audit(nn.Linear(5, 2), (4, 3, 5), skip=only("memory", "sizes"))
    assert report.stages == ()
    assert report.totals.multiply_adds == 4 * 3 * 5 * 2


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 4, 4)
        self.pool = self.again = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.again(self.pool(self.first(x)))
        return F.max_pool2d(F.max_pool2d(x, 2), 2)


def test_every_call_is_a_stage():
    report = audit(Shared(), (1, 3, 64, 64), skip=PARTS)
    assert [(s.name, s.call, s.kind) for s in report.stages] == [
        ("first", 1, "patch embedding"),
        ("pool", 1, "max"),
        ("pool", 2, "max"),
        (":max_pool2d", 1, "max"),
        (":max_pool2d", 2, "max"),
    ]
    assert [s.field[0].size for s in report.stages] == [4, 8, 16, 32, 64]


def test_branches_beside_the_path():
    """A stage is aside if something larger is made of what it puts out, in whatever order."""

    class Branches(nn.Module):
        def forward(self, x):
            small = F.max_pool2d(x, 2)
            gate = x.mean((2, 3), keepdim=True)
            other = F.avg_pool2d(torch.relu(x * gate.sigmoid()), 2)
            return small + other

    report = audit(Branches(), (1, 3, 8, 8), skip=PARTS)
    assert [(s.name, s.side) for s in report.stages] == [
        (":max_pool2d", False), (":mean", True), (":avg_pool2d", False),
    ]  # fmt: skip
    with torch.device("meta"):
        report = audit(models.UNet(), (1, 3, 32, 32), skip=PARTS)
    assert [s.side for s in report.stages] == [True] * 4


def small():
    torch.manual_seed(0)
    return models.ResNet(models.BasicBlock, (1, 1), 10, width=8)


def test_exported_and_traced_programs():
    net, x = small().eval(), torch.rand(2, 3, 32, 32)
    exported = torch.export.export(net, (x,))
    plain = audit(net, x, skip=PARTS)
    for program in (exported, exported.module(), torch.fx.symbolic_trace(net)):
        report = audit(program, x, skip=only("memory"))
        assert report.stages == plain.stages
    # Raw operators: a gradient would be none, and nothing would be kept for it.
    pictures = torch.rand(4, 3, 36, 36)
    report = audit(exported, x, pictures, skip=only("memory", "fields"))
    assert [stage.effective_field for stage in report.stages] == [None] * len(report.stages)
    assert sum("has no gradient by itself" in note.why for note in report.not_measured) == 2
    stock = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.AvgPool2d(3, 2)).eval()
    plain = audit(stock, x, skip=only("memory"))
    report = audit(torch.export.export(stock, (x,)), x, skip=only("memory", "sizes"))
    assert report.stages == plain.stages
    assert report.totals == dataclasses.replace(plain.totals, smallest_input=(32, 32))
    why = [note.why for note in report.not_measured if note.what == "sizes that divide evenly"]
    assert why == ["the model takes no other size than 32 x 32"]
    # What is in no module cannot be swapped: the lines are for the model.
    assert plain.recommendations[0].code == "poolkit.accelerate(model)"
    assert report.recommendations[0].code == "poolkit.accelerate(model)  # then export it again"


# ---- borders, sizes, counts ---------------------------------------------------------------------


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"),
    [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 1), (1, 2, 0), (2, 3, 0), (5, 4, 2), (3, 1, 1)],
)
def test_borders(kernel, stride, pad, ceil_mode):
    """By counting the cells of every window, for all sizes."""
    dropped = 0
    for size in range(6, 19):
        net = nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil_mode)
        (stage,) = audit(net, (1, 1, size, size), skip=PARTS).stages
        border = stage.border[1]
        out = stage.output_shape[-1]
        axis = Axis(size, out, kernel, stride, pad, pad, 1)
        read = {cell for span in spans(axis) for cell in span}
        last = max(read)
        gap = max(0, stride - kernel)
        assert border.dropped == max(0, size - 1 - last - gap)
        assert border.dropped + border.skipped == size - len(read)
        assert border.outside == out * kernel - sum(len(span) for span in spans(axis))
        if size % border.divides_by == border.remainder:
            assert border.dropped == 0
        dropped += border.dropped
        assert stage.ceil_mode is ceil_mode
    assert (border.divides_by == 1) is (dropped == 0)


def test_uneven_windows_overlap():
    (stage,) = audit(nn.AdaptiveAvgPool2d((3, 4)), (1, 1, 7, 8), skip=PARTS).stages
    assert [b.repeated for b in stage.border] == [2, 0]
    assert stage.stride is None
    assert stage.additions == (3 + 3 + 3) * 8 - 12


def test_sizes():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2))
    totals = audit(net, (1, 3, 22, 30), skip=only("sizes")).totals
    assert totals.smallest_input == (10, 10)
    assert totals.divides_by is None  # 10, 14, 18, ... are even: no multiples of anything
    padded = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.MaxPool2d((2, 1)))
    totals = audit(padded, (1, 3, 22, 30), skip=only("sizes")).totals
    assert totals.smallest_input == (4, 4)
    assert totals.divides_by == (4, 2)


def test_multiply_adds_are_those_of_torchs_counter():
    net, x = small(), torch.rand(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(x)
    report = audit(net, x, skip=PARTS)
    assert 2 * report.totals.multiply_adds == counter.get_total_flops()
    first = report.stages[0]
    assert first.multiply_adds == 2 * 8 * 16 * 16 * 3 * 49
    assert first.parameters == 8 * 3 * 49


def test_saved_bytes_are_those_of_a_training_step():
    """Found without values, they are what a step with values asks autograd to keep."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.BatchNorm2d(8), nn.AvgPool2d(2),
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    x = torch.rand(4, 3, 32, 32)
    report = audit(net, x, skip=only("memory"))
    stock = memory.saved_bytes(lambda: net(x), without=net.parameters())
    poolkit.accelerate(net)
    ours = memory.saved_bytes(lambda: net(x), without=net.parameters())
    assert (report.totals.saved_bytes_torch, report.totals.saved_bytes) == (stock, ours)
    assert audit(net, x, skip=only("memory")).totals.saved_bytes_torch == stock  # accelerated
    pool = report.stages[0]
    cells = 4 * 8 * 14 * 14
    assert (pool.index_bytes_torch, pool.index_bytes) == (8 * cells, cells)
    assert (pool.saved_bytes_torch, pool.saved_bytes) == (8 * cells + 4 * 4 * 8 * 30 * 30, cells)


# ---- everything ---------------------------------------------------------------------------------


def test_a_whole_audit():
    net = small()
    x = torch.rand(2, 3, 32, 32)
    pictures = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    report = audit(net, x, pictures, seconds=0, shifts=1, name="small")
    assert report.model == "small"
    assert report.input_shape == (2, 3, 32, 32)
    for s in report.stages:
        assert s.seconds > 0
        assert s.seconds_torch > 0
        if s.kind != "global avg":
            assert 0 <= s.aliasing <= 1
            assert s.feature_shift > 0
        assert len(s.effective_field) == 2
    assert report.totals.seconds > 0
    assert report.head.kind == "gap"
    assert [c.kind for c in report.consistency] == ["roll", "crop", "fractional"]
    assert report.machine["torch"] == torch.__version__
    again = audit(net, x, pictures, skip=only("consistency"), shifts=1)
    assert again.consistency == report.consistency
    other = audit(net, x, pictures, skip=only("consistency"), shifts=1, seed=1)
    assert other.consistency != report.consistency


def test_a_head_without_parameters():
    """The channels of the last map are the classes: nothing weighs less."""
    net = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = audit(net, (1, 3, 16, 16), skip=only("head")).head
    assert (head.kind, head.parameters, head.gap_parameters) == ("gap", 0, 0)


def test_what_was_skipped_is_said():
    report = audit(small(), (1, 3, 32, 32), skip=PARTS)
    assert report.totals.seconds is None
    assert report.totals.saved_bytes == sum(s.saved_bytes for s in report.stages)
    skipped = [u.what for u in report.not_measured if u.why == "it was to be skipped"]
    assert len(skipped) == len(PARTS)


def test_without_values():
    """On the meta device, all that needs none."""
    with torch.device("meta"):
        net = small()
    report = audit(net, (2, 3, 32, 32))
    real = audit(small(), (2, 3, 32, 32), skip=only("memory", "sizes"))
    assert report.stages == real.stages
    assert report.totals == real.totals
    why = {u.what: u.why for u in report.not_measured}
    assert all("meta device" in why[what] for what in ("time", "head", "aliasing"))


def test_lost_places_are_said():
    report = audit(
        Net(lambda x: F.max_pool2d(torch.fft.rfft2(x).abs(), 2)), (1, 3, 8, 8), skip=PARTS
    )
    assert report.stages == ()
    assert any("fft" in u.what for u in report.not_measured)


# ---- the model is as it was ---------------------------------------------------------------------


class Fragile(nn.Module):
    """Changes itself when it is run, draws, and may raise."""

    def __init__(self, error=None, after=0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout().eval()
        self.register_buffer("runs", torch.zeros(()))
        self.error, self.left = error, after

    def forward(self, x):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 - the global state is what is tested
        self.runs += 1
        self.runs = self.runs + 1
        self.conv.weight.requires_grad_(False)
        if self.error is not None and self.left == 0:
            raise self.error
        self.left -= 1
        return self.drop(self.pool(self.norm(self.conv(x)))).mean((2, 3))


def state(net):
    """All that an audit must not change, and the objects that must be the same ones."""
    return (
        {name: (id(t), t.clone(), t.requires_grad)
         for name, t in net.state_dict(keep_vars=True).items()},
        {name: (m.training, type(m), list(m._forward_hooks), list(m._forward_pre_hooks),
                list(m._forward_hooks_with_kwargs)) for name, m in net.named_modules()},
        {name: p.grad for name, p in net.named_parameters()},
    )  # fmt: skip


def same(before, after):
    tensors, modules, grads = before
    assert modules == after[1]
    assert {n: id(g) for n, g in grads.items()} == {n: id(g) for n, g in after[2].items()}
    for name, (number, values, wants) in tensors.items():
        assert after[0][name][0] == number
        assert torch.equal(after[0][name][1], values)
        assert after[0][name][2] == wants


@pytest.mark.parametrize("error", [None, ValueError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 5, 40])
def test_the_model_is_as_it_was(error, after):
    net = Fragile(error, after).train()
    net.drop.eval()
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    net.norm.weight.requires_grad_(False)
    net.pool.register_forward_hook(lambda module, inputs, output: output)
    before = state(net)
    seeds = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    pictures = torch.rand(2, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    try:
        audit(net, (2, 3, 32, 32), pictures, seconds=0, shifts=1)
        raised = None
    except BaseException as exception:  # noqa: BLE001
        raised = exception
    if error is not None and after == 0:
        assert raised is error or raised.__cause__ is error
    if error is None:
        assert raised is None
    same(before, state(net))
    assert torch.equal(torch.get_rng_state(), seeds[0])
    assert random.getstate() == seeds[1]
    assert np.array_equal(np.random.get_state()[1], seeds[2])  # noqa: NPY002
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0
    assert torch._C._len_torch_function_stack() == 0


def test_compiled_models_are_seen_through():
    net = small()
    compiled = torch.compile(net, backend="eager")
    assert audit(compiled, (1, 3, 32, 32), skip=PARTS).stages == audit(
        net, (1, 3, 32, 32), skip=PARTS
    ).stages  # fmt: skip


def test_operations_of_blurs():
    """Those of torch's composition: a dense maximum, padding and a depthwise convolution."""

    class Composed(nn.Module):
        def forward(self, x):
            x = F.pad(F.max_pool2d(x, 2, 1), (1, 1, 1, 1), mode="reflect")
            taps = torch.tensor([0.25, 0.5, 0.25])
            kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
            return F.conv2d(x, kernel, stride=2, groups=x.shape[1])

    ours, stock = (
        audit(net, (2, 8, 33, 33), skip=PARTS)
        for net in (poolkit.nn.MaxBlurPool2d(2, 2), Composed())
    )
    (joint,), (dense, blur) = ours.stages, stock.stages
    assert (joint.kind, dense.kind, blur.kind) == ("max blur", "max", "blur")
    assert joint.output_shape == blur.output_shape == (2, 8, 16, 16)
    assert joint.comparisons == dense.comparisons == 2 * 8 * 32 * 32 * 3
    assert joint.multiply_adds == blur.multiply_adds == 2 * 8 * 16 * 16 * 9
    assert ours.totals.multiply_adds == stock.totals.multiply_adds == joint.multiply_adds
    assert [f.size for f in joint.field] == [f.size for f in blur.field] == [4, 4]


# ---- bad input ----------------------------------------------------------------------------------


def test_the_first_module_that_fails_is_named():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), nn.Flatten(),
                        nn.Linear(100, 5))  # fmt: skip
    message = (
        r"input of shape \(2, 3, 32, 32\): module '2', which got \(2, 900\), "
        r"raised RuntimeError: mat1 and mat2"
    )
    with pytest.raises(ArgumentError, match=message) as caught:
        audit(net, (2, 3, 32, 32))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ArgumentError, match=r"module '0\.0', which got \(2, 4, 32, 32\)"):
        audit(net, (2, 4, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((nn.Linear, (1, 3, 8, 8)), "model must be a torch.nn.Module or an exported program"),
        ((nn.ReLU(), None), "input must be a batch or its shape, such as .* got NoneType"),
        ((nn.ReLU(), "8x3x224x224"), "input must be a batch or its shape"),
        ((nn.ReLU(), (3, 8)), r"input must have a batch, channels and .* got \(3, 8\)"),
        ((nn.ReLU(), (0, 3, 8, 8)), "input must be from 1"),
        ((nn.ReLU(), torch.zeros(0, 3, 8, 8)), r"none of them empty.* got \(0, 3, 8, 8\)"),
        ((nn.ReLU(), (1, 3, 8.5, 8)), "input must be an int, got 8.5"),
        ((nn.ReLU(), (1, 3, 8, 8), 7), "images must be a tensor, a folder or None, got int"),
        ((nn.ReLU(), (1, 3, 8, 8), torch.zeros(1, 3, 9, 9)), "images must be at least two of 3"),
        ((nn.ReLU(), (1, 3, 8, 8), torch.zeros(2, 3, 4, 9)), r"the input \(8, 8\) or more"),
        ((nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 8, 8, device="meta")), "on the model's device cpu"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(ArgumentError, match=words):
        audit(*arguments)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"skip": ["speed"]}, "skip must hold some of 'memory', 'sizes'"),
        ({"skip": "time"}, "skip must hold some of"),
        ({"shifts": 0}, "shifts must be from 1"),
        ({"seconds": float("nan")}, "seconds must not be negative"),
    ],
)
def test_bad_options(keywords, words):
    with pytest.raises(ArgumentError, match=words):
        audit(nn.ReLU(), (1, 3, 8, 8), **keywords)


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(ArgumentError, match="has no PNG or JPEG file"):
        audit(nn.ReLU(), (1, 3, 8, 8), tmp_path)
    save_png(torch.zeros(3, 9, 9), tmp_path / "one.png")
    with pytest.raises(ArgumentError, match="at least two pictures, got 1 in"):
        audit(nn.ReLU(), (1, 3, 8, 8), tmp_path)
