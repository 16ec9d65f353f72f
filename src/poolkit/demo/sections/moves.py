"""Why pool: moves. What a move by a pixel changes, before and after pooling."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup

import poolkit.functional as F
from poolkit import shift

from ...page.theme import Theme
from ..draw import Panel, blocks, heat, panels
from ..draw_windows import moved_rows
from ..moving import FILTERS, MOVES, QUICK_SEEDS, SEEDS, Measured, measure
from ..report import (
    Context,
    Figure,
    Formula,
    Heading,
    Lang,
    Prose,
    ReadNext,
    Section,
    Table,
    run_snippet,
)

SLUG = "moves"

# The row of the text with what stands beside it, and a peak that stays inside its window: a frame
# of four cells moves over them. Zhang's row goes round.
TEXT_ROW = (0.0, 0.0, 5.0, 3.0, 1.0, 0.0)
PEAK = (0.0, 5.0, 0.0, 0.0, 0.0, 0.0)
EDGES = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0)
FRAME = 4

PANEL = 224  # pixels, the width of a picture of differences

ZHANG = "Zhang, Making convolutional networks shift-invariant again, 2019, arXiv:1904.11486"
AZULAY = (
    "Azulay and Weiss, Why do deep convolutional networks generalize so poorly to small image "
    "transformations?, 2019, arXiv:1805.12177"
)

SNIPPET = """
import torch
import poolkit.functional as F
from poolkit import shift

x = torch.tensor([[[0., 0., 1., 1., 0., 0., 1., 1.]]])
moved = shift.roll(x, 1)

pools = {
    "max": lambda x: F.max_pool1d(x, 2),
    "average": lambda x: F.avg_pool1d(x, 2),
    "global average": F.global_avg_pool1d,
}
for name, pool in pools.items():
    before, after = pool(x), pool(moved)
    change = shift.relative_l2(before, after).item()
    print(f"{name:15}{before.flatten().tolist()} -> {after.flatten().tolist()}: {change:.0%}")
