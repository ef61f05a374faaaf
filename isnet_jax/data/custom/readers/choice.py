"""Which class an image with several objects stands for."""

from collections.abc import Mapping
from typing import Literal, get_args

from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.errors import UserError, suggest

Label = Literal["only", "largest", "all"]


def check(label: str) -> None:
    """Raises a `UserError` unless it is a known rule."""
    if label not in get_args(Label):
        raise UserError(suggest(label, get_args(Label), what="rule for labels"))


def chosen(areas: Mapping[str, float], label: Label) -> tuple[str, ...]:
    """The classes an image is given, by the area that each class covers in it.

    Args:
        areas: class -> pixels; classes that count and are in the image.
        label: "only", the one class that is there; "largest", the class that covers most; "all",
            every one of them.

    Raises:
        Rejected: "only" finds several classes; "largest" finds two equally large ones.
    """
    ordered = sorted(areas, key=lambda name: -areas[name])
    if label == "all" or len(ordered) < 2:
        return tuple(ordered)
    if label == "only":
        raise Rejected(
            f"shows objects of {len(ordered)} classes: {', '.join(ordered[:5])}",
            "Name the classes that count with --categories, or take the largest (--label largest) "
            "or all of them (--label all)",
        )
    if areas[ordered[0]] == areas[ordered[1]]:
        raise Rejected(
            f"shows {ordered[0]} and {ordered[1]} equally large",
            "Name the classes that count with --categories",
        )
    return (ordered[0],)
