"""Every method by name: trained in a few steps, stopped and gone on with, its network explained."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import CLASSES, ISNET, Silent, arrays, split, timeless

from isnet_jax.evaluation import highest_logit_relevance
from isnet_jax.methods import named, names
from isnet_jax.training import CheckpointConfig, ModelDescription, fit, load_network

STEPS = 3  # of an epoch
WIDTHS = {"segmentation": (2, 3), "multitask": (2, 3), "attention-gated": (2, 3, 4)}
DESCRIPTION = ModelDescription("compact", 3, CLASSES, (8, 8, 3), {"widths": [4, 4]})


def data(count: int, seed: int) -> Any:
    whole = split(count, seed)
    return dataclasses.replace(
        whole,
        images=whole.images[:, 2:10, 2:10],
        masks=whole.masks[:, 2:10, 2:10],
        groups=(2 * whole.labels + np.arange(count) % 2).astype(np.int32),
    )


@pytest.mark.parametrize("name", names())
def test_it_is_trained_and_gone_on_with_to_the_same_bits(name: str, tmp_path: Path):
    """From the second of three steps, as if the rest had never been."""
    method = named(name)(**({"widths": WIDTHS[name]} if name in WIDTHS else {}))
    training = dataclasses.replace(
        ISNET, objective=method, epochs=1, checkpoints=CheckpointConfig(every=2)
    )

    def trained(folder: Path):
        # Of the held-out data some methods train on a half.
        count = STEPS * training.batch_size
        observer = Silent()
        splits = (data(count, 0), data(2 * count, 1))
        model, history = fit(DESCRIPTION, training, *splits, folder, observer)
        steps = [step for what, step in observer.told if what == "step"]
        return arrays(model), timeless(history), steps

    expected, history, _ = trained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "last" / str(STEPS))
    found, continued, steps = trained(tmp_path / "stopped")
    assert steps == [STEPS]
    assert continued == history
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    loaded, _ = load_network(tmp_path / "stopped")
    images = data(2, 2).batch(slice(None))["image"]
    assert np.isfinite(highest_logit_relevance(loaded, images)).all()
