"""One run of a model: its stages, what every operation costs, and where every value looks."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from ..window import Window
from . import fields, rules, windows
from .calls import Calls, Function, title
from .fields import Sight
from .places import sized
from .rules import Found, Op


class Spec(NamedTuple):
    """A tensor without its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Call:
    """A call that can be made again: activations are specs, weights are themselves."""

    function: Function
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def title(self) -> str:
        """The function's name."""
        return title(self.function)


@dataclass
class Event:
    """A stage as it was met."""

    name: str
    number: int
    found: Found
    input: Spec
    output: Spec
    before: Sight
    """Of the input."""
    sight: Sight
    """Of the output."""
    call: Call | None
    weights: tuple[nn.Parameter, ...] = ()
    multiply_adds: int = 0
    side: bool = False

    @property
    def window(self) -> Window:
        """The cells of every output."""
        return self.found.window


Meet = Callable[[Event, Function, tuple[Any, ...], dict[str, Any]], None]


@dataclass
class _Running:
    """The outermost function that is under way."""

    name: str
    layer: bool
    args: tuple[Any, ...]
    quiet: bool = False
    events: list[Event] = field(default_factory=list)


class Trace(Calls):
    """What one run of a model showed.

    Args:
        model: run as it is, without gradients.
        meet: called with every stage while its tensors are there, and with the call that it is.
    """

    def __init__(self, model: nn.Module, meet: Meet | None = None) -> None:
        super().__init__(model)
        self.meet = meet
        self.events: list[Event] = []
        self.multiply_adds = 0
        self.lost: dict[str, None] = {}
        """Operations after which receptive fields are not known."""
        self._sights: Any = WeakTensorKeyDictionary()
        self._slices: Any = WeakTensorKeyDictionary()  # of an empty tensor: its parts, their places
        self._powers: Any = WeakTensorKeyDictionary()
        self._numbers: dict[str, int] = {}
        self._running: _Running | None = None
        self._meeting = False

    def run(self, *inputs: Any) -> Any:
        """Run the model, whose first input is the image."""
        self._sights[inputs[0]] = fields.image(inputs[0].shape)
        with torch.no_grad(), _Dispatched(self):
            return super().run(*inputs)

    # ---- functions ------------------------------------------------------------------------------

    def call(self, function: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """A function, within which operations go by its name."""
        name = title(function).removesuffix("_with_indices")
        if name == "get" or self._running is not None:
            return function(*args, **keywords)
        frame = self.frames[-1] if self.frames else None
        layer = frame is not None and frame.whole
        where = frame.name if frame is not None else ""
        running = _Running(where if layer else f"{where}:{name}", layer, args)
        running.quiet = getattr(function, "__module__", "").startswith("poolkit.functional")
        self._running = running
        try:
            result = function(*args, **keywords)
            if running.quiet:
                self._known(function, args, keywords, result)
        finally:
            self._running = None
        if len(running.events) == 1:
            self._complete(running.events[0], function, args, keywords, result)
        return result

    def _known(self, function: Function, args: Any, keywords: Any, result: Any) -> None:
        """A function of poolkit's: its arguments say what it is, however it is computed."""
        bound = inspect.signature(function).bind(*args, **keywords)
        bound.apply_defaults()
        values = dict(bound.arguments)
        x = values.get("input")
        sight = self.sight(x)
        first = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
        if sight is None or x is None or first is None or sight.lost:
            return
        after, found = windows.of_function(title(function), sight, x, first, values)
        if found is not None and after is not None:
            multiply_adds = found.weights * first.numel()
            self.multiply_adds += multiply_adds
            after = self._add(found, x, first, after, (), multiply_adds)
        if after is not None:
            self._put(first, after)

    def _complete(
        self, event: Event, function: Function, args: Any, keywords: Any, result: Any
    ) -> None:
        """A function that is one stage: its sizes are those of the function."""
        tensors = [leaf for leaf in tree_leaves((args, keywords)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if event.found.kind in ("max", "avg") and title(function).startswith("lp_pool"):
            event.found = Found("lp", event.window, event.found.ceil_mode)
        if not tensors or not outputs:
            return
        event.input, event.output = _spec(tensors[0]), _spec(outputs[0])
        self._met(event, function, args, keywords)

    def _met(self, event: Event, function: Function, args: Any, keywords: Any) -> None:
        event.call = self._recorded(function, args, keywords)
        if self.meet is not None:
            self._meeting = True
            try:
                self.meet(event, function, args, keywords)
            finally:
                self._meeting = False

    def _recorded(self, function: Function, args: Any, keywords: Any) -> Call:
        return Call(function, tree_map(_plain, tuple(args)), tree_map(_plain, dict(keywords)))

    # ---- operations -----------------------------------------------------------------------------

    def operation(self, func: Any, args: Any, keywords: dict[str, Any], out: Any) -> None:
        """An operation was run."""
        if self._meeting:
            return
        count = flop_registry.get(func._overloadpacket)  # noqa: SLF001  the registry's keys
        multiply_adds = count(*args, **keywords, out_val=out) // 2 if count is not None else 0
        self.multiply_adds += multiply_adds
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if not outputs:
            return
        name = func._opname  # noqa: SLF001  its only name
        if name != "copy_" and name.endswith("_") and not name.endswith("__"):
            name = name[:-1]
        if name == "pow":
            self._powers[outputs[0]] = True  # whose mean is a norm
        op = Op(name, args, keywords, out, self.sight)
        sight, found = rules.outcome(op)
        if name in ("slice", "select") and sight is None:
            self._remember_part(op)
        if name == "copy_" and sight is not None and args[0] in self._slices:
            self._fill(args[0], sight)
        if sight is None:
            return
        quiet = self._running is not None and self._running.quiet
        if sight.lost:
            found = None
            if not quiet:
                self.lost[sight.lost] = None
        if found is not None and not quiet:
            weights = tuple(a for a in args if isinstance(a, nn.Parameter))
            sight = self._add(found, args[0], outputs[0], sight, weights, multiply_adds)
            event = self.events[-1]
            if self._running is None:
                self._met(event, func, args, keywords)
        elif name == "cat" and not quiet:
            sight = self._gathered(args[0], outputs[0], sight)
        self._put_all(outputs, sight, parts=not isinstance(out, tuple))

    def _put_all(self, outputs: list[Tensor], sight: Sight, parts: bool) -> None:
        """``sight`` is the first result's; ``parts``: others are of one map, as of a split."""
        for output in outputs:
            own = sight
            if output.shape != outputs[0].shape:
                if output.ndim != outputs[0].ndim or not parts:
                    continue
                own = sized(sight, output.shape)
            self._put(output, own)

    def sight(self, value: Any) -> Sight | None:
        """Where a tensor's values come from, if from the image."""
        return self._sights.get(value) if isinstance(value, Tensor) else None

    def _put(self, tensor: Tensor, sight: Sight) -> None:
        self._sights[tensor] = sight
        for event in (self.events[stage] for stage in sight.stages if stage < len(self.events)):
            if not event.side and sight.cells > event.sight.cells:
                event.side = True

    def _add(
        self, found: Found, x: Tensor, output: Tensor, sight: Sight,
        weights: tuple[nn.Parameter, ...], multiply_adds: int = 0,
    ) -> Sight:  # fmt: skip
        """A stage; the sight of its result."""
        if found.kind.endswith("avg") and x in self._powers:
            found = Found("lp", found.window, found.ceil_mode)
        name = self._name(found)
        found = replace(found, window=windows.of_image(found.window, sight))
        before = self.events[-1] if self.events else None
        if found.starts and before is not None and self._continues(before, x, found):
            before.found = windows.both(before.found, found)
            before.output, before.sight = _spec(output), sight
            return sight
        sight = sight.through(len(self.events))
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        source = self.sight(x)
        assert source is not None
        event = Event(name, number, found, _spec(x), _spec(output), source, sight, None, weights,
                      multiply_adds)  # fmt: skip
        self.events.append(event)
        if self._running is not None:
            self._running.events.append(event)
        return sight

    def _name(self, found: Found) -> str:
        if self._running is not None:
            return self._running.name
        frame = self.frames[-1] if self.frames else None
        kind = found.kind.replace(" ", "_")
        return f":{kind}" if frame is None else frame.name if frame.whole else (
            f"{frame.name}:{kind}"
        )  # fmt: skip

    def _continues(self, before: Event, x: Tensor, found: Found) -> bool:
        """Whether a slice goes on where the last stage, a slice along another axis, ended."""
        sight = self.sight(x)
        last = len(self.events) - 1
        return (
            before.found.starts != ()
            and sight is not None
            and last in sight.stages
            and before.output.shape == tuple(x.shape)
            and all(
                a.stride == 1 or b.stride == 1
                for a, b in zip(before.window.axes, found.window.axes, strict=True)
            )
        )

    def _gathered(self, parts: Sequence[Tensor], output: Tensor, sight: Sight) -> Sight:
        """Slices of all phases beside each other drop nothing: they are space to depth."""
        count = len(parts)
        slices = self.events[-count:]
        steps = slices[0].window.axes if slices else ()
        phases = 1
        for axis in steps:
            phases *= axis.stride
        starts = {event.found.starts for event in slices if event.found.starts}
        first = len(self.events) - count
        seen = [self.sight(part) for part in parts]
        if (
            count < 2
            or phases != count
            or len(starts) != count
            or any(s is None or max(s.stages, default=-1) < first for s in seen)
            or any(event.input != slices[0].input for event in slices)
        ):
            return sight
        del self.events[first:]
        for event in slices:
            self._numbers[event.name] -= 1
        window = windows.dense(slices[0].window)
        kept = frozenset(stage for stage in sight.stages if stage < first)
        lines = slices[0].before.lines
        for i, axis in enumerate(window.axes):
            reach = (axis.kernel - 1) * lines[i].stride
            grown = replace(lines[i].grown(reach, reach / 2), stride=lines[i].stride * axis.stride)
            lines = (*lines[:i], grown, *lines[i + 1 :])
        sight = Sight(sight.dims, lines, kept | {first}, sight.lost)
        name = slices[0].name
        number = self._numbers[name] = self._numbers[name] + 1
        found = Found("space to depth", window)
        source = slices[0].before
        self.events.append(
            Event(name, number, found, slices[0].input, _spec(output), source, sight, None)
        )
        return sight

    # ---- maps that are filled part by part ------------------------------------------------------

    def _remember_part(self, op: Op) -> None:
        base, places_ = self._slices.get(op.args[0], (op.args[0], ()))
        if op.name == "select":
            return
        dim, first = op.arg(1, "dim", 0), op.arg(2, "start", None) or 0
        self._slices[op.result] = (base, (*places_, (dim, first)))

    def _fill(self, part: Tensor, sight: Sight) -> None:
        """A map is written into a part of a larger one, which padding does."""
        base, starts = self._slices[part]
        if self.sight(base) is not None:
            return
        for dim, first in starts:
            if sight.shape[dim] != base.shape[dim]:
                sight = fields.cropped(sight, dim, -first, base.shape[dim])
        self._put(base, sight)


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.trace.operation(func, args, kwargs or {}, out)
        return out


def _spec(tensor: Tensor) -> Spec:
    return Spec(tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return _spec(value)
    return value