"""

DISTANCE = Markup(
    '<math display="block"><mi>d</mi><mo>=</mo><mfrac>'
    "<mrow><mo>‖</mo><mi>f</mi><mo>(</mo><mi>T</mi><mi>x</mi><mo>)</mo><mo>−</mo><mi>f</mi><mo>(</mo><mi>x</mi><mo>)</mo><mo>‖</mo></mrow><mrow><mo>‖</mo><mi>f</mi><mo>(</mo><mi>x</mi><mo>)</mo><mo>‖</mo></mrow></mfrac></math>"
)


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    rows: str
    rows_words: Markup
    rows_caption: Markup
    rows_alt: str
    rows_title: str
    rows_header: tuple[str, ...]
    rows_note: Markup
    photograph: str
    photograph_words: Markup
    measuring: str
    distance_words: Markup
    map_title: str
    gap_title: str
    header: tuple[str, ...]
    none: str
    map_words: Markup
    gap_words: Markup
    pictures_words: Markup
    pictures_caption: Markup
    pictures_alt: str
    stride_words: Markup
    note: Markup
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Why pool: moves",
        lead=Markup(
            "A cat that moves one pixel to the right is still the same cat, but every value of its "
            "feature map now stands one place further. Pooling keeps one value for a small area, "
            "so a move inside that area can go unnoticed. <b>How far does that carry? Less far "
            "than is often said.</b>"
        ),
        rows="A row of numbers",
        rows_words=Markup(
            "The row of the text, <code>{row}</code>, moved by one place is <code>{moved}</code>. "
            "Pooled by windows of two its maxima are <code>{maxima}</code> before and "
            "<code>{moved_maxima}</code> after: a different map. A peak that stays inside its "
            "window, <code>{peak}</code> to <code>{moved_peak}</code>, is the case that pooling is "
            "praised for: the maxima stay <code>{peak_maxima}</code>. And the worst case is an "
            "edge pattern as wide as the windows: <code>{edges}</code> gives "
            "<code>{edges_maxima}</code>, and moved by one <code>{moved_edges_maxima}</code>. Half "
            "of all moves by one place take a peak across the border of its window."
        ),
        rows_caption=Markup(
            "Three rows in windows of two, the maxima below; right, the same rows one place "
            "further. Dashed: maxima that changed. From the top: the row of the text, a peak "
            "inside its window, edges as wide as the windows (this row goes round)."
        ),
        rows_alt="Three rows of numbers with their maxima, before and after a move by one place",
        rows_title="Before and after a move by one place",
        rows_header=("Row", "Operator", "Before", "After", "Change"),
        rows_note=Markup(
            "Change: relative L2, as below. Global pooling loses only what leaves the frame; where "
            "the row goes round, nothing leaves, and nothing changes."
        ),
        photograph="The photograph",
        photograph_words=Markup(
            "A frame of {width}×{height} pixels slides over <b>{name}</b>, to the right and down, "
            "by 1, 2 and 3 pixels; what enters is real, no border is made up. Each piece goes "
            "through the same small stack: {stages} times a 3×3 convolution with {filters} filters "
            "(no padding), ReLU, and one way of halving the map, or none. Strided convolution is "
            "the same filters at every second place. The filters are not trained: they are drawn "
            "from a normal distribution and scaled to length 1, {seeds} times, the same for each "
            "row of the tables."
        ),
        measuring="Moving",
        distance_words=Markup(
            "Compared is the output for the moved piece with that for the unmoved one, value by "
            "value at the same places, as the next layer would see it: 0 % is the same output. For "
            "comparison, the same distance to another photograph (an astronaut, brought to the "
            "same size)."
        ),
        map_title="How much the feature map changes",
        gap_title="How much is left of it after global average pooling",
        header=(
            "Halving",
            "Map",
            "1 pixel",
            "2 pixels",
            "3 pixels",
            "Another photograph",
            "1 pixel, against no halving",
        ),
        none="none",
        map_words=Markup(
            "Means over both directions and {seeds} draws of the filters, with 95 % confidence "
            "intervals over the draws. The last column compares draw by draw: 100 % means that "
            "halving made nothing more robust. Strided convolution passes on every second value as "
            "it is. Max pooling forgets where in its window the peak was, average pooling blurs; "
            "what they let through is in the table, and it is not nothing."
        ),
        gap_words=Markup(
            "Here the text's claim holds best: averaged over the whole map, one number for each "
            "channel is left, and where things are no longer counts. What still changes is what "
            "enters and leaves at the frame, and what falls between the places that a halving "
            "keeps: the last column says how much each halving before the average adds."
        ),
        pictures_words=Markup("Where the maps change, for the first draw of the filters:"),
        pictures_caption=Markup(
            "The unmoved piece, and |moved − unmoved| of its map, the mean over channels, in units "
            "of the map's root mean square; columns are ways of halving (the first one is none), "
            "rows are moves to the right by 1, 2 and 3 pixels. All in one colour scale."
        ),
        pictures_alt="Differences of feature maps after moves by 1, 2 and 3 pixels",
        stride_words=Markup(
            "One kind of move is harmless to all of them: by {total} pixels, the product of the "
            "strides, the map moves by exactly one place and stays the same otherwise (largest "
            "difference, over all halvings: {exact:.1g} of the map's root mean square). Between "
            "these moves it does not; that is aliasing, and its cure is to blur before halving."
        ),
        note=Markup(
            "Shown is what the operators do with random filters on one photograph, not what "
            "training makes of them: trained networks learn to make up for some of it, and still "
            "change their mind when a picture moves by a pixel (Azulay and Weiss, Zhang)."
        ),
        read_next=(
            ("Max and average pooling", "#max-and-average"),
            ("Global average pooling: one number for each channel", "#global-average"),
            (ZHANG, None),
            (AZULAY, None),
        ),
    ),
    "ko": Text(
        title="왜 Pooling인가: 작은 이동",
        lead=Markup(
            "사진에서 고양이가 1픽셀 오른쪽으로 이동했다고 다른 이미지가 되면 안 됩니다. 그런데 "
            "특징 맵의 값은 모두 한 칸씩 옆으로 옮겨집니다. Pooling은 작은 영역의 대표값만 "
            "취하므로 영역 안에서 움직인 것은 알아채지 못합니다. <b>그래서 얼마나 강건해질까요? "
            "흔히 말하는 것보다는 덜합니다.</b>"
        ),
        rows="숫자 한 줄로 보기",
        rows_words=Markup(
            "본문의 <code>{row}</code>을 한 칸 옮기면 <code>{moved}</code>이 됩니다. 두 칸씩 Max "
            "Pooling하면 옮기기 전은 <code>{maxima}</code>, 옮긴 뒤는 "
            "<code>{moved_maxima}</code>로 서로 다른 특징 맵입니다. 최댓값이 같은 윈도우 안에 "
            "머무는 경우(<code>{peak}</code> → <code>{moved_peak}</code>)가 흔히 말하는 장점으로, "
            "결과는 그대로 <code>{peak_maxima}</code>입니다. 가장 나쁜 경우는 윈도우와 폭이 같은 "
            "에지 무늬입니다. <code>{edges}</code>의 결과는 <code>{edges_maxima}</code>인데 한 칸 "
            "옮기면 <code>{moved_edges_maxima}</code>이 됩니다. 한 칸 이동의 절반은 최댓값을 옆 "
            "윈도우로 넘깁니다."
        ),
        rows_caption=Markup(
            "두 칸씩 윈도우로 나눈 세 줄과 그 아래의 최댓값입니다. 오른쪽은 한 칸 옮긴 것이고, "
            "점선은 달라진 최댓값입니다. 위부터 본문의 줄, 윈도우 안에 머무는 최댓값, 윈도우와 "
            "폭이 같은 에지(끝에서 나간 값이 처음으로 돌아옵니다)입니다."
        ),
        rows_alt="한 칸 옮기기 전과 후의 숫자 세 줄과 각각의 최댓값",
        rows_title="한 칸 이동 전과 후",
        rows_header=("줄", "연산", "전", "후", "변화"),
        rows_note=Markup(
            "변화는 아래와 같은 상대 L2 거리입니다. 전역 Pooling은 틀 밖으로 나간 값만 잃으므로, "
            "끝에서 나간 값이 돌아오는 줄에서는 아무것도 변하지 않습니다."
        ),
        photograph="사진으로 보기",
        photograph_words=Markup(
            "<b>{name}</b> 위에서 {width}×{height} 픽셀 틀을 오른쪽과 아래로 1, 2, 3픽셀 옮기며 "
            "잘라냅니다. 새로 들어오는 픽셀도 실제 사진이며 가장자리를 지어내지 않습니다. 조각을 "
            "모두 같은 작은 네트워크에 넣습니다. 3×3 컨볼루션(필터 {filters}개, padding 없음), "
            "ReLU, 그리고 한 가지 축소 방법을 {stages}번 되풀이합니다. Stride Convolution은 같은 "
            "필터를 한 칸씩 건너뛰며 적용한 것입니다. 필터는 학습하지 않고 정규분포에서 뽑아 "
            "길이를 1로 맞추었으며, {seeds}번 새로 뽑되 표의 모든 행에 같은 필터를 썼습니다."
        ),
        measuring="이동 중",
        distance_words=Markup(
            "옮긴 조각의 출력과 옮기지 않은 조각의 출력을 다음 레이어가 보듯 같은 위치의 값끼리 "
            "비교합니다. 0%면 출력이 같습니다. 비교를 위해 전혀 다른 사진(같은 크기로 맞춘 "
            "우주비행사)까지의 거리도 적었습니다."
        ),
        map_title="특징 맵의 변화",
        gap_title="GAP을 거친 뒤에 남은 변화",
        header=(
            "축소 방법",
            "특징 맵",
            "1픽셀",
            "2픽셀",
            "3픽셀",
            "다른 사진",
            "1픽셀, 축소 없음 대비",
        ),
        none="없음",
        map_words=Markup(
            "두 방향과 필터 {seeds}벌의 평균이며, 구간은 필터에 대한 95% 신뢰구간입니다. 마지막 "
            "열은 같은 필터끼리 비교한 것으로, 100%면 축소로 강건해진 것이 없다는 뜻입니다. Stride "
            "Convolution은 한 칸 건너 하나씩 값을 그대로 통과시킵니다. Max Pooling은 윈도우 안의 "
            "위치를 잊고 Average Pooling은 흐릿하게 만듭니다. 그래도 변화가 사라지지는 않습니다."
        ),
        gap_words=Markup(
            "본문의 주장이 가장 잘 맞는 곳입니다. 특징 맵 전체를 평균 내면 채널마다 숫자 하나만 "
            "남고 어디에 있었는지는 중요하지 않습니다. 틀의 가장자리로 드나드는 부분과, 축소할 때 "
            "건너뛰는 위치로 빠지는 부분만 변합니다. 평균을 내기 전의 축소가 변화를 얼마나 "
            "더하는지는 마지막 열에 있습니다."
        ),
        pictures_words=Markup("첫 번째 필터에서 특징 맵이 달라지는 곳입니다:"),
        pictures_caption=Markup(
            "옮기지 않은 조각과, 특징 맵의 |이동 후 − 이동 전|을 채널에 대해 평균한 것입니다. "
            "단위는 특징 맵의 제곱평균제곱근입니다. 열은 축소 방법(첫 열은 축소 없음), 행은 "
            "오른쪽으로 1, 2, 3픽셀 이동이며 색 눈금은 모두 같습니다."
        ),
        pictures_alt="1, 2, 3픽셀 이동에 따른 특징 맵의 차이",
        stride_words=Markup(
            "모든 방법에 해가 없는 이동도 있습니다. stride를 모두 곱한 {total}픽셀만큼 옮기면 특징 "
            "맵은 정확히 한 칸 옮겨질 뿐 그 밖에는 그대로입니다(모든 방법에서 가장 큰 차이: "
            "제곱평균제곱근의 {exact:.1g}). 그 사이의 이동에서는 그렇지 않은데, 이것이 "
            "앨리어싱이며 축소하기 전에 흐리게 하면 줄어듭니다."
        ),
        note=Markup(
            "사진 한 장에 무작위 필터를 쓴 결과이므로 연산 자체의 성질을 보일 뿐, 학습한 "
            "네트워크의 결과는 아닙니다. 학습한 네트워크는 일부를 보완하지만, 그래도 사진이 "
            "1픽셀만 움직이면 답이 바뀌곤 합니다(Azulay와 Weiss, Zhang)."
        ),
        read_next=(
            ("Max Pooling과 Average Pooling", "#max-and-average"),
            ("Global Average Pooling: 채널마다 숫자 하나", "#global-average"),
            (ZHANG, None),
            (AZULAY, None),
        ),
    ),
}


def build(context: Context) -> Section:
    """Three rows of numbers, then the photograph through a small stack."""
    text = TEXT[context.lang]
    measured = measure(context, text.measuring)
    height, width = measured.size
    seeds = len(measured.maps[""])
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead),
            Heading(text.rows),
            *_rows(context, text),
            Prose(text.rows_note, "note"),
            Heading(text.photograph),
            Prose(
                text.photograph_words.format(
                    name=context.image_name,
                    width=width,
                    height=height,
                    stages=measured.stages,
                    filters=FILTERS,
                    seeds=seeds,
                )
            ),
            Formula(DISTANCE),
            Prose(text.distance_words),
            _table(text, text.map_title, measured, measured.maps),
            Prose(text.map_words.format(seeds=seeds)),
            _table(text, text.gap_title, measured, measured.means),
            Prose(text.gap_words),
            Prose(text.pictures_words),
            _pictures(context, text, measured),
            Prose(text.stride_words.format(total=2**measured.stages, exact=measured.exact)),
            Prose(text.note, "note"),
            run_snippet(SNIPPET),
            ReadNext(text.read_next),
        ],
    )


# ---- Rows ---------------------------------------------------------------------------------------


def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each row before and after a move by one place, (1, 1, L)."""
    framed = [
        (shift.crop(row, 0, FRAME), shift.crop(row, 1, FRAME))
        for row in (_line(TEXT_ROW), _line(PEAK))
    ]
    edges = _line(EDGES)
    return [*framed, (edges, shift.roll(edges, 1))]


