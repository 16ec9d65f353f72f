"""Adaptive pooling: the photograph at several sizes, always the same output grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup

import poolkit.functional as F
from poolkit import shift
from poolkit import window as geometry

from ..draw import blocks
from ..draw_windows import Grid, adaptive_rows, grids
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

SLUG = "adaptive"

# Rows of these lengths go to four outputs: one that four divides, two that it does not, one
# that is shorter than the output.
LENGTHS = (8, 10, 6, 3)
OUTPUTS = 4
SIDE = 7  # of the output grid, as VGG and ResNet end
LARGEST = 448  # pixels of the largest picture drawn
BLOCK = 24  # pixels of a value of the output

HE = (
    "He et al., Spatial pyramid pooling in deep convolutional networks for visual recognition, "
    "2014, arXiv:1406.4729"
)
GIRSHICK = "Girshick, Fast R-CNN, 2015, arXiv:1504.08083"

SNIPPET = """
import torch
import poolkit.functional as F
from poolkit import nn

x = torch.arange(10.).reshape(1, 1, 10)
print(F.adaptive_avg_pool1d(x, 4).flatten().tolist())

head = torch.nn.Sequential(
    nn.AdaptiveAvgPool2d((7, 7)),
    torch.nn.Flatten(),
    torch.nn.Linear(64 * 7 * 7, 10),
)
for size in ((56, 56), (80, 80), (37, 91)):
    print(size, "->", tuple(head(torch.randn(1, 64, *size)).shape))
