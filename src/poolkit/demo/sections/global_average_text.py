"""What the section on global average pooling says, in every language."""

from dataclasses import dataclass

from markupsafe import Markup

from ..report import Lang

PAPERS = (
    ("Lin, Chen and Yan, “Network in Network”, 2013, arXiv:1312.4400", None),
    (
        (
            "Zhou et al., “Learning Deep Features for Discriminative Localization”, 2016, "
            "arXiv:1512.04150 (poolkit.cam)"
        ),
        None,
    ),
)


@dataclass(frozen=True)
class Text:
    title: str
    lead: Markup
    example_caption: Markup
    example_alt: str
    detectors: tuple[str, str]
    example_title: str
    example_header: tuple[str, ...]
    shapes: Markup
    any_size: str
    sizes_title: str
    sizes_header: tuple[str, ...]
    refused: str
    accepted: str
    sizes_note: Markup
    weights: str
    weights_words: Markup
    weights_caption: Markup
    weights_alt: str
    weights_title: str
    weights_header: tuple[str, ...]
    weights_note: Markup
    overfitting: str
    training: str
    overfitting_words: Markup
    overfitting_caption: Markup
    overfitting_alt: str
    overfitting_title: str
    overfitting_header: tuple[str, ...]
    overfitting_found: Markup
    overfitting_note: Markup
    readable: str
    searching: str
    maps_words: Markup
    maps_exact: Markup
    maps_setting: Markup
    maps_caption: Markup
    maps_alt: str
    maps_title: str
    maps_header: tuple[str, ...]
    maps_found: Markup
    maps_lit: Markup
    maps_missed: Markup
    maps_note: Markup
    claims: str
    claims_title: str
    claims_header: tuple[str, ...]
    claims_rows: tuple[tuple[str, str], ...]
    read_next: tuple[tuple[str, str | None], ...]


