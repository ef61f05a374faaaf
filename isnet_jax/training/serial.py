"""Options, dataclasses within dataclasses, as plain values, and back with checks."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
import types
import typing
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from isnet_jax import lrp
from isnet_jax.errors import UserError, printable, suggest
from isnet_jax.files import read_regular, write_atomically
from isnet_jax.methods.method import Method
from isnet_jax.methods.registry import named

T = TypeVar("T")

# As people write numbers: not 010, 1_0 or digits of other scripts.
_DECIMAL = re.compile(
    r"\s*[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[-+]?\d+)?\s*|\s*[-+]?(inf|infinity|nan)\s*",
    re.ASCII | re.IGNORECASE,
)

# The keys that name the class of an LRP rule, and a method.
_RULE, _METHOD = "rule", "method"
_CHECKSUM = "checksum"


def to_dict(value: Any) -> Any:
    """Options as nested mappings of plain values, for JSON, YAML and the report."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return _kind(value) | {name: to_dict(getattr(value, name)) for name in fields}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    return value


def _kind(value: Any) -> dict[str, str]:
    if isinstance(value, lrp.Rule):
        return {_RULE: type(value).__name__}
    return {_METHOD: value.name} if isinstance(value, Method) else {}


def method_from(values: Any, where: str) -> Method:
    """The method that `to_dict` gave the values of.

    Raises:
      UserError: see `from_dict`.
    """
    prefix = f"{printable(where)}: "
    try:
        return _method(values, prefix, "method")
    except _MismatchError as error:
        raise UserError(f"{prefix}method is {_shown(values)}; expected {error.expected}.") from None


