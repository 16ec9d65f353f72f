"""Max and average pooling: the 4 x 4 example by hand, then the photograph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup

import poolkit.functional as F

from ...page.theme import Theme
from ..draw import Panel, blocks, heat, panels, window_example
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

SLUG = "max-and-average"

EXAMPLE = torch.tensor(
    [
        [1.0, 3.0, 2.0, 1.0],
        [5.0, 6.0, 7.0, 8.0],
        [4.0, 2.0, 1.0, 3.0],
        [10.0, 14.0, 12.0, 16.0],
    ]
)
KERNELS = (2, 4, 8, 16)
SHOWN = (4, 8, 16)  # at 2 the whole photograph still looks untouched
DETAIL = (2, 4)
TESTED = 4
LEVELS = 255.0
NOISE = 10.0  # grey levels
SPECKS = 0.01
DRAWS = 5

BOUREAU = (
    "Boureau, Ponce and LeCun, A theoretical analysis of feature pooling in visual recognition, "
    "ICML 2010"
)

SNIPPET = """
import torch
import poolkit.functional as F

x = torch.tensor([[[[1., 3., 2., 1.],
                    [5., 6., 7., 8.],
                    [4., 2., 1., 3.],
                    [10., 14., 12., 16.]]]])

print(F.max_pool2d(x, 2))
print(F.avg_pool2d(x, 2))
"""

# One R for the cells of window (i, j), as in the text.
_WINDOW = "<msub><mi>R</mi><mrow><mi>i</mi><mo>,</mo><mi>j</mi></mrow></msub>"
_INSIDE = "<mrow><mo>(</mo><mi>m</mi><mo>,</mo><mi>n</mi><mo>)</mo><mo>∈</mo>" + _WINDOW + "</mrow>"
_LEFT = "<msub><mi>y</mi><mrow><mi>i</mi><mo>,</mo><mi>j</mi></mrow></msub><mo>=</mo>"
_CELL = "<msub><mi>x</mi><mrow><mi>m</mi><mo>,</mo><mi>n</mi></mrow></msub>"
MAX_FORMULA = Markup(
    f'<math display="block">{_LEFT}<munder><mo movablelimits="false">max</mo>{_INSIDE}</munder>'
    f"<mspace width='0.25em'/>{_CELL}</math>"
)
MEAN_FORMULA = Markup(
    f'<math display="block">{_LEFT}<mfrac><mn>1</mn><mrow><mo>|</mo>{_WINDOW}<mo>|</mo></mrow>'
    f'</mfrac><munder><mo movablelimits="false" largeop="true">∑</mo>{_INSIDE}</munder>'
    f"{_CELL}</math>"
)


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    by_hand: str
    max_words: Markup
    mean_words: Markup
    example_caption: Markup
    example_alt: str
    steps_title: str
    steps_header: tuple[str, ...]
    photograph: str
    photograph_words: Markup
    shown_caption: Markup
    shown_alt: str
    detail_words: Markup
    detail_caption: Markup
    detail_alt: str
    levels_title: str
    levels_header: tuple[str, ...]
    levels_note: Markup
    which: str
    which_title: str
    which_header: tuple[str, ...]
    which_rows: tuple[tuple[str, ...], ...]
    tested_words: Markup
    tested_title: str
    tested_header: tuple[str, ...]
    tested_rows: tuple[str, ...]
    tested_note: Markup
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Max and average pooling",
        lead=Markup(
            "Pooling moves a window over a feature map and keeps one value for each place. There "
            "is nothing to learn. <b>Max pooling</b> keeps the largest value: the strongest "
            "activation, “was there an edge here?” <b>Average pooling</b> keeps the mean: how much "
            "of it there was overall."
        ),
        by_hand="Sixteen numbers by hand",
        max_words=Markup("Max pooling takes the largest value of each window:"),
        mean_words=Markup("Average pooling takes the mean of all of them:"),
        example_caption=Markup(
            "A {side}×{side} input cut into {k}×{k} windows with stride {k}, one colour for each. "
            "Right: the maximum; the filled cells are the ones it came from, all others are "
            "forgotten. Left: the mean, to which every cell contributes. {cells} values become "
            "{kept}: {less:g} % less."
        ),
        example_alt="A grid of numbers in four windows, with the mean and the maximum of each",
        steps_title="The four windows",
        steps_header=("Window", "Cells", "Maximum", "Mean"),
        photograph="The same on a photograph",
        photograph_words=Markup(
            "This is the middle of <b>{name}</b>, fitted to {width}×{height} pixels, its three "
            "channels pooled one by one. Every image is drawn back at the same size with one block "
            "for each value and nothing smoothed, so what is missing from it is really gone."
        ),
        shown_caption=Markup(
            "Before, and after max (above) and average pooling (below) with larger and larger "
            "windows. Max lets bright details grow and turns the picture lighter; average keeps "
            "the brightness and fades the details."
        ),
        shown_alt="The photograph, and its max pooled and average pooled versions",
        detail_words=Markup(
            "Closer: the part of the picture where the two disagree most, as pooling itself finds "
            "it. Small bright details survive max pooling and sink into the average."
        ),
        detail_caption=Markup(
            "A detail of {width}×{height} pixels under {kernels} windows. Last column: maximum "
            "minus mean, in grey levels. It is large where a window holds an edge or texture, and "
            "zero where the picture is flat."
        ),
        detail_alt="A detail before pooling, max pooled, average pooled, and their difference",
        levels_title="What it does to the photograph (grey levels, 0 to 255)",
        levels_header=(
            "Window",
            "Size",
            "Values kept",
            "Brightness, max",
            "Brightness, average",
            "Contrast, max",
            "Contrast, average",
        ),
        levels_note=Markup(
            "Brightness is the mean, contrast the standard deviation over all pixels and channels; "
            "1×1 is the photograph itself. Average pooling cannot change the brightness, max "
            "pooling can only raise it."
        ),
        which="Which one, and when",
        which_title="Max against average",
        which_header=("", "Max pooling", "Average pooling"),
        which_rows=(
            ("Action", "picks the maximum", "computes the mean"),
            ("Keeps", "the strongest activation", "the average of all information"),
            ("Good at", "edges, textures", "smooth features"),
            ("Mostly used", "middle layers of a CNN", "global pooling, the last layer"),
        ),
        tested_words=Markup(
            "This table is the text's. Put to the test, its third row is half the truth: max "
            "pooling keeps a thin <b>bright</b> line whole and loses a dark one. And “robust to "
            "noise”, which the text says of max pooling, holds for specks <b>darker</b> than what "
            "is around them; brighter ones, and noise in general, win the maximum. Behind a ReLU "
            "that is often fine, because there what is strong is what was found."
        ),
        tested_title="The same claims, measured ({k}×{k} windows)",
        tested_header=("What", "Before", "Max pooling", "Average pooling"),
        tested_rows=(
            "Bright line, one pixel wide: contrast",
            "Dark line, one pixel wide: contrast",
            "Noise on the photograph, standard deviation {noise:g}",
            "Dark specks on {share:.0%} of it",
            "Bright specks on {share:.0%} of it",
        ),
        tested_note=Markup(
            "Lines of {levels:g} grey levels against 0, and the other way round; the rest is the "
            "root mean square change of the output in grey levels, over {draws} draws of the "
            "noise. “Before” is the same without pooling."
        ),
        read_next=(
            ("Global average pooling: one number for each channel", "#global-average"),
            ("Why pool: small moves", "#moves"),
            (BOUREAU, None),
        ),
    ),
    "ko": Text(
        title="Max Pooling과 Average Pooling",
        lead=Markup(
            "Pooling은 특징 맵 위에서 윈도우를 옮겨 가며 영역마다 <b>대표값</b> 하나만 남깁니다. "
            "학습 파라미터는 없습니다. <b>Max Pooling</b>은 가장 큰 값, 즉 가장 강한 활성화를 "
            "남깁니다(“이 영역에 에지가 있었나?”). <b>Average Pooling</b>은 평균, 즉 영역 전체의 "
            "분포를 남깁니다."
        ),
        by_hand="숫자 16개로 따라 해 보기",
        max_words=Markup("Max Pooling은 영역 내에서 가장 큰 값만 선택합니다:"),
        mean_words=Markup("Average Pooling은 영역 내 모든 값의 평균을 구합니다:"),
        example_caption=Markup(
            "{side}×{side} 입력을 stride {k}인 {k}×{k} 윈도우로 나누고 윈도우마다 다른 색을 "
            "칠했습니다. 오른쪽은 최댓값입니다. 색을 채운 칸이 최댓값이 나온 자리이고 나머지는 "
            "버려집니다. 왼쪽은 평균이며 모든 칸이 반영됩니다. 값 {cells}개가 {kept}개로 "
            "줄었습니다({less:g}% 축소)."
        ),
        example_alt="네 개의 윈도우로 나눈 숫자 격자와 각 윈도우의 평균과 최댓값",
        steps_title="윈도우 네 개의 계산",
        steps_header=("윈도우", "값", "최댓값", "평균"),
        photograph="사진에 적용하면",
        photograph_words=Markup(
            "아래는 사진 <b>{name}</b>의 가운데를 {width}×{height} 픽셀에 맞춘 것으로, 세 채널을 "
            "각각 Pooling했습니다. 결과는 모두 원본과 같은 크기로 그리되 값 하나를 블록 하나로 "
            "나타내고 보간하지 않았습니다. 그림에서 사라진 것은 실제로 버려진 정보입니다."
        ),
        shown_caption=Markup(
            "원본과, 윈도우를 점점 키운 Max Pooling(위)과 Average Pooling(아래)의 결과입니다. "
            "Max는 밝은 특징이 커지면서 사진이 전체적으로 밝아지고, Average는 밝기를 유지하는 대신 "
            "세부가 흐려집니다."
        ),
        shown_alt="원본 사진과 Max Pooling, Average Pooling 결과",
        detail_words=Markup(
            "가까이서 보겠습니다. 두 결과가 가장 크게 다른 부분을 Pooling으로 직접 찾았습니다. "
            "작고 밝은 특징은 Max Pooling에서는 살아남지만 평균을 내면 묻혀 버립니다."
        ),
        detail_caption=Markup(
            "{width}×{height} 픽셀 영역을 {kernels} 윈도우로 Pooling한 결과입니다. 마지막 열은 "
            "최댓값에서 평균을 뺀 값(밝기 단위)입니다. 에지나 텍스처가 있는 윈도우에서는 크고, "
            "평평한 곳에서는 0에 가깝습니다."
        ),
        detail_alt="사진 일부의 원본, Max Pooling, Average Pooling 결과와 그 차이",
        levels_title="사진은 어떻게 달라졌나 (밝기 0~255)",
        levels_header=(
            "윈도우",
            "크기",
            "남은 값",
            "밝기 (Max)",
            "밝기 (Average)",
            "대비 (Max)",
            "대비 (Average)",
        ),
        levels_note=Markup(
            "밝기는 모든 픽셀과 채널의 평균, 대비는 표준편차이며 1×1은 원본 사진입니다. Average "
            "Pooling은 평균 밝기를 바꾸지 않고, Max Pooling은 밝기를 높이기만 합니다."
        ),
        which="언제 무엇을 쓰나",
        which_title="Max vs Average 비교",
        which_header=("비교", "Max Pooling", "Average Pooling"),
        which_rows=(
            ("동작", "최댓값 선택", "평균값 계산"),
            ("특징", "가장 강한 활성화 유지", "전체 정보의 평균 유지"),
            ("장점", "에지, 텍스처에 강함", "부드러운 특징"),
            ("주 사용처", "CNN 중간 레이어", "Global Pooling, 마지막 레이어"),
        ),
        tested_words=Markup(
            "위의 표는 본문에 나온 것입니다. 직접 재어 보면 셋째 행은 절반만 맞습니다. Max "
            "Pooling은 가는 <b>밝은</b> 선을 그대로 남기지만 어두운 선은 지워 버립니다. 본문은 Max "
            "Pooling이 잡음에 강건하다고도 하는데, 주변보다 <b>어두운</b> 점에만 맞는 말입니다. "
            "밝은 점과 일반적인 잡음은 최댓값으로 뽑힙니다. ReLU 뒤에서는 강한 값이 곧 찾은 "
            "특징이므로 대개 문제가 되지 않습니다."
        ),
        tested_title="같은 주장을 재어 보면 ({k}×{k} 윈도우)",
        tested_header=("무엇을", "Pooling 전", "Max Pooling", "Average Pooling"),
        tested_rows=(
            "한 픽셀 폭의 밝은 선: 대비",
            "한 픽셀 폭의 어두운 선: 대비",
            "사진에 더한 잡음, 표준편차 {noise:g}",
            "사진의 {share:.0%}에 찍은 어두운 점",
            "사진의 {share:.0%}에 찍은 밝은 점",
        ),
        tested_note=Markup(
            "선은 밝기 0 위의 {levels:g}, 그리고 그 반대입니다. 나머지는 출력 변화의 "
            "제곱평균제곱근(밝기 단위)이며 잡음을 {draws}번 새로 뽑아 계산했습니다. ‘Pooling 전’은 "
            "Pooling하지 않은 경우입니다."
        ),
        read_next=(
            ("Global Average Pooling: 채널마다 숫자 하나", "#global-average"),
            ("왜 Pooling인가: 작은 이동", "#moves"),
            (BOUREAU, None),
        ),
    ),
}


def build(context: Context) -> Section:
    """The example by hand, the photograph under both operators, and when to use which."""
    text = TEXT[context.lang]
    height, width = context.image.shape[-2:]
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead),
            Heading(text.by_hand),
            Prose(text.max_words),
            Formula(MAX_FORMULA),
            Prose(text.mean_words),
            Formula(MEAN_FORMULA),
            *_example(context, text),
            Heading(text.photograph),
            Prose(
                text.photograph_words.format(name=context.image_name, width=width, height=height)
            ),
            _photograph(context, text),
            Prose(text.detail_words),
            _detail(context, text),
            _levels(context, text),
            Prose(text.levels_note, "note"),
            Heading(text.which),
            Table(text.which_title, text.which_header, text.which_rows),
            Prose(text.tested_words),
            _tested(context, text),
            Prose(text.tested_note.format(levels=LEVELS, draws=DRAWS), "note"),
            run_snippet(SNIPPET),
            ReadNext(text.read_next),
        ],
    )


def _example(context: Context, text: Text) -> tuple[Figure, Table]:
    k = 2
    maximum = F.max_pool2d(EXAMPLE[None, None], k)[0, 0]
    mean = F.avg_pool2d(EXAMPLE[None, None], k)[0, 0]
    side, cells, kept = EXAMPLE.shape[0], EXAMPLE.numel(), maximum.numel()
    figure = context.draw(
        f"{SLUG}-example",
        window_example(EXAMPLE, k, mean, maximum),
        text.example_caption.format(
            side=side, k=k, cells=cells, kept=kept, less=100 * (1 - kept / cells)
        ),
        text.example_alt,
    )
    rows = []
    for i in range(maximum.shape[0]):
        for j in range(maximum.shape[1]):
            window = EXAMPLE[i * k : (i + 1) * k, j * k : (j + 1) * k].flatten().tolist()
            values = [f"{value:g}" for value in window]
            total = f"({' + '.join(values)}) / {len(values)}"
            rows.append(
                (
                    f"({i}, {j})",
                    ", ".join(values),
                    f"{float(maximum[i, j]):g}",
                    f"{total} = {float(mean[i, j]):g}",
                )
            )
    return figure, Table(text.steps_title, text.steps_header, rows, frozenset({2, 3}))


def _photograph(context: Context, text: Text) -> Figure:
    image = context.image
    size = _panel_size(image, 448)

    before = Panel(_label("", image), blocks(image, size))

    def rows(_: Theme) -> Sequence[Sequence[Panel]]:
        return [[_pooled(op, image, k, size) for k in SHOWN] for op in ("max", "avg")]

    return context.draw(
        f"{SLUG}-photograph", panels(rows, size, before), text.shown_caption, text.shown_alt
    )


def _detail(context: Context, text: Text) -> Figure:
    detail = most_telling(context.image)
    size = _panel_size(detail, 400)
    differences = {
        k: (F.max_pool2d(detail, k) - F.avg_pool2d(detail, k)).mean(1)[0] for k in DETAIL
    }
    top = float(max(difference.max() for difference in differences.values()))
    top = max(10.0, -(-top // 10) * 10)  # the next full ten, for a round end of the scale

    before = Panel(_label("", detail), blocks(detail, size))

    def rows(theme: Theme) -> Sequence[Sequence[Panel]]:
        return [
            [
                _pooled("max", detail, k, size),
                _pooled("avg", detail, k, size),
                Panel("max − avg", heat(differences[k], top, size, theme)),
            ]
            for k in DETAIL
        ]

    height, width = detail.shape[-2:]
    kernels = ", ".join(f"{k}×{k}" for k in DETAIL)
    return context.draw(
        f"{SLUG}-detail",
        panels(rows, size, before, bar=("max − avg", top)),
        text.detail_caption.format(width=width, height=height, kernels=kernels),
        text.detail_alt,
    )


def _pooled(op: str, image: torch.Tensor, k: int, size: tuple[int, int]) -> Panel:
    small = F.max_pool2d(image, k) if op == "max" else F.avg_pool2d(image, k)
    return Panel(_label(f"{op} {k}×{k}", small), blocks(small, size))


def _label(operator: str, image: torch.Tensor) -> str:
    height, width = image.shape[-2:]
    return f"{operator}   {width}×{height}".strip()


def _panel_size(image: torch.Tensor, wanted: int) -> tuple[int, int]:
    """A whole multiple of the image's size, about ``wanted`` pixels on its longer side."""
    height, width = image.shape[-2:]
    grow = max(1, round(wanted / max(height, width)))
    return height * grow, width * grow


