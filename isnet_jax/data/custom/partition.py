"""Dividing samples into training, validation and test splits."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from isnet_jax.errors import UserError

Members = dict[str, list[str]]


def by_fractions(
    classes: Mapping[str, tuple[str, ...]],
    *,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> Members:
    """Random splits with equal shares of every class, the same for the same samples and seed.

    Args:
        classes: sample -> its classes. Samples with the same set of classes are divided alike.
        validation_fraction: share of the validation split, above 0.
        test_fraction: share of the test split; 0 for none.
        seed: of the random division.

    Raises:
        UserError: a split is left without samples.
    """
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for sample in sorted(classes):
        groups[tuple(sorted(classes[sample]))].append(sample)
    members: Members = {"train": [], "validation": [], "test": []}
    rng = np.random.default_rng(seed)
    # Shares are rounded down; what that leaves over is divided in the next groups, so that many
    # small groups come to the fractions too.
    owed = {"test": 0.0, "validation": 0.0}
    wanted = {"test": test_fraction, "validation": validation_fraction}
    for key in sorted(groups):
        order = [groups[key][i] for i in rng.permutation(len(groups[key]))]
        for split, fraction in wanted.items():
            owed[split] += fraction * len(groups[key])
            taken = min(round(owed[split]), len(order))
            owed[split] -= taken
            members[split] += order[:taken]
            order = order[taken:]
        members["train"] += order
    if not test_fraction:
        del members["test"]
    empty = [split for split, samples in members.items() if not samples]
    if empty:
        raise UserError(
            f"{len(classes)} samples leave the split {empty[0]} empty at {validation_fraction:.0%} "
            f"validation and {test_fraction:.0%} test. Use more samples or other fractions."
        )
    return {split: sorted(samples) for split, samples in members.items()}


def require_classes(
    members: Members, classes: Mapping[str, tuple[str, ...]], names: Sequence[str], multi: bool
) -> None:
    """Raises a `UserError` unless there is something to learn in the training split."""
    counts = {
        split: Counter(name for sample in samples for name in classes[sample])
        for split, samples in members.items()
    }
    if not multi and len(names) < 2:
        found = f"one class only: {names[0]}" if names else "no class"
        raise UserError(f"the samples have {found}. A classifier needs at least two.")
    for name in names:
        if not counts["train"][name]:
            raise UserError(
                f"no training sample is of the class {name!r}. Add some, change the fractions, or "
                "leave this class out."
            )
