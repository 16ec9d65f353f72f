"""Dataclasses as JSON, and back, by their annotations."""

import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

from ..errors import ArgumentError

FORMAT = "poolkit.audit"
VERSION = 1
"""Of the fields and their meaning; a reader refuses any other."""

T = TypeVar("T")


def to_json(report: Any) -> str:
    """The fields in their order, after the format's name and version."""
    plain = {"format": FORMAT, "version": VERSION, **_plain(report)}
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    return value


def from_json(kind: type[T], text: str) -> T:
    """An object of the dataclass ``kind``."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ArgumentError(f"from_json: expected JSON, got {text[:40]!r}: {error}") from None
    format_, version = (
        (found.pop("format", None), found.pop("version", None))
        if isinstance(found, dict)
        else (None, None)
    )
    if (format_, version) != (FORMAT, VERSION):
        raise ArgumentError(
            f"from_json: expected the format {FORMAT!r}, version {VERSION}, got {format_!r}, "
            f"version {version!r}"
        )
    made: T = _made(kind, found, "report")
    return made


def _made(kind: Any, value: Any, where: str) -> Any:
    """``value`` as its annotation ``kind`` says."""
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, where)
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):  # X | None
        return None if value is None else _made(arguments[0], value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            _refuse(where, "a list", value)
        if arguments[-1] is ...:
            arguments = (arguments[0],) * len(value)
        if len(value) != len(arguments):
            _refuse(where, f"{len(arguments)} values", value)
        pairs = zip(arguments, value, strict=True)
        return tuple(_made(each, v, f"{where}[{i}]") for i, (each, v) in enumerate(pairs))
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            _refuse(where, "an object", value)
        return {key: _made(arguments[1], each, f"{where}.{key}") for key, each in value.items()}
    if kind is float and value in ("inf", "-inf", "nan"):
        return float(value)
    if type(value) is not kind and not (kind is float and type(value) is int):
        _refuse(where, kind.__name__, value)
    return value


def _object(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        _refuse(where, "an object", value)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise ArgumentError(f"from_json: {where} has no field {name!r}")
    for name, field in fields.items():
        if name not in value and field.default is dataclasses.MISSING:
            raise ArgumentError(f"from_json: {where}.{name} is missing")
    return kind(**{name: _made(hints[name], v, f"{where}.{name}") for name, v in value.items()})


def _refuse(where: str, expected: str, value: Any) -> typing.NoReturn:
    raise ArgumentError(f"from_json: {where} must be {expected}, got {value!r:.60}")
