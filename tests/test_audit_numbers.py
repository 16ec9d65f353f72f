"""The audit's numbers are those that are published, for models that can be built here.

Parameters and multiply-adds are torchvision's and the papers', recomputed layer by layer;
receptive fields are those of Araujo, Norris and Sim (Distill, 2019), for torchvision's placing of
strides too.
"""

import importlib

import pytest
import torch

from poolkit import audit, models
from poolkit.audit.auditor import PARTS
from poolkit.models import BasicBlock, Bottleneck, ResNet

MIB = 2**20


def meta(build, side=224, batch=1, skip=PARTS):
    """The report of a model without values."""
    with torch.device("meta"):
        model = build()
    return audit(model, (batch, 3, side, side), skip=skip)


def first_version(depths):
    """ResNet as published first: the stride is in the 1 x 1 convolution of a bottleneck."""
    model = ResNet(Bottleneck, depths)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return model


def d(block, depths):
    return ResNet(block, depths, stem="d", shortcut="avg")


def padding(field):
    """The effective padding: how far the first value's field begins before the image."""
    return (field.local - 1) / 2 - (field.phase + (field.stride - 1) / 2)


MODELS = {
    # parameters, multiply-adds, field, stride and padding of the last map
    "AlexNet": (models.AlexNet, 61_100_840, 714_188_480, 195, 32, 66),
    "VGG16": (models.VGG16, 138_357_544, 15_470_264_320, 212, 32, 90),
    "ResNet-18": (models.ResNet18, 11_689_512, 1_814_073_344, 435, 32, 217),
    "ResNet-34": (lambda: ResNet(BasicBlock, (3, 4, 6, 3)),
        21_797_672, 3_663_761_408, 899, 32, 449),
    "ResNet-50": (models.ResNet50, 25_557_032, 4_089_184_256, 427, 32, 213),
    "ResNet-101": (lambda: ResNet(Bottleneck, (3, 4, 23, 3)),
        44_549_160, 7_801_405_440, 971, 32, None),
    "ResNet-152": (lambda: ResNet(Bottleneck, (3, 8, 36, 3)),
        60_192_808, 11_513_626_624, 1451, 32, None),
    "ResNet-50 v1": (lambda: first_version((3, 4, 6, 3)), 25_557_032, 3_857_973_248, 483, 32, None),
    "ResNet-101 v1": (lambda: first_version((3, 4, 23, 3)),
        44_549_160, 7_570_194_432, 1027, 32, None),
    "ResNet-50-D": (models.ResNet50D, 25_576_264, 4_328_824_832, None, 32, None),
    "ResNet-18-D": (lambda: d(BasicBlock, (2, 2, 2, 2)), 11_708_744, 2_053_713_920, None, 32, None),
    "ResNet-34-D": (lambda: d(BasicBlock, (3, 4, 6, 3)), 21_816_904, 3_903_401_984, None, 32, None),
    "ResNet-101-D": (lambda: d(Bottleneck, (3, 4, 23, 3)),
        44_568_392, 8_041_046_016, None, 32, None),
    "EfficientNet-B0": (models.EfficientNetB0, 5_288_548, 385_814_752, 851, 32, None),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_published_totals(name):
    build, parameters, multiply_adds, size, stride, pad = MODELS[name]
    report = meta(build)
    assert report.totals.parameters == parameters
    assert report.totals.multiply_adds == multiply_adds
    for field in report.stages[-1].field:
        assert size is None or field.local == size
        assert field.stride == stride
        assert pad is None or padding(field) == pad


def test_darknet():
    """The README of darknet says 18.57 thousand million operations, two per multiply-add."""
    totals = meta(models.Darknet53, 256).totals
    assert totals.parameters == 41_609_928
    assert round(totals.multiply_adds / 1e9, 4) == 9.2851


def test_fields_of_vgg():
    stages = [s for s in meta(models.VGG16).stages if s.kind == "max"]
    fields = [s.field[1] for s in stages]
    assert [f.size for f in fields] == [6, 16, 44, 100, 212]
    assert [f.stride for f in fields] == [2, 4, 8, 16, 32]
    assert [padding(f) for f in fields] == [2, 6, 18, 42, 90]
    assert {f.phase for f in fields} == {0}  # windows of two cells are centred


def test_fields_of_resnet():
    """Those of the shortcuts, 1 x 1, are those of the stage before; behind all is a global mean."""
    for build, expected in ((models.ResNet50, [11, 35, 91, 267, 427]),
                            (models.ResNet18, [11, 43, 99, 211, 435])):  # fmt: skip
        stages = {s.name: s for s in meta(build).stages}
        names = ["maxpool", *(f"layer{i}.0.downsample.0" for i in (2, 3, 4)), "avgpool"]
        fields = [stages[name].field[0] for name in names]
        assert [f.local for f in fields] == expected
        assert all(f.aligned for f in fields)
        assert fields[-1].size is None
        assert fields[-2].smallest == 11  # shortcuts all the way


def test_average_in_the_shortcut_is_not_aligned_with_the_branch():
    """ResNet-D: a 2 x 2 window is centred between pixels, the branch's 3 x 3 on one."""
    stages = {s.name: s for s in meta(models.ResNet50D).stages}
    assert stages["layer2.0.conv2"].field[0].aligned
    assert not stages["layer3.0.conv2"].field[0].aligned


def test_squeeze_and_excitation_sees_everything():
    stages = meta(models.EfficientNetB0).stages
    assert sum(s.side for s in stages) == 16
    assert {s.kind for s in stages if s.side} == {"global avg"}
    last = [s for s in stages if s.kind == "strided conv"][-1].field[0]
    assert (last.size, last.local) == (None, 403)


@pytest.mark.parametrize(
    ("build", "torchs", "ours"),
    [(models.ResNet18, 196.0, 24.5), (models.VGG16, 1494.5, 186.8), (models.AlexNet, 86.2, 10.8)],
)
def test_index_memory_of_128_images(build, torchs, ours):
    totals = meta(build, batch=128).totals
    assert round(totals.index_bytes_torch / MIB, 1) == torchs
    assert round(totals.index_bytes / MIB, 1) == ours


OTHERS = {
    # module of pytorchcv, side, parameters, multiply-adds, field of the map before the last pool
    "vgg11": ("vgg", 224, 132_863_336, None, 134 + 16),
    "vgg13": ("vgg", 224, 133_047_848, None, 140 + 16),
    "vgg19": ("vgg", 224, 143_667_240, 19_632_062_464, 252 + 16),
    "densenet121": ("densenet", 224, 7_978_856, 2_834_161_664, 2071),
    # 1 000 fewer parameters than torchvision's: its classifier has no bias.
    "mobilenetv2b_w1": ("mobilenetv2", 224, 3_504_872 - 1000, 300_774_272, 491),
    "squeezenet_v1_0": ("squeezenet", 224, 1_248_424, 818_924_576, None),
    "squeezenet_v1_1": ("squeezenet", 224, 1_235_496, 349_151_936, None),
    # Without torchvision's auxiliary classifier, which does no work in evaluation.
    "inceptionv3": ("inceptionv3", 299, 23_834_568, 5_713_216_096, 1311),
    "inceptionresnetv2": ("inceptionresnetv2", 299, None, None, 3039),
    "bninception": ("bninception", 224, None, None, 699),
    "mobilenet_w1": ("mobilenet", 224, None, None, 315),
}


@pytest.mark.parametrize("name", OTHERS)
def test_published_totals_of_pytorchcv(name):
    file, side, parameters, multiply_adds, size = OTHERS[name]
    pytest.importorskip("pytorchcv", reason="optional: models are looked up there")
    build = getattr(importlib.import_module(f"pytorchcv.models.{file}"), name)
    report = meta(build, side)
    assert parameters in (None, report.totals.parameters)
    assert multiply_adds in (None, report.totals.multiply_adds)
    last = report.stages[-1]  # with a window of 7 x 7, or so, in place of a global pool
    field = last.field[0]
    before = field.size if last.kind == "max" else field.size - (last.kernel[0] - 1) * (
        field.stride / last.stride[0]
    )  # fmt: skip
    assert size in (None, before)
