"""Options as YAML, for `--config`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from isnet_jax.errors import UserError, printable
from isnet_jax.files import read_regular
from isnet_jax.training.serial import from_dict, to_dict

T = TypeVar("T")
_MOST = 2**18  # More take PyYAML seconds.
# What its constructors raise for texts that are not of their tag: !!bool 5, !!int "", !!timestamp x
_NO_YAML = (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError)
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)$",
    "tag:yaml.org,2002:float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its surprises: each key once, and numbers as people write them.

    010 (8 there) and 1:30 (90) are texts, which no option that is a number takes.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                twice = f"{printable(key.value)} is there twice"
                raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
            seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Each key once: merges of merges are as large as memory otherwise."""
        super().flatten_mapping(node)
        last = {str(key.value): (key, value) for key, value in node.value}
        node.value = list(last.values())


for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), [*"-+.0123456789"])


class _Dumper(yaml.SafeDumper):
    """Quotes what either kind of YAML, the library's or ours, would take for a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *resolvers]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }


def to_yaml(options: Any) -> str:
    """Options as a YAML text that `from_yaml` reads."""
    values = options if isinstance(options, dict) else to_dict(options)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None)


def from_yaml(kind: type[T], path: Path, *, default: T | None = None) -> T:
    """Read a dataclass from a YAML file.

    Args:
      kind: the dataclass.
      default: gives the values of keys that the file leaves out; else the fields' defaults.

    Raises:
      UserError: no such file, no YAML, an unknown key, a value of a wrong type or out of its
        range.
    """
    values = values_of(path)
    return from_dict(kind, {} if values is None else values, str(path), default=default)


def values_of(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
      UserError: no such file, or no YAML.
    """
    try:
        text = read_regular(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{printable(path)} cannot be read ({reason}). Expected a YAML file."
        ) from error
    if len(text) > _MOST:
        raise UserError(
            f"{printable(path)} has {len(text):,} characters; expected options, at most {_MOST:,}."
        )
    try:
        return yaml.load(text, _Loader)
    except _NO_YAML as error:
        raise UserError(
            f"{printable(path)} is no YAML: {str(error) or type(error).__name__}"
        ) from error
