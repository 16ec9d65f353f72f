"""The sections on global average pooling and on strided convolution: every number of the text."""

import re

import pytest
import torch

pytest.importorskip("matplotlib")

import poolkit.functional as F
from poolkit import demo, imaging
from poolkit.demo import charts, downsampling, faces, heads, report, training
from poolkit.demo.report import Figure, Prose, ReadNext, Snippet, Table
from poolkit.demo.sections import BUILDERS, global_average, global_average_text, strided_convolution
from poolkit.demo.training import Interval, seeded

pytestmark = pytest.mark.usefixtures("one_thread")

SLUGS = ("global-average", "strided-convolution")
LANGUAGES = ("en", "ko")


@pytest.fixture(scope="module")
def context():
    path = imaging.default_photograph()
    image = demo.fit(imaging.load_image(path), path.name)
    return lambda lang: report.Context(image, path.name, lang, quick=True)


@pytest.fixture(scope="module")
def sections(context):
    return {(slug, lang): BUILDERS[slug](context(lang)) for slug in SLUGS for lang in LANGUAGES}


def words(section):
    """All that a reader of the section can read, figures aside."""
    parts = []
    for block in section.blocks:
        if isinstance(block, Prose):
            parts.append(str(block.html))
        elif isinstance(block, Table):
            parts += [block.title, *block.header, *(cell for row in block.rows for cell in row)]
        elif isinstance(block, Figure):
            parts.append(str(block.caption))
        elif isinstance(block, Snippet):
            parts += [block.code, block.output]
    return "\n".join(parts)


# ---- Every number of the text, from live computation --------------------------------------------


@pytest.mark.parametrize("lang", LANGUAGES)
def test_numbers_of_global_average_pooling(sections, lang):
    shown = words(sections["global-average", lang])
    x = torch.randn(32, 512, 7, 7)
    pooled = F.global_avg_pool2d(x).flatten(1)
    logits = torch.nn.Linear(512, 1000)(pooled)
    assert f"{tuple(x.shape)} -> {tuple(pooled.shape)} -> {tuple(logits.shape)}" in shown
    flattened = x[0].numel()
    fc, gap = flattened * 4096, 512 * logits.shape[1]
    assert f"{flattened:,} × {4096:,}" in shown
    for number in (f"{fc:,}", f"{gap:,}", f"{fc / gap:.1f}", "224×224", "320×320"):
        assert number in shown
    assert (fc, gap, f"{fc / gap:.1f}") == (102_760_448, 512_000, "200.7")  # as the text has them
    ears = sum((0.1, 0.9, 0.8, 0.7, 0.2)) / 9
    example = sections["global-average", lang].tables[0]
    assert [row[-1] for row in example.rows] == [f"{ears:.1f}", f"{0:.1f}"] == ["0.3", "0.0"]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_example_is_computed(context, monkeypatch, lang):
    """Another channel gives another number: the 0.3 is not written down anywhere."""
    monkeypatch.setattr(global_average, "EXAMPLE", torch.full((2, 3, 3), 0.7))
    text = global_average_text.TEXT[lang]
    figure, table, _ = global_average._example(context(lang), text)
    assert [row[-1] for row in table.rows] == ["0.7", "0.7"]
    assert str(figure.caption).count("0.7") == 2
    assert "0.3" not in figure.caption


@pytest.mark.parametrize("lang", LANGUAGES)
def test_numbers_of_strided_convolution(sections, lang):
    shown = words(sections["strided-convolution", lang])
    x = torch.randn(1, 64, 56, 56)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1)
    y = F.max_pool2d(conv(x), 2, 2)
    assert f"{tuple(x.shape)} -> {tuple(y.shape)}" in shown
    assert tuple(y.shape) == (1, 64, 28, 28)
    parameters = sum(parameter.numel() for parameter in conv.parameters())
    full, strided = (64 * 64 * 9 * side**2 for side in (56, 28))
    for number in (parameters, full, strided):
        assert f"{number:,}" in shown
    table = sections["strided-convolution", lang].tables[0]
    assert [row[1:4] for row in table.rows] == [
        (str(tuple(y.shape)), f"{parameters:,}", f"{count:,}") for count in (full, full, strided)
    ]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_words_of_the_text(sections, lang):
    """The rows of the text's table, and its four advantages."""
    korean = ("없음", "학습된 조합", "ResNet-D, EfficientNet", "파라미터 극감", "입력 크기 자유")
    english = ("none", "a learned combination", "ResNet-D, EfficientNet", "Far fewer parameters")
    shown = "".join(words(sections[slug, lang]) for slug in SLUGS)
    assert all(word in shown for word in (english if lang == "en" else korean))


# ---- The blocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SLUGS)
def test_sections_end_with_code_and_with_what_to_read(sections, slug):
    for lang in LANGUAGES:
        section = sections[slug, lang]
        assert section.slug == slug
        *_, snippet, last = section.blocks
        assert isinstance(snippet, Snippet)
        assert snippet.output
        assert isinstance(last, ReadNext)
        assert any("arXiv:" in label for label, _ in last.items)
        for table in section.tables:
            assert all(len(row) == len(table.header) for row in table.rows)
            assert not any("{" in cell for row in table.rows for cell in row)


