"""The networks of poolkit.models: published sizes, names of their weights, and every choice."""

import copy
import itertools
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from poolkit import ArgumentError, models, nn
from poolkit.models import (
    SPPF,
    VGG16,
    AlexNet,
    BasicBlock,
    Bottleneck,
    Darknet53,
    EfficientNetB0,
    ResNet,
    ResNet18,
    ResNet50,
    ResNet50D,
    UNet,
    downsampling_path,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# Published: parameters, and multiply-adds of one image without bias, normalisation and pooling.
PUBLISHED = [
    (AlexNet, 224, 61_100_840, 714_188_480),
    (VGG16, 224, 138_357_544, 15_470_264_320),
    (ResNet18, 224, 11_689_512, 1_814_073_344),
    (ResNet50, 224, 25_557_032, 4_089_184_256),
    (ResNet50D, 224, 25_576_264, 4_328_824_832),
    (EfficientNetB0, 224, 5_288_548, 385_814_752),
    (Darknet53, 256, 41_609_928, 9_285_115_904),
]
ALL = [model for model, *_ in PUBLISHED]
CHOICES = {
    AlexNet: {"pool": ("max", "avg", "conv"), "head": ("fc", "gap", "gmp")},
    VGG16: {"pool": ("max", "avg", "conv"), "head": ("fc", "gap", "gmp")},
    ResNet18: {
        "stem": ("7x7", "d", "3x3"),
        "pool": ("max", "avg", "conv", "none"),
        "shortcut": ("conv", "avg"),
        "head": ("gap", "gmp", "fc"),
    },
    EfficientNetB0: {"pool": ("conv", "max", "avg"), "head": ("gap", "gmp", "fc")},
    Darknet53: {
        "pool": ("conv", "max", "avg"),
        "sppf": (False, True),
        "head": ("gap", "gmp", "fc"),
    },
}


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(model, *arguments, **choices):
    with torch.device("meta"):
        return model(*arguments, **choices).eval()


def small(**choices):
    """A residual network of a few thousand parameters, with weights that repeat."""
    torch.manual_seed(0)
    return ResNet(BasicBlock, (1, 1), 5, width=8, **choices)


def main_path(model, side):
    """What :func:`downsampling_path` finds on the path itself, on the meta device."""
    steps = downsampling_path(model, torch.empty(1, 3, side, side, device="meta"))
    return [step for step in steps if not step.side]


# ---- Published sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "side", "size", "multiply_adds"), PUBLISHED)
def test_published_sizes(model, side, size, multiply_adds):
    net = on_meta(model)
    assert parameters(net) == size
    with FlopCounterMode(display=False) as counter:
        scores = net(torch.empty(2, 3, side, side, device="meta"))
    assert scores.shape == (2, 1000)
    assert counter.get_total_flops() == 2 * 2 * multiply_adds  # two images, two flops each


def test_heads_of_alexnet_and_vgg():
    """With one linear layer on a global average, as published for such conversions."""
    assert parameters(on_meta(AlexNet, head="gap")) == 2_726_696
    assert parameters(on_meta(VGG16, head="gap")) == 15_227_688


def test_other_residual_networks():
    assert parameters(on_meta(ResNet, BasicBlock, (3, 4, 6, 3))) == 21_797_672
    assert parameters(on_meta(ResNet, Bottleneck, (3, 4, 23, 3))) == 44_549_160
    assert parameters(on_meta(ResNet18, stem="d", shortcut="avg")) == 11_708_744


def test_size_of_unet():
    """Of 3 x 3 convolutions, 2 x 2 transposed ones and the head, with biases, for one channel."""
    down = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    up = [(outer, inner) for inner, outer in down[:0:-1]]
    convolutions = [*down, *((b, b) for _, b in down), *up, *((b, b) for _, b in up)]
    size = sum(9 * a * b + b for a, b in convolutions)
    size += sum(4 * a * b + b for a, b in up) + 64 * 2 + 2
    assert size == 31_030_658
    assert parameters(on_meta(UNet, in_channels=1)) == size
    assert parameters(on_meta(UNet)) == size + 2 * 9 * 64 == 31_031_810


# ---- Names of the weights -----------------------------------------------------------------------


def layer(name, *shape, bias=True):
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def norm(name, channels):
    running = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
    return {f"{name}.{key}": shape for key, shape in {**running, "num_batches_tracked": ()}.items()}


def alexnet_names():
    return (
        layer("features.0", 64, 3, 11, 11)
        | layer("features.3", 192, 64, 5, 5)
        | layer("features.6", 384, 192, 3, 3)
        | layer("features.8", 256, 384, 3, 3)
        | layer("features.10", 256, 256, 3, 3)
        | layer("classifier.1", 4096, 9216)
        | layer("classifier.4", 4096, 4096)
        | layer("classifier.6", 1000, 4096)
    )


def vgg16_names():
    names, inputs = {}, 3
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    for place, width in zip(places, widths, strict=True):
        names |= layer(f"features.{place}", width, inputs, 3, 3)
        inputs = width
    names |= layer("classifier.0", 4096, 25088)
    return names | layer("classifier.3", 4096, 4096) | layer("classifier.6", 1000, 4096)


def resnet_names(depths, kernels, expansion, stem, shortcut):
    """``kernels`` are those of a block; ``shortcut`` is the place of the projection's layer."""
    names, inputs = dict(stem) | norm("bn1", 64), 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            at = f"layer{stage + 1}.{block}"
            widths = [width] * (len(kernels) - 1) + [width * expansion]
            before = inputs
            for number, (kernel, outputs) in enumerate(zip(kernels, widths, strict=True), 1):
                names |= layer(f"{at}.conv{number}", outputs, before, kernel, kernel, bias=False)
                names |= norm(f"{at}.bn{number}", outputs)
                before = outputs
            if inputs != before or (block == 0 and stage > 0):
                projection = f"{at}.downsample"
                names |= layer(f"{projection}.{shortcut}", before, inputs, 1, 1, bias=False)
                names |= norm(f"{projection}.{shortcut + 1}", before)
            inputs = before
    return names | layer("fc", 1000, inputs)


STEM_7X7 = layer("conv1", 64, 3, 7, 7, bias=False)
STEM_D = (
    layer("conv1.0", 32, 3, 3, 3, bias=False)
    | norm("conv1.1", 32)
    | layer("conv1.3", 32, 32, 3, 3, bias=False)
    | norm("conv1.4", 32)
    | layer("conv1.6", 64, 32, 3, 3, bias=False)
)


def efficientnet_names():
    names = layer("features.0.0", 32, 3, 3, 3, bias=False) | norm("features.0.1", 32)
    inputs = 32
    # Expansion, kernel, channels, blocks of each stage: table 1 of the paper.
    table = [(1, 3, 16, 1), (6, 3, 24, 2), (6, 5, 40, 2), (6, 3, 80, 3), (6, 5, 112, 3),
             (6, 5, 192, 4), (6, 3, 320, 1)]  # fmt: skip
    for stage, (expansion, kernel, outputs, blocks) in enumerate(table, 1):
        for block in range(blocks):
            at, wide, place = f"features.{stage}.{block}.block", inputs * expansion, 0
            if expansion > 1:
                names |= layer(f"{at}.0.0", wide, inputs, 1, 1, bias=False) | norm(
                    f"{at}.0.1", wide
                )
                place = 1
            names |= layer(f"{at}.{place}.0", wide, 1, kernel, kernel, bias=False)
            names |= norm(f"{at}.{place}.1", wide)
            names |= layer(f"{at}.{place + 1}.fc1", inputs // 4, wide, 1, 1)
            names |= layer(f"{at}.{place + 1}.fc2", wide, inputs // 4, 1, 1)
            names |= layer(f"{at}.{place + 2}.0", outputs, wide, 1, 1, bias=False)
            names |= norm(f"{at}.{place + 2}.1", outputs)
            inputs = outputs
    names |= layer("features.8.0", 1280, 320, 1, 1, bias=False) | norm("features.8.1", 1280)
    return names | layer("classifier.1", 1000, 1280)


NAMES = [
    (AlexNet, alexnet_names()),
    (VGG16, vgg16_names()),
    (ResNet18, resnet_names((2, 2, 2, 2), (3, 3), 1, STEM_7X7, 0)),
    (ResNet50, resnet_names((3, 4, 6, 3), (1, 3, 1), 4, STEM_7X7, 0)),
    (ResNet50D, resnet_names((3, 4, 6, 3), (1, 3, 1), 4, STEM_D, 1)),
    (EfficientNetB0, efficientnet_names()),
]


@pytest.mark.parametrize(("model", "names"), NAMES)
def test_names_of_the_weights(model, names):
    """torchvision's, timm's for ResNet-50-D, in their order, which optimizers rely on."""
    found = {name: tuple(value.shape) for name, value in on_meta(model).state_dict().items()}
    assert list(found.items()) == list(names.items())


def test_a_state_dict_loads():
    state = {name: torch.full(shape, 0.5) for name, shape in efficientnet_names().items()}
    net = EfficientNetB0()
    net.load_state_dict(state)
    assert all(bool((parameter == 0.5).all()) for parameter in net.parameters())


# ---- Every choice -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "choice"),
    [
        pytest.param(
            model, dict(zip(options, values, strict=True)), id=f"{model.__name__}-{values}"
        )
        for model, options in CHOICES.items()
        for values in itertools.product(*options.values())
    ],
)
def test_choices(model, choice):
    """Scores of the right shape at two sizes, and maps of the sizes that the default has."""
    net = on_meta(model, 7, in_channels=1, **choice)
    for side in (224, 97):
        assert net(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("side", [224, 225, 231])
@pytest.mark.parametrize("model", [AlexNet, VGG16, EfficientNetB0, Darknet53])
def test_pools_of_every_choice_leave_the_same_maps(model, side):
    sizes = []
    for pool in ("max", "avg", "conv"):
        # The head's input: what all halvings together left.
        net = on_meta(model, pool=pool, head="gap")
        kinds = {step.kind for step in main_path(net, side)}
        assert ("max pool" in kinds, "avg pool" in kinds) == (pool == "max", pool == "avg")
        sizes.append([s.input for s in main_path(net, side) if s.kind == "global avg"])
    assert sizes[0] == sizes[1] == sizes[2]
    assert len(sizes[0]) == 1


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
@pytest.mark.parametrize("pool", ["max", "avg", "conv"])
def test_unet_is_as_large_as_the_image(pool, up):
    net = on_meta(UNet, 5, in_channels=1, channels=(4, 6, 8, 9), pool=pool, up=up)
    for size in ((64, 40), (63, 41), (8, 15)):
        assert net(torch.empty(2, 1, *size, device="meta")).shape == (2, 5, *size)
    steps = downsampling_path(net, torch.empty(1, 1, 63, 41, device="meta"))
    assert [step.output for step in steps] == [(4, 31, 20), (6, 15, 10), (8, 7, 5)]
    kind = {"conv": "strided conv"}.get(pool, f"{pool} pool")
    assert {(step.kind, step.side) for step in steps} == {(kind, True)}


def test_unet_hands_every_size_across():
    """With nothing coming up from below, the output is that of the first map alone."""
    torch.manual_seed(0)
    net = UNet(channels=(4, 6, 8)).eval()
    for parameter in net.up[1].up.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 3, 16, 16)
    beside = torch.cat([net.down[0](x), torch.zeros(1, 4, 16, 16)], 1)
    torch.testing.assert_close(net(x), net.head(net.up[1].conv(beside)))


def test_stems_and_pools_of_resnet():
    def sizes(**choices):
        return [
            step.output[1] for step in main_path(on_meta(ResNet18, **choices), 224)[:-2]
        ]  # without the head

    assert sizes() == [112, 56, 28, 28, 14, 14, 7, 7]
    assert sizes(stem="d", shortcut="avg") == sizes()
    assert sizes(stem="3x3", pool="none") == [112, 112, 56, 56, 28, 28]
    assert sizes(pool="conv") == sizes()
    kinds = [step.kind for step in main_path(on_meta(ResNet18, pool="conv"), 224)]
    assert kinds == ["strided conv"] * 8 + ["global avg", "linear"]


def test_average_of_the_shortcut_covers_odd_maps():
    block = BasicBlock(2, 4, stride=2, shortcut="avg")
    pool = block.downsample[0]
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    # The last column and row have windows of two cells, the corner of one.
    assert pool(x).flatten().tolist() == [2.0, 3.5, 6.5, 8.0]


def test_padding_counts_in_no_mean():
    stem = small(pool="avg").maxpool
    assert torch.equal(stem(torch.ones(1, 8, 6, 6)), torch.ones(1, 8, 3, 3))


def test_sppf_is_spatial_pyramid_pooling():
    """Three pools in a row are pools over 5 x 5, 9 x 9 and 13 x 13."""
    torch.manual_seed(0)
    sppf = SPPF(8, 4).eval()
    x = torch.randn(2, 8, 11, 9)
    y = sppf.reduce(x)
    pyramid = [y] + [torch.nn.functional.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13)]
    assert torch.equal(sppf(x), sppf.expand(torch.cat(pyramid, 1)))
    assert sppf(x).shape == (2, 4, 11, 9)


def test_global_heads_are_means_and_maxima():
    x = torch.randn(1, 3, 64, 64)
    for head, reduce in (("gap", torch.mean), ("gmp", torch.amax)):
        net = small(head=head).eval()
        maps = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))
        torch.testing.assert_close(net(x), net.fc(reduce(maps, (2, 3))))


