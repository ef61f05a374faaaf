"""model.json: whatever it holds, a network or one sentence."""

import dataclasses
import json
from pathlib import Path

import junk
import pytest
from flax import nnx

from isnet_jax import UserError
from isnet_jax.training import ModelDescription
from isnet_jax.training.description import read_description

SMALL = ModelDescription("small", 2, ("a", "b"), (16, 16, 3), {"dropout": 0.5})
WHOLE = json.loads(json.dumps(dataclasses.asdict(SMALL)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.json"


def test_every_wrong_value_is_named_or_makes_a_network(file: Path):
    refused = 0
    for words, record in junk.variants(WHOLE):
        file.write_text(json.dumps(record))
        told = junk.refusal(lambda: nnx.eval_shape(read_description(file.parent).create))
        if told is not None:
            refused += 1
            assert told.startswith((str(file), "ModelDescription: ", "Small: ")), words
            continue
        description = read_description(file.parent)
        assert description.num_classes == len(description.class_names), words
        assert len(description.image_shape) == 3, words
    assert refused > 80


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "smal"}, "did you mean 'small'"),
        ({"num_classes": 3}, "num_classes is 3 and there are 2 class_names"),
        ({"num_classes": "2"}, "num_classes is '2'; expected a whole number"),
        ({"class_names": [1, 2]}, r"class_names is \[1, 2\]; expected a text"),
        ({"image_shape": [16, 16]}, "image_shape is .* expected height and width"),
        ({"image_shape": [10**9, 10**9, 3]}, "image_shape is .* expected height and width"),
        ({"image_shape": [16, 16, 1]}, "3 channels"),
        ({"options": {"drop": 1}}, "unknown option of small 'drop'; did you mean 'dropout'"),
        ({"options": {"dtype": "float17"}}, "float17.*dtypes by name"),
        ({"more": 1}, "unknown option 'more'"),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(file: Path, change: dict, message: str):
    file.write_text(json.dumps(WHOLE | change))
    with pytest.raises(UserError, match=message) as raised:
        read_description(file.parent)
    assert str(file) in str(raised.value)
    assert "Delete it and the run's metrics.json" in str(raised.value)


@pytest.mark.parametrize("options", [{"dropout": "x"}, {"normalisation": 5}, {"in_channels": [3]}])
def test_options_that_make_no_network(options: dict):
    with pytest.raises(UserError, match="ModelDescription: "):
        dataclasses.replace(SMALL, options=options).create()
