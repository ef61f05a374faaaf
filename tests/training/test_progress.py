"""A checkpoint's record of progress: whole, or said to be incomplete."""

import functools

import junk
import pytest

from isnet_jax import UserError
from isnet_jax.training.progress import check_progress

BATCHES = {"next_index": 0}
EVERY = ("step", "validation_loss")
WHOLE = {
    "history": [{"step": 4, "validation_loss": 0.5, "accuracy": 1}],
    "batches": {"next_index": 6},
    "epoch": {"metrics": {"steps": 2, "sums": {"loss": 1.5}}, "seconds": 2.0},
    "version": "1",
}
OPTIONAL = {
    ("history", 0), ("history", 0, "accuracy"), ("epoch", "metrics", "sums", "loss"), ("version",),
}  # fmt: skip


def test_whole_records():
    check_progress(WHOLE, BATCHES, EVERY)
    check_progress(WHOLE | {"epoch": None, "history": []}, BATCHES, EVERY)


@pytest.mark.parametrize("path", [*junk.places(WHOLE)], ids=str)
def test_what_is_missing_is_noticed(path: tuple):
    record = junk.without(WHOLE, path)
    if path in OPTIONAL:
        check_progress(record, BATCHES, EVERY)
    else:
        with pytest.raises(UserError, match="its record of progress: "):
            check_progress(record, BATCHES, EVERY)


def test_every_wrong_value_is_taken_or_named():
    for words, record in junk.variants(WHOLE):
        if isinstance(record, dict):
            told = junk.refusal(functools.partial(check_progress, record, BATCHES, EVERY))
            assert told is None or told.startswith("its record of progress: "), words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": 5}, "history is 5; expected a list"),
        ({"history": [{"step": 4}]}, "epoch 1 lacks validation_loss"),
        ({"history": [{"step": 4, "validation_loss": float("nan")}]}, "lacks validation_loss"),
        ({"batches": {}}, "batches is not of the form"),
        ({"batches": {"next_index": "x"}}, "batches is not of the form"),
        ({"epoch": 1}, "epoch is 1"),
        ({"epoch": {"seconds": 1.0}}, "epoch"),
    ],
)
def test_what_is_wrong_is_said(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        check_progress(WHOLE | change, BATCHES, EVERY)