def most_telling(image: torch.Tensor, share: float = 0.28) -> torch.Tensor:
    """The part of the image where max and average pooling differ most, ``share`` of each side."""
    k = 4
    difference = (F.max_pool2d(image, k) - F.avg_pool2d(image, k)).mean(1, keepdim=True)
    sizes = [max(4, round(extent * share)) for extent in difference.shape[-2:]]
    # Squared, so that a few strong differences (an eye) win over many weak ones (fur).
    scores = F.avg_pool2d(difference.square(), sizes, stride=1)
    row, column = divmod(int(scores.argmax()), scores.shape[-1])
    return image[
        :, :, row * k : (row + sizes[0]) * k, column * k : (column + sizes[1]) * k
    ].contiguous()


def _levels(context: Context, text: Text) -> Table:
    image = context.image
    rows = []
    for k in (1, *KERNELS):
        largest = F.max_pool2d(image, k)
        mean = F.avg_pool2d(image, k)
        height, width = largest.shape[-2:]
        rows.append(
            (
                f"{k}×{k}",
                f"{width}×{height}",
                f"{100 * largest.numel() / image.numel():.3g} %",
                f"{float(largest.mean()):.1f}",
                f"{float(mean.mean()):.1f}",
                f"{float(largest.std()):.1f}",
                f"{float(mean.std()):.1f}",
            )
        )
    return Table(text.levels_title, text.levels_header, rows, frozenset(range(1, 7)))


