"""Two reports beside each other."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArgumentError
from ..table import aligned
from .report import Consistency, Interval, Report, Stage, Totals
from .text import EMPTY, interval, label, maybe
from .units import by, byte_count, duration, percent

__all__ = ["Change", "Comparison", "Moves", "StagePair", "compare"]


@dataclass(frozen=True)
class Change:
    """A figure of the whole model, before and after; ``None`` where it was not measured."""

    what: str
    """The field of :class:`poolkit.audit.report.Totals`."""
    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        """``after / before``; None if one of them is missing, infinite if there was nothing."""
        if self.before is None or self.after is None:
            return None
        if not self.before:
            return math.inf if self.after else 1.0
        return self.after / self.before

    def __str__(self) -> str:
        what, before, after, change = self.row()
        return f"{what}  {before} -> {after}  ({change})"

    def row(self) -> tuple[str, str, str, str]:
        """Its cells in a table: what, before, after, change."""
        change = EMPTY
        if self.ratio is not None:
            change = "same" if self.before == self.after else f"{100 * (self.ratio - 1):+.3g} %"
        before, after = (_figure(self.what, value) for value in (self.before, self.after))
        return self.what.replace("_", " "), before, after, change


@dataclass(frozen=True)
class StagePair:
    """A stage before and after; ``None`` where it is not.

    Stages match by name and call; then what is left, if the map has the same shape, by what is in
    the old module now (``conv1`` and ``conv1.down``), and by what is beside it (``block.conv1`` and
    ``block.relu``). The name is the later one.
    """

    name: str
    call: int
    before: Stage | None
    after: Stage | None


@dataclass(frozen=True)
class Moves:
    """One kind of move before and after; ``None`` where it was not measured."""

    kind: str
    before: Consistency | None
    after: Consistency | None

    @property
    def top1_overlap(self) -> bool | None:
        """Whether the intervals of the top class overlap; then nothing is shown to differ."""
        if self.before is None or self.after is None:
            return None
        return _overlap(self.before.top1, self.after.top1)

    @property
    def distance_overlap(self) -> bool | None:
        """Whether those of the logits' distance do."""
        if self.before is None or self.after is None:
            return None
        return _overlap(self.before.distance, self.after.distance)


@dataclass(frozen=True)
class Comparison:
    """A report beside a later one. ``str`` of it is a table."""

    before: Report
    after: Report
    stages: tuple[StagePair, ...]
    """In the order of the later report; stages that are gone stand where they were."""
    totals: tuple[Change, ...]
    consistency: tuple[Moves, ...]

    def total(self, what: str) -> Change:
        """The change of one field of the totals.

        Raises:
            ArgumentError: no such field.
        """
        for change in self.totals:
            if change.what == what:
                return change
        names = ", ".join(change.what for change in self.totals)
        raise ArgumentError(f"total: expected one of {names}, got {what!r}")

    def __str__(self) -> str:
        title = f"{self.before.model} -> {self.after.model}, input {by(self.before.input_shape)}"
        if self.before.input_shape != self.after.input_shape:
            title += f" -> {by(self.after.input_shape)}: other sizes, other figures"
        parts = [title, _totals(self)]
        if self.stages:
            parts.append(_stages(self))
        if self.consistency:
            parts.append(_moves(self))
        return "\n\n".join(parts)


def compare(before: Report, after: Report) -> Comparison:
    """See :meth:`poolkit.audit.report.Report.compare`."""
    if not isinstance(after, Report):
        raise ArgumentError(f"compare: expected a Report, got {type(after).__name__}")
    names = [
        field.name
        for field in dataclasses.fields(Totals)
        if field.name not in {"smallest_input", "divides_by"}
    ]
    changes = (
        Change(name, getattr(before.totals, name), getattr(after.totals, name)) for name in names
    )
    moves = [{c.kind: c for c in report.consistency} for report in (before, after)]
    kinds = dict.fromkeys([*moves[0], *moves[1]])
    return Comparison(
        before,
        after,
        _pairs(before, after),
        tuple(changes),
        tuple(Moves(kind, moves[0].get(kind), moves[1].get(kind)) for kind in kinds),
    )


Key = tuple[str, int]


def _pairs(before: Report, after: Report) -> tuple[StagePair, ...]:
    """Both paths merged: a stage that is gone goes before the next that is not."""
    old = {(stage.name, stage.call): stage for stage in before.stages}
    new = {(stage.name, stage.call): stage for stage in after.stages}
    came_from = _replaced(old, new)
    stays = set(came_from.values())
    pairs: list[StagePair] = []
    gone = [key for key in old if key not in stays]
    places = {key: place for place, key in enumerate(old)}
    for key, stage in new.items():
        earlier = came_from.get(key)
        if earlier is not None:
            while gone and places[gone[0]] < places[earlier]:
                pairs.append(StagePair(*gone[0], old[gone.pop(0)], None))
        pairs.append(StagePair(*key, old[earlier] if earlier else None, stage))
    pairs.extend(StagePair(*key, old[key], None) for key in gone)
    return tuple(pairs)