@pytest.mark.parametrize("slug", SLUGS)
def test_both_languages_have_the_same_blocks_and_figures(sections, slug):
    english, korean = (sections[slug, lang] for lang in LANGUAGES)
    assert [type(block) for block in english.blocks] == [type(block) for block in korean.blocks]
    for a, b in zip(english.figures, korean.figures, strict=True):
        assert a.light != a.dark
        if a.name != "strided-convolution-stacks":  # which holds times
            assert (a.light, a.dark) == (b.light, b.dark)


@pytest.mark.parametrize("texts", [global_average_text.TEXT, strided_convolution.TEXT])
def test_both_languages_say_the_same(texts):
    en, ko = (vars(texts[lang]) for lang in LANGUAGES)
    assert list(en) == list(ko)
    for name in en:
        pair = [str(value[name]) for value in (en, ko)]
        places = [set(re.findall(r"{(\w*)", text)) for text in pair]
        assert places[0] == places[1], name
        assert pair[0] != pair[1], name
        if not isinstance(en[name], str):
            assert len(en[name]) == len(ko[name]), name


def test_snippet_of_global_average():
    lines = report.run_snippet(global_average.SNIPPET).output.splitlines()
    assert lines == [
        "(32, 512, 7, 7) -> (32, 512) -> (32, 1000)",
        "(32, 1000)",
        "(32, 224, 224)",
    ]


def test_snippet_of_strided_convolution():
    lines = report.run_snippet(strided_convolution.SNIPPET).output.splitlines()
    assert lines == ["(1, 64, 56, 56) -> (1, 64, 28, 28) 36,928 parameters"] * 2


# ---- Data and trainings -------------------------------------------------------------------------


def test_faces():
    images = training.faces()
    assert images.pixels.shape == (200, 1, 25, 25)
    assert images.labels.tolist() == [1] * 100 + [0] * 100
    assert images.pixels.min() >= 0
    assert images.pixels.max() <= 1


def test_split_is_even_and_disjoint():
    images = training.faces()
    kept, held_out = training.split(images, 60, seeded(3))
    assert (len(kept), len(held_out)) == (60, 140)
    assert kept.labels.sum() == 30
    both = torch.cat([kept.pixels, held_out.pixels]).flatten(1)
    assert len(both.unique(dim=0)) == len(images.pixels.flatten(1).unique(dim=0))
    again, _ = training.split(images, 60, seeded(3))
    other, _ = training.split(images, 60, seeded(4))
    assert torch.equal(kept.pixels, again.pixels)
    assert not torch.equal(kept.pixels, other.pixels)


def test_wrong_labels_are_as_many_as_asked_for():
    images = training.faces()
    changed = training.with_wrong_labels(images, 0.2, seeded(0))
    assert (changed.labels != images.labels).sum() == 40
    assert images.labels.sum() == 100


def trained(seed):
    images = training.faces()
    model = training.new(faces.GapNetwork, seeded(seed))
    training.fit(model, images, seeded(seed), 4, faces.jitter)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_trainings_are_deterministic_and_leave_the_global_state_alone(keep_threads):
    before = torch.random.get_rng_state()
    first = trained(0)
    torch.manual_seed(123)
    torch.set_num_threads(2)
    assert torch.equal(trained(0), first)
    assert torch.get_num_threads() == 2
    assert not torch.equal(trained(1), first)
    torch.random.set_rng_state(before)
    trained(2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_experiments_are_deterministic():
    assert heads.overfitting([5], 2) == heads.overfitting([5], 2)
    assert downsampling.contest([5], 2) == downsampling.contest([5], 2)


def test_training_learns():
    """Not a benchmark: a coin is right half the time, and the nets must beat it by far."""
    images = training.Images(training.faces().pixels, training.faces().labels)
    kept, held_out = training.split(images, 100, seeded(0))
    model = training.new(downsampling.CONTESTANTS["max"].build, seeded(0))
    training.fit(model, kept, seeded(0), 60)
    assert training.accuracy(model, held_out) > 0.8


def test_interval():
    interval = Interval([0.1, 0.2, 0.3, 0.4])
    assert interval.mean == pytest.approx(0.25)
    # t(0.975, 3) = 3.182446; the deviation is sqrt(1/60).
    assert interval.half == pytest.approx(3.182446 * (1 / 60) ** 0.5 / 2, rel=1e-6)
    assert Interval([1.0]).half == float("inf")
    difference = interval.minus(Interval([0.0, 0.1, 0.2, 0.3]))
    assert difference.mean == pytest.approx(0.1)
    assert difference.half == pytest.approx(0, abs=1e-12)


# ---- Heads and stacks ---------------------------------------------------------------------------


def test_heads_of_real_networks():
    own = {head.network: head.own for head in heads.HEADS}
    fc = 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert own == {
        "AlexNet": 256 * 36 * 4096 + 4096 + fc,
        "VGG16": 25088 * 4096 + 4096 + fc,
        "ResNet-18": 513_000,
        "ResNet-50": 2_049_000,
    }


def test_a_flatten_head_refuses_other_sizes():
    assert global_average.flat_refusal(7) == ""
    assert "51200" in global_average.flat_refusal(10)


def test_multiply_adds_and_budgets():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.MaxPool2d(2))
    assert downsampling.multiply_adds(model, torch.zeros(1, 3, 9, 9)) == 3 * 5 * 9 * 16
    count = {name: each.multiply_adds for name, each in downsampling.CONTESTANTS.items()}
    assert count["max"] == count["average"]
    assert count["stride 2, wider"] == pytest.approx(count["max"], rel=0.06)
    assert count["max, narrower"] == pytest.approx(count["stride 2"], rel=0.06)


