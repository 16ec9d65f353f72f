"""Why pool: cost. What a convolution costs on a large map, and what halving the map saves."""

import math
from dataclasses import dataclass

from markupsafe import Markup

from poolkit import cost
from poolkit.cost import Cost

from ..draw import Bars, bar_pairs
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

SLUG = "cost"

CHANNELS, SIDE, KERNEL = 256, 56, 3
SIDES = (56, 28, 14, 7)
# The convolutions of VGG16: filters, and how many layers of them between two poolings.
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
VGG16_SIDE = 224

VGG = (
    "Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, "
    "2014, arXiv:1409.1556"
)

SNIPPET = """
from poolkit import cost

large = cost.conv((1, 256, 56, 56), out_channels=1, kernel_size=3, padding=1)
pool = cost.max_pool((1, 256, 56, 56), kernel_size=2)
small = cost.conv(pool.output_shape, out_channels=1, kernel_size=3, padding=1)

print(f"{large.multiply_adds:,} multiplications per filter, on {large.output_shape[2:]}")
print(f"{small.multiply_adds:,} after pooling, on {small.output_shape[2:]}")
print(f"{pool.comparisons:,} comparisons in the pooling itself")
"""


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    filter: str
    filter_words: Markup
    filter_title: str
    filter_header: tuple[str, ...]
    filter_note: Markup
    stage: str
    stage_words: Markup
    stage_title: str
    stage_header: tuple[str, ...]
    stage_note: Markup
    network: str
    network_words: Markup
    network_caption: Markup
    network_alt: str
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Why pool: cost",
        lead=Markup(
            "A convolutional network adds channels from layer to layer, and every filter looks at "
            "all of them, at every place of the map. On a large map the multiplications run away. "
            "<b>Halve both sides of the map and a quarter of them is left.</b>"
        ),
        filter="One filter",
        filter_words=Markup(
            "In the middle of a ResNet a {k}×{k} filter reads {channels} channels of {side}×{side} "
            "values. Each value that it computes takes {k}×{k}×{channels} = <b>{per_value}</b> "
            "multiplications, and it computes {values} of them:"
        ),
        filter_title="Multiplications of one 3×3 filter over 256 channels",
        filter_header=(
            "Map",
            "Per value",
            "Values",
            "Multiplications of one filter",
            "Of 256 filters",
            "Share",
        ),
        filter_note=Markup(
            "Counted as everyone counts: also those on the padding, each with its addition (one "
            "multiply-add, MAC). FLOPs are twice as many."
        ),
        stage="What the pooling costs, and what it pays for",
        stage_words=Markup(
            "Pooling itself multiplies nothing and learns nothing. A 2×2 maximum takes three "
            "comparisons for each value it keeps, {comparisons} here: {share:.2g} % of what the "
            "layer before it multiplies. What it saves is usually spent again: networks double the "
            "channels where they halve the map, and the last row is back at {ratio:.0%} of the "
            "layer before the pooling."
        ),
        stage_title="A layer, a pooling, and the layer after it",
        stage_header=(
            "Stage",
            "Input",
            "Output",
            "Multiply-adds",
            "Comparisons",
            "Parameters",
            "Output bytes",
        ),
        stage_note=Markup(
            "All from <code>poolkit.cost</code>, which takes sizes of your own. Bytes are those of "
            "one image in float32; parameters include a bias for each filter."
        ),
        network="A whole network",
        network_words=Markup(
            "VGG16 halves the map five times. Its thirteen convolutions take {pooled} "
            "multiply-adds for an image of {side}×{side}. Without any pooling the same "
            "convolutions would take {plain}, <b>{times:.3g} times as many</b>, and the map that "
            "they leave would have {places} places instead of {left}."
        ),
        network_caption=Markup(
            "Multiply-adds of the convolutions in each of VGG16's five blocks, on a logarithmic "
            "scale: without pooling, and with a 2×2 max pooling after each block. The number at "
            "the end of each pair is their ratio; it grows fourfold with every pooling."
        ),
        network_alt="Bar chart of the multiply-adds of VGG16's blocks with and without pooling",
        read_next=(
            ("Why pool: moves", "#moves"),
            (
                "Strided convolution, which halves the map and multiplies at once",
                "#strided-convolution",
            ),
            (VGG, None),
        ),
    ),
    "ko": Text(
        title="왜 Pooling인가: 연산량",
        lead=Markup(
            "Conv2d를 여러 번 거치면 채널 수가 계속 늘어나고, 필터는 특징 맵의 모든 위치에서 모든 "
            "채널을 봅니다. 특징 맵이 크면 연산량이 폭발합니다. <b>공간 크기를 절반으로 줄이면 "
            "연산량이 1/4로 줄어듭니다.</b>"
        ),
        filter="필터 하나",
        filter_words=Markup(
            "ResNet 중간 단계에서 {k}×{k} 필터는 {side}×{side} 크기의 채널 {channels}개를 "
            "읽습니다. 하나의 값에 대해 {k}×{k}×{channels} = <b>{per_value}</b>번 곱셈하고, 그런 "
            "값을 {values}개 계산합니다:"
        ),
        filter_title="채널 256개를 보는 3×3 필터 1개의 곱셈 수",
        filter_header=(
            "특징 맵",
            "값 하나당",
            "값의 수",
            "필터 1개의 곱셈",
            "필터 256개",
            "비율",
        ),
        filter_note=Markup(
            "흔히 세는 방식대로 padding 위의 곱셈도 포함하며, 곱셈 한 번은 덧셈 한 번과 짝을 "
            "이룹니다(MAC). FLOPs로는 두 배입니다."
        ),
        stage="Pooling에 드는 것과 아끼는 것",
        stage_words=Markup(
            "Pooling 자체는 곱셈도 학습 파라미터도 없습니다. 2×2 최댓값은 남기는 값 하나마다 비교 "
            "세 번이면 되므로 여기서는 {comparisons}번, 바로 앞 레이어 곱셈의 {share:.2g}%에 "
            "불과합니다. 이렇게 아낀 연산은 보통 다시 씁니다. 특징 맵을 절반으로 줄일 때 채널 수를 "
            "두 배로 늘리기 때문입니다. 마지막 행이 그 경우로, 연산량이 다시 Pooling 앞 레이어의 "
            "{ratio:.0%}가 됩니다."
        ),
        stage_title="레이어, Pooling, 그다음 레이어",
        stage_header=(
            "단계",
            "입력",
            "출력",
            "곱셈-덧셈",
            "비교",
            "파라미터",
            "출력 바이트",
        ),
        stage_note=Markup(
            "모두 <code>poolkit.cost</code>로 계산했으며 원하는 크기를 넣어 볼 수 있습니다. "
            "바이트는 이미지 한 장, float32 기준이고 파라미터에는 필터마다 bias 하나가 포함됩니다."
        ),
        network="네트워크 전체",
        network_words=Markup(
            "VGG16은 특징 맵을 다섯 번 절반으로 줄입니다. {side}×{side} 이미지에서 컨볼루션 13개의 "
            "곱셈은 모두 {pooled}번입니다. Pooling이 전혀 없다면 같은 컨볼루션에 {plain}번, 즉 "
            "<b>{times:.3g}배</b>가 필요하고 마지막 특징 맵의 위치도 {left}곳이 아니라 "
            "{places}곳이 됩니다."
        ),
        network_caption=Markup(
            "VGG16의 블록 다섯 개에서 컨볼루션의 곱셈-덧셈 수(로그 눈금)입니다. 위 막대는 "
            "Pooling이 없을 때, 아래 막대는 블록마다 2×2 Max Pooling을 할 때이며 끝의 숫자는 둘의 "
            "비율입니다. Pooling을 할 때마다 비율이 네 배가 됩니다."
        ),
        network_alt="VGG16 블록별 곱셈-덧셈 수를 Pooling 유무로 비교한 막대그래프",
        read_next=(
            ("왜 Pooling인가: 작은 이동", "#moves"),
            ("Stride Convolution: 줄이면서 동시에 계산하기", "#strided-convolution"),
            (VGG, None),
        ),
    ),
}