def from_dict(kind: type[T], values: Any, where: str, *, default: T | None = None) -> T:
    """The inverse of `to_dict` for a dataclass.

    Args:
      kind: the dataclass.
      where: the source of the values, for messages.
      default: gives the values of keys that are left out; else the fields' defaults.

    Raises:
      UserError: an unknown key, a value of a wrong type or out of its range.
    """
    return _dataclass(kind, values, f"{printable(where)}: ", "", default)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON that `read_record` and `read_json` read, with a checksum of itself."""
    plain = json.loads(json.dumps(dict(record)))
    write_atomically(path, json.dumps(plain | {_CHECKSUM: _crc(plain)}, indent=2) + "\n")


def read_record(kind: type[T], path: Path, remedy: str) -> T:
    """A record that this package wrote as JSON, as the dataclass that says what it holds.

    Args:
      remedy: what to do about a record that is no good, in sentences.

    Raises:
      UserError: no such file, no JSON, a field that is missing, unknown, of a wrong type or out of
        its range, or a checksum that differs; files of earlier versions have none.
    """
    found = read_json(path, remedy)
    plain = found
    if isinstance(found, dict):
        plain = {name: value for name, value in found.items() if name != _CHECKSUM}
    record = record_of(kind, plain, path, remedy)
    require_intact(found, path, remedy)
    return record


def read_json(path: Path, remedy: str) -> Any:
    """What a file of JSON holds, its checksum included; arguments as of `read_record`.

    Raises:
      UserError: no such file, or no JSON.
    """
    try:
        return json.loads(read_regular(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)} cannot be read ({error}). {remedy}") from error


def require_intact(found: Any, path: Path, remedy: str) -> None:
    """Raises a `UserError` where `read_json` gave no record, or one whose checksum differs."""
    if not isinstance(found, dict):
        raise UserError(f"{printable(path)} is {_shown(found)}; expected values by name. {remedy}")
    plain = {name: value for name, value in found.items() if name != _CHECKSUM}
    if found.get(_CHECKSUM, _crc(plain)) != _crc(plain):
        raise UserError(f"{printable(path)} was changed: its checksum differs. {remedy}")


def _crc(record: Any) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def record_of(kind: type[T], values: Any, path: Path, remedy: str) -> T:
    """What `read_json` gave, as `read_record` gives it."""
    try:
        return from_dict(kind, values, str(path))
    except UserError as error:
        raise UserError(f"{error} {remedy}") from None


class _MismatchError(Exception):
    """A value is not of the type: `expected` says what is."""

    def __init__(self, expected: str):
        super().__init__(expected)
        self.expected = expected


def _dataclass(kind: Any, values: Any, where: str, path: str, default: Any = None) -> Any:
    if not isinstance(values, dict):
        raise UserError(
            f"{where}{path or 'the file'} is {_shown(values)}; expected options by name."
        )
    types_of = typing.get_type_hints(kind, include_extras=False)
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    made = {}
    for name, value in values.items():
        if name not in names:
            inside = f" in {path}" if path else ""
            raise UserError(where + suggest(_text(name), names, what=f"option{inside}"))
        place = f"{path}.{name}" if path else name
        try:
            made[name] = _value(types_of[name], value, where, place, getattr(default, name, None))
        except _MismatchError as error:
            raise UserError(
                f"{where}{place} is {_shown(value)}; expected {error.expected}."
            ) from None
    try:
        return kind(**made) if default is None else dataclasses.replace(default, **made)
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    except TypeError:
        missing = [
            field.name
            for field in dataclasses.fields(kind)
            if field.name not in made
            and field.default is field.default_factory is dataclasses.MISSING
        ]
        if not missing:
            raise
        raise UserError(f"{where}{path or 'the file'} lacks {', '.join(missing)}.") from None


def _value(kind: Any, value: Any, where: str, path: str, default: Any = None) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(parts, value, where, path, default)
    if origin is Literal:
        if value not in parts or type(value) not in map(type, parts):
            raise _MismatchError(" or ".join(map(repr, parts)))
        return value
    if origin is tuple:
        return _tuple(parts, value, where, path)
    if origin in (dict, Mapping):
        return _mapping(parts[1], value, where, path)
    if isinstance(kind, type) and issubclass(kind, lrp.Rule):
        return _rule(value, where, path)
    if isinstance(kind, type) and issubclass(kind, Method):
        return _method(value, where, path, None if kind is Method else kind, default)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where, path, default)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) in (int, str):
        return _number(value)
    if type(value) is not kind:
        raise _MismatchError(_WORDS.get(kind, str(kind)))
    return value


def _number(value: int | str) -> float:
    """YAML 1.1 takes 1e-2 for a text: its numbers have a point."""
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise _MismatchError(_WORDS[float])
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise _MismatchError(_WORDS[float]) from None


def _one_of(parts: tuple[Any, ...], value: Any, where: str, path: str, default: Any) -> Any:
    if isinstance(value, dict):
        if Method in parts and _METHOD in value:
            return _method(value, where, path)
        # Of several kinds of options, the one that knows most of the keys.
        kinds = [part for part in parts if dataclasses.is_dataclass(part)]
        if kinds:
            known = [len(set(value) & {f.name for f in dataclasses.fields(k)}) for k in kinds]
            kind = kinds[known.index(max(known))]
            return _value(kind, value, where, path, default if type(default) is kind else None)
    expected = []
    # float last: it takes what int takes too.
    for part in sorted(parts, key=lambda part: part is float):
        try:
            return _value(part, value, where, path)
        except _MismatchError as error:
            expected.append(error.expected)
        except UserError:
            expected.append(_WORDS.get(part, "options by name"))
    raise _MismatchError(" or ".join(dict.fromkeys(expected)))


def _tuple(parts: tuple[Any, ...], value: Any, where: str, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _MismatchError("a list")
    if parts[-1:] == (Ellipsis,):
        parts = parts[:1] * len(value)
    if len(value) != len(parts):
        raise _MismatchError(f"a list of {len(parts)}")
    return tuple(
        _value(part, item, where, f"{path}[{number}]")
        for number, (part, item) in enumerate(zip(parts, value, strict=True))
    )


def _mapping(kind: Any, value: Any, where: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _MismatchError("values by name")
    return {name: _value(kind, item, where, f"{path}.{name}") for name, item in value.items()}


def _rule(value: Any, where: str, path: str) -> lrp.Rule:
    if not isinstance(value, dict) or _RULE not in value:
        raise _MismatchError("an LRP rule: its class by the key rule, and its values")
    rules = {
        name: kind
        for name, kind in vars(lrp).items()
        if isinstance(kind, type) and issubclass(kind, lrp.Rule) and dataclasses.is_dataclass(kind)
    }
    name = _text(value[_RULE])
    if name not in rules:
        raise UserError(f"{where}{path}: {suggest(name, rules, what='rule')}")
    return _dataclass(rules[name], {k: v for k, v in value.items() if k != _RULE}, where, path)


def _method(
    value: Any, where: str, path: str, kind: type[Method] | None = None, default: Any = None
) -> Method:
    """A method, by its name among the values, or of the kind that is expected."""
    if not isinstance(value, dict) or not (kind or _METHOD in value):
        raise _MismatchError("a method: its name by the key method, and its options")
    name = _text(value.get(_METHOD, getattr(kind, "name", "")))
    try:
        found = named(name)
    except UserError as error:
        raise UserError(f"{where}{path}: {error}") from None
    if kind not in (None, found):
        raise _MismatchError(f"the options of the method {kind.name}")
    return _dataclass(found, {k: v for k, v in value.items() if k != _METHOD}, where, path, default)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 80, 80


def _shown(value: Any) -> str:
    """As Python writes it, but short: aliases make a few lines of YAML as large as memory."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # A whole number of more digits than Python prints.
        return "a very long number"


def _text(name: Any) -> str:
    return name[:80] if isinstance(name, str) else _shown(name)


_WORDS = {
    type(None): "null", bool: "true or false", int: "a whole number", float: "a number",
    str: "a text", Path: "a path",
}  # fmt: skip