def _line(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values)[None, None]


ON_ROWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "max 2/2": lambda x: F.max_pool1d(x, 2),
    "avg 2/2": lambda x: F.avg_pool1d(x, 2),
    "stride 2": lambda x: x[..., ::2],
    "global max": F.global_max_pool1d,
    "global avg": F.global_avg_pool1d,
}


def _rows(context: Context, text: Text) -> tuple[Prose, Figure, Table]:
    moved = rows()
    pooled = [tuple(F.max_pool1d(x, 2) for x in pair) for pair in moved]
    names = (
        ("row", "moved", "maxima", "moved_maxima"),
        ("peak", "moved_peak", "peak_maxima", ""),
        ("edges", "", "edges_maxima", "moved_edges_maxima"),
    )
    words = {
        name: _digits(x).replace(" ", "\u00a0")  # a row is not broken across lines
        for of_row, pair, maxima in zip(names, moved, pooled, strict=True)
        for name, x in zip(of_row, (*pair, *maxima), strict=True)
        if name
    }
    figure = context.draw(
        f"{SLUG}-rows",
        moved_rows(
            [
                (_values(a), _values(p), _values(b), _values(q))
                for (a, b), (p, q) in zip(moved, pooled, strict=True)
            ],
            k=2,
        ),
        text.rows_caption,
        text.rows_alt,
    )
    lines = []
    for before, after in moved:
        for name, operator in ON_ROWS.items():
            pair = operator(before), operator(after)
            change = shift.relative_l2(*pair).item()
            lines.append((_digits(before), name, *map(_digits, pair), f"{change:.0%}"))
    return (
        Prose(text.rows_words.format(**words)),
        figure,
        Table(text.rows_title, text.rows_header, lines, frozenset({4})),
    )


