import json
from dataclasses import replace
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from isnet_jax.data import Augmentation, BatchDict, BiasedDigits, Split, load_split, train_iterator
from isnet_jax.errors import UserError


def same(first: BatchDict, second: BatchDict) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in ("image", "mask", "label"))


def with_position_as_label(split: Split) -> Split:
    return replace(
        split,
        labels=np.arange(len(split), dtype=np.int32),
        class_names=tuple(map(str, range(len(split)))),
    )


def test_batches_are_floats_in_the_unit_range(split: Split):
    batch = next(train_iterator(split, 8, seed=0))
    assert batch["image"].shape == (8, 12, 10, 3)
    assert batch["mask"].shape == (8, 12, 10, 1)
    assert batch["label"].shape == (8,)
    assert [batch[key].dtype for key in batch] == [np.float32, np.float32, np.int32]
    assert 0 <= batch["image"].min() < 0.1 < 0.9 < batch["image"].max() <= 1
    assert set(np.unique(batch["mask"])) == {0, 1}


def test_every_epoch_has_each_example_once_in_a_new_order(split: Split):
    numbered = with_position_as_label(split)
    iterator = train_iterator(numbered, 11, seed=0)
    epochs = [np.concatenate([next(iterator)["label"] for _ in range(2)]) for _ in range(5)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(22))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5


def test_examples_stay_together(split: Split):
    numbered = with_position_as_label(split)
    batch = next(train_iterator(numbered, 8, seed=3))
    assert same(batch, numbered.batch(batch["label"]))


def test_an_incomplete_last_batch_is_left_out(split: Split):
    numbered = with_position_as_label(split)
    iterator = train_iterator(numbered, 8, seed=0)
    for _ in range(4):
        epoch = np.concatenate([next(iterator)["label"] for _ in range(2)])
        assert len(set(epoch.tolist())) == 16


def test_the_seed_decides_the_order(split: Split):
    first, again, other = (train_iterator(split, 8, seed=seed) for seed in (1, 1, 2))
    batches = [(next(first), next(again), next(other)) for _ in range(6)]
    assert all(same(a, b) for a, b, _ in batches)
    assert not any(same(a, c) for a, _, c in batches)


@pytest.mark.parametrize("max_shift", [0, 3])
@pytest.mark.parametrize("consumed", [0, 1, 7])
def test_resuming_is_exact(split: Split, max_shift: int, consumed: int):
    def fresh() -> grain.DatasetIterator:
        return train_iterator(split, 8, seed=5, augmentation=Augmentation(max_shift=max_shift))

    iterator = fresh()
    for _ in range(consumed):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(7)]
    resumed = fresh()
    next(resumed)
    resumed.set_state(state)
    assert all(same(batch, next(resumed)) for batch in expected)


def test_orbax_saves_and_restores_the_iterator(split: Split, tmp_path: Path):
    iterator = train_iterator(split, 8, seed=0, augmentation=Augmentation(max_shift=1))
    for _ in range(3):
        next(iterator)
    with ocp.CheckpointManager(tmp_path) as manager:
        arguments = ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator))  # pyright: ignore
        manager.save(3, args=arguments)
        manager.wait_until_finished()
        expected = [next(iterator) for _ in range(4)]
        resumed = train_iterator(split, 8, seed=0, augmentation=Augmentation(max_shift=1))
        arguments = ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed))  # pyright: ignore
        manager.restore(3, args=arguments)
    assert all(same(batch, next(resumed)) for batch in expected)


def test_shifts_move_image_and_mask_together(split: Split):
    numbered = with_position_as_label(split)
    iterator = train_iterator(numbered, 11, seed=0, augmentation=Augmentation(max_shift=2))
    seen = set()
    for _ in range(40):
        batch = next(iterator)
        for image, mask, label in zip(*batch.values(), strict=True):
            original = numbered.batch([int(label)])
            seen.add(
                next(
                    (down, right)
                    for down in range(-2, 3)
                    for right in range(-2, 3)
                    if np.array_equal(image, shifted(original["image"][0], down, right))
                    and np.array_equal(mask, shifted(original["mask"][0], down, right))
                )
            )
    assert len(seen) == 25


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = image.shape[:2]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    return padded[2 - down : 2 - down + height, 2 - right : 2 - right + width]