# ---- They are modules like any other ------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        *ALL,
        lambda n: Darknet53(n, sppf=True),
        lambda n: UNet(n, channels=(8, 16, 24)),
        lambda n: UNet(n, channels=(8, 16, 24), pool="conv", up="bilinear"),
    ],
)
def test_gradients_reach_every_parameter(model):
    torch.manual_seed(0)
    net = model(3).train()
    # Dropout would silence some of them.
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    net(torch.randn(2, 3, 80, 80)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_results_are_those_of_torchs_layers():
    """The same weights with torch's pooling modules."""
    for choices in ({}, {"stem": "d", "shortcut": "avg", "pool": "avg", "head": "fc"}):
        net = small(**choices).eval()
        stock = copy.deepcopy(net)
        replaced = 0
        for name, module in net.named_modules():
            ours = type(module).__module__ == nn.__name__
            if ours and not isinstance(module, nn.ResNetDShortcut):
                parent, _, child = name.rpartition(".")
                setattr(stock.get_submodule(parent), child, of_torch(module))
                replaced += 1
        assert replaced == (3 if choices else 2)
        x = torch.randn(2, 3, 61, 75)
        torch.testing.assert_close(net(x), stock(x))


def of_torch(pool):
    if isinstance(pool, nn.GlobalAvgPool2d):
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    if isinstance(pool, nn.AdaptiveAvgPool2d):
        return torch.nn.AdaptiveAvgPool2d(pool.output_size)
    if isinstance(pool, nn.MaxPool2d):
        return torch.nn.MaxPool2d(pool.kernel_size, pool.stride, pool.padding)
    return torch.nn.AvgPool2d(
        pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad
    )


def test_channels_last():
    net, x = small(pool="avg", shortcut="avg").eval(), torch.randn(2, 3, 33, 47)
    expected = net(x)
    seen = []
    net.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()


@pytest.mark.filterwarnings("ignore")
def test_compile():
    torch._dynamo.reset()
    net, x = small(stem="d", shortcut="avg").eval(), torch.randn(2, 3, 32, 32)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))