def _values(x: torch.Tensor) -> list[float]:
    return x.flatten().tolist()


def _digits(x: torch.Tensor) -> str:
    return " ".join(f"{value:g}" for value in _values(x))


# ---- The photograph -----------------------------------------------------------------------------


def _table(
    text: Text, title: str, measured: Measured, results: dict[str, list[list[float]]]
) -> Table:
    lines = []
    for name, draws in results.items():
        rows, columns = measured.unmoved[name].shape[-2:]
        against = [
            own[0] / plain[0] for own, plain in zip(draws, results[""], strict=True) if plain[0]
        ]
        lines.append(
            (
                name or text.none,
                f"{columns}×{rows}",
                *(_interval(column) for column in zip(*draws, strict=True)),
                _interval(against) if len(against) == len(draws) else "–",
            )
        )
    return Table(title, text.header, lines, frozenset(range(2, 7)))


# Student's t for 95 % by the number of values.
T95 = {QUICK_SEEDS: 4.303, SEEDS: 2.365}


def _interval(values: Sequence[float]) -> str:
    """Mean and half the 95 % confidence interval, in per cent."""
    if not all(map(math.isfinite, values)):  # a flat photograph has a map of zeros
        return "–"
    n = len(values)
    half = T95[n] * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.mean(values)
    digits = 0 if mean >= 0.995 else 1 if mean >= 0.0995 else 2
    return f"{100 * mean:.{digits}f} ± {100 * half:.{digits}f} %"


def _pictures(context: Context, text: Text, measured: Measured) -> Figure:
    height, width = measured.size
    size = (round(height * PANEL / width), PANEL)
    changes = {}
    for name, y in measured.unmoved.items():
        scale = y.square().mean().sqrt().clamp(min=1e-9)
        apart = (measured.moved[name] - y).abs().mean(1, keepdim=True) / scale
        # Adaptive windows fit every map to the panel: means of a large one, blocks of a small one.
        changes[name] = F.adaptive_avg_pool2d(apart, size)[:, 0]
    highest = max(float(change.flatten().quantile(0.995)) for change in changes.values())
    top = max(0.2, math.ceil(5 * highest) / 5)

    before = Panel(f"{width}×{height}", blocks(F.adaptive_avg_pool2d(measured.piece, size), size))

    def rows(theme: Theme) -> Sequence[Sequence[Panel]]:
        return [
            [
                Panel(f"{name or 'conv'}   +{move}", heat(change[number], top, size, theme))
                for name, change in changes.items()
            ]
            for number, move in enumerate(MOVES)
        ]

    return context.draw(
        f"{SLUG}-pictures",
        panels(rows, size, before, bar=("|Δ| / rms", top)),
        text.pictures_caption,
        text.pictures_alt,
    )