"""

FORMULA = Markup(
    '<math display="block"><msub><mi>R</mi><mi>i</mi></msub><mo>=</mo><mo>[</mo>'
    "<mo>⌊</mo><mi>i</mi><mi>L</mi><mo>/</mo><mi>O</mi><mo>⌋</mo><mo>,</mo>"
    "<mo>⌈</mo><mo>(</mo><mi>i</mi><mo>+</mo><mn>1</mn><mo>)</mo><mi>L</mi><mo>/</mo><mi>O</mi>"
    "<mo>⌉</mo><mo>)</mo></math>"
)


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    windows: str
    windows_words: Markup
    windows_caption: Markup
    windows_alt: str
    windows_title: str
    windows_header: tuple[str, ...]
    none: str
    windows_note: Markup
    photograph: str
    photograph_words: Markup
    photograph_caption: Markup
    photograph_alt: str
    sizes_title: str
    sizes_header: tuple[str, ...]
    sizes_words: Markup
    where: Markup
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Adaptive pooling",
        lead=Markup(
            "Fixed pooling is told the size of its windows, and the output follows from the input. "
            "<b>Adaptive pooling is told the size of the output</b>, and the windows follow. So a "
            "network takes pictures of any size and still ends in a grid that its last layers can "
            "read. With an output of 1×1 it is global pooling."
        ),
        windows="Where the windows lie",
        windows_words=Markup(
            "Window i of O over an axis of L cells starts at iL/O, rounded down, and ends before "
            "(i+1)L/O, rounded up:"
        ),
        windows_caption=Markup(
            "Rows of {lengths} cells, averaged to {outputs} outputs; a bar for each window. Where "
            "{outputs} divides the length the windows are equal and side by side; where it does "
            "not, neighbours share a cell; a row shorter than the output repeats its cells."
        ),
        windows_alt="Rows of cells with a bar for each adaptive window, and the averages",
        windows_title="Windows to {outputs} outputs",
        windows_header=("Length", "Windows", "Cells of each", "Shared cells", "Averages"),
        none="none",
        windows_note=Markup(
            "Windows are [first, last] cells, counted from 0. No cell is left out, and no window "
            "is empty. A shared cell counts twice, so the mean of the outputs need not be the mean "
            "of the row."
        ),
        photograph="Any photograph, one grid",
        photograph_words=Markup(
            "<b>{name}</b> as it is, at half its size, at an odd size, and two pieces of other "
            "shapes, each pooled to {side}×{side}. Every one of them gives {values} values for "
            "each channel, which is what a linear layer behind it is built for."
        ),
        photograph_caption=Markup(
            "Above, all at one scale, the lines are where windows start. Below, the {side}×{side} "
            "averages. The first three show the same picture and give nearly the same grid; the "
            "pieces show other pictures, so their grids differ, but not in size."
        ),
        photograph_alt="The photograph at five sizes and shapes, and the same output grid of each",
        sizes_title="Five inputs, one output",
        sizes_header=(
            "Input",
            "Rows of a window",
            "Columns of a window",
            "Output",
            "Values without pooling",
            "Values with it",
            "Distance to the first grid",
        ),
        sizes_words=Markup(
            "The last column is the relative L2 distance between the grid and that of the first "
            "row, and is given where the picture is the same. A linear layer for “values without "
            "pooling” fits one of these inputs and refuses the others."
        ),
        where=Markup(
            "The text names detection (YOLO) as the place for it, for inputs of various sizes. In "
            "detectors it is the pooling of regions of interest (Fast R-CNN: adaptive max pooling "
            "of each box) and of pyramids (SPP-net: the whole map to grids of several sizes at "
            "once). YOLO itself, from its second version on, takes any size because it is all "
            "convolutions; its backbones end in the 1×1 case, as classifiers."
        ),
        read_next=(
            ("Global average pooling: one number for each channel", "#global-average"),
            ("Where it is used", "#where-used"),
            (HE, None),
            (GIRSHICK, None),
        ),
    ),
    "ko": Text(
        title="Adaptive Pooling",
        lead=Markup(
            "보통의 Pooling은 윈도우 크기를 정하면 입력에 따라 출력 크기가 정해집니다. <b>Adaptive "
            "Pooling은 출력 크기를 정하고</b> 윈도우를 거기에 맞춥니다. 그래서 어떤 크기의 사진이 "
            "들어와도 마지막 레이어가 읽을 수 있는 같은 크기의 격자로 끝납니다. 출력이 1×1이면 "
            "전역 Pooling입니다."
        ),
        windows="윈도우의 위치",
        windows_words=Markup(
            "길이 L을 출력 O개로 나눌 때 i번째 윈도우는 iL/O를 내림한 칸에서 시작하여 (i+1)L/O를 "
            "올림한 칸 앞에서 끝납니다:"
        ),
        windows_caption=Markup(
            "길이가 {lengths}인 줄을 평균하여 출력 {outputs}개로 만든 것으로, 막대가 각 "
            "윈도우입니다. 길이가 {outputs}로 나누어떨어지면 크기가 같은 윈도우가 나란히 "
            "놓이고, 그렇지 않으면 이웃한 윈도우가 칸을 함께 씁니다. 출력보다 짧은 줄은 칸을 "
            "되풀이해서 씁니다."
        ),
        windows_alt="칸을 늘어놓은 줄과 Adaptive Pooling의 윈도우를 나타내는 막대, 그리고 평균",
        windows_title="출력 {outputs}개의 윈도우",
        windows_header=("길이", "윈도우", "칸 수", "함께 쓰는 칸", "평균"),
        none="없음",
        windows_note=Markup(
            "윈도우는 0부터 센 [첫 칸, 마지막 칸]입니다. 빠지는 칸도 빈 윈도우도 없습니다. 함께 "
            "쓰는 칸은 두 번 세므로 출력의 평균이 줄 전체의 평균과 다를 수 있습니다."
        ),
        photograph="어떤 사진이든 같은 격자로",
        photograph_words=Markup(
            "<b>{name}</b>의 원본, 절반 크기, 어중간한 크기, 그리고 모양이 다른 조각 두 개를 각각 "
            "{side}×{side}로 Pooling했습니다. 모두 채널마다 값이 {values}개이므로 뒤에 오는 FC "
            "layer에 그대로 넣을 수 있습니다."
        ),
        photograph_caption=Markup(
            "위는 모두 같은 배율로 그렸으며 선은 윈도우가 시작하는 곳입니다. 아래는 {side}×{side} "
            "평균입니다. 앞의 셋은 같은 그림이라 격자도 거의 같고, 조각은 다른 그림이라 값은 "
            "다르지만 크기는 같습니다."
        ),
        photograph_alt="크기와 모양이 다른 사진 다섯 장과 각각의 같은 크기 출력 격자",
        sizes_title="입력 다섯 가지, 출력 하나",
        sizes_header=(
            "입력",
            "윈도우의 행",
            "윈도우의 열",
            "출력",
            "Pooling 없을 때 값의 수",
            "있을 때",
            "첫 격자와의 거리",
        ),
        sizes_words=Markup(
            "마지막 열은 첫 행의 격자와의 상대 L2 거리이며 같은 그림일 때만 적었습니다. ‘Pooling "
            "없을 때 값의 수’에 맞춘 FC layer는 이 가운데 하나만 받을 수 있고 나머지는 받지 "
            "못합니다."
        ),
        where=Markup(
            "본문은 주 사용처로 Detection(YOLO)을 들며 다양한 입력 크기에 대응한다고 합니다. "
            "검출기에서는 관심 영역을 Pooling할 때(Fast R-CNN: 상자마다 Adaptive Max Pooling)와 "
            "피라미드를 만들 때(SPP-net: 특징 맵 전체를 여러 크기의 격자로) 씁니다. YOLO는 두 번째 "
            "버전부터 모두 컨볼루션이라 어떤 크기든 받으며, 백본을 분류기로 쓸 때 1×1 출력으로 "
            "끝납니다."
        ),
        read_next=(
            ("Global Average Pooling: 채널마다 숫자 하나", "#global-average"),
            ("어디에 쓰이나", "#where-used"),
            (HE, None),
            (GIRSHICK, None),
        ),
    ),
}


def build(context: Context) -> Section:
    """The windows on rows of numbers, then one grid from five photographs."""
    text = TEXT[context.lang]
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead),
            Heading(text.windows),
            Prose(text.windows_words),
            Formula(FORMULA),
            *_windows(context, text),
            Prose(text.windows_note, "note"),
            Heading(text.photograph),
            Prose(
                text.photograph_words.format(name=context.image_name, side=SIDE, values=SIDE * SIDE)
            ),
            *_photograph(context, text),
            Prose(text.sizes_words),
            Prose(text.where),
            run_snippet(SNIPPET),
            ReadNext(text.read_next),
        ],
    )


# ---- Windows ------------------------------------------------------------------------------------


def windows(length: int, outputs: int) -> list[range]:
    """The cells of every adaptive window over one axis."""
    (axis,) = geometry.adaptive("windows", 1, (1, 1, length), outputs, True).axes
    return geometry.spans(axis)


def _windows(context: Context, text: Text) -> tuple[Figure, Table]:
    cases, lines = [], []
    for length in LENGTHS:
        row = torch.arange(float(length))[None, None]
        spans = windows(length, OUTPUTS)
        averages = F.adaptive_avg_pool1d(row, OUTPUTS).flatten().tolist()
        cases.append((row.flatten().tolist(), spans, averages))
        shared = [cell for cell in range(length) if sum(cell in span for span in spans) > 1]
        lines.append(
            (
                f"{length}",
                " ".join(f"[{span[0]}, {span[-1]}]" for span in spans),
                " ".join(f"{len(span)}" for span in spans),
                " ".join(map(str, shared)) or text.none,
                " ".join(f"{average:g}" for average in averages),
            )
        )
    figure = context.draw(
        f"{SLUG}-windows",
        adaptive_rows(cases),
        text.windows_caption.format(lengths=", ".join(map(str, LENGTHS)), outputs=OUTPUTS),
        text.windows_alt,
    )
    title = text.windows_title.format(outputs=OUTPUTS)
    return figure, Table(title, text.windows_header, lines, frozenset({0}))


# ---- The photograph -----------------------------------------------------------------------------


def inputs(image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The image at three sizes, and two pieces of other shapes from its middle."""
    height, width = image.shape[-2:]
    half, odd = (
        F.adaptive_avg_pool2d(image, (round(height * share), round(width * share)))
        for share in (0.5, 0.35)
    )
    short = min(height, width)
    square = shift.crop(image, (0, 0), (short, short))
    upright = shift.crop(image, (0, 0), (short, short // 2))
    return [image, half, odd], [square, upright]


def _photograph(context: Context, text: Text) -> tuple[Figure, Table]:
    same, pieces = inputs(context.image)
    grow = max(1, round(LARGEST / max(context.image.shape[-2:])))
    cases, lines = [], []
    first = F.adaptive_avg_pool2d(context.image, SIDE)
    for number, image in enumerate([*same, *pieces]):
        height, width = image.shape[-2:]
        rows, columns = windows(height, SIDE), windows(width, SIDE)
        grid = F.adaptive_avg_pool2d(image, SIDE)
        apart = shift.relative_l2(first, grid).item()
        cases.append(
            Grid(
                f"{width}×{height}",
                blocks(image, (height * grow, width * grow)),
                rows,
                columns,
                grow,
                blocks(grid, (SIDE * BLOCK, SIDE * BLOCK)),
            )
        )
        lines.append(
            (
                f"{width}×{height}",
                _lengths(rows),
                _lengths(columns),
                "×".join(map(str, reversed(grid.shape[-2:]))),
                f"{height * width:,}",
                f"{grid.shape[-2] * grid.shape[-1]:,}",
                f"{apart:.2%}" if number < len(same) else "–",
            )
        )
    figure = context.draw(
        f"{SLUG}-photograph",
        grids(cases),
        text.photograph_caption.format(side=SIDE),
        text.photograph_alt,
    )
    return figure, Table(text.sizes_title, text.sizes_header, lines, frozenset({1, 2, 4, 5, 6}))


def _lengths(spans: Sequence[range]) -> str:
    """How many cells the windows have: one number, or the fewest and the most."""
    lengths = sorted({len(span) for span in spans})
    return "–".join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))
