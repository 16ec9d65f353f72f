"""Speed and memory: poolkit against torch's own operators, on the reader's machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as stock
from markupsafe import Markup

import poolkit
import poolkit.functional as F

from ..draw import Bars, bar_pairs
from ..measure import Comparison, Operator, compare
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

SLUG = "speed-and-memory"

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Case:
    """One operator on one size; ``source`` is a network, or "" for the sizes of the text."""

    source: str
    operator: str
    shape: Shape
    torch: Operator
    poolkit: Operator

    @property
    def size(self) -> str:
        return "×".join(map(str, self.shape))


def _max(source: str, shape: Shape, kernel: int, stride: int, padding: int = 0) -> Case:
    return Case(
        source,
        _name("max", kernel, stride, padding),
        shape,
        lambda x: stock.max_pool2d(x, kernel, stride, padding),
        lambda x: F.max_pool2d(x, kernel, stride, padding),
    )


def _avg(source: str, shape: Shape, kernel: int, stride: int, padding: int = 0) -> Case:
    return Case(
        source,
        _name("avg", kernel, stride, padding),
        shape,
        lambda x: stock.avg_pool2d(x, kernel, stride, padding),
        lambda x: F.avg_pool2d(x, kernel, stride, padding),
    )


def _name(operator: str, kernel: int, stride: int, padding: int) -> str:
    return f"{operator} {kernel}/{stride}" + (f"/{padding}" if padding else "")


def _global_avg(source: str, shape: Shape) -> Case:
    return Case(
        source, "global avg", shape, lambda x: stock.adaptive_avg_pool2d(x, 1), F.global_avg_pool2d
    )


# Operators read kernel/stride/padding. Batches are small enough for a report in under a minute.
CASES = (
    _max("", (1, 1, 4, 4), 2, 2),
    _max("", (1, 64, 56, 56), 2, 2),
    _avg("", (1, 64, 56, 56), 2, 2),
    _max("", (1, 256, 56, 56), 2, 2),
    _global_avg("", (32, 512, 7, 7)),
    _max("VGG", (2, 64, 224, 224), 2, 2),
    _max("VGG", (8, 512, 14, 14), 2, 2),
    _max("ResNet", (8, 64, 112, 112), 3, 2, 1),
    _global_avg("ResNet", (32, 2048, 7, 7)),
)
QUICK_CASES = (_max("", (1, 1, 4, 4), 2, 2), _avg("VGG", (1, 8, 28, 28), 2, 2))
SECONDS_PER_CASE = 3.0
UNSTEADY = 1.5  # a median this many times the fastest runs is no property of the operator

CHEN = "Chen et al., Training deep nets with sublinear memory cost, 2016, arXiv:1604.06174"

SNIPPET = """
import torch
import torch.nn.functional as stock
import poolkit.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.benchmark import Timer

x = torch.randn(1, 64, 56, 56, requires_grad=True)

for name, pool in (("torch", stock.max_pool2d), ("poolkit", F.max_pool2d)):
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        pool(x, 2)
    time = Timer("pool(x, 2)", globals={"pool": pool, "x": x.detach()}).timeit(100)
    print(f"{name:8}{time.median * 1e6:9.1f} us {sum(saved):9,} bytes saved")