def test_copy_and_pickle():
    net, x = small(shortcut="avg").eval(), torch.randn(1, 3, 32, 32)
    expected = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), expected)
        with torch.no_grad():
            twin.fc.bias.add_(1)
    assert torch.equal(net(x), expected)


# ---- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AlexNet(pool="mean"), "AlexNet: pool must be one of 'max', 'avg', 'conv'"),
        (lambda: VGG16(head="gem"), "VGG16: head must be one of 'fc', 'gap', 'gmp', got 'gem'"),
        (lambda: ResNet18(stem=7), "ResNet18: stem must be one of '7x7', 'd', '3x3', got 7"),
        (lambda: ResNet50D(shortcut="pad"), "ResNet50D: shortcut must be one of"),
        (lambda: EfficientNetB0(pool="none"), "EfficientNetB0: pool must be one of"),
        (lambda: Darknet53(0), "Darknet53: num_classes must be a positive integer, got 0"),
        (lambda: AlexNet(in_channels=1.0), "in_channels must be a positive integer, got 1.0"),
        (lambda: ResNet(BasicBlock, (1, 0)), r"depths\[1\] must be a positive integer, got 0"),
        (lambda: SPPF(8, True), "SPPF: outputs must be a positive integer, got True"),
        (lambda: SPPF(8, 8, 4), "SPPF: kernel_size must be odd, got 4"),
        (lambda: UNet(up="nearest"), "UNet: up must be one of 'transposed', 'bilinear', got"),
        (lambda: UNet(pool="none"), "UNet: pool must be one of 'max', 'avg', 'conv', got 'none'"),
        (lambda: UNet(channels=(8, 0)), r"channels\[1\] must be a positive integer, got 0"),
        (lambda: UNet(channels=(8,)), r"UNet: channels must be of at least two sizes, got \(8,\)"),
        (lambda: SPPF(1, 8), "SPPF: inputs must be at least 2, got 1"),
    ],
)
def test_bad_choices(make, words):
    with torch.device("meta"), pytest.raises(ArgumentError, match=words):
        make()


