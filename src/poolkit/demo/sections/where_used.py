"""Where pooling is used: the downsampling paths of well-known networks, read off live models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from poolkit.models import Step

from ..draw_paths import Mark, Row, paths
from ..networks import LARGER, NETWORKS, SIDE, Read, read
from ..report import Context, Formula, Heading, Lang, Prose, ReadNext, Section, Table, run_snippet

SLUG = "where-used"

SNIPPET = """
import torch
from poolkit.models import ResNet50D, downsampling_path

with torch.device("meta"):  # sizes only: nothing is computed, no memory is needed
    steps = downsampling_path(ResNet50D(), torch.empty(1, 3, 224, 224))

for step in steps:
    print(f"{step.name:20} {step}")
"""

FORMULA = Markup(
    '<math display="block"><mi>o</mi><mo>=</mo><mrow><mo>⌊</mo><mfrac><mrow><mi>n</mi><mo>+</mo>'
    "<mn>2</mn><mi>p</mi><mo>−</mo><mi>k</mi></mrow><mi>s</mi></mfrac><mo>⌋</mo></mrow><mo>+</mo>"
    "<mn>1</mn></math>"
)


PAPERS = (
    (
        "Krizhevsky, “One weird trick for parallelizing convolutional neural networks”, 2014, "
        "arXiv:1404.5997 (AlexNet)"
    ),
    (
        "Simonyan and Zisserman, “Very Deep Convolutional Networks for Large-Scale Image "
        "Recognition”, 2014, arXiv:1409.1556 (VGG)"
    ),
    "He et al., “Deep Residual Learning for Image Recognition”, 2015, arXiv:1512.03385 (ResNet)",
    (
        "He et al., “Bag of Tricks for Image Classification with Convolutional Neural Networks”, "
        "2018, arXiv:1812.01187 (ResNet-D)"
    ),
    (
        "He et al., “Spatial Pyramid Pooling in Deep Convolutional Networks for Visual "
        "Recognition”, 2014, arXiv:1406.4729"
    ),
)


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    formula_words: Markup
    reading: str
    caption: Markup
    alt: str
    heads: str
    heads_words: Markup
    heads_title: str
    heads_header: tuple[str, ...]
    networks_title: str
    networks_header: tuple[str, ...]
    networks_note: Markup
    claims: str
    claims_words: Markup
    claims_title: str
    claims_header: tuple[str, ...]
    claims_rows: tuple[tuple[str, str, str], ...]
    max_words: Markup
    conv_words: Markup
    gap_words: Markup
    adaptive_words: Markup
    stages: str
    stages_title: str
    stages_header: tuple[str, ...]
    stages_note: Markup
    own: Markup
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Where it is used",
        lead=Markup(
            "Where do well-known networks shrink their feature maps, and by what? Here are {count} "
            "of them, defined in <code>poolkit.models</code> with the published sizes. The size of "
            "an image, {side}×{side}, went through each just now (on torch’s meta device, which "
            "computes sizes and nothing else), and every layer told what came in and what went "
            "out."
        ),
        formula_words=Markup(
            "A window of <i>k</i> cells with stride <i>s</i> and padding <i>p</i> makes of "
            "<i>n</i> cells:"
        ),
        reading="Reading networks",
        caption=Markup(
            "From {side}×{side} on the left to a vector on the right, a step for every layer that "
            "shrinks the map. Labels read kernel/stride/padding; a marker below the line is a "
            "shortcut beside it, a marker without a step keeps the size. Right: how much of all "
            "parameters the head has."
        ),
        alt="The resolution of the maps of each network from image to head, layer by layer",
        heads="The heads",
        heads_words=Markup(
            "The head makes scores of the last map. Fully connected layers over all its cells "
            "hold {fc_share:.0f} % of VGG16’s parameters; after a global average (GAP) one layer "
            "is enough, in ResNet-50 {gap_share:.0f} %. With a GAP head VGG16 would have "
            "{vgg_gap:,} parameters instead of {vgg:,}."
        ),
        heads_title="Heads, and what they cost",
        heads_header=(
            "Network",
            "Head",
            "Its parameters",
            "Share",
            "All parameters",
            "All with GAP",
        ),
        networks_title="Cost, and the map that the head gets",
        networks_header=("Network", "Multiply-adds", "Last map", "At {larger}×{larger}"),
        networks_note=Markup(
            "Multiply-adds of one {side}×{side} image in convolutions and linear layers, in "
            "thousands of millions. The last column is the last map for a larger image: every one "
            "of these networks takes it, as every head pools to a fixed size."
        ),
        claims="The text’s table, checked",
        claims_words=Markup(
            "The first three columns are the text’s. The last was counted in these networks: "
            "halvings of the map by that layer out of all halvings, and heads out of all heads."
        ),
        claims_title="Where, says the text, and what the networks show",
        claims_header=("Concept", "Where", "Why it matters", "Counted here"),
        claims_rows=(
            ("Max Pooling 2×2", "AlexNet, VGG", "standard downsampling of early CNNs"),
            ("Stride Conv", "after ResNet", "replaces pooling"),
            ("GAP", "all CNNs after ResNet", "replaces FC layers as classification head"),
            ("Adaptive Pooling", "detection (YOLO)", "copes with various input sizes"),
        ),
        max_words=Markup(
            "<b>Max pooling 2×2</b> is VGG’s, not AlexNet’s: AlexNet’s {alex_pools} pools are "
            "{alex_window}, windows of three cells that overlap, and its first and largest step is "
            "a strided convolution ({alex_first})."
        ),
        conv_words=Markup(
            "<b>Strided convolution</b> did not replace every pool in ResNet: its stem keeps "
            "{stem_pool}, in ResNet-50-D too, which puts {d_pools} more average pools (2/2) into "
            "its shortcuts. In EfficientNet-B0 ({effnet_convs}) and Darknet-53 ({darknet_convs}) "
            "it did. It is older than ResNet: AlexNet begins with one, and Springenberg (2014) "
            "proposed to replace all pools."
        ),
        gap_words=Markup(
            "<b>GAP</b>: {gap_heads} of the {gap_networks} networks from ResNet on end in it here, "
            "and EfficientNet-B0 has {squeezes} more inside its blocks (squeeze and excitation). "
            "ResNet made it usual, but did not introduce it: Network in Network did (Lin 2013), "
            "and GoogLeNet had it in 2014. “All CNNs” is too much: a detector such as YOLO "
            "predicts in every cell of the map and has no such head."
        ),
        adaptive_words=Markup(
            "<b>Adaptive pooling</b> is not in YOLO’s backbone. SPPF is {sppf}: fixed windows with "
            "stride 1, after which the map is as large as before, {sppf_small} or {sppf_large}. "
            "Adaptive average pooling is in front of the fully connected heads of AlexNet "
            "({alex_adaptive}) and VGG16 ({vgg_adaptive}), as torchvision has them: it alone lets "
            "them take images of {larger}×{larger}."
        ),
        stages="Stage by stage",
        stages_title="Every stage that shrinks the map, and the head",
        stages_header=("Network", "Layers", "In", "Out", "Parameters", "Share"),
        stages_note=Markup(
            "Layers read kernel/stride/padding; ∥ stands between a layer and the shortcut beside "
            "it, → between layers one after the other. Sizes are C×H×W. Parameters are those of "
            "the layers named, share is their share of the network’s."
        ),
        own=Markup(
            "Give <code>downsampling_path</code> a network of yours, and "
            "<code>examples/train_digits.py</code> other pools, stems and heads."
        ),
        read_next=(
            ("Global average pooling", "#global-average"),
            ("Strided convolution against pooling", "#strided-convolution"),
        ),
    ),
    "ko": Text(
        title="어디서 쓰이나",
        lead=Markup(
            "잘 알려진 모델은 특징 맵을 어디서, 무엇으로 줄일까요? <code>poolkit.models</code>에 "
            "논문과 같은 크기로 정의한 모델 {count}개를 살펴봅니다. 방금 {side}×{side} 이미지의 "
            "크기를 모델마다 통과시키면서(값은 빼고 크기만 계산하는 torch의 meta device에서) "
            "레이어마다 들어온 크기와 나간 크기를 읽었습니다."
        ),
        formula_words=Markup(
            "커널 <i>k</i>, stride <i>s</i>, 패딩 <i>p</i>인 윈도우는 <i>n</i>칸을 다음 크기로 "
            "줄입니다:"
        ),
        reading="모델 읽는 중",
        caption=Markup(
            "왼쪽의 {side}×{side} 이미지에서 오른쪽의 벡터까지, 특징 맵을 줄이는 레이어마다 한 "
            "걸음입니다. 숫자는 커널/stride/패딩입니다. 선 아래의 표시는 나란히 있는 "
            "shortcut이고, 걸음이 없는 표시는 크기를 그대로 둡니다. 오른쪽은 전체 파라미터에서 "
            "헤드가 차지하는 비율입니다."
        ),
        alt="모델마다 이미지에서 헤드까지 레이어를 지나며 특징 맵의 해상도가 줄어드는 과정",
        heads="분류 헤드",
        heads_words=Markup(
            "헤드는 마지막 특징 맵을 클래스 점수로 바꿉니다. 모든 칸을 연결하는 FC layer는 "
            "VGG16 파라미터의 {fc_share:.0f}%를 차지합니다. GAP을 거치면 FC layer 하나로 "
            "충분하며 ResNet-50에서는 {gap_share:.0f}%입니다. VGG16도 GAP 헤드를 쓰면 파라미터가 "
            "{vgg:,}개에서 {vgg_gap:,}개로 줄어듭니다."
        ),
        heads_title="헤드의 비용",
        heads_header=(
            "모델",
            "헤드",
            "헤드 파라미터",
            "비율",
            "전체 파라미터",
            "GAP 헤드일 때 전체",
        ),
        networks_title="연산량과 헤드에 들어가는 특징 맵",
        networks_header=("모델", "곱셈-덧셈", "마지막 특징 맵", "{larger}×{larger}이면"),
        networks_note=Markup(
            "곱셈-덧셈은 {side}×{side} 이미지 한 장에 대한 컨볼루션과 FC layer의 연산량(10억 "
            "번 단위)입니다. 마지막 열은 더 큰 이미지를 넣었을 때의 마지막 특징 맵입니다. 모든 "
            "헤드가 정해진 크기로 Pooling하므로 모든 모델이 이 이미지를 받습니다."
        ),
        claims="본문의 표 확인하기",
        claims_words=Markup(
            "앞의 세 열은 본문의 표이고 마지막 열은 위 모델에서 직접 센 것입니다. 특징 맵을 "
            "줄이는 단계 가운데 그 레이어가 맡은 단계의 수, 전체 헤드 가운데 해당하는 헤드의 "
            "수입니다."
        ),
        claims_title="본문의 설명과 실제 모델",
        claims_header=("개념", "어디서 쓰이나", "왜 중요한가", "직접 세어 보면"),
        claims_rows=(
            ("Max Pooling 2×2", "AlexNet, VGG", "초기 CNN의 표준 다운샘플링"),
            ("Stride Conv", "ResNet 이후", "Pooling 대체"),
            ("GAP", "ResNet 이후 모든 CNN", "FC layer 대체, 분류 헤드"),
            ("Adaptive Pooling", "Detection (YOLO)", "다양한 입력 크기 대응"),
        ),
        max_words=Markup(
            "<b>Max Pooling 2×2</b>는 VGG의 방식이며 AlexNet은 다릅니다. AlexNet의 Pooling "
            "{alex_pools}개는 {alex_window}로 윈도우가 서로 겹치고, 가장 크게 줄이는 첫 단계는 "
            "stride convolution({alex_first})입니다."
        ),
        conv_words=Markup(
            "<b>Stride Conv</b>가 ResNet에서 Pooling을 모두 대체한 것은 아닙니다. 스템에는 "
            "{stem_pool}이 남아 있고 ResNet-50-D도 마찬가지이며, ResNet-50-D는 shortcut에 "
            "Average Pooling(2/2) {d_pools}개를 더했습니다. 다운샘플링이 모두 convolution인 모델은 "
            "EfficientNet-B0({effnet_convs})와 Darknet-53({darknet_convs})입니다. 이 방식은 "
            "ResNet보다 오래되었습니다. AlexNet의 첫 레이어가 그렇고, Springenberg(2014)는 모든 "
            "Pooling을 convolution으로 바꾸자고 제안했습니다."
        ),
        gap_words=Markup(
            "<b>GAP</b>: 여기 있는 ResNet 이후 모델 {gap_networks}개 중 {gap_heads}개가 GAP으로 "
            "끝나며, EfficientNet-B0는 블록 안(squeeze and excitation)에도 {squeezes}개를 씁니다. "
            "다만 GAP은 ResNet이 널리 퍼뜨린 것이지 도입한 것은 아닙니다. Network in Network(Lin "
            "2013)가 먼저 썼고 GoogLeNet(2014)도 썼습니다. “모든 CNN”도 지나친 말입니다. YOLO "
            "같은 detection 모델은 특징 맵의 칸마다 예측하므로 이런 헤드가 없습니다."
        ),
        adaptive_words=Markup(
            "<b>Adaptive Pooling</b>은 YOLO의 백본에 없습니다. SPPF는 {sppf}, 즉 stride가 1인 "
            "고정 윈도우이므로 특징 맵의 크기가 {sppf_small}이든 {sppf_large}이든 그대로입니다. "
            "Adaptive Average Pooling은 AlexNet({alex_adaptive})과 VGG16({vgg_adaptive})의 FC 헤드 "
            "앞에 있습니다(torchvision 기준). 두 모델이 {larger}×{larger} 이미지를 받을 수 있는 "
            "것은 바로 이 레이어 덕분입니다."
        ),
        stages="단계별로 보기",
        stages_title="특징 맵을 줄이는 모든 단계와 헤드",
        stages_header=("모델", "레이어", "입력", "출력", "파라미터", "비율"),
        stages_note=Markup(
            "레이어 뒤의 숫자는 커널/stride/패딩입니다. ∥는 나란히 있는 shortcut을, →는 이어지는 "
            "레이어를 뜻합니다. 크기는 C×H×W입니다. 파라미터는 적힌 레이어의 것이고, 비율은 모델 "
            "전체에서 차지하는 비율입니다."
        ),
        own=Markup(
            "여러분의 모델을 <code>downsampling_path</code>에 넣어 보고, "
            "<code>examples/train_digits.py</code>에서 pool, stem, head를 바꿔 보세요."
        ),
        read_next=(
            ("Global Average Pooling", "#global-average"),
            ("Stride Convolution vs Pooling", "#strided-convolution"),
        ),
    ),
}


def build(context: Context) -> Section:
    """Read every network, draw its path, and hold the text's table against it."""
    text = TEXT[context.lang]
    found = {
        label: read(label, NETWORKS[label])
        for label in context.track(tuple(NETWORKS), text.reading)
    }
    networks = tuple(found.values())
    facts = _facts(found)
    return Section(
        SLUG,
        text.title,
        [
            Prose(text.lead.format(count=len(networks), side=SIDE)),
            Prose(text.formula_words),
            Formula(FORMULA),
            context.draw(
                f"{SLUG}-paths",
                paths([_row(network) for network in networks]),
                text.caption.format(side=SIDE),
                text.alt,
            ),
            Heading(text.heads),
            Prose(text.heads_words.format(**facts)),
            _heads(text, networks),
            _networks(text, networks),
            Prose(text.networks_note.format(side=SIDE), "note"),
            Heading(text.claims),
            Prose(text.claims_words),
            _claims(text, found),
            *(
                Prose(words.format(**facts))
                for words in (
                    text.max_words,
                    text.conv_words,
                    text.gap_words,
                    text.adaptive_words,
                )
            ),
            Heading(text.stages),
            _stages(text, networks),
            Prose(text.stages_note, "note"),
            Prose(text.own),
            run_snippet(SNIPPET),
            ReadNext([*text.read_next, *((paper, None) for paper in PAPERS)]),
        ],
    )