def _tested(context: Context, text: Text) -> Table:
    """What both keep of a thin line, and let through of noise."""
    words = [row.format(noise=NOISE, share=SPECKS) for row in text.tested_rows]
    pools: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x,
        lambda x: F.max_pool2d(x, TESTED),
        lambda x: F.avg_pool2d(x, TESTED),
    ]
    line = torch.zeros(1, 1, 4 * TESTED, 4 * TESTED)
    line[..., TESTED + 1] = LEVELS
    contrasts = [
        [f"{float(y.max() - y.min()) / LEVELS:.0%}" for y in (pool(x) for pool in pools)]
        for x in (line, LEVELS - line)
    ]
    changes = [
        [f"{change:.2f}" for change in noise_let_through(context.image, pools, spoil)]
        for spoil in (_noisy, _specks(0.0), _specks(LEVELS))
    ]
    rows = [(word, *row) for word, row in zip(words, contrasts + changes, strict=True)]
    title = text.tested_title.format(k=TESTED)
    return Table(title, text.tested_header, rows, frozenset({1, 2, 3}))


def noise_let_through(
    image: torch.Tensor,
    pools: Sequence[Callable[[torch.Tensor], torch.Tensor]],
    spoil: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
) -> list[float]:
    """Root mean square change of every pool's output when ``spoil`` spoils its input."""
    generator = torch.Generator().manual_seed(0)
    squares = [0.0] * len(pools)
    for _ in range(DRAWS):
        spoilt = spoil(image, generator)
        for number, pool in enumerate(pools):
            squares[number] += float((pool(spoilt) - pool(image)).square().mean()) / DRAWS
    return [square**0.5 for square in squares]


def _noisy(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return image + NOISE * torch.randn(image.shape, generator=generator)


def _specks(level: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """Specks of one grey level, in all channels, on a share of the pixels."""

    def spoil(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        speck = torch.rand(image.shape[-2:], generator=generator) < SPECKS
        return image.masked_fill(speck, level)

    return spoil