@pytest.mark.parametrize("bad", [None, torch.zeros(3)])
def test_paths_of_bad_input(bad):
    with pytest.raises(
        ArgumentError, match="downsampling_path: input must be a tensor with a batch"
    ):
        downsampling_path(small(), bad)


# ---- The path -----------------------------------------------------------------------------------


def test_path_of_alexnet():
    steps = downsampling_path(on_meta(AlexNet), torch.empty(1, 3, 224, 224, device="meta"))
    assert [str(step) for step in steps] == [
        "strided conv 11/4/2 (3, 224, 224) -> (64, 55, 55)",
        "max pool 3/2 (64, 55, 55) -> (64, 27, 27)",
        "max pool 3/2 (192, 27, 27) -> (192, 13, 13)",
        "max pool 3/2 (256, 13, 13) -> (256, 6, 6)",
        "adaptive avg 6 (256, 6, 6) -> (256, 6, 6)",
        "flatten (256, 6, 6) -> (9216,)",
        "linear (9216,) -> (4096,)",
        "linear (4096,) -> (4096,)",
        "linear (4096,) -> (1000,)",
    ]
    assert sum(step.parameters for step in steps if step.kind == "linear") == 58_631_144
    assert steps[1].name == "features.2"
    assert not any(step.side for step in steps)