def _facts(found: Mapping[str, Read]) -> dict[str, object]:
    """What the paragraphs say about single networks."""
    alex, vgg, r50, sppf = (
        found[label] for label in ("AlexNet", "VGG16", "ResNet-50", "Darknet-53 + SPPF")
    )
    alex_pools = [step for step in _steps(alex) if step.kind == "max pool"]
    classifiers = list(networks_since_resnet(found))
    (pyramid,) = (stage for stage in sppf.stages if not stage.is_head and not stage.halves)
    return {
        "larger": LARGER,
        "vgg": vgg.parameters,
        "vgg_gap": vgg.with_gap,
        "fc_share": 100 * vgg.head.parameters / vgg.parameters,
        "gap_share": 100 * r50.head.parameters / r50.parameters,
        "alex_pools": len(alex_pools),
        "alex_window": ", ".join(sorted({step.window for step in alex_pools})),
        "alex_first": _steps(alex)[0].window,
        "stem_pool": next(step.operator for step in _steps(r50) if step.kind == "max pool"),
        "d_pools": sum(step.kind == "avg pool" for step in _steps(found["ResNet-50-D"])),
        "effnet_convs": found["EfficientNet-B0"].halvings("strided conv"),
        "darknet_convs": found["Darknet-53"].halvings("strided conv"),
        "gap_heads": sum(network.head.steps[0].kind == "global avg" for network in classifiers),
        "gap_networks": len(classifiers),
        "squeezes": len(found["EfficientNet-B0"].aside),
        "sppf": str(pyramid),
        "sppf_small": _plane(pyramid.after),
        "sppf_large": _plane(sppf.larger[-2].after),
        "alex_adaptive": _change(alex),
        "vgg_adaptive": _change(vgg),
    }


