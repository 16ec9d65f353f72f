"""Global average pooling: what it does to a head's weights, input sizes, over-fitting, channels."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup

import poolkit.functional as F

from .. import faces, heads
from ..charts import Bar, Dots, channels_to_numbers, dots, framed, glowing, log_bars
from ..draw import Panel, blocks, panels
from ..report import Context, Figure, Formula, Heading, Prose, ReadNext, Section, Table, run_snippet
from ..training import Interval, percent, photograph
from .global_average_text import TEXT, Text

SLUG = "global-average"

BATCH, CHANNELS, SIDE = 32, 512, 7  # the text's feature map
HIDDEN = 4096  # of the text's FC layer
IMAGES = (224, 320, 448)  # sides that 2^5 divides
EXAMPLE = torch.stack(  # the text's detectors of cat ears and of wheels
    [torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.9, 0.8], [0.0, 0.7, 0.2]]), torch.zeros(3, 3)]
)
SEEDS = 6
NETWORKS = 4  # that look at the photograph
STEPS = 150  # of each training of theirs
ROUNDS = 3  # of added mistakes
SHOWN = (128, 160, 192)
PANEL = 384  # pixels

SNIPPET = """
import torch
import poolkit.functional as F
from poolkit.cam import class_activation_map

x = torch.randn(32, 512, 7, 7)  # any height and width
classifier = torch.nn.Linear(512, 1000)

y = F.global_avg_pool2d(x).flatten(1)
logits = classifier(y)
print(tuple(x.shape), "->", tuple(y.shape), "->", tuple(logits.shape))

larger = torch.randn(32, 512, 10, 10)
print(tuple(classifier(F.global_avg_pool2d(larger).flatten(1)).shape))

seen = class_activation_map(x, classifier.weight, logits.argmax(1), size=224)
print(tuple(seen.shape))
"""

MEAN = Markup(
    '<math display="block"><msub><mi>y</mi><mi>k</mi></msub><mo>=</mo><mfrac><mn>1</mn><mrow>'
    "<mi>H</mi><mi>W</mi></mrow></mfrac>"
    '<munder><mo movablelimits="false" largeop="true">∑</mo><mrow><mi>i</mi><mo>,</mo><mi>j</mi>'
    "</mrow></munder><msub><mi>f</mi><mi>k</mi></msub><mo>(</mo><mi>i</mi><mo>,</mo><mi>j</mi>"
    "<mo>)</mo></math>"
)
MAP = Markup(
    '<math display="block"><msub><mi>M</mi><mi>c</mi></msub><mo>(</mo><mi>i</mi><mo>,</mo>'
    "<mi>j</mi><mo>)</mo><mo>=</mo>"
    '<munder><mo movablelimits="false" largeop="true">∑</mo><mi>k</mi></munder>'
    "<msub><mi>w</mi><mrow><mi>c</mi><mi>k</mi></mrow></msub><msub><mi>f</mi><mi>k</mi></msub>"
    "<mo>(</mo><mi>i</mi><mo>,</mo><mi>j</mi><mo>)</mo></math>"
)


@dataclass(frozen=True)
class Search:
    """The photograph, its face, and what the networks of one kind found in it."""

    image: torch.Tensor
    box: faces.Box
    findings: Sequence[faces.Findings]

    @property
    def held_out(self) -> Interval:
        return Interval([found.held_out for found in self.findings])

    @functools.cached_property
    def averaged(self) -> dict[int, torch.Tensor]:
        """The mean of all networks' maps, for each size of the photograph."""
        maps = zip(*(found.maps for found in self.findings), strict=True)
        return {
            size: torch.stack(seen).mean(0) for size, seen in zip(faces.SIZES, maps, strict=True)
        }

    def share(self, size: int) -> float:
        return faces.share_inside(self.averaged[size], self.box)

    def peaks(self, size: int) -> int:
        index = faces.SIZES.index(size)
        return sum(faces.peaks_inside(found.maps[index], self.box) for found in self.findings)