def test_path_of_squeeze_and_excitation():
    """Its global averages are beside the path: the map is large again after them."""
    net = on_meta(EfficientNetB0)
    steps = downsampling_path(net, torch.empty(1, 3, 224, 224, device="meta"))
    aside = [step for step in steps if step.side]
    assert {step.kind for step in aside} == {"global avg"}
    assert len(aside) == 16
    kinds = [step.kind for step in steps if not step.side]
    assert kinds == ["strided conv"] * 5 + ["global avg", "linear"]


def test_path_of_torchs_own_modules():
    """Sizes as they occur, in the order of the calls; a layer that runs twice counts twice."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last = torch.nn.AdaptiveMaxPool2d((2, 3))
            self.pool = torch.nn.MaxPool2d((2, 3), (2, 1), (1, 0), return_indices=True)
            self.lp = torch.nn.LPPool2d(2, 2)
            self.flatten = torch.nn.Flatten()

        def forward(self, x):
            x, _ = self.pool(self.lp(input=self.lp(x)))
            x = self.last(x)
            return self.flatten(x) + self.flatten(x.amax((2, 3), keepdim=True))

    steps = downsampling_path(Net(), torch.zeros(1, 1, 16, 20))
    assert [str(step) for step in steps] == [
        "lp pool 2/2 (1, 16, 20) -> (1, 8, 10)",
        "lp pool 2/2 (1, 8, 10) -> (1, 4, 5)",
        "max pool 2x3/2x1/1x0 (1, 4, 5) -> (1, 3, 3)",
        "adaptive max 2x3 (1, 3, 3) -> (1, 2, 3)",
        "flatten (1, 2, 3) -> (6,)",  # and not that of a single cell
    ]


def test_path_leaves_the_model_as_it_was():
    net = small().train()
    net.layer1.eval()
    before = copy.deepcopy(net.state_dict())
    modes = {name: module.training for name, module in net.named_modules()}
    for side, raised in ((32, None), (0, Exception)):
        x = torch.randn(1, 3, side, side)
        if raised:
            with pytest.raises(raised):
                downsampling_path(net, x)
        else:
            downsampling_path(net, x)
        assert {name: module.training for name, module in net.named_modules()} == modes
        assert all(
            torch.equal(a, b)
            for a, b in zip(before.values(), net.state_dict().values(), strict=True)
        )
        assert not any(module._forward_hooks for module in net.modules())


def test_everything_public_is_exported():
    assert sorted(models.__all__) == sorted(
        name for name, thing in vars(models).items() if isinstance(thing, type) or callable(thing)
    )
