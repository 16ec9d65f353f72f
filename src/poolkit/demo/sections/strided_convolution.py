"""Strided convolution against pooling: the text's two stacks, its table, and its advice tested."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .. import downsampling
from ..charts import Costs, Dots, cost_bars, dots
from ..downsampling import CONTESTANTS, INPUT, STACKS, TRAIN, Cost
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
from ..training import Interval, percent

SLUG = "strided-convolution"

SECONDS = 5.0  # of timing
SEEDS = 8

SNIPPET = """
import torch
from poolkit import nn

traditional = torch.nn.Sequential(
    torch.nn.Conv2d(64, 64, 3, padding=1),
    torch.nn.ReLU(),
    nn.MaxPool2d(2, 2),
)
modern = torch.nn.Sequential(
    torch.nn.Conv2d(64, 64, 3, stride=2, padding=1),
    torch.nn.ReLU(),
)

x = torch.randn(1, 64, 56, 56)
for stack in (traditional, modern):
    weights = sum(parameter.numel() for parameter in stack.parameters())
    print(tuple(x.shape), "->", tuple(stack(x).shape), f"{weights:,} parameters")
"""

COUNT = Markup(
    '<math display="block"><mtext>multiply-adds</mtext><mo>=</mo><msub><mi>C</mi><mtext>in</mtext>'
    "</msub><mo>·</mo><msub><mi>C</mi><mtext>out</mtext></msub><mo>·</mo><mi>k</mi><mo>·</mo><mi>k</mi><mo>·</mo><msub><mi>H</mi><mtext>out</mtext></msub><mo>·</mo><msub><mi>W</mi><mtext>out</mtext></msub></math>"
)


PAPERS = (
    (
        (
            "Springenberg et al., “Striving for Simplicity: The All Convolutional Net”, 2014, "
            "arXiv:1412.6806"
        ),
        None,
    ),
    (
        (
            "He et al., “Bag of Tricks for Image Classification with Convolutional Neural "
            "Networks”, 2018, arXiv:1812.01187 (ResNet-D)"
        ),
        None,
    ),
)


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    stacks: str
    stacks_found: Markup
    stacks_caption: Markup
    stacks_alt: str
    stacks_title: str
    stacks_header: tuple[str, ...]
    stacks_note: Markup
    table: str
    table_title: str
    table_header: tuple[str, ...]
    table_rows: tuple[tuple[str, ...], ...]
    table_note: Markup
    advice: str
    timing: str
    training: str
    advice_words: Markup
    advice_caption: Markup
    advice_alt: str
    advice_title: str
    advice_header: tuple[str, ...]
    advice_better: Markup
    advice_worse: Markup
    advice_open: Markup
    advice_note: Markup
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Strided convolution against pooling",
        lead=Markup(
            "Lately many networks use a <b>convolution with stride 2</b> in place of max pooling: "
            "downsampling that can be learned. These are the text's two stacks, which both turn "
            "<code>{before}</code> into <code>{after}</code>. The cost of a convolution is set by "
            "its output:"
        ),
        stacks="Two stacks, one shape",
        stacks_found=Markup(
            "Both have the same {parameters:,} parameters: a pool has none, and the convolution "
            "has its own either way. The difference is <i>where</i> it computes. The strided one "
            "does {strided:,} multiply-adds in place of {pooled:,}, a factor of {ratio:g}: it "
            "leaves out what pooling would have thrown away, before knowing what that is."
        ),
        stacks_caption=Markup(
            "What one forward pass (and one with backward) of the two stacks costs on this "
            "machine, the first with torch's and with poolkit's pool. Shorter is better; each "
            "panel starts at zero."
        ),
        stacks_alt="Bars of multiply-adds, times and saved bytes of the stacks",
        stacks_title="The stacks on (1, 64, 56, 56)",
        stacks_header=(
            "Stack",
            "Output",
            "Parameters",
            "Multiply-adds",
            "Forward (ms)",
            "+ backward (ms)",
            "Saved (bytes)",
        ),
        stacks_note=Markup(
            "Times are medians, the stacks taking turns. Saved for the backward pass are the "
            "convolution's input and weights, the ReLU's output, which is four times as large "
            "before a pool, and what the pool itself keeps. Biases and ReLU are not counted as "
            "multiply-adds, and a max has only comparisons."
        ),
        table="The text's table, checked",
        table_title="Max pooling against strided convolution",
        table_header=("", "Max pooling", "Strided convolution", "Checked here"),
        table_rows=(
            (
                "Parameters",
                "none",
                "yes (the kernel)",
                "{pool} against {conv:,}; whole stacks {parameters:,} each",
            ),
            ("Learns", "no", "yes", "tensors with a gradient: {pool_learns} against {conv_learns}"),
            (
                "Keeps",
                "the maximum only",
                "a learned combination",
                "weights 1/4 give average pooling to {average}; no weights give a max ({sum:.1f})",
            ),
            ("Used in", "VGG, early ResNets", "ResNet-D, EfficientNet", "see below"),
        ),
        table_note=Markup(
            "Keeps: a convolution is linear, so that f(a + b) = f(a) + f(b); the number in "
            "brackets is by how much max pooling misses that. Used in: too simple. ResNet-D (He et "
            "al., 2018) keeps the max pool of its stem and puts <i>average</i> pooling into its "
            "shortcuts; the first ResNets already halved by strided convolutions, except in the "
            "stem. The section on where pooling is used reads this off the models."
        ),
        advice="“Consider strided convolution where performance matters”",
        timing="Timing the stacks",
        training="Training small networks",
        advice_words=Markup(
            "A short test on real images: faces against background, 25×25 pixels, trained on "
            "{train} of 200 images and tested on the others, {seeds} times. Each network halves "
            "three times. Because stride saves multiply-adds, two more networks have equal "
            "budgets: max pooling with fewer channels, and stride with more."
        ),
        advice_caption=Markup(
            "Left: held-out accuracy. Right: the difference from max pooling, run by run on the "
            "same images. Small dots: {seeds} runs; large dots and bars: mean and 95 % confidence "
            "interval."
        ),
        advice_alt="Held-out accuracy of five small networks, and differences from max pooling",
        advice_title="Held-out accuracy, mean and 95 % confidence interval",
        advice_header=(
            "Downsampling",
            "Channels",
            "Parameters",
            "Multiply-adds",
            "Held-out",
            "Minus max (points)",
        ),
        advice_better=Markup(
            "With the same multiply-adds stride is ahead of max pooling here ({difference} "
            "points): the text's advice holds on this data."
        ),
        advice_worse=Markup(
            "Here stride does <b>not</b> win: with the same multiply-adds its difference from max "
            "pooling is {difference} points. What it saves is real; what it learns did not make up "
            "for it on so few images."
        ),
        advice_open=Markup(
            "With the same multiply-adds the difference between stride and max pooling is "
            "{difference} points, and the interval holds 0: this test shows no winner."
        ),
        advice_note=Markup(
            "For comparison, Springenberg et al. (2015), Table 3, on CIFAR-10: stride in place of "
            "the pool was worse by 0.4 to 1.0 points; the pool replaced by an <i>additional</i> "
            "strided convolution was about as good as the pool with the same convolution added. "
            "Shown here: one small, easy data set and short trainings by one recipe. The intervals "
            "cover the draws of images and initial weights, and the held-out halves overlap. Not "
            "shown: anything about large networks and long trainings."
        ),
        read_next=(
            ("Adaptive pooling", "#adaptive"),
            ("Where it is used", "#where-used"),
            *PAPERS,
        ),
    ),
    "ko": Text(
        title="Stride Convolution vs Pooling",
        lead=Markup(
            "최근에는 Max Pooling 대신 <b>stride=2 convolution</b>을 사용하는 추세입니다. "
            "다운샘플링까지 학습하는 방법입니다. 본문의 두 방법은 모두 <code>{before}</code> "
            "입력을 <code>{after}</code> 출력으로 줄입니다. 컨볼루션의 연산량은 출력 크기로 "
            "정해집니다:"
        ),
        stacks="모양은 같은 두 방법",
        stacks_found=Markup(
            "두 방법의 파라미터는 {parameters:,}개로 똑같습니다. Pooling에는 파라미터가 없고, "
            "컨볼루션의 파라미터는 어느 쪽이든 그대로이기 때문입니다. 다른 것은 계산하는 "
            "<i>위치</i>입니다. stride convolution의 곱셈-덧셈은 {pooled:,}번이 아니라 "
            "{strided:,}번으로 {ratio:g}배 적습니다. Pooling이라면 나중에 버릴 값을, 무엇인지 보지 "
            "않고 처음부터 계산하지 않는 것입니다."
        ),
        stacks_caption=Markup(
            "이 컴퓨터에서 순전파 한 번(그리고 역전파까지)에 드는 비용입니다. 첫 번째 방법은 "
            "torch의 Pooling과 poolkit의 Pooling으로 각각 쟀습니다. 짧을수록 좋으며 모든 눈금은 "
            "0에서 시작합니다."
        ),
        stacks_alt="세 가지 구성의 곱셈-덧셈 수, 시간, 저장 바이트를 나타낸 막대그래프",
        stacks_title="(1, 64, 56, 56) 입력에서 두 방법의 비용",
        stacks_header=(
            "구성",
            "출력",
            "파라미터",
            "곱셈-덧셈",
            "순전파 (ms)",
            "+ 역전파 (ms)",
            "저장 (바이트)",
        ),
        stacks_note=Markup(
            "시간은 번갈아 실행해 얻은 중앙값입니다. 역전파를 위해 저장하는 것은 컨볼루션의 입력과 "
            "가중치, Pooling 앞에서는 네 배 큰 ReLU의 출력, 그리고 Pooling이 따로 저장하는 "
            "값입니다. bias와 ReLU는 곱셈-덧셈으로 세지 않았고, Max Pooling은 비교만 합니다."
        ),
        table="본문의 표 확인하기",
        table_title="Max Pooling과 Stride Conv 비교",
        table_header=("비교", "Max Pooling", "Stride Conv", "확인한 값"),
        table_rows=(
            (
                "파라미터",
                "없음",
                "있음 (커널)",
                "{pool}개와 {conv:,}개, 전체로는 모두 {parameters:,}개",
            ),
            ("학습", "불가", "가능", "기울기를 받는 텐서 {pool_learns}개와 {conv_learns}개"),
            (
                "정보 보존",
                "최댓값만",
                "학습된 조합",
                "가중치 1/4이면 Average Pooling과 {average} 차이, max는 불가능 ({sum:.1f})",
            ),
            ("사용 모델", "VGG, 초기 ResNet", "ResNet-D, EfficientNet", "아래 설명 참고"),
        ),
        table_note=Markup(
            "정보 보존: 컨볼루션은 선형이므로 f(a + b) = f(a) + f(b)입니다. 괄호 안은 Max "
            "Pooling이 이 식에서 벗어나는 크기입니다. 사용 모델: 실제로는 이렇게 단순하지 "
            "않습니다. ResNet-D(He et al., 2018)는 stem의 Max Pooling을 그대로 두고 shortcut에 "
            "<i>Average</i> Pooling을 넣었으며, 초기 ResNet도 stem을 빼면 이미 stride "
            "convolution으로 다운샘플링했습니다. 어디에 쓰이는지 다루는 절에서 모델을 직접 읽어 "
            "확인합니다."
        ),
        advice="“성능이 중요하면 stride convolution을 고려하세요”",
        timing="두 방법의 시간 측정 중",
        training="작은 네트워크 학습 중",
        advice_words=Markup(
            "실제 이미지로 짧게 시험해 보았습니다. 25×25 픽셀의 얼굴과 배경을 구분하는 문제로, "
            "200장 중 {train}장으로 학습하고 나머지로 평가하기를 {seeds}번 반복했습니다. 모든 "
            "네트워크는 세 번 절반으로 줄입니다. stride는 연산량이 적으므로, 연산량을 맞춘 "
            "네트워크도 두 개 더했습니다. 채널을 줄인 Max Pooling과 채널을 늘린 stride입니다."
        ),
        advice_caption=Markup(
            "왼쪽은 평가 정확도, 오른쪽은 같은 이미지로 학습한 Max Pooling과의 차이입니다. 작은 "
            "점은 {seeds}번의 실행, 큰 점과 막대는 평균과 95% 신뢰구간입니다."
        ),
        advice_alt="작은 네트워크 다섯 개의 평가 정확도와 Max Pooling과의 차이",
        advice_title="평가 정확도, 평균과 95% 신뢰구간",
        advice_header=(
            "다운샘플링",
            "채널",
            "파라미터",
            "곱셈-덧셈",
            "평가 정확도",
            "Max와의 차이 (%p)",
        ),
        advice_better=Markup(
            "연산량을 맞추었을 때 stride가 Max Pooling보다 앞섭니다(차이 {difference}%p). 이 "
            "데이터에서는 본문의 조언이 맞습니다."
        ),
        advice_worse=Markup(
            "여기서는 stride가 이기지 <b>못했습니다</b>. 연산량을 맞추어도 Max Pooling과의 차이가 "
            "{difference}%p입니다. 연산량이 줄어드는 것은 사실이지만, 이렇게 적은 이미지로는 "
            "학습한 다운샘플링이 그만큼을 되찾지 못했습니다."
        ),
        advice_open=Markup(
            "연산량을 맞추었을 때 stride와 Max Pooling의 차이는 {difference}%p이고 신뢰구간에 0이 "
            "들어 있습니다. 이 시험으로는 승자를 가릴 수 없습니다."
        ),
        advice_note=Markup(
            "참고로 Springenberg et al.(2015)의 CIFAR-10 결과(표 3)에서는 Pooling을 빼고 stride만 "
            "쓰면 0.4~1.0%p 나빴고, Pooling 자리에 stride convolution을 <i>한 층 더</i> 넣으면 "
            "같은 층을 더한 Pooling과 비슷했습니다. 여기서 보인 것은 작고 쉬운 데이터와 짧은 학습 "
            "한 가지뿐입니다. 신뢰구간은 이미지와 초기 가중치의 추첨에 대한 것이고 평가 이미지는 "
            "서로 겹칩니다. 큰 네트워크와 긴 학습에 대해서는 알 수 없습니다."
        ),
        read_next=(
            ("Adaptive Pooling", "#adaptive"),
            ("어디서 쓰이나", "#where-used"),
            *PAPERS,
        ),
    ),
}


def build(context: Context) -> Section:
    """The stacks' costs, the text's table with evidence, and a short test of its advice."""
    text = TEXT[context.lang]
    seconds = [0.1 if context.quick else SECONDS]
    (costs,) = [downsampling.costs(each) for each in context.track(seconds, text.timing)]
    seeds, steps = (range(2), 2) if context.quick else (range(SEEDS), downsampling.STEPS)
    results = downsampling.contest(context.track(seeds, text.training), steps)
    *pooled, strided = costs.values()
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead.format(before=INPUT, after=strided.output)),
            Formula(COUNT),
            Heading(text.stacks),
            Prose(
                text.stacks_found.format(
                    parameters=strided.parameters,
                    strided=strided.multiply_adds,
                    pooled=pooled[0].multiply_adds,
                    ratio=pooled[0].multiply_adds / strided.multiply_adds,
                )
            ),
            _stacks_chart(context, text, costs),
            _stacks_table(text, costs),
            Prose(text.stacks_note, "note"),
            Heading(text.table),
            _checked(text, strided),
            Prose(text.table_note, "note"),
            Heading(text.advice),
            Prose(text.advice_words.format(train=TRAIN, seeds=len(seeds))),
            *_contest(context, text, results, len(seeds)),
            Prose(text.advice_note, "note"),
            run_snippet(SNIPPET),
            ReadNext(text.read_next),
        ],
    )


def _stacks_chart(context: Context, text: Text, costs: dict[str, Cost]) -> Figure:
    def panel(title: str, values: Sequence[float], form: str) -> Costs:
        return Costs(title, values, [form.format(value) for value in values])

    each = costs.values()
    drawing = cost_bars(
        [
            panel("multiply-adds (10⁶)", [cost.multiply_adds / 1e6 for cost in each], "{:.1f}"),
            panel("forward (ms)", [1e3 * cost.forward for cost in each], "{:.2f}"),
            panel("+ backward (ms)", [1e3 * cost.training for cost in each], "{:.2f}"),
            panel("saved (MB)", [cost.saved / 1e6 for cost in each], "{:.2f}"),
        ],
        list(costs),
    )
    return context.draw(f"{SLUG}-stacks", drawing, text.stacks_caption, text.stacks_alt)


def _stacks_table(text: Text, costs: dict[str, Cost]) -> Table:
    rows = [
        (
            name,
            str(cost.output),
            f"{cost.parameters:,}",
            f"{cost.multiply_adds:,}",
            f"{1e3 * cost.forward:.3g}",
            f"{1e3 * cost.training:.3g}",
            f"{cost.saved:,}",
        )
        for name, cost in costs.items()
    ]
    return Table(text.stacks_title, text.stacks_header, rows, frozenset(range(2, 7)))


def _checked(text: Text, strided: Cost) -> Table:
    names = list(STACKS)
    conv, pool = STACKS[names[-1]]()[0], STACKS[names[1]]()[-1]
    learned = [list(module.parameters()) for module in (pool, conv)]
    facts = {
        "pool": sum(parameter.numel() for parameter in learned[0]),
        "conv": sum(parameter.numel() for parameter in learned[1]),
        "parameters": strided.parameters,
        "pool_learns": len(learned[0]),
        "conv_learns": len(learned[1]),
        "average": f"{downsampling.largest_gap_to_average():.0e}",
        "sum": downsampling.largest_gap_to_a_sum(),
    }
    rows = [(*row[:-1], row[-1].format(**facts)) for row in text.table_rows]
    return Table(text.table_title, text.table_header, rows)


def _contest(
    context: Context, text: Text, results: dict[str, Interval], seeds: int
) -> list[Figure | Table | Prose]:
    names = list(results)
    differences = {name: results[name].minus(results["max"]) for name in names}
    figure = context.draw(
        f"{SLUG}-contest",
        dots(
            [
                Dots("accuracy (%)", [[results[name] for name in names]]),
                Dots("accuracy − max (%)", [[differences[name] for name in names]], zero=True),
            ],
            names,
        ),
        text.advice_caption.format(seeds=seeds),
        text.advice_alt,
    )
    rows = [
        (
            name,
            str(CONTESTANTS[name].width),
            f"{CONTESTANTS[name].parameters:,}",
            f"{CONTESTANTS[name].multiply_adds:,}",
            percent(results[name]),
            "–" if name == "max" else percent(differences[name]).removesuffix(" %"),
        )
        for name in names
    ]
    table = Table(text.advice_title, text.advice_header, rows, frozenset(range(1, 6)))
    return [figure, table, Prose(verdict(text, differences["stride 2, wider"]))]


def verdict(text: Text, difference: Interval) -> Markup:
    """What the contest of equal multiply-adds shows: its interval decides, not its mean."""
    if difference.mean - difference.half > 0:
        words = text.advice_better
    elif difference.mean + difference.half < 0:
        words = text.advice_worse
    else:
        words = text.advice_open
    shown = f"{100 * difference.mean:+.1f} ± {100 * difference.half:.1f}"
    return words.format(difference=shown)
