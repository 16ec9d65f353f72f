"""Well-known convolutional networks on poolkit's layers, a page each, downsampling by argument.

Each is the published network by default, to the parameter (U-Net is padded); ``pool``, ``stem``,
``shortcut`` and ``head`` say by what else it may shrink its feature maps.
:func:`downsampling_path` reads from any module where and how that happens. No weights are shipped:
state dicts of torchvision (AlexNet, VGG16, ResNet, EfficientNet) and timm (ResNet-D) have the same
names and shapes.
"""

from .alexnet import AlexNet as AlexNet
from .darknet import SPPF as SPPF
from .darknet import Darknet53 as Darknet53
from .efficientnet import EfficientNetB0 as EfficientNetB0
from .path import Step as Step
from .path import downsampling_path as downsampling_path
from .resnet import BasicBlock as BasicBlock
from .resnet import Bottleneck as Bottleneck
from .resnet import ResNet as ResNet
from .resnet import ResNet18 as ResNet18
from .resnet import ResNet50 as ResNet50
from .resnet import ResNet50D as ResNet50D
from .unet import UNet as UNet
from .vgg import VGG16 as VGG16

__all__ = [
    "SPPF",
    "VGG16",
    "AlexNet",
    "BasicBlock",
    "Bottleneck",
    "Darknet53",
    "EfficientNetB0",
    "ResNet",
    "ResNet18",
    "ResNet50",
    "ResNet50D",
    "Step",
    "UNet",
    "downsampling_path",
]
