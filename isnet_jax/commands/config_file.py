"""Options as YAML, for `--config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from isnet_jax.errors import UserError, printable
from isnet_jax.training.serial import from_dict, to_dict

T = TypeVar("T")


def to_yaml(options: Any) -> str:
    """Options as a YAML text that `from_yaml` reads."""
    values = options if isinstance(options, dict) else to_dict(options)
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None)


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
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{printable(path)} cannot be read ({error}). Expected a YAML file."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"{printable(path)} is no YAML: {str(error) or type(error).__name__}"
        ) from error
