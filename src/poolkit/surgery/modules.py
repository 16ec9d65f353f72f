"""New modules out of old ones: twins, a convolution with a downsampler, and what moves along."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import Module

from .observe import Call, Like

HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_pre_hooks",
    "_backward_hooks",
)  # fmt: skip

POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus,
)  # fmt: skip
"""Activations that work on each value for itself."""


def twin(module: Module, kind: type[Module] | None = None, **attributes: Any) -> Module:
    """A module that differs from the old one in its class and these attributes alone.

    The two share the very tables of parameters, buffers, children and hooks: training, moving or
    loading one does the same to the other, and handles remove hooks from both. Names of a state
    dict stay.
    """
    new: Module = object.__new__(kind or type(module))
    vars(new).update(vars(module))
    vars(new).update(attributes)
    return new


class DownsampledConv2d(nn.Conv2d):
    """A convolution with stride 1, and the module ``down`` that shrinks its output.

    Its parameters have the names that they have in the convolution; ``down`` adds none. A 1 x 1
    convolution comes after ``down``, as it gives the same there and has fewer cells to work on.

    Example:
        >>> import poolkit, torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, 2, 1, bias=False))
        >>> report = poolkit.rewrite(model, "antialias", torch.zeros(1, 16, 8, 8))
        >>> model[0].down
        BlurPool2d(stride=(2, 2), padding=None, kernel_size=3, padding_mode='reflect')
        >>> list(model.state_dict())
        ['0.weight']
    """

    down: Module

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, then ``down``."""
        if self.kernel_size == (1, 1) and self.padding in {(0, 0), "valid"}:
            return super().forward(self.down(input))
        result: Tensor = self.down(super().forward(input))
        return result


def downsampled(conv: nn.Conv2d, down: Module, **attributes: Any) -> Module:
    """The convolution with stride 1 and then ``down``: a twin with one more child."""
    children = {**conv._modules, "down": down}  # noqa: SLF001  a table of its own
    kind: type[Module] = DownsampledConv2d
    if type(conv) is not nn.Conv2d:  # such as a parametrised one, whose class is its own
        bases = DownsampledConv2d, type(conv)
        kind = type(type(conv).__name__, bases, {"__module__": type(conv).__module__})
    return twin(conv, kind, stride=(1, 1), _modules=children, **attributes)


def hand_over(old: Module, new: Module, like: Like | None) -> None:
    """Give a new module the mode and the hooks of the old, and the device and dtype of ``like``.

    A new module that holds something of the old one is where it should be, and its hooks are called
    there if it holds the whole of it.
    """
    known = set(old.modules())
    tensors = {id(t) for t in (*old.parameters(), *old.buffers())}
    if like is not None and tensors.isdisjoint(map(id, (*new.parameters(), *new.buffers()))):
        new.to(like.device, like.dtype)
    if old not in new.modules():
        for table in HOOKS:
            theirs, own = vars(old)[table], vars(new)[table]
            both = own and own is not theirs
            vars(new)[table] = OrderedDict({**theirs, **own}) if both else theirs
        vars(new)["_is_full_backward_hook"] = vars(old)["_is_full_backward_hook"]
    for module in new.modules():
        if module not in known:
            module.training = old.training


def like_of(module: Module, calls: Sequence[Call], model: Module) -> Like | None:
    """The device and dtype that a module in this place has.

    They are those of its own parameters, or of what it was called with, or the first of the model.
    """
    own = [Like(t.device, t.dtype) for t in (*module.parameters(), *module.buffers())]
    given = [call.like for call in calls if call.like is not None]
    model_s = (Like(t.device, t.dtype) for t in (*model.parameters(), *model.buffers()))
    return next((like for like in (*own, *given, *model_s) if like.dtype.is_floating_point), None)