def build(context: Context) -> Section:
    """One filter by hand, a layer with its pooling, and a whole network with and without."""
    text = TEXT[context.lang]
    large = _filter(SIDE)
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead),
            Heading(text.filter),
            Prose(
                text.filter_words.format(
                    k=KERNEL,
                    channels=CHANNELS,
                    side=SIDE,
                    per_value=f"{large.parameters:,}",
                    values=f"{math.prod(large.output_shape):,}",
                )
            ),
            Formula(_formula(large)),
            _filters(text),
            Prose(text.filter_note, "note"),
            Heading(text.stage),
            *_stages(text),
            Prose(text.stage_note, "note"),
            Heading(text.network),
            *_network(context, text),
            run_snippet(SNIPPET),
            ReadNext(text.read_next),
        ],
    )


def _filter(side: int) -> Cost:
    return cost.conv((1, CHANNELS, side, side), 1, KERNEL, padding=KERNEL // 2, bias=False)


def _formula(one: Cost) -> Markup:
    factors = [KERNEL, KERNEL, CHANNELS, *one.output_shape[2:]]
    product = "<mo>×</mo>".join(f"<mn>{factor}</mn>" for factor in factors)
    return Markup(f'<math display="block">{product}<mo>=</mo><mn>{one.multiply_adds:,}</mn></math>')


def _filters(text: Text) -> Table:
    first = _filter(SIDES[0]).multiply_adds
    rows = []
    for side in SIDES:
        one = _filter(side)
        rows.append(
            (
                f"{side}×{side}",
                f"{one.parameters:,}",
                f"{math.prod(one.output_shape):,}",
                f"{one.multiply_adds:,}",
                f"{one.multiply_adds * CHANNELS:,}",
                f"1/{first // one.multiply_adds}" if one.multiply_adds < first else "1",
            )
        )
    return Table(text.filter_title, text.filter_header, rows, frozenset(range(1, 6)))


def _stages(text: Text) -> tuple[Prose, Table]:
    def conv(shape: tuple[int, ...], channels: int) -> Cost:
        return cost.conv((*shape[:1], channels, *shape[2:]), channels, KERNEL, padding=1)

    before = conv((1, CHANNELS, SIDE, SIDE), CHANNELS)
    pool = cost.max_pool(before.output_shape, 2)
    after, wider = (conv(pool.output_shape, channels) for channels in (CHANNELS, 2 * CHANNELS))
    named = [
        (f"conv {KERNEL}×{KERNEL}", before),
        ("max 2/2", pool),
        (f"conv {KERNEL}×{KERNEL}", after),
        (f"conv {KERNEL}×{KERNEL}, C × 2", wider),
    ]
    rows = []
    for name, stage in named:
        channels, *sides = stage.output_shape[1:]
        source = [side * 2 for side in sides] if stage is pool else sides
        rows.append(
            (
                name,
                "×".join(map(str, (channels, *source))),
                "×".join(map(str, (channels, *sides))),
                f"{stage.multiply_adds:,}",
                f"{stage.comparisons:,}",
                f"{stage.parameters:,}",
                f"{stage.output_bytes:,}",
            )
        )
    words = text.stage_words.format(
        comparisons=f"{pool.comparisons:,}",
        share=100 * pool.comparisons / before.multiply_adds,
        ratio=wider.multiply_adds / before.multiply_adds,
    )
    return Prose(words), Table(text.stage_title, text.stage_header, rows, frozenset(range(3, 7)))


def vgg16(pooled: bool) -> tuple[list[int], int]:
    """Multiply-adds of the convolutions in each block of VGG16, and the places of the last map."""
    shape: tuple[int, ...] = (1, 3, VGG16_SIDE, VGG16_SIDE)
    blocks = []
    for filters, layers in VGG16:
        total = 0
        for _ in range(layers):
            stage = cost.conv(shape, filters, 3, padding=1)
            total += stage.multiply_adds
            shape = stage.output_shape
        if pooled:
            shape = cost.max_pool(shape, 2).output_shape
        blocks.append(total)
    return blocks, math.prod(shape[2:])


def _network(context: Context, text: Text) -> tuple[Prose, Figure]:
    plain, places = vgg16(pooled=False)
    pooled, left = vgg16(pooled=True)
    words = text.network_words.format(
        side=VGG16_SIDE,
        pooled=f"{sum(pooled):,}",
        plain=f"{sum(plain):,}",
        times=sum(plain) / sum(pooled),
        places=f"{places:,}",
        left=left,
    )
    chart = Bars(
        "VGG16",
        "multiply-adds",
        [float(count) for count in plain],
        [float(count) for count in pooled],
        [f"×{a // b}" for a, b in zip(plain, pooled, strict=True)],
    )
    labels = [
        f"block {block}   {layers} × conv 3×3\n{filters} channels"
        for block, (filters, layers) in enumerate(VGG16, start=1)
    ]
    drawing = bar_pairs([chart], labels, ("conv", "conv + max 2/2"), floor=1e8)
    return Prose(words), context.draw(
        f"{SLUG}-network", drawing, text.network_caption, text.network_alt
    )