def networks_since_resnet(found: Mapping[str, Read]) -> Iterator[Read]:
    return (read for label, read in found.items() if label not in ("AlexNet", "VGG16"))


def _steps(network: Read) -> list[Step]:
    return [step for stage in network.stages for step in stage.steps]


def _change(network: Read) -> str:
    """What the first layer of the head does to the map of a larger image."""
    step = network.larger[-1].steps[0]
    return f"{_plane(step.input)} → {_plane(step.output)}"


def _plane(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size[1:]))


def _size(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))


def _row(network: Read) -> Row:
    """The path as the figure wants it: sides of square maps, 1 for vectors."""
    marks = []
    for stage in network.stages[:-1]:
        kinds = {step.operator: step.kind for step in stage.steps}
        windows = [
            f"{count} × {name.removeprefix(kinds[name]).strip()}"
            if count > 1
            else name.removeprefix(kinds[name]).strip()
            for name, count in stage.operators.items()
        ]
        marks.append(Mark(list(kinds.values()), windows, stage.before[-1], stage.after[-1]))
    for step in network.head.steps:
        if step.kind != "linear":
            after = 1 if len(step.output) == 1 else step.output[-1]
            marks.append(Mark([step.kind], [""], step.input[-1], after))
    return Row(network.label, marks, network.head.parameters, network.parameters)