"""

RATIO = Markup(
    '<math display="block"><mi>s</mi><mo>=</mo><mfrac><msub><mi>t</mi><mtext>torch</mtext></msub>'
    "<msub><mi>t</mi><mtext>poolkit</mtext></msub></mfrac></math>"
)


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    fallback: Markup
    unsteady: Markup
    measuring: str
    time: str
    time_words: Markup
    time_caption: Markup
    time_alt: str
    time_title: str
    time_header: tuple[str, ...]
    time_note: Markup
    memory: str
    memory_words: Markup
    memory_caption: Markup
    memory_alt: str
    memory_title: str
    memory_header: tuple[str, ...]
    memory_note: Markup
    from_text: str
    same: str
    differs: str
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Speed and memory",
        lead=Markup(
            "Pooling does next to no arithmetic, so it should cost no more than reading its input "
            "and writing its output. Here poolkit runs against torch's own operators, on this "
            "machine, at the sizes of the text and at those of VGG and ResNet: the same tensors, "
            "the same {threads} threads, and before any clock starts, values and gradients are "
            "compared."
        ),
        fallback=Markup(
            "poolkit's native kernels are not loaded here, so these figures are those of its plain "
            "torch reference, which is slow. <code>poolkit config</code> says what is wrong."
        ),
        unsteady=Markup(
            "Something else was using this machine: in {count} of {total} cases the median is more "
            "than {limit:g} times the fastest runs. Take these times as rough ones."
        ),
        measuring="Timing",
        time="Time",
        time_words=Markup(
            "Inference is the forward pass alone; training is forward and backward. The speed-up "
            "is torch's time over poolkit's, so below 1 torch is the faster one:"
        ),
        time_caption=Markup(
            "Median time of one call in milliseconds, on a logarithmic scale; shorter is better. "
            "The number at the end of each pair is the speed-up. Left (forward): inference. Right "
            "(forward + backward): training."
        ),
        time_alt="Bar chart of the times of torch and poolkit for each case",
        time_title="Median time of one call (ms)",
        time_header=(
            "From",
            "Operator",
            "Input",
            "Inference, torch",
            "poolkit",
            "speed-up",
            "Training, torch",
            "poolkit",
            "speed-up",
            "Difference",
        ),
        time_note=Markup(
            "Operators read kernel/stride/padding; inputs are N×C×H×W, float32, contiguous, "
            "standard normal. Runs of the two alternate. Milliseconds wander with whatever else "
            "runs, ratios less so. On the smallest input only the overhead of a call is measured. "
            "Difference: the largest absolute one in any value or gradient; averages add "
            "in another order."
        ),
        memory="Memory kept for the backward pass",
        memory_words=Markup(
            "During training each operator asks autograd to keep tensors until the backward pass. "
            "Torch's max pooling keeps its input and an 8-byte index for each output, its average "
            "pooling keeps its input. poolkit keeps one byte for each output of a max and nothing "
            "for an average. Global average pooling needs nothing in either."
        ),
        memory_caption=Markup(
            "Bytes kept from forward to backward, on a logarithmic scale; shorter is better. A bar "
            "of no length stands for nothing at all."
        ),
        memory_alt="Bar chart of the bytes that torch and poolkit save for backward for each case",
        memory_title="Saved for backward (bytes)",
        memory_header=("From", "Operator", "Input", "torch", "poolkit", "less"),
        memory_note=Markup(
            "Measured with <code>torch.autograd.graph.saved_tensors_hooks</code>. If the layer "
            "before pooling keeps its output anyway, as ReLU does, that tensor is not freed by "
            "changing the pooling alone."
        ),
        from_text="the text",
        same="none",
        differs="{:.0e}",
        read_next=(
            ("Why pool: cost", "#cost"),
            (CHEN, None),
        ),
    ),
    "ko": Text(
        title="속도와 메모리",
        lead=Markup(
            "Pooling은 연산이 거의 없으므로 입력을 읽고 출력을 쓰는 시간이면 충분해야 합니다. "
            "본문과 VGG, ResNet에 나오는 크기로 이 컴퓨터에서 poolkit과 torch의 연산을 "
            "비교했습니다. 같은 텐서와 같은 스레드 {threads}개를 쓰고, 시간을 재기 전에 출력과 "
            "기울기가 같은지 먼저 확인했습니다."
        ),
        fallback=Markup(
            "지금은 poolkit의 네이티브 커널을 불러오지 못해 순수 torch로 작성한 느린 참조 구현으로 "
            "측정했습니다. 이유는 <code>poolkit config</code>에서 확인할 수 있습니다."
        ),
        unsteady=Markup(
            "측정하는 동안 다른 작업이 이 컴퓨터를 쓰고 있었습니다. {total}가지 경우 중 "
            "{count}가지에서 중앙값이 가장 빠른 실행보다 {limit:g}배 넘게 느렸으므로 시간은 "
            "대략적인 값으로만 보십시오."
        ),
        measuring="측정 중",
        time="시간",
        time_words=Markup(
            "추론은 순전파만, 학습은 순전파와 역전파를 합친 시간입니다. 배속은 torch의 시간을 "
            "poolkit의 시간으로 나눈 값이며, 1보다 작으면 torch가 더 빠른 것입니다:"
        ),
        time_caption=Markup(
            "호출 한 번에 걸린 시간의 중앙값(밀리초, 로그 눈금)이며 짧을수록 좋습니다. 막대 끝의 "
            "숫자는 배속입니다. 왼쪽(forward)은 추론, 오른쪽(forward + backward)은 학습입니다."
        ),
        time_alt="경우마다 torch와 poolkit의 시간을 비교한 막대그래프",
        time_title="호출 한 번의 시간, 중앙값 (ms)",
        time_header=(
            "출처",
            "연산",
            "입력",
            "추론 torch",
            "poolkit",
            "배속",
            "학습 torch",
            "poolkit",
            "배속",
            "차이",
        ),
        time_note=Markup(
            "연산은 커널/stride/padding 순서로 적었습니다. 입력은 N×C×H×W 크기의 연속된 float32 "
            "텐서이고 표준정규분포에서 뽑았습니다. 두 연산을 번갈아 실행했습니다. 다른 작업이 "
            "함께 돌면 밀리초 값은 흔들리지만 배속은 덜 흔들립니다. 가장 작은 입력에서는 "
            "호출 자체의 비용만 측정됩니다. 차이는 출력과 기울기에서 가장 큰 절대 오차이며, 평균은 "
            "더하는 순서가 달라 조금 다를 수 있습니다."
        ),
        memory="역전파를 위해 저장하는 메모리",
        memory_words=Markup(
            "학습할 때 각 연산은 역전파에 필요한 텐서를 저장해 둡니다. torch의 Max Pooling은 입력 "
            "전체와 출력마다 8바이트 인덱스를, Average Pooling은 입력 전체를 저장합니다. poolkit은 "
            "Max Pooling에서 출력마다 1바이트만 저장하고, Average Pooling에서는 아무것도 저장하지 "
            "않습니다. GAP은 둘 다 저장할 것이 없습니다."
        ),
        memory_caption=Markup(
            "순전파에서 역전파까지 저장하는 바이트 수(로그 눈금)이며 짧을수록 좋습니다. 막대가 "
            "없으면 아무것도 저장하지 않는다는 뜻입니다."
        ),
        memory_alt="경우마다 torch와 poolkit이 저장하는 바이트 수를 비교한 막대그래프",
        memory_title="역전파를 위해 저장하는 바이트",
        memory_header=("출처", "연산", "입력", "torch", "poolkit", "감소"),
        memory_note=Markup(
            "<code>torch.autograd.graph.saved_tensors_hooks</code>로 측정했습니다. ReLU처럼 "
            "Pooling 앞의 레이어가 자기 출력을 따로 저장한다면, Pooling만 바꿔서는 그 텐서가 "
            "해제되지 않습니다."
        ),
        from_text="본문",
        same="없음",
        differs="{:.0e}",
        read_next=(
            ("왜 Pooling인가: 연산량", "#cost"),
            (CHEN, None),
        ),
    ),
}


def build(context: Context) -> Section:
    """Check, time and weigh every case, then show it as tables and charts."""
    text = TEXT[context.lang]
    cases = QUICK_CASES if context.quick else CASES
    seconds = 0.05 if context.quick else SECONDS_PER_CASE
    generator = torch.Generator().manual_seed(0)
    results = []
    for case in context.track(cases, text.measuring):
        x = torch.randn(case.shape, generator=generator)
        results.append(compare(case.torch, case.poolkit, x, seconds))
    warnings = []
    if poolkit.show_config().kernels != "native":
        warnings.append(Prose(text.fallback, "warning"))
    unsteady = sum(result.spread > UNSTEADY for result in results)
    if unsteady:
        words = text.unsteady.format(count=unsteady, total=len(results), limit=UNSTEADY)
        warnings.append(Prose(words, "warning"))
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead.format(threads=torch.get_num_threads())),
            *warnings,
            Heading(text.time),
            Prose(text.time_words),
            Formula(RATIO),
            _time_chart(context, text, cases, results),
            _time_table(text, cases, results),
            Prose(text.time_note, "note"),
            Heading(text.memory),
            Prose(text.memory_words),
            _memory_chart(context, text, cases, results),
            _memory_table(text, cases, results),
            Prose(text.memory_note, "note"),
            run_snippet(SNIPPET),
            ReadNext(text.read_next),
        ],
    )


def _speed_up(pair: tuple[float, float]) -> str:
    ratio = pair[0] / pair[1]
    digits = 0 if ratio >= 9.95 else 1 if ratio >= 0.995 else 2
    return f"×{ratio:.{digits}f}"


def _labels(cases: Sequence[Case]) -> list[str]:
    return [f"{case.source}  {case.operator}\n{case.size}".strip() for case in cases]


def _names() -> tuple[str, str]:
    config = poolkit.show_config()
    return f"torch {config.torch}", f"poolkit {config.version}"


def _time_chart(
    context: Context, text: Text, cases: Sequence[Case], results: Sequence[Comparison]
) -> Figure:
    def chart(title: str, pairs: Sequence[tuple[float, float]]) -> Bars:
        return Bars(
            title,
            "ms",
            [1e3 * pair[0] for pair in pairs],
            [1e3 * pair[1] for pair in pairs],
            [_speed_up(pair) for pair in pairs],
        )

    drawing = bar_pairs(
        [
            chart("forward", [result.forward for result in results]),
            chart("forward + backward", [result.training for result in results]),
        ],
        _labels(cases),
        _names(),
        floor=1e-3,
    )
    return context.draw(f"{SLUG}-time", drawing, text.time_caption, text.time_alt)


def _time_table(text: Text, cases: Sequence[Case], results: Sequence[Comparison]) -> Table:
    rows = []
    for case, result in zip(cases, results, strict=True):
        difference = text.differs.format(result.difference) if result.difference else text.same
        rows.append(
            (
                case.source or text.from_text,
                case.operator,
                case.size,
                *(f"{1e3 * seconds:.3g}" for seconds in result.forward),
                _speed_up(result.forward),
                *(f"{1e3 * seconds:.3g}" for seconds in result.training),
                _speed_up(result.training),
                difference,
            )
        )
    return Table(text.time_title, text.time_header, rows, frozenset(range(3, 10)))


def _memory_chart(
    context: Context, text: Text, cases: Sequence[Case], results: Sequence[Comparison]
) -> Figure:
    saved = [result.saved for result in results]
    chart = Bars(
        "saved for backward",
        "bytes",
        [float(pair[0]) for pair in saved],
        [float(pair[1]) for pair in saved],
        [f"{_bytes(pair[0])} → {_bytes(pair[1])}" for pair in saved],
    )
    drawing = bar_pairs([chart], _labels(cases), _names(), floor=1.0)
    return context.draw(f"{SLUG}-memory", drawing, text.memory_caption, text.memory_alt)


def _memory_table(text: Text, cases: Sequence[Case], results: Sequence[Comparison]) -> Table:
    rows = [
        (
            case.source or text.from_text,
            case.operator,
            case.size,
            f"{result.saved[0]:,}",
            f"{result.saved[1]:,}",
            f"{100 * (1 - result.saved[1] / result.saved[0]):.1f} %" if result.saved[0] else "–",
        )
        for case, result in zip(cases, results, strict=True)
    ]
    return Table(text.memory_title, text.memory_header, rows, frozenset({3, 4, 5}))


def _bytes(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