def build(context: Context) -> Section:
    """From channels to numbers, then the text's four advantages, each with its evidence."""
    text = TEXT[context.lang]
    seeds, steps = (range(2), 2) if context.quick else (range(SEEDS), heads.STEPS)
    fits = heads.overfitting(context.track(seeds, text.training), steps)
    plain, bootstrapped = search(context, text)
    fc, gap = heads.linear(CHANNELS * SIDE**2, HIDDEN), heads.linear(CHANNELS, heads.CLASSES)
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead),
            Formula(MEAN),
            *_example(context, text),
            Heading(text.any_size),
            *_sizes(text),
            Heading(text.weights),
            Prose(
                text.weights_words.format(
                    inputs=fc.in_features,
                    hidden=fc.out_features,
                    fc=heads.weights(fc),
                    channels=gap.in_features,
                    classes=gap.out_features,
                    gap=heads.weights(gap),
                    ratio=heads.weights(fc) / heads.weights(gap),
                )
            ),
            *_heads(context, text, fc, gap),
            Heading(text.overfitting),
            *_overfitting(context, text, fits, len(seeds)),
            Heading(text.readable),
            *_maps(context, text, plain, bootstrapped),
            Heading(text.claims),
            _claims(text, fc, gap, fits, bootstrapped),
            run_snippet(SNIPPET),
            ReadNext(text.read_next),
        ],
    )


def _example(context: Context, text: Text) -> list[Prose | Figure | Table]:
    numbers = F.global_avg_pool2d(EXAMPLE).flatten().tolist()
    x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    y = F.global_avg_pool2d(x).flatten(1)
    channels = [
        (f"k = {k}", values, number)
        for k, (values, number) in enumerate(zip(EXAMPLE, numbers, strict=True), 1)
    ]
    figure = context.draw(
        f"{SLUG}-example",
        channels_to_numbers(channels),
        text.example_caption.format(*(f"{number:.1f}" for number in numbers)),
        text.example_alt,
    )
    rows = [
        (
            name,
            " + ".join(f"{value:g}" for value in values.flatten().tolist() if value) or "0",
            f"/ {values.numel()}",
            f"{number:.1f}",
        )
        for name, (_, values, number) in zip(text.detectors, channels, strict=True)
    ]
    return [
        figure,
        Table(text.example_title, text.example_header, rows, frozenset({3})),
        Prose(text.shapes.format(before=tuple(x.shape), after=tuple(y.shape))),
    ]


def flat_refusal(side: int) -> str:
    """What a flatten head made for the text's map says to a map of ``side``; "" if it takes it."""
    with torch.device("meta"):
        head = heads.flat_head(CHANNELS, SIDE, (HIDDEN,), heads.CLASSES)
        try:
            head(torch.empty(1, CHANNELS, side, side))
        except RuntimeError as error:
            return str(error).rstrip(".")
    return ""


def _sizes(text: Text) -> list[Prose | Table]:
    with torch.device("meta"):
        head = heads.gap_head(CHANNELS, heads.CLASSES)
    rows, refusals = [], []
    for image in IMAGES:
        x = torch.empty(1, CHANNELS, image, image, device="meta")
        for _ in range(5):  # the stages of VGG and of ResNet
            x = F.max_pool2d(x, 2)
        refusal = flat_refusal(x.shape[-1])
        refusals.append(refusal)
        logits = head(x)
        rows.append(
            (
                f"{image}×{image}",
                str(tuple(x.shape)),
                f"{tuple(F.global_avg_pool2d(x).flatten(1).shape)} → {tuple(logits.shape)}",
                text.refused if refusal else text.accepted,
            )
        )
    said = next(refusal for refusal in refusals if refusal)
    return [
        Table(text.sizes_title, text.sizes_header, rows),
        Prose(text.sizes_note.format(said=said), "note"),
    ]