def _heads(text: Text, networks: Sequence[Read]) -> Table:
    rows = [
        (
            network.label,
            str(network.head),
            f"{network.head.parameters:,}",
            f"{100 * network.head.parameters / network.parameters:.1f} %",
            f"{network.parameters:,}",
            f"{network.with_gap:,}",
        )
        for network in networks
    ]
    return Table(text.heads_title, text.heads_header, rows, frozenset({2, 3, 4, 5}))


def _networks(text: Text, networks: Sequence[Read]) -> Table:
    rows = [
        (
            network.label,
            f"{network.multiply_adds / 1e9:.3f}",
            _size(network.head.before),
            _size(network.larger[-1].before),
        )
        for network in networks
    ]
    header = tuple(name.format(larger=LARGER) for name in text.networks_header)
    return Table(text.networks_title, header, rows, frozenset({1, 2, 3}))


def _claims(text: Text, found: Mapping[str, Read]) -> Table:
    def of(kind: str, *labels: str) -> str:
        return ", ".join(f"{label} {found[label].halvings(kind)}" for label in labels)

    later = list(networks_since_resnet(found))
    adaptive = [n.label for n in found.values() if n.head.steps[0].kind == "adaptive avg"]
    counted = (
        of("max pool 2/2", "AlexNet", "VGG16"),
        of("strided conv", "AlexNet", "ResNet-50"),
        f"{sum(n.head.steps[0].kind == 'global avg' for n in later)}/{len(later)}",
        ", ".join(adaptive),
    )
    rows = [(*claim, shown) for claim, shown in zip(text.claims_rows, counted, strict=True)]
    return Table(text.claims_title, text.claims_header, rows)


def _stages(text: Text, networks: Sequence[Read]) -> Table:
    rows = [
        (
            network.label if index == 0 else "",
            str(stage),
            _size(stage.before),
            _size(stage.after),
            f"{stage.parameters:,}",
            f"{100 * stage.parameters / network.parameters:.2f} %" if stage.parameters else "0 %",
        )
        for network in networks
        for index, stage in enumerate(network.stages)
    ]
    return Table(text.stages_title, text.stages_header, rows, frozenset({2, 3, 4, 5}))
