"""The parts of the audit: pictures, shift consistency, folded energy, fields, advice."""

import doctest
import math

import pytest
import torch
import torch.nn.functional as stock
from torch import nn

import poolkit.functional as F
from poolkit import ArgumentError, shift
from poolkit.audit import advice, aliasing, consistency, effective, head, intervals, pictures, taps
from poolkit.audit.report import Border, Consistency, Field, Head, Interval, Report, Stage, Totals
from poolkit.imaging import ImageError, save_png

pytestmark = pytest.mark.usefixtures("one_thread")


def textured(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def stage(name, before, after, **found):
    """A stage of which nothing but names and sizes is known, and what ``found`` says."""
    values = dict.fromkeys(Stage.__dataclass_fields__, 0)
    values |= {"name": name, "kind": "", "side": False, "input_shape": before}
    values |= {"output_shape": after, "field": None, **found}
    return Stage(**values)


@pytest.mark.parametrize(
    "module",
    [aliasing, consistency, effective, head, intervals, pictures],
    ids=lambda m: m.__name__,
)
def test_examples(module):
    failed, tried = doctest.testmod(module)
    assert failed == 0
    assert tried > 0


# ---- Intervals ----------------------------------------------------------------------------------


def test_student_against_scipy():
    special = pytest.importorskip("scipy.special")
    for freedom in (1, 2, 3, 4, 7, 31, 1000):
        assert intervals.student(freedom) == pytest.approx(special.stdtrit(freedom, 0.975), 1e-9)


def test_intervals_by_hand():
    found = intervals.share([1.0] * 8 + [0.0] * 2)  # Wilson, of 8 in 10
    assert (found.mean, found.count) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    found = intervals.mean([1.0, 2.0, 3.0, 6.0])  # s = sqrt(14/3), t = 3.1824
    assert (found.mean, found.low) == (3.0, 0.0)
    assert found.high == pytest.approx(3 + 3.18245 * (14 / 3 / 4) ** 0.5, abs=1e-4)


# ---- Pictures -----------------------------------------------------------------------------------


def test_default_pictures():
    colour = pictures.default_pictures((28, 42), 3)
    assert colour.shape == (32, 3, 28 + 2 * 2, 42 + 2 * 3)
    assert 0 <= colour.min() < 0.01
    assert 0.95 < colour.max() <= 1
    assert torch.equal(colour, pictures.default_pictures((28, 42), 3))
    # Every picture is another one, and none is flat.
    flat = colour.flatten(1)
    apart = torch.cdist(flat, flat) + torch.eye(32)
    assert apart.min() > 0.5
    assert flat.std(1).min() > 0.01
    grey = pictures.default_pictures((28, 42), 1)
    torch.testing.assert_close(
        grey, (colour * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    )


def test_pictures_from_a_folder(tmp_path):
    (tmp_path / "more").mkdir()
    save_png(torch.full((3, 50, 90), 51.0), tmp_path / "b.png")
    save_png(torch.full((1, 90, 50), 102.0), tmp_path / "a.PNG")
    save_png(torch.full((1, 1, 1), 153.0), tmp_path / "more" / "c.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    found = pictures.from_folder(tmp_path, (14, 28), 3)
    assert found.shape == (3, 3, 16, 32)
    levels = torch.tensor([0.4, 0.2, 0.6]).view(3, 1, 1, 1)
    torch.testing.assert_close(found, levels.expand_as(found))
    assert len(pictures.from_folder(tmp_path, (14, 28), 1, most=2)) == 2


def test_folders_without_pictures(tmp_path):
    with pytest.raises(ImageError, match="nowhere: there is no such folder"):
        pictures.from_folder(tmp_path / "nowhere", (8, 8), 3)
    with pytest.raises(ImageError, match="it has no PNG or JPEG file"):
        pictures.from_folder(tmp_path, (8, 8), 3)
    (tmp_path / "fake.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"fake\.jpg: it is not a PNG or JPEG image"):
        pictures.from_folder(tmp_path, (8, 8), 3)
    with pytest.raises(ImageError, match=r"fake\.jpg: it is a file, not a folder"):
        pictures.from_folder(tmp_path / "fake.jpg", (8, 8), 3)
    for channels, size in ((4, (8, 8)), (3, (8,)), (3, (8, 0))):
        with pytest.raises(ArgumentError, match=r"(channels|size) must be"):
            pictures.from_folder(tmp_path, size, channels)


def test_normalised():
    values = pictures.normalised(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    assert values.abs().max() == 0
    twice = pictures.normalised(torch.ones(1, 1, 2, 2), [0.5], [0.25])
    assert torch.equal(twice, torch.full((1, 1, 2, 2), 2.0))
    with pytest.raises(ArgumentError, match="a number for each of 3 channels"):
        pictures.normalised(torch.ones(1, 3, 1, 1), [0.5], [0.25])


# ---- Shift consistency --------------------------------------------------------------------------


class Constant(nn.Module):
    def forward(self, x):
        return torch.tensor([0.0, 2.0, 1.0]).expand(len(x), 3)


class Pixel(nn.Module):
    """Class 1 where the middle pixel is bright; the score is its value."""

    def forward(self, x):
        value = x[:, 0, x.shape[2] // 2, x.shape[3] // 2]
        return torch.stack([1 - value, value], 1)


def classifier(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def measured(model, images=None, size=(16, 16), **options):
    images = textured(6, 1, 20, 20) if images is None else images
    return consistency.measure(model.eval(), images, size, **options)


def test_a_constant_classifier_is_consistent():
    found, notes = measured(Constant())
    assert [c.kind for c in found] == ["roll", "crop", "fractional"]
    for c in found:
        assert (c.top1.mean, c.top1.high, c.distance.mean, c.distance.high) == (1, 1, 0, 0)
        assert (c.images, c.shifts, c.seed, c.top1.count) == (6, 4, 0, 6)
    assert [c.largest_shift for c in found] == [1, 1, 1]
    assert "all 6 pictures get class 1" in notes[0].why


def test_moves_and_means():
    """The model gets moves of each picture's own, and the means are of its answers."""
    given, answers = [], []

    class Recording(Pixel):
        def forward(self, x):
            given.append(x)
            answers.append(super().forward(x))
            return answers[-1]

    images = textured(5, 1, 60, 58)
    found, notes = measured(Recording(), images, (32, 32), shifts=12, seed=3, batch=5)
    assert not notes
    still = images[:, :, 14:46, 13:45]
    assert torch.equal(given[0], still)
    steps = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0)]
    rolled = [still.roll(move, (2, 3)) for move in steps]
    cut = [images[:, :, 14 - y : 46 - y, 13 - x : 45 - x] for y, x in steps]
    for index, candidates in ((0, rolled), (1, cut)):
        used = [
            [steps[k] for k in range(24) if torch.equal(candidates[k][image], run[image])]
            for run in given[1 + 12 * index : 13 + 12 * index]
            for image in range(5)
        ]
        assert all(len(moves) == 1 for moves in used)
        assert len({moves[0] for moves in used}) > 15  # of 24, in 60 draws
    for c, runs in zip(found, (answers[1:13], answers[13:25], answers[25:]), strict=True):
        same = torch.stack([run.argmax(1) == answers[0].argmax(1) for run in runs]).double()
        assert c.top1.mean == pytest.approx(float(same.mean()))
        apart = torch.stack([shift.relative_l2(answers[0], run) for run in runs])
        assert c.distance == intervals.mean(apart.mean(0).tolist())
        # 5 pictures, not 60 pairs, are what the interval is of.
        assert c.top1.high - c.top1.low > 0.4


def test_what_is_invariant_and_what_breaks_it():
    circular = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular", bias=False)
    invariant = measured(classifier(circular, nn.ReLU())).consistency
    assert invariant[0].distance.high < 1e-5
    assert invariant[1].distance.low > 1e-4  # a crop shows other things
    for model in (
        classifier(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),  # zeros at the border
        classifier(circular, nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(circular, nn.ReLU(), nn.Flatten(), nn.Linear(1024, 4)),
    ):
        assert measured(model).consistency[0].distance.low > 1e-4


def test_fractions_of_a_pixel():
    """A linear average does not see them; the same after a ReLU does."""
    images = textured(6, 1, 20, 20) - 0.5
    smooth = measured(classifier(nn.Identity()), images, (15, 15)).consistency[2]
    rough = measured(classifier(nn.ReLU()), images, (15, 15)).consistency[2]
    assert smooth.distance.high < 1e-5
    assert rough.distance.low > 1e-3
    assert smooth.top1 is None  # one score is no choice of classes


def test_maps_move_along():
    for model in (nn.Identity(), nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, padding=1)):
        found, notes = measured(model, textured(6, 1, 60, 60), (42, 42))
        by_kind = {c.kind: c.distance.mean for c in found}
        assert len(by_kind) == 3
        assert not notes
        assert all(c.top1 is None for c in found)
        if isinstance(model, nn.Identity):
            assert max(by_kind.values()) < 1e-6
        elif isinstance(model, nn.AvgPool2d):
            assert by_kind["crop"] < 1e-6
            assert [c.largest_shift for c in found] == [3, 2, 1]  # crops by whole cells
            assert by_kind["roll"] > 0.01
        else:  # zeros at the border
            assert min(by_kind.values()) > 1e-3


def test_what_cannot_be_measured_is_said():
    images = textured(6, 1, 20, 20)
    found, notes = measured(nn.Identity(), images[:, :, :16, :16])
    assert [c.kind for c in found] == ["roll", "fractional"]
    assert [(n.what, "too small" in n.why) for n in notes] == [("shift consistency: crop", True)]
    found, notes = measured(nn.Conv2d(1, 2, 3), images)
    assert not found
    assert "maps of (14, 14) cells for (16, 16) pixels" in notes[0].why
    found, notes = measured(nn.Threshold(2.0, float("nan")), images)
    assert not found
    assert "not finite for 6 of 6 pictures" in notes[0].why
    with pytest.raises(ArgumentError, match="at least two for an interval"):
        measured(nn.Identity(), images[:1])
    with pytest.raises(ArgumentError, match=r"as large as the model's input \(16, 21\)"):
        measured(nn.Identity(), images, (16, 21))


def test_runs_have_one_size_and_are_reported():
    sizes, reports = [], []

    class Strict(Pixel):
        def forward(self, x):
            sizes.append(len(x))
            return {"aux": None, "scores": super().forward(x)}

    state = torch.random.get_rng_state()
    images = textured(6, 1, 20, 20)
    found = measured(Strict(), images, batch=4, shifts=2, progress=lambda *at: reports.append(at))
    assert set(sizes) == {4}
    assert reports[-1] == (42, 42)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found == measured(Pixel(), images, batch=6, shifts=2)
    other = measured(Pixel(), images, batch=6, shifts=2, seed=1).consistency
    assert all(a.distance != b.distance for a, b in zip(found[0], other, strict=True))


# ---- Folded energy ------------------------------------------------------------------------------


def wave(frequency, cells=32):
    return torch.cos(2 * math.pi * frequency * torch.arange(float(cells)) / cells)


def test_energy_that_is_folded_is_exact_for_waves():
    folded = aliasing.folded_energy
    row = torch.ones(32, 1)
    assert folded(torch.full((2, 3, 9, 32), 0.1), (2, 2)) == 0.0
    assert folded(row * wave(6) + 5, (2, 2)) == pytest.approx(0, abs=1e-9)
    assert folded(row * wave(10), (2, 2)) == pytest.approx(1)
    assert folded(row * wave(10), (2, 1)) == pytest.approx(0, abs=1e-9)
    assert folded(row * wave(10), (1, 2)) == pytest.approx(1)
    assert folded(wave(16)[:, None] * wave(16), (2, 2)) == pytest.approx(1)  # checkerboard
    # A wave at the limit is kept by half (Hann's window spreads it, evenly to both sides).
    assert folded(wave(8), (2,)) == pytest.approx(0.5)
    # Energies add: of two waves the fast one has 4 of 5 parts.
    assert folded(wave(3) + 2 * wave(13), (2,)) == pytest.approx(0.8)
    assert folded(wave(8), (3,)) == pytest.approx(1)
    # The fastest wave of all is as strong as two others.
    assert folded(wave(3) + wave(16), (2,)) == pytest.approx(2 / 3)
    # A slow wave that does not fit has a seam between its ends, which is not in the map.
    assert folded(wave(2.5), (2,)) < 1e-4
    assert math.isnan(folded(torch.tensor([1.0, math.nan, 3.0]), (2,)))
    assert folded(torch.rand(4, 5, 1, 1), (2, 2)) == 0
    for stride in ((), (0, 2), (2,) * 3):
        with pytest.raises(ArgumentError, match="folded_energy: stride must be positive"):
            folded(torch.rand(8, 8), stride)


@pytest.mark.parametrize("stride", [(2, 2), (3, 3), (4, 2), (1, 2), (2,), (2, 2, 2)])
def test_energy_that_is_folded_of_noise(stride):
    side = {1: 4096, 2: 96, 3: 24}[len(stride)]
    noise = torch.randn((40, *[side] * len(stride)), generator=torch.Generator().manual_seed(0))
    expected = 1 - 1 / math.prod(stride)
    assert aliasing.folded_energy(noise, stride) == pytest.approx(expected, abs=0.01)


def test_blur_folds_less():
    images = pictures.default_pictures((56, 56), 1)
    weight = torch.tensor([1.0, 2.0, 1.0])
    blurred = stock.conv2d(images, (weight[:, None] * weight / 16)[None, None])
    edges = stock.conv2d(images, torch.tensor([[-1.0, 1.0]])[None, None])
    parts = [aliasing.folded_energy(x, (2, 2)) for x in (blurred, images, edges)]
    assert 0 < parts[0] < parts[1] / 2 < parts[2] / 4


# ---- Taps, effective fields, shifts of features -------------------------------------------------


class Mixed(nn.Module):
    """Modules, one of them twice, functions of torch and of poolkit, a slice and a mean."""

    def __init__(self, channels=4):
        super().__init__()
        options = {"padding": 1, "padding_mode": "circular"}
        self.conv = nn.Conv2d(3, channels, 3, 2, **options)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = self.pool(self.pool(x)[0])[0]
        x = F.avg_pool2d(stock.max_pool2d(x.abs(), 3, 1, 1), 2)
        return x[:, :, ::2, ::2].mean((2, 3))


MIXED = [
    stage("conv", (1, 3, 64, 64), (1, 4, 32, 32)),
    stage("pool", (1, 4, 32, 32), (1, 4, 16, 16)),
    stage("pool", (1, 4, 16, 16), (1, 4, 8, 8)),
    stage(":max_pool2d", (1, 4, 8, 8), (1, 4, 8, 8)),
    stage(":avg_pool2d", (1, 4, 8, 8), (1, 4, 4, 4)),
    stage(":slice", (1, 4, 4, 4), (1, 4, 2, 2)),
    stage(":nowhere", (1, 4, 4, 5), (1, 4, 2, 2)),
    stage(":mean", (1, 4, 2, 2), (1, 4)),
]


def test_taps_of_modules_and_functions():
    torch.manual_seed(0)
    model, x = Mixed(), textured(2, 3, 64, 64)
    with torch.no_grad():
        conv = model.conv(x)
        found = taps.maps(model, x, MIXED)
        pooled = [stock.max_pool2d(conv.relu(), k) for k in (2, 4)]
        dense = stock.max_pool2d(pooled[1], 3, 1, 1)
        mean = F.avg_pool2d(dense, 2)
        expected = [conv, *pooled, dense, mean, mean[..., ::2, ::2], None,
                    mean[..., ::2, ::2].mean((2, 3))]  # fmt: skip
    for got, right in zip(found, expected, strict=True):
        assert (got is None) == (right is None)
        if right is not None:
            torch.testing.assert_close(got, right)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_taps_of_an_exported_program():
    """Stages have the names that they have in the model itself."""
    model, x = Mixed().eval(), textured(2, 3, 64, 64)
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        found, expected = (taps.maps(net, x, MIXED[:5]) for net in (program, model))
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got, right)


def test_taps_leave_no_hook_after_an_exception():
    model = Mixed()
    with pytest.raises(RuntimeError):
        taps.maps(model, torch.zeros(1, 4, 8, 8), MIXED)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_width_is_the_shortest_run():
    assert effective.width(torch.ones(100)) == (95.0,)
    assert effective.width(torch.tensor([0.0, 0.5, 9.5, 9.5, 0.5, 0.0])) == (2.0,)
    assert effective.width(torch.tensor([3.0, 0.0, 0.0, 3.0])) == (4.0,)
    assert effective.width(torch.full((60,), 0.1, dtype=torch.float64)) == (57.0,)
    assert effective.width(torch.eye(20)[:10]) == (10.0, 10.0)


def test_effective_fields_of_linear_layers():
    """The gradient of a convolution is its kernel: fields are those of the weights."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, (3, 5), padding=(1, 2), bias=False), nn.AvgPool2d(2), nn.AvgPool2d(2)
    )
    nn.init.constant_(model[0].weight, 1.0)
    x = textured(2, 2, 40, 40)
    stages = [
        stage("0", (2, 2, 40, 40), (2, 3, 40, 40)),
        stage("1", (2, 3, 40, 40), (2, 3, 20, 20)),
        stage("9", (2, 3, 40, 40), (2, 3, 20, 20)),
    ]
    # Profiles 1 1 1 and 1 1 1 1 1; squares of 1 2 2 1 and of 1 2 2 2 2 1.
    assert effective.fields(model, x, stages) == [(3.0, 5.0), (4.0, 6.0), None]
    assert model[0].weight.grad is None
    # Squares of 1 5 1: the middle has 25 of 27 parts, with a neighbour 26.
    sharp = nn.Conv1d(1, 1, 3, bias=False)
    sharp.weight.data = torch.tensor([[[1.0, 5.0, 1.0]]])
    assert effective.fields(sharp, textured(1, 1, 9), [stage("", (1, 1, 9), (1, 1, 7))]) == [(2.0,)]
    for axes, conv in ((1, nn.Conv1d), (3, nn.Conv3d)):
        deep = conv(1, 3, 3, bias=False)
        nn.init.constant_(deep.weight, 1.0)
        one = stage("", (1, 1, *[9] * axes), (1, 3, *[7] * axes))
        assert effective.fields(deep, textured(1, 1, *[9] * axes), [one]) == [(3.0,) * axes]


def test_effective_fields_of_functions_and_dead_stages():
    torch.manual_seed(0)
    model, x = Mixed(), textured(2, 3, 64, 64)
    state = torch.random.get_rng_state()
    found = effective.fields(model, x, MIXED)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found == effective.fields(model, x, MIXED)
    assert found[0] == (3.0, 3.0)
    assert found[-2] is None
    widths = [f[0] for f in found if f]
    assert widths == sorted(widths)
    assert 40 < widths[-1] <= 64
    nn.init.constant_(model.conv.bias, -100.0)  # the ReLU passes nothing on
    assert effective.fields(model, x, MIXED)[1:] == [None] * 7


def test_shifts_of_features():
    x = textured(2, 3, 64, 64)
    circular = {"padding": 1, "padding_mode": "circular"}

    def moved(model, before, after, name="0", **options):
        (found,) = effective.feature_shifts(model, x, [stage(name, before, after, **options)])
        return found

    whole, half = (2, 3, 64, 64), (2, 3, 32, 32)
    assert moved(nn.Sequential(nn.Conv2d(3, 3, 3, **circular)), whole, whole) == 0
    assert moved(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), whole, whole) > 0.01
    assert moved(nn.Sequential(nn.AdaptiveAvgPool2d(1)), whole, (2, 3, 1, 1)) < 1e-6
    assert moved(nn.Sequential(nn.Flatten(2)), whole, (2, 3, 4096)) is None
    # A slow wave keeps its place under any stride; one beyond the limit does not.
    x = (wave(3, 64)[:, None] + wave(5, 64)).expand(2, 3, 64, 64)
    assert moved(nn.Sequential(nn.AvgPool2d(1, 2)), whole, half) < 1e-5
    x = (wave(30, 64)[:, None] + wave(29, 64)).expand(2, 3, 64, 64)
    assert moved(nn.Sequential(nn.AvgPool2d(1, 2)), whole, half) > 0.5
    # The stride of the field counts before that of the sizes.
    x = (wave(3, 64)[:, None] + wave(5, 64)).expand(2, 3, 64, 64)
    wrong = (Field(1, 1, 4.0, 0.0, 0.0, aligned=True),) * 2
    assert moved(nn.Sequential(nn.AvgPool2d(1, 2)), whole, half, field=wrong) > 0.05


# ---- Advice -------------------------------------------------------------------------------------


def totals(**found):
    return Totals(**dict.fromkeys(Totals.__dataclass_fields__, 0) | found)


def report(**found):
    """Of a model that nothing is wrong with, but for what ``found`` says."""
    fine = {
        "model": "m", "input_shape": (8, 3, 64, 64), "machine": {}, "stages": (),
        "totals": totals(seconds=0.1, seconds_torch=0.1, parameters=100), "head": None,
        "consistency": (), "recommendations": (), "not_measured": (),
    }  # fmt: skip
    return Report(**fine | found)


def roll(mean, low):
    distance, top1 = Interval(mean, low, 2 * mean, 32), Interval(0.75, 0.6, 0.85, 32)
    return (Consistency("roll", top1, distance, 32, 4, 16.0, 0),)


def flat(**found):
    sizes = (((96, 96), True),)
    return Head(**{
        "kind": "flatten + fc", "name": "head", "grid": (6, 6), "parameters": 2400, "share": 0.6,
        "gap_parameters": 50, "multiply_adds": 0, "any_size": True, "sizes_tried": sizes,
    } | found)  # fmt: skip


def window(name, before, after, field=9, **found):
    fields = tuple(Field(field, field, 2.0, 0.0, 0.0, aligned=True) for _ in range(2))
    options = {"kind": "strided conv", "stride": (2, 2), "kernel": (3, 3), "border": None}
    options |= {"field": fields, "aliasing": None, "ceil_mode": False}
    return stage(name, (8, 4, before, before), (8, 4, after, after), **options | found)


def only(found):
    (one,) = advice.recommend(found)
    return one


def test_no_number_no_advice():
    assert advice.recommend(report()) == ()
    # Numbers that are just not worth a sentence.
    fine = report(
        totals=totals(seconds=0.096, seconds_torch=0.1, saved_bytes=96, saved_bytes_torch=100),
        head=flat(share=0.2),
        consistency=roll(0.03, 0.01),
        stages=(window("a", 64, 32, aliasing=0.5, field=70), window("b", 64, 32)),
    )
    assert advice.recommend(fine) == ()
    fine = report(consistency=roll(0.3, 0.2), stages=(window("a", 64, 32, aliasing=0.01),))
    assert advice.recommend(fine) == ()
    assert advice.recommend(report(totals=totals(seconds=None, seconds_torch=None))) == ()


def test_advice_about_time_and_memory():
    found = only(report(totals=totals(seconds=0.08, seconds_torch=0.1)))
    assert found.code == "poolkit.accelerate(model)"
    assert "100 ms with torch's pooling and 80 ms with poolkit's, 20 % less" in found.text
    mebi = 2**20
    found = only(
        report(
            totals=totals(
                saved_bytes=30 * mebi, saved_bytes_torch=230 * mebi,
                index_bytes=24 * mebi + mebi // 2, index_bytes_torch=196 * mebi,
            )
        )
    )  # fmt: skip
    assert found.code == "poolkit.accelerate(model)"
    assert "keeps 230.0 MiB" in found.text
    assert "indices alone take 24.5 MiB in place of 196.0 MiB" in found.text
    small = only(report(totals=totals(saved_bytes=512, saved_bytes_torch=2048)))
    assert "keeps 2.0 KiB for the backward pass" in small.text


def test_advice_about_aliasing():
    stages = (
        stage("stem", (8, 3, 64, 64), (8, 4, 64, 64), kind="strided conv", aliasing=0.5),
        window("a", 64, 32, aliasing=0.05),
        window("b", 32, 16, aliasing=0.12),
        window("c", 16, 8, aliasing=0.3, kind="slicing"),
        window("d", 8, 4, aliasing=0.9),
    )
    found = only(report(consistency=roll(0.1, 0.08), stages=stages))
    assert found.stage == "b"
    assert found.code == 'poolkit.rewrite(model, "antialias", images)  # then fine-tune'
    for words in ("up to 16 pixels", "by 10 %", "8 % to 20 %", "top class in 25 %", "folds 12 %",
                  "most of 2 stages"):  # fmt: skip
        assert words in found.text


def test_advice_about_heads():
    large = report(totals=totals(parameters=4000), head=flat())
    found = only(large)
    assert found.stage == "head"
    assert found.code == 'poolkit.rewrite(model, "gap_head", images)  # then fine-tune'
    assert "2,400 of 4,000 parameters, 60 %" in found.text
    assert "one linear layer would have 50 and take any size" in found.text
    refused = flat(share=0.1, sizes_tried=(((96, 96), False),))
    assert "an input of 96 x 96 is refused" in only(report(head=refused)).text
    assert advice.recommend(report(head=flat(kind="gap"))) == ()


def test_advice_about_borders():
    border = (Border(1, 0, 0, 2, 0), Border(0, 0, 0, 2, 0))
    pool = window("pool", 25, 12, kind="max", border=border)
    uneven = report(stages=(pool,), input_shape=(8, 3, 50, 64), totals=totals(divides_by=(16, 16)))
    found = only(uneven)
    assert "'pool' drops 1 of 25 and 0 of 25 rows and columns at the border, 4 %" in found.text
    assert "pad 50 x 64 to 64 x 64, or crop it to 48 x 64" in found.text
    images = torch.zeros(8, 3, 50, 64)
    scope = {"torch": torch, "images": images}
    exec(found.code, scope)
    assert scope["images"].shape == (8, 3, 64, 64)
    found = only(report(stages=(pool,), totals=totals(divides_by=None)))
    model = nn.Sequential()
    model.pool = nn.MaxPool2d(2)
    exec(found.code, {"model": model})
    assert model(torch.zeros(1, 1, 25, 25)).shape == (1, 1, 13, 13)


def test_advice_about_fields():
    stages = (
        window("stem", 64, 32, 11), window("wide", 32, 16, 70), window("beside", 32, 16, 75),
        window("late", 16, 8, 140), window("global", 8, 1, 140, kind="global avg", stride=None),
    )  # fmt: skip
    found = only(report(stages=stages))
    assert found.stage == "wide"
    assert "depends on 70 x 70 pixels, more than the image of 64 x 64 has" in found.text
    assert "1 stage with a stride follow" in found.text
    model = nn.Sequential()
    model.stem = nn.Conv2d(3, 4, 3, 2, 1)
    exec(found.code, {"model": model})
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 8, 8)
