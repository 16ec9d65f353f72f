r"""Surgery by policy: other modules in place of a model's downsampling, and exactly back.

:func:`rewrite` changes a model in place and says what it changed; its report undoes it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import UninitializedParameter

from ..accelerate import Left, title
from ..audit.calls import is_exported
from ..errors import ArgumentError
from ..window import as_int
from .calls import ACTIVATIONS, POOLS, UntraceableError, make_modules
from .journal import Entry, Journal
from .modules import DownsampledConv2d, hand_over, like_of
from .observe import Input, Run, observe
from .plan import Options, Plan, Scan
from .policies import POLICIES, Policy, callable_policy
from .polyphase import SharedPolyphasePool2d
from .report import Change, Report

__all__ = ["Change", "DownsampledConv2d", "Report", "SharedPolyphasePool2d", "rewrite", "undo"]

for _kind in (DownsampledConv2d, SharedPolyphasePool2d):
    _kind.__module__ = __name__  # what reports and pickles name


def rewrite(
    model: Module,
    policy: str | Callable[[str, Module], Module | None],
    input: Input | None = None,
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    blur: int = 3,
    min_channels: int = 16,
) -> Report:
    """Replace a model's downsampling by policy, in place, with every shape as before.

    - ``"accelerate"``: poolkit's module for each pooling module of torch, for the same values.
    - ``"antialias"``: a blur before every stride. Max pools become ``MaxBlurPool2d``, average pools
      ``BlurPool2d``, strided convolutions dense ones with a blur after their activation.
    - ``"polyphase"``: dense operations with circular padding, then the polyphase component of the
      largest norm. Scores do not change under circular shifts, if the head averages globally.
    - ``"strided_conv"``: a convolution with the window of each pool.
    - ``"gap_head"``: global average pooling and one linear layer for a flattened map and its fully
      connected layers.
    - a function of a name and a module: gives a new module, or None to leave it.

    All but ``"accelerate"`` change values, and new or differently used weights need training; the
    report says which are new. Parameters go on being the same objects. Names of a state dict stay
    under ``"accelerate"``, ``"antialias"`` and ``"polyphase"``.

    The model runs on the input in evaluation mode, before and after, and its hooks are called. What
    changes a shape is undone and refused. So is what goes wrong or is interrupted on the way.

    A module that the model has in several places is replaced in all of them by one. The new one
    gets its mode, its device and dtype, and its hooks. Functional pooling, such as
    ``F.max_pool2d(x, 2)``, is found in the run, and replaced where ``torch.fx`` can trace the
    ``forward`` that calls it: that module gets new children, and a ``forward`` that calls them.
    The decisions of its code (but not training mode) are then those of the trace.

    Args:
        model: any module. It is changed, and is the same object afterwards.
        policy: one of the names above, or a function. The function is asked for each module but the
            model itself, parents first, and not for what is inside a module that it replaced.
        input: a tensor, or a tuple of the model's arguments. The shapes are checked on it. Only
            ``"accelerate"`` and a function can do without; functional calls are then not found.
        include: names of the modules that may be replaced, with wildcards (``"layer4.*"``).
            Default: all.
        exclude: names of those that may not.
        blur: for ``"antialias"``, the size of the binomial filter.
        min_channels: for ``"antialias"``, convolutions with fewer input channels stay: the first
            one reads an image, where a stride of 1 would cost most.

    Returns:
        A sequence of ``(name, old, new)``, with ``undo()``; ``print`` shows it as a table, with
        what was left and why. It is empty if there was nothing to replace.

    Raises:
        ArgumentError: no module; an unknown policy or name; no input where one is needed; a model
            that fails on the input; a shape that would change. The model is then as it was.

    Example:
        >>> import poolkit, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> print(poolkit.rewrite(model, "strided_conv", image))
        module  was                 is now
        2       torch.nn.MaxPool2d  poolkit.nn.StridedConv2d(8)
        <BLANKLINE>
        264 parameters are new: the model needs training.
        >>> report = poolkit.rewrite(model, lambda name, old: nn.SiLU() if name == "1" else None)
        >>> report[0]
        Change(name='1', old=ReLU(), new=SiLU())
        >>> report.undo()
        >>> model[1]
        ReLU()

    Source: the cited papers: Zhang, arXiv:1904.11486; Chaman and Dokmanic, arXiv:2011.14214;
    Springenberg et al., arXiv:1412.6806; Lin et al., arXiv:1312.4400.
    """
    patterns = _patterns("include", include), _patterns("exclude", exclude)
    options = Options(*patterns, blur, as_int("rewrite", "min_channels", min_channels, 0))
    chosen = _checked(model, policy, input)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps, and then compiles anew
    journal = Journal()
    try:
        return _rewrite(model, chosen, input, options, journal)
    except BaseException:
        journal.undo()
        raise


def undo(report: Report) -> None:
    """Put a model back as it was before the :func:`rewrite` that gave this report.

    The same as :meth:`Report.undo`.

    Raises:
        ArgumentError: a later rewriting is not undone yet. Nothing is changed then.

    Example:
        >>> import poolkit, torch
        >>> pool = torch.nn.MaxPool2d(2)
        >>> model = torch.nn.Sequential(pool)
        >>> report = poolkit.rewrite(model, "accelerate")
        >>> model[0] is pool
        False
        >>> poolkit.undo(report)
        >>> model[0] is pool
        True
    """
    report.undo()


def _patterns(argument: str, names: object) -> tuple[str, ...]:
    patterns = (names,) if isinstance(names, str) else names
    if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
        raise ArgumentError(
            f"rewrite: {argument} must be a name such as 'layer4.*' or a sequence of them, got "
            f"{names!r:.80}"
        )
    return tuple(patterns)


def _checked(model: object, policy: object, input: object) -> Policy:
    """The policy, if everything is what it should be."""
    if not isinstance(model, Module):
        raise ArgumentError(f"rewrite: model must be a torch.nn.Module, got {model!r:.80}")
    if isinstance(policy, str) and policy in POLICIES:
        chosen = POLICIES[policy]
    elif callable(policy) and not isinstance(policy, type):
        chosen = callable_policy(policy)
    else:
        names = ", ".join(repr(name) for name in POLICIES)
        raise ArgumentError(
            f"rewrite: policy must be one of {names}, or a function of a name and a module, got "
            f"{policy!r:.80}"
        )
    if input is None and chosen.needs_input:
        raise ArgumentError(f"rewrite: policy {policy!r} needs an input, to see the shapes of maps")
    if not isinstance(input, (Tensor, tuple, list, type(None))):
        raise ArgumentError(
            f"rewrite: input must be a tensor or a tuple of arguments, got {input!r:.80}"
        )
    try:
        list(model.named_modules(remove_duplicate=False))
    except RecursionError:
        raise ArgumentError("rewrite: the model contains itself") from None
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ArgumentError(f"rewrite: {name} has no shape yet; run the model once before")
    return chosen


class Made(NamedTuple):
    """Modules that took over what a ``forward`` did, and how to take that back."""

    modules: list[Module]
    entries: list[Entry]


def _rewrite(
    model: Module, policy: Policy, input: Input | None, options: Options, journal: Journal
) -> Report:
    run = before = None
    made, refused = list[Made](), list[Left]()
    if input is not None:
        before = observe(model, input, {*POOLS, *ACTIVATIONS})
        run, made, refused = _calls_to_modules(model, policy, input, before, journal)
    scan = Scan(model, run, options)
    plan = policy.plan(scan)
    plan.left += refused
    if not plan.swaps and is_exported(model):
        plan.leave(scan, model, "was exported: rewrite the model before, and export it again")
    wanted = {swap.old for swap in plan.swaps}
    for part in made:
        if wanted.isdisjoint(part.modules):
            journal.take_back(part.entries)
    moved = policy.moved(model, input) if policy.moved and input is not None else None
    for swap in plan.swaps:
        hand_over(swap.old, swap.new, like_of(swap.old, scan.calls(swap.old), model))
        journal.replace(model, swap.old, swap.new)
    if before is not None and input is not None and plan.swaps:
        after = observe(model, input, what="the rewritten model")
        _check_shapes(scan, plan, before, after)
        if policy.moved and moved is not None:
            plan.notes.append(
                "A roll of the input by one pixel along both axes moves the output by "
                f"{policy.moved(model, input):.1e} of its length; before, by {moved:.1e}."
            )
    return Report.of(scan, plan, journal)


def _calls_to_modules(
    model: Module, policy: Policy, input: Input, run: Run, journal: Journal
) -> tuple[Run, list[Made], list[Left]]:
    """What is no module made modules, wherever that leaves the results; the run of that model."""
    names = {module: name for name, module in model.named_modules()}
    owners = {owner: list[str]() for owner in filter(policy.activations, names)}
    for owner, function in run.functions:
        home = str(type(owner).forward.__module__)
        is_layer = home.startswith(("torch.nn.", "poolkit.nn."))
        if function in policy.functions(owner) and not is_layer:
            owners.setdefault(owner, []).append(function.__name__)
    made, refused, expected = list[Made](), list[Left](), run.outputs
    for owner, called in owners.items():
        start = len(journal.entries)
        functions, alone = policy.functions(owner), policy.activations(owner)
        try:
            modules = make_modules(owner, names[owner], functions, journal, alone=alone)
            after = observe(model, input) if modules else run
            same = _same(expected, after.outputs)
            reason = "" if same else "computes something else once it is traced"
        except (UntraceableError, ArgumentError) as error:
            reason = str(error)
        if reason:
            journal.take_back(journal.entries[start:])
            places = [f"{names[owner]}:{name}".lstrip(":") for name in dict.fromkeys(called)]
            refused += [Left((place,), type(owner), reason) for place in places]
        else:
            run = after
            made.append(Made(modules, journal.entries[start:]))
    return run, made, refused


def _same(expected: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    return len(expected) == len(got) and all(
        e.shape == g.shape and (e.is_meta or torch.equal(e.nan_to_num(), g.nan_to_num()))
        for e, g in zip(expected, got, strict=True)
    )


def _check_shapes(scan: Scan, plan: Plan, before: Run, after: Run) -> None:
    """Refuse a rewriting that changes the shape of a map or of the model's output."""
    for swap in plan.swaps:
        was = [call.output for call in scan.calls(swap.old)]
        now = [call.output for call in after.of(swap.new)]
        if swap.same_shape and was != now:
            name = ", ".join(scan.names[swap.old])
            raise ArgumentError(
                f"rewrite: {name} ({title(type(swap.old))}) gave {_shapes(was)}, and "
                f"{_shapes(now)} as {swap.now}; the model was left as it was"
            )
    was, now = ([tuple(tuple(t.shape) for t in run.outputs)] for run in (before, after))
    if was != now:
        raise ArgumentError(
            f"rewrite: the model gave {_shapes(was)}, and {_shapes(now)} when rewritten; it was "
            "left as it was"
        )


def _shapes(calls: Sequence[Sequence[tuple[int, ...]]]) -> str:
    return ", ".join(str(shape) for call in calls for shape in call) or "nothing"