def _replaced(old: dict[Key, Stage], new: dict[Key, Stage]) -> dict[Key, Key]:
    """Which stage each of the later ones took the place of, the surest first."""
    found: dict[Key, Key] = {}
    for fits in (_is_same, _is_within, _is_beside):
        left = [key for key in old if key not in set(found.values())]
        for key, stage in new.items():
            earlier = next((k for k in left if fits(old[k], stage)), None)
            if key not in found and earlier is not None:
                found[key] = earlier
                left.remove(earlier)
    return found


def _is_same(before: Stage, after: Stage) -> bool:
    return (before.name, before.call) == (after.name, after.call)


def _is_within(before: Stage, after: Stage) -> bool:
    """A part of the module that was there, with a map of its size."""
    same = before.output_shape[2:] == after.output_shape[2:]
    return same and after.name.startswith(f"{before.name}.")


def _is_beside(before: Stage, after: Stage) -> bool:
    """In the same parent, with the same map."""
    same = before.output_shape == after.output_shape
    return same and after.name.startswith(_parent(before.name))


def _parent(name: str) -> str:
    """``"layer2.0."`` of ``"layer2.0.conv1"``, nothing of ``"conv1"`` and of ``":mean"``."""
    return name[: max(name.rfind("."), name.rfind(":")) + 1].replace(":", ".").lstrip(".")


def _overlap(one: Interval | None, other: Interval | None) -> bool | None:
    if one is None or other is None:
        return None
    return one.low <= other.high and other.low <= one.high


# ---- tables -------------------------------------------------------------------------------------


def _totals(found: Comparison) -> str:
    heading = ("the model", "before", "after", "change")
    return aligned([heading, *(change.row() for change in found.totals)], right=range(1, 4))


def _stages(found: Comparison) -> str:
    heading = ("stage", "kind", "map", "kept in training", "time", "folded")
    rows: list[tuple[str, ...]] = [heading]
    for pair in found.stages:
        sides = (pair.before, pair.after)
        if pair.before is None or pair.after is None:
            present = pair.before or pair.after
            assert present is not None
            kind = f"{present.kind}, {'new' if pair.before is None else 'gone'}"
            rows.append((label(present), kind, *_cells(present)))
            continue
        kind = _arrow([stage.kind for stage in sides if stage])
        cells = [_cells(stage) for stage in sides if stage]
        rows.append((label(pair.after), kind, *map(_arrow, zip(*cells, strict=True))))
    moved = any(p.before and p.after and p.before.name != p.name for p in found.stages)
    return aligned(rows) + (f"\n{MOVED}" if moved else "")


MOVED = """\
  A strided convolution that gave its stride to another module is no stage any more: what it keeps
  and the time it takes are in the figures of the model."""


def _cells(stage: Stage) -> tuple[str, str, str, str]:
    return (
        "x".join(map(str, stage.output_shape[2:])),
        byte_count(stage.saved_bytes),
        maybe(stage.seconds, duration),
        maybe(stage.aliasing, percent),
    )


def _moves(found: Comparison) -> str:
    heading = ("move", "", "before", "after", "")
    rows = []
    for moves in found.consistency:
        sides = (moves.before, moves.after)
        top1 = [None if side is None else side.top1 for side in sides]
        distance = [None if side is None else side.distance for side in sides]
        for what, intervals, overlap in (
            ("same top class", top1, moves.top1_overlap),
            ("logits moved", distance, moves.distance_overlap),
        ):
            if any(intervals):
                rows.append((moves.kind, what, *map(_spread, intervals), VERDICTS[overlap]))
    return aligned([heading, *rows])


VERDICTS = {True: "intervals overlap", False: "intervals apart", None: ""}


def _spread(found: Interval | None) -> str:
    mean, ends = interval(found)
    return mean if mean == EMPTY else f"{mean} ({ends})"


def _arrow(sides: Sequence[str]) -> str:
    return sides[0] if sides[0] == sides[1] else f"{sides[0]} -> {sides[1]}"


def _figure(what: str, value: float | None) -> str:
    if value is None:
        return EMPTY
    if what.startswith("seconds"):
        return duration(value)
    return byte_count(int(value)) if "bytes" in what else f"{value:,}"