def _heads(
    context: Context, text: Text, fc: torch.nn.Linear, gap: torch.nn.Linear
) -> list[Figure | Table | Prose]:
    bars, rows = [], []
    for layer, ours in ((fc, False), (gap, True)):
        count = heads.weights(layer)
        label = f"{layer.in_features:,} × {layer.out_features:,}"
        bars.append(Bar(label, count, f"{count:,}", ours))
    for head in heads.HEADS:
        has_gap = head.hidden is None
        bars.append(Bar(head.network, head.own, f"{head.own:,}", has_gap))
        if not has_gap:
            bars.append(Bar(f"{head.network}, GAP", head.with_gap, f"{head.with_gap:,}", ours=True))
        rows.append(
            (
                head.network,
                f"({head.channels}, {head.side}, {head.side})",
                head.layers,
                f"{head.own:,}",
                f"{head.with_gap:,}",
                "–" if has_gap else f"×{head.own / head.with_gap:.1f}",
            )
        )
    figure = context.draw(
        f"{SLUG}-weights",
        log_bars(bars, "parameters", ("flatten + FC", "GAP + FC"), floor=1e5),
        text.weights_caption,
        text.weights_alt,
    )
    table = Table(text.weights_title, text.weights_header, rows, frozenset({3, 4, 5}))
    return [figure, table, Prose(text.weights_note, "note")]


def _overfitting(
    context: Context, text: Text, fits: dict[tuple[str, float], heads.Fit], seeds: int
) -> list[Prose | Figure | Table]:
    names = list(heads.HEADS_COMPARED)
    charts = [
        Dots(
            "accuracy (%)",
            [
                [fits[name, share].train for name in names],
                [fits[name, share].held_out for name in names],
            ],
            f"{100 * share:.0f} % wrong labels",
        )
        for share in heads.WRONG
    ]
    rows = [
        (
            name,
            f"{heads.parameters(heads.HEADS_COMPARED[name]):,}",
            *(
                percent(interval)
                for share in heads.WRONG
                for interval in (fits[name, share].train, fits[name, share].held_out)
            ),
        )
        for name in names
    ]
    flat = names[-1]
    differences = [
        fits[names[0], share].held_out.minus(fits[flat, share].held_out) for share in heads.WRONG
    ]
    return [
        Prose(
            text.overfitting_words.format(
                train=heads.TRAIN, wrong=100 * heads.WRONG[1], seeds=seeds
            )
        ),
        context.draw(
            f"{SLUG}-overfitting",
            dots(charts, names, ("train", "held-out")),
            text.overfitting_caption.format(seeds=seeds),
            text.overfitting_alt,
        ),
        Table(text.overfitting_title, text.overfitting_header, rows, frozenset(range(1, 6))),
        Prose(
            text.overfitting_found.format(
                flat=flat, clean=_points(differences[0]), noisy=_points(differences[1])
            )
        ),
        Prose(text.overfitting_note.format(seeds=seeds), "note"),
    ]


def _points(difference: Interval) -> str:
    return f"{100 * difference.mean:+.1f} ± {100 * difference.half:.1f}"


def search(context: Context, text: Text) -> tuple[Search, Search]:
    """Train networks without and with the backgrounds, and let all look at the photograph."""
    image = photograph(faces.PHOTOGRAPH)
    box = faces.face_box(image)
    networks, steps, rounds = (1, 2, 1) if context.quick else (NETWORKS, STEPS, ROUNDS)
    scenes = faces.backgrounds(faces.WITHOUT_FACES[:1] if context.quick else faces.WITHOUT_FACES)
    found: tuple[list[faces.Findings], list[faces.Findings]] = ([], [])
    for seed in context.track(range(networks), text.searching):
        for kind, shown in zip(found, ([], scenes), strict=True):
            model, held_out = faces.train(seed, shown, steps, rounds)
            kind.append(faces.search(model, held_out, image))
    return Search(image, box, found[0]), Search(image, box, found[1])