TEXT: dict[Lang, Text] = {
    "en": Text(
        title="Global average pooling",
        lead=Markup(
            "A classifier has to get rid of rows and columns in the end. The traditional way "
            "flattens the feature map and lays fully connected (FC) layers over all of it. "
            "<b>Global average pooling</b> (GAP) sums up each channel in <b>one number</b>, its "
            "mean:"
        ),
        example_caption=Markup(
            "The text's two channels. “There is some cat ear ({})” against “there is no wheel "
            "({})”: a cat!"
        ),
        example_alt="Two 3×3 channels, an arrow from each, and its mean",
        detectors=("1: cat ears", "2: wheels"),
        example_title="Two channels, two numbers",
        example_header=("Channel", "Sum", "Cells", "Mean"),
        shapes=Markup(
            "Nothing else happens to a whole batch: <code>{before}</code> becomes "
            "<code>{after}</code>, one number for each channel of each image, ready for the "
            "classifier."
        ),
        any_size="Any input size",
        sizes_title="Images of several sizes through five halvings and the two heads",
        sizes_header=("Image", "Last feature map", "GAP head", "Flatten head made for 7×7"),
        refused="refused",
        accepted="accepted",
        sizes_note=Markup(
            "A mean does not ask how many cells it has. A flatten head has a weight for each cell, "
            "so that another size is an error. Torch says: <code>{said}</code>. Accepted is not "
            "the same as accurate: a network reads best what has the size it was trained with."
        ),
        weights="Weights",
        weights_words=Markup(
            "Flattening the text's feature map gives {inputs:,} numbers. The first FC layer of VGG "
            "then has {inputs:,} × {hidden:,} = <b>{fc:,}</b> weights. After GAP the classifier "
            "has {channels:,} × {classes:,} = <b>{gap:,}</b>: {ratio:.1f} times fewer."
        ),
        weights_caption=Markup(
            "Parameters of classifier heads, on a logarithmic scale. The first two bars are the "
            "text's two layers, without biases; all others are whole heads with biases."
        ),
        weights_alt="Bar chart of the parameters of classifier heads, with and without GAP",
        weights_title="The heads of real networks (weights and biases)",
        weights_header=("Network", "Into the head", "Head", "Its own", "With GAP", "Fewer"),
        weights_note=Markup(
            "Counted on torch layers, without weights in memory. The text compares one layer of "
            "VGG with a whole GAP head; whole heads differ even more. With a wide last feature "
            "map, as ResNet-50 has it, a GAP head is no longer small."
        ),
        overfitting="Over-fitting",
        training="Training heads",
        overfitting_words=Markup(
            "Fewer weights should over-fit less. Three heads on the same three convolutions learn "
            "to tell faces from background on {train} of 200 real images of 25×25 pixels, and are "
            "tested on the others, which they never saw. Once all labels are right, once "
            "{wrong:.0f} % of the training labels are wrong, so that whoever learns by heart gives "
            "itself away: {seeds} times each, with other images, wrong labels and initial weights."
        ),
        overfitting_caption=Markup(
            "Accuracy on the training images (by the labels that the networks were given) and on "
            "held-out ones (by the true labels). Small dots: {seeds} runs; large dots and bars: "
            "mean and 95 % confidence interval."
        ),
        overfitting_alt="Training and held-out accuracy of three heads, with intervals",
        overfitting_title="Accuracy, mean and 95 % confidence interval",
        overfitting_header=(
            "Head",
            "Parameters",
            "Right labels: train",
            "held-out",
            "20 % wrong: train",
            "held-out",
        ),
        overfitting_found=Markup(
            "Held-out accuracy of GAP minus that of {flat}, run by run: <b>{clean}</b> points with "
            "right labels and <b>{noisy}</b> points with wrong ones. An interval that holds 0 "
            "shows no difference. A head that reproduces wrong labels in training has learned by "
            "heart."
        ),
        overfitting_note=Markup(
            "Shown: {seeds} random halves of one small and easy data set. The intervals cover "
            "these draws, not other images; the held-out halves overlap. Not shown: large data "
            "sets, or heads with dropout, which AlexNet and VGG have."
        ),
        readable="Channels one can read",
        searching="Looking for the face",
        maps_words=Markup(
            "After GAP there is one linear layer, so that sum and mean can change places: each "
            "place of the feature map has its own share in the logit of class <i>c</i>. This is "
            "the <b>class activation map</b> (Zhou et al., 2016):"
        ),
        maps_exact=Markup(
            "The mean of the map plus the bias is the logit; the largest difference in this report "
            "was {error}. So a network that only ever heard “face” or “no face” about small cuts "
            "can say <i>where</i> in a whole photograph it sees one, at any size."
        ),
        maps_setting=Markup(
            "{networks} GAP networks are trained on {train} of the 200 images (LFW), and as many "
            "more that also get backgrounds from {photographs} photographs without a face, "
            "{rounds} times joined by the cuts that they just took for faces. All see local "
            "contrast only: each pixel minus the mean around it, over the standard deviation "
            "around it, by average pooling. None was trained on this photograph. The white box "
            "comes from scikit-image's own face detector, which shares nothing with these networks."
        ),
        maps_caption=Markup(
            "The photograph with its box, and the class activation maps over it, means of "
            "{networks} networks, for three sizes of the photograph; the brighter, the more a "
            "place speaks for a face. Above: trained on the labelled images (LFW) alone. Below: "
            "with backgrounds."
        ),
        maps_alt="A portrait of an astronaut and class activation maps over it",
        maps_title="How much of the map lies in the box",
        maps_header=(
            "Photograph",
            "Face (px)",
            "LFW: share",
            "peak inside",
            "With backgrounds: share",
            "peak inside",
        ),
        maps_found=Markup(
            "Held-out accuracy on the small images is {plain} without and {bootstrapped} with the "
            "backgrounds. At {size}×{size}, the best of these sizes, the box holds "
            "{plain_share:.0f} % of what is positive in the averaged map without and "
            "<b>{share:.0f} %</b> with the backgrounds; it covers {chance:.1f} % of the picture."
        ),
        maps_lit=Markup(
            "So the map lights up where the face is, once the networks have seen other things than "
            "faces. Accuracy alone would not have told: it is the map that shows that the first "
            "networks answer to contrast rather than to faces. Channels that can be read also say "
            "when a network looks at the wrong thing."
        ),
        maps_missed=Markup(
            "So here the map does not light up where the face is. The channels can be read, and "
            "what they say is that these networks look at something else, whatever their accuracy."
        ),
        maps_note=Markup(
            "Share: positive part of the averaged map inside the box (rows {rows}, columns "
            "{columns}). Peak inside: in how many single networks the largest value is in the box. "
            "The training faces fill 25 pixels; the second column is how large this one is. One "
            "photograph is an illustration, no benchmark, and not quite held out: no network was "
            "trained on it, but the recipe (local contrast, backgrounds, sizes) was chosen by "
            "looking at it."
        ),
        claims="The text's four advantages",
        claims_title="Claims and evidence",
        claims_header=("Claim", "Here"),
        claims_rows=(
            ("Far fewer parameters", "{} times fewer"),
            ("Free input size", "{} through one head"),
            ("Less over-fitting", "with wrong labels, held-out: {} (GAP / FC)"),
            ("Interpretable", "{} of the map in the face's box"),
        ),
        read_next=(
            ("Strided convolution against pooling", "#strided-convolution"),
            ("Adaptive pooling", "#adaptive"),
            *PAPERS,
        ),
    ),
    "ko": Text(
        title="Global Average Pooling (GAP)",
        lead=Markup(
            "CNN의 마지막에서 분류를 하려면 공간 차원을 제거해야 합니다. 전통적 방법은 특징 맵을 "
            "한 줄로 펼치고(flatten) FC layer를 연결합니다. <b>Global Average Pooling</b>은 각 "
            "채널을 <b>하나의 숫자</b>, 곧 평균으로 요약합니다:"
        ),
        example_caption=Markup(
            "본문의 두 채널입니다. “고양이 귀가 좀 있다({})” vs “바퀴는 없다({})” → 고양이!"
        ),
        example_alt="3×3 채널 두 개와 각 채널의 평균",
        detectors=("1: 고양이 귀 감지기", "2: 바퀴 감지기"),
        example_title="채널 두 개, 숫자 두 개",
        example_header=("채널", "합", "칸 수", "평균"),
        shapes=Markup(
            "배치 전체도 마찬가지입니다. <code>{before}</code> 특징 맵이 <code>{after}</code>로 "
            "줄어듭니다. 이미지마다, 채널마다 숫자 하나만 남아 분류 헤드로 바로 이어집니다."
        ),
        any_size="입력 크기 자유",
        sizes_title="여러 크기의 이미지를 다섯 번 절반으로 줄여 두 헤드에 넣으면",
        sizes_header=("이미지", "마지막 특징 맵", "GAP 헤드", "7×7에 맞춘 flatten 헤드"),
        refused="오류",
        accepted="동작",
        sizes_note=Markup(
            "평균은 칸이 몇 개든 구할 수 있습니다. flatten 헤드는 칸마다 가중치가 따로 있어 크기가 "
            "달라지면 오류가 납니다. torch의 메시지는 <code>{said}</code>입니다. 다만 동작한다고 "
            "해서 정확하다는 뜻은 아닙니다. 네트워크는 학습할 때와 비슷한 크기를 가장 잘 "
            "알아봅니다."
        ),
        weights="파라미터",
        weights_words=Markup(
            "본문의 특징 맵을 펼치면 숫자 {inputs:,}개가 됩니다. VGG의 첫 FC layer에는 {inputs:,} "
            "× {hidden:,} = <b>{fc:,}</b>개의 가중치가 있습니다. GAP 다음의 분류기는 {channels:,} "
            "× {classes:,} = <b>{gap:,}</b>개로, {ratio:.1f}배 적습니다."
        ),
        weights_caption=Markup(
            "분류 헤드의 파라미터 수(로그 눈금)입니다. 위의 두 막대는 본문의 두 레이어(bias "
            "제외)이고, 나머지는 bias까지 포함한 헤드 전체입니다."
        ),
        weights_alt="GAP을 쓴 헤드와 쓰지 않은 헤드의 파라미터 수를 비교한 막대그래프",
        weights_title="실제 네트워크의 헤드 (가중치와 bias)",
        weights_header=("네트워크", "헤드 입력", "헤드", "원래", "GAP이라면", "감소"),
        weights_note=Markup(
            "torch 레이어에서 직접 세었습니다(메모리는 쓰지 않습니다). 본문은 VGG의 레이어 하나와 "
            "GAP 헤드 전체를 비교했는데, 헤드 전체끼리 비교하면 차이가 더 큽니다. 반대로 "
            "ResNet-50처럼 마지막 특징 맵의 채널이 많으면 GAP 헤드도 작지만은 않습니다."
        ),
        overfitting="과적합",
        training="헤드 학습 중",
        overfitting_words=Markup(
            "파라미터가 적으면 과적합도 적어야 합니다. 같은 컨볼루션 세 층 위에 헤드 세 가지를 "
            "얹어 얼굴과 배경을 구분하도록 학습했습니다. 25×25 픽셀 실제 이미지 200장 중 "
            "{train}장으로 학습하고, 한 번도 보지 못한 나머지로 평가합니다. 한 번은 라벨을 그대로 "
            "쓰고, 한 번은 학습 라벨의 {wrong:.0f}%를 일부러 틀리게 바꿉니다. 통째로 외우는 헤드는 "
            "여기서 드러납니다. 이미지, 틀린 라벨, 초기 가중치를 바꿔 가며 {seeds}번씩 "
            "반복했습니다."
        ),
        overfitting_caption=Markup(
            "학습 이미지의 정확도(주어진 라벨 기준)와 held-out 이미지의 정확도(올바른 라벨 "
            "기준)입니다. 작은 점은 {seeds}번의 실행, 큰 점과 막대는 평균과 95% 신뢰구간입니다."
        ),
        overfitting_alt="세 가지 헤드의 학습 정확도와 평가 정확도, 신뢰구간",
        overfitting_title="정확도, 평균과 95% 신뢰구간",
        overfitting_header=(
            "헤드",
            "파라미터",
            "바른 라벨: 학습",
            "평가",
            "20% 틀린 라벨: 학습",
            "평가",
        ),
        overfitting_found=Markup(
            "GAP의 평가 정확도에서 {flat}의 평가 정확도를 실행마다 빼면 바른 라벨에서는 "
            "<b>{clean}</b>%p, 틀린 라벨이 섞이면 <b>{noisy}</b>%p입니다. 구간에 0이 들어 있으면 "
            "차이가 확인되지 않은 것입니다. 틀린 라벨까지 맞힌 헤드는 배운 것이 아니라 외운 "
            "것입니다."
        ),
        overfitting_note=Markup(
            "작고 쉬운 데이터를 무작위로 {seeds}번 반씩 나눈 결과입니다. 신뢰구간은 이 추첨에 대한 "
            "것이며 다른 이미지에 대한 것이 아니고, 평가 이미지는 서로 겹칩니다. 큰 데이터나, "
            "AlexNet과 VGG처럼 dropout을 쓰는 헤드에 대해서는 알 수 없습니다."
        ),
        readable="해석 가능한 채널",
        searching="얼굴 찾는 중",
        maps_words=Markup(
            "GAP 다음에는 선형 레이어 하나뿐이므로 합과 평균의 순서를 바꿀 수 있습니다. 특징 맵의 "
            "각 위치가 클래스 <i>c</i>의 점수에 얼마나 기여했는지 알 수 있고, 이것이 <b>class "
            "activation map</b>입니다(Zhou et al., 2016):"
        ),
        maps_exact=Markup(
            "맵의 평균에 bias를 더하면 정확히 점수가 됩니다. 이 보고서에서 가장 큰 차이는 "
            "{error}였습니다. 그래서 작은 이미지에 “얼굴이다/아니다”라는 답만 배운 네트워크도 큰 "
            "사진에서 얼굴이 <i>어디에</i> 있는지 말할 수 있습니다. 사진 크기는 자유입니다."
        ),
        maps_setting=Markup(
            "GAP 네트워크 {networks}개는 200장 중 {train}장(LFW)으로만 학습하고, 같은 수의 다른 "
            "네트워크는 얼굴이 없는 사진 {photographs}장의 배경도 함께 배웁니다. 배경을 얼굴로 "
            "잘못 본 조각은 {rounds}번에 걸쳐 다시 학습에 넣습니다. 모두 주변과의 명암 차이만 "
            "보며, 이 정규화에도 Average Pooling을 씁니다. 아래 사진으로 학습한 네트워크는 "
            "없습니다. 흰 상자는 이 네트워크들과 무관한 scikit-image의 얼굴 검출기가 찾은 것입니다."
        ),
        maps_caption=Markup(
            "원본과 얼굴 상자, 그리고 사진을 세 가지 크기로 줄여 얻은 class activation "
            "map(네트워크 {networks}개의 평균)입니다. 밝을수록 얼굴이라고 본 곳입니다. 위는 "
            "200장만으로, 아래는 배경까지 학습한 결과입니다."
        ),
        maps_alt="우주 비행사 사진과 그 위에 겹쳐 그린 class activation map",
        maps_title="맵의 얼마가 상자 안에 있나",
        maps_header=(
            "사진",
            "얼굴 (px)",
            "LFW: 비율",
            "최댓값이 안에",
            "배경 포함: 비율",
            "최댓값이 안에",
        ),
        maps_found=Markup(
            "작은 이미지의 평가 정확도는 배경 없이 {plain}, 배경을 넣으면 {bootstrapped}입니다. 이 "
            "중 가장 잘 나온 {size}×{size}에서 평균 맵의 양수 부분 가운데 상자 안에 있는 몫은 배경 "
            "없이 {plain_share:.0f}%, 배경을 넣으면 <b>{share:.0f}%</b>입니다. 상자의 넓이는 "
            "사진의 {chance:.1f}%입니다."
        ),
        maps_lit=Markup(
            "얼굴이 아닌 것을 충분히 배우면 맵은 얼굴이 있는 곳에서 밝아집니다. 정확도만으로는 알 "
            "수 없었던 사실입니다. 앞의 네트워크가 얼굴이 아니라 명암을 배웠다는 것은 맵을 보아야 "
            "드러납니다. 해석 가능한 채널은 네트워크가 엉뚱한 곳을 볼 때도 알려 줍니다."
        ),
        maps_missed=Markup(
            "이번에는 맵이 얼굴이 있는 곳에서 밝아지지 않았습니다. 채널을 해석할 수 있다는 말은 "
            "맞지만, 그 내용은 정확도와 관계없이 네트워크가 다른 곳을 보고 있다는 것입니다."
        ),
        maps_note=Markup(
            "비율은 평균 맵의 양수 부분 중 상자(행 {rows}, 열 {columns}) 안에 있는 몫입니다. "
            "최댓값은 네트워크마다 따로 세었습니다. 학습한 얼굴은 25픽셀을 채우며, 둘째 열은 이 "
            "사진의 얼굴 크기입니다. 사진 한 장은 예시일 뿐 벤치마크가 아니며, 완전한 held-out도 "
            "아닙니다. 이 사진으로 학습한 네트워크는 없지만 학습 방법(명암 정규화, 배경, 사진 "
            "크기)은 이 사진을 보면서 골랐습니다."
        ),
        claims="본문이 말한 네 가지 장점",
        claims_title="주장과 근거",
        claims_header=("주장", "여기서는"),
        claims_rows=(
            ("파라미터 극감", "{}배 적음"),
            ("입력 크기 자유", "{} 모두 한 헤드로"),
            ("과적합 방지", "틀린 라벨로 학습한 뒤 평가 정확도 {} (GAP / FC)"),
            ("해석 가능", "맵의 {}가 얼굴 상자 안에"),
        ),
        read_next=(
            ("Stride Convolution vs Pooling", "#strided-convolution"),
            ("Adaptive Pooling", "#adaptive"),
            *PAPERS,
        ),
    ),
}
