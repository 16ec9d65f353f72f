"""Sample inputs, and the dtypes and layouts that the tests go through."""

import math

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALVES)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)

VALUES = ("normal", "relu", "zeros", "special", "extreme")
LAYOUTS = ("contiguous", "channels_last", "permuted", "expanded", "sliced", "strided", "ambiguous")


def sample(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    values: str = "normal",
    seed: int = 0,
) -> Tensor:
    """A contiguous tensor of one of the kinds of :data:`VALUES`, the same for the same arguments.

    ``"normal"``; ``"relu"``: quantised and rectified, so that most windows hold ties; ``"zeros"``:
    of -1, -0 and +0; ``"special"``: with NaN and infinities of both signs; ``"extreme"``: the
    smallest and the largest numbers of the dtype, and denormals. Integers take what is nearest.
    """
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.4
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    picks = torch.randint(0, 8, shape, generator=generator)
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        if values == "extreme":
            choice = [info.min, info.max, info.min + 1, info.max - 1, 0, 1, info.min, info.max]
            return torch.tensor(choice, dtype=dtype)[picks]
        top = {"normal": 100, "relu": 3, "zeros": 1, "special": 2}[values]
        low = 0 if values == "relu" else max(info.min, -top)
        return torch.randint(low, top + 1, shape, generator=generator).to(dtype)
    if values == "relu":
        normal = (normal * 2).round().clamp(min=0) / 2
    elif values == "zeros":
        normal = torch.tensor([-1.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -1.0]).double()[picks]
    elif values == "special":
        rare = torch.randint(0, 24, shape, generator=generator)
        for pick, special in enumerate((math.nan, -math.nan, math.inf, -math.inf)):
            normal[rare == pick] = special
        normal[picks == 0] = -math.inf
    elif values == "extreme":
        f = torch.finfo(dtype)
        numbers = [f.min, f.max, f.tiny, -f.tiny, f.tiny * f.eps, 0.0, 1.0, -1.0]
        normal = torch.tensor(numbers, dtype=torch.float64)[picks]
    return normal.to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in one of :data:`LAYOUTS`.

    Only ``"expanded"`` changes them (to the first plane's), and only ``"ambiguous"`` the shape (to
    one channel).
    """
    if layout == "channels_last" and x.dim() in (4, 5):
        x = x.contiguous(
            memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        )
    elif layout == "permuted":
        x = x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    elif layout == "expanded":
        x = x[:1, :1].clone().expand(x.shape)
    elif layout == "sliced":
        padded = x.new_zeros([size + 3 for size in x.shape])
        inner = padded[tuple(slice(2, 2 + size) for size in x.shape)]
        x = inner.copy_(x)
    elif layout == "strided":
        x = x.repeat_interleave(2, -1)[..., ::2]
    elif layout == "ambiguous":
        x = laid_out(x[:, :1] if x.dim() > 3 else x, "channels_last")
    return x