def test_what_a_strided_convolution_can_express():
    assert downsampling.largest_gap_to_average() < 1e-6
    assert downsampling.largest_gap_to_a_sum() > 0.1


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([0.01, 0.02, 0.03], "advice_open"),
        ([0.02, 0.021, 0.022], "advice_better"),
        ([-0.02, -0.021, -0.022], "advice_worse"),
    ],
)
def test_the_interval_gives_the_verdict(values, name):
    text = strided_convolution.TEXT["en"]
    said = strided_convolution.verdict(text, Interval(values))
    assert said.startswith(str(getattr(text, name))[:30])
    assert f"{100 * values[1]:+.1f} ± " in said


# ---- The face -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photograph():
    return training.photograph(faces.PHOTOGRAPH)


def test_the_box_holds_the_face(photograph):
    """Eyes and mouth of the astronaut, read off the picture by eye."""
    box = faces.face_box(photograph)
    for row, column in ((110, 205), (110, 245), (147, 224)):
        assert box.top < row < box.top + box.height
        assert box.left < column < box.left + box.width


def test_scores_of_a_map():
    box = faces.Box(2, 3, 4, 5)
    seen = -torch.ones(10, 10)
    seen[2:6, 3:8] = 1
    assert faces.share_inside(seen, box) == 1
    assert faces.peaks_inside(seen, box)
    seen[0, 0] = 20
    assert faces.share_inside(seen, box) == 0.5
    assert not faces.peaks_inside(seen, box)
    assert faces.share_inside(-torch.ones(10, 10), box) == 0


def test_a_map_lies_where_the_pattern_is(photograph):
    """A network that answers to brightness alone, and a photograph with one bright square."""
    model = training.new(faces.GapNetwork, seeded(0))
    with torch.no_grad():
        for layer in model.features:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.fill_(1 / layer.weight[0].numel())
        model.head.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand_as(model.head.weight))
    image = torch.zeros(1, 3, 400, 400)
    image[:, :, 300:340, 80:120] = 255
    seen, error = faces.look(model, image, 200)
    row, column = divmod(int(seen.argmax()), 400)
    assert abs(row - 320) <= 8
    assert abs(column - 100) <= 8
    assert error < 1e-5
    assert seen.shape == (400, 400)


def test_mistakes_are_what_the_network_takes_for_faces():
    model = training.new(faces.GapNetwork, seeded(0))
    scenes = [torch.randn(1, 1, 60, 61, generator=seeded(1))]
    found = faces.mistakes(model, scenes, 7)
    with torch.no_grad():
        assert found is None or bool((model(found).diff(dim=1) > 0).all())
        model.head.bias[1] = 100.0
        assert faces.mistakes(model, scenes, 7).shape == (7, 1, 25, 25)
        model.head.bias[1] = -100.0
    assert faces.mistakes(model, scenes, 7) is None


def test_local_contrast_is_blind_to_brightness():
    x = torch.rand(1, 1, 40, 40, generator=seeded(0))
    torch.testing.assert_close(
        faces.local_contrast(x), faces.local_contrast(x + 5), rtol=0, atol=1e-4
    )


def test_the_words_follow_the_map():
    """The report says that the map lights up only if it does."""
    box = faces.Box(0, 0, 2, 2)
    inside, outside = -torch.ones(8, 8), -torch.ones(8, 8)
    inside[0, 0], outside[7, 7] = 1, 1

    def found(seen):
        findings = [faces.Findings(1.0, [seen] * len(faces.SIZES), 0.0)]
        return global_average.Search(torch.zeros(1, 3, 8, 8), box, findings)

    assert global_average.lights_up(found(inside), found(outside))
    assert not global_average.lights_up(found(outside), found(outside))
    assert not global_average.lights_up(found(inside), found(inside))
    mostly = outside.clone()  # most of it in the box, but not its peak
    mostly[:2, :2] = 0.9
    assert not global_average.lights_up(found(mostly), found(outside))


def test_frames_stay_inside_the_picture():
    pixels = charts.framed(torch.zeros(20, 30, 3, dtype=torch.uint8).numpy(), (0, 5, 20, 25))
    assert pixels.shape == (20, 30, 3)
    assert (pixels == 255).any()