@pytest.mark.parametrize("augmentation", [None, Augmentation(max_shift=3, max_rotation=30)])
def test_shards_are_the_parts_of_each_batch(split: Split, augmentation: Augmentation | None):
    whole = train_iterator(split, 6, seed=0, augmentation=augmentation)
    shards = [
        train_iterator(
            split, 2, seed=0, augmentation=augmentation, shard_index=index, shard_count=3
        )
        for index in range(3)
    ]
    for _ in range(8):
        expected, parts = next(whole), [next(shard) for shard in shards]
        for name, values in expected.items():
            found = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(found, values)


def test_another_number_of_shards_goes_on_at_the_same_place(split: Split):
    moves = Augmentation(max_shift=3)
    whole = train_iterator(split, 6, seed=0, augmentation=moves)
    for _ in range(5):
        next(whole)
    state, expected = whole.get_state(), next(whole)
    for index in range(2):
        shard = train_iterator(
            split, 3, seed=0, augmentation=moves, shard_index=index, shard_count=2
        )
        shard.set_state(state)
        rows = slice(3 * index, 3 * index + 3)
        np.testing.assert_array_equal(next(shard)["image"], expected["image"][rows])


class Records:
    """The examples of a split one by one."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> dict[str, object]:
        return {
            "image": self._split.images[index],
            "mask": self._split.masks[index],
            "label": self._split.labels[index],
            "id": self._split.ids[index].encode(),
        }


def test_records_give_the_same_batches_as_the_split(split: Split):
    in_memory = train_iterator(split, 8, seed=4, augmentation=Augmentation(max_shift=1))
    one_by_one = train_iterator(Records(split), 8, seed=4, augmentation=Augmentation(max_shift=1))
    assert all(same(next(in_memory), next(one_by_one)) for _ in range(9))
    state = one_by_one.get_state()
    expected = [next(one_by_one) for _ in range(3)]
    one_by_one.set_state(state)
    assert all(same(batch, next(one_by_one)) for batch in expected)
    one_by_one.close()


def test_a_prepared_split_makes_batches(builder: BiasedDigits):
    split = load_split(builder, "train")
    assert split.images.shape == (70, 32, 32, 3)
    assert next(train_iterator(split, 64, seed=0))["image"].shape == (64, 32, 32, 3)


def test_float_examples_are_taken_as_they_are(split: Split):
    floats = replace(
        split,
        images=split.images.astype(np.float32) / 255,
        masks=(split.masks > 0).astype(np.float32),
    )
    assert same(next(train_iterator(floats, 8, seed=0)), next(train_iterator(split, 8, seed=0)))


def test_checking_a_split_names_the_sample(split: Split):
    split.check()
    split.masks[13] = 0
    with pytest.raises(UserError, match="1 of 22 masks are all zero, the first of them that of 13"):
        split.check()


def test_an_empty_split(split: Split):
    empty = replace(
        split, images=split.images[:0], masks=split.masks[:0], labels=split.labels[:0], ids=()
    )
    with pytest.raises(UserError, match="there are no samples"):
        empty.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size is 0"),
        ({"batch_size": 23}, "22 examples do not fill one batch of 23"),
        ({"batch_size": 12, "shard_count": 2}, "11 examples in each of 2 shards do not fill"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"augmentation": Augmentation(max_shift=10)}, "max_shift is 10 pixels, but .* 12 x 10"),
        ({"shard_index": 2, "shard_count": 2}, "shard 2 of 2"),
        ({"shard_index": 0, "shard_count": 0}, "shard 0 of 0"),
    ],
)
def test_arguments_out_of_range(split: Split, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        train_iterator(split, **({"batch_size": 4, "seed": 0} | options))
