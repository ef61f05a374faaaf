"""Names of the splits that a source may give itself."""

import re
from typing import Final

from isnet_jax.errors import UserError, suggest

TRAIN: Final = "train"
VALIDATION: Final = "validation"
_TEST: Final = re.compile(r"test(_[A-Za-z0-9]+)*")
_MEANT: Final = {"training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "testing": "test"}
EXPLAINED: Final = "train, validation, test, or test_ and a word for further test sets"


def is_split(name: str) -> bool:
    """Whether it is train, validation, test, or a further test set such as test_hospital2."""
    return name in (TRAIN, VALIDATION) or _TEST.fullmatch(name) is not None


def meant(name: str) -> str:
    """The split that a name stands for which is none as it is written; else the name."""
    lower = name.strip().lower()
    return _MEANT.get(lower, lower)


def remedy(name: str) -> str:
    """What to write in the place of a name that is none."""
    return f"Write {meant(name)}" if is_split(meant(name)) else f"Write {EXPLAINED}"


def require_complete(names: set[str], place: str) -> None:
    """Raises a `UserError` unless there is data to train on and to test on."""
    unknown = sorted(name for name in names if not is_split(name))
    if unknown:
        raise UserError(
            f"{place}: {suggest(unknown[0], (TRAIN, VALIDATION, 'test'), what='split')} A further "
            "test set is named test_ and a word of letters and digits."
        )
    if TRAIN not in names or not any(name.startswith("test") for name in names):
        raise UserError(
            f"{place} has the splits {', '.join(sorted(names))}; expected at least train and test. "
            "Name both, or name none and let --validation-fraction and --test-fraction decide."
        )