def _maps(
    context: Context, text: Text, plain: Search, bootstrapped: Search
) -> list[Prose | Formula | Figure | Table]:
    image, box = plain.image, plain.box
    shrink = PANEL / image.shape[-1]
    small = F.adaptive_avg_pool2d(image, PANEL)
    corners = tuple(round(part * shrink) for part in (box.top, box.left, box.height, box.width))
    top, left, height, width = corners

    def panel(name: str, found: Search, size: int) -> Panel:
        seen = F.adaptive_avg_pool2d(found.averaged[size][None], PANEL)[0]
        pixels = glowing(small, seen, (top, left, height, width))
        return Panel(f"{name}   {size}×{size}", pixels)

    kinds = (("LFW", plain), ("+ backgrounds", bootstrapped))
    rows = [[panel(name, found, size) for size in SHOWN] for name, found in kinds]
    before = Panel(
        f"{image.shape[-1]}×{image.shape[-2]}",
        framed(blocks(small, (PANEL, PANEL)), (top, left, height, width)),
    )
    count = len(plain.findings)
    area = box.height * box.width / (image.shape[-1] * image.shape[-2])
    best = max(faces.SIZES, key=bootstrapped.share)
    table = [
        (
            f"{size}×{size}",
            f"{box.width * size / image.shape[-1]:.0f}",
            *(
                cell
                for found in (plain, bootstrapped)
                for cell in (f"{100 * found.share(size):.0f} %", f"{found.peaks(size)} / {count}")
            ),
        )
        for size in faces.SIZES
    ]
    error = max(found.error for kind in (plain, bootstrapped) for found in kind.findings)
    return [
        Prose(text.maps_words),
        Formula(MAP),
        Prose(text.maps_exact.format(error=f"{error:.0e}")),
        Prose(
            text.maps_setting.format(
                train=faces.TRAIN,
                networks=count,
                photographs=len(faces.WITHOUT_FACES),
                rounds=ROUNDS,
            )
        ),
        context.draw(
            f"{SLUG}-maps",
            panels(lambda _: rows, (PANEL, PANEL), before),
            text.maps_caption.format(networks=count),
            text.maps_alt,
        ),
        Table(text.maps_title, text.maps_header, table, frozenset(range(1, 6))),
        Prose(
            text.maps_found.format(
                plain=percent(plain.held_out),
                bootstrapped=percent(bootstrapped.held_out),
                plain_share=100 * plain.share(best),
                share=100 * bootstrapped.share(best),
                size=best,
                chance=100 * area,
            )
        ),
        Prose(text.maps_lit if lights_up(bootstrapped, plain) else text.maps_missed),
        Prose(
            text.maps_note.format(
                rows=f"{box.top}–{box.top + box.height}",
                columns=f"{box.left}–{box.left + box.width}",
            ),
            "note",
        ),
    ]


def lights_up(found: Search, before: Search) -> bool:
    """Whether most sizes have their peak on the face, and the best far more of the map than before.

    Both of the averaged map.
    """
    best = max(faces.SIZES, key=found.share)
    hits = sum(faces.peaks_inside(found.averaged[size], found.box) for size in faces.SIZES)
    return 2 * hits > len(faces.SIZES) and found.share(best) > 2 * before.share(best)


def _claims(
    text: Text,
    fc: torch.nn.Linear,
    gap: torch.nn.Linear,
    fits: dict[tuple[str, float], heads.Fit],
    found: Search,
) -> Table:
    names = list(heads.HEADS_COMPARED)
    noisy = heads.WRONG[-1]
    best = max(faces.SIZES, key=found.share)
    counts = heads.weights(fc), heads.weights(gap)
    evidence = (
        f"{counts[0]:,} / {counts[1]:,} = {counts[0] / counts[1]:.1f}",
        ", ".join(f"{image}×{image}" for image in IMAGES),
        f"{percent(fits[names[0], noisy].held_out)} / {percent(fits[names[-1], noisy].held_out)}",
        f"{100 * found.share(best):.0f} %",
    )
    rows = [
        (claim, words.format(shown))
        for (claim, words), shown in zip(text.claims_rows, evidence, strict=True)
    ]
    return Table(text.claims_title, text.claims_header, rows)
