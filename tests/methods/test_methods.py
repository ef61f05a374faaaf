"""What all methods share: names, options as plain values, networks of their own, stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_training import ISNET, PLAIN, SMALL, Silent, arrays, split

from isnet_jax import Classification, ISNetConfig, UserError
from isnet_jax.methods import Blueprint, Earlier, Method, Setup, method_of, named, names, register
from isnet_jax.methods.isnet import ISNet
from isnet_jax.methods.plain import Plain
from isnet_jax.methods.swap import Swap
from isnet_jax.objective.classification import classified
from isnet_jax.objective.exchange import Exchange
from isnet_jax.objective.segmentation import Segmentation
from isnet_jax.training import TrainConfig, fit, load_network
from isnet_jax.training.serial import from_dict, to_dict


class Two(nnx.Module):
    def __init__(self, blueprint: Blueprint):
        self.one, self.other = blueprint.classifier(), blueprint.classifier()


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreeing(Method):
    """Two networks that are alike, begun from a plain one; half of the samples."""

    name: ClassVar[str] = "agreeing"
    weight: float = 1.0

    @property
    def earlier(self) -> Earlier:
        return Earlier(Plain(classification=self.classification), epochs=1)

    def network(self, blueprint):
        return Two(blueprint)

    def deployed(self, model):
        return model.one

    def setup(self, train, validation, earlier):
        return Setup(self, train.chosen(range(0, len(train), 2)), validation)

    def begin(self, model, earlier):
        nnx.update(model.one, nnx.state(earlier))

    def loss(self, model, batch, context):
        logits, others = model.one(batch.image), model.other(batch.image)
        loss = classified(logits, batch, self.classification, context.axis_name)
        apart = jnp.mean((logits - others) ** 2)
        return loss + self.weight * apart, {"logits": logits, "apart": apart}


def test_options_stand_for_methods():
    config = ISNetConfig(classification=Classification(label_smoothing=0.1))
    assert method_of(config) == ISNet(objective=config)
    assert method_of(config).classification == config.classification
    assert method_of(Classification()) == Plain()
    assert type(method_of(Segmentation())).__name__ == "Segmenter"
    assert method_of(Swap()) is not None
    assert {named(name).name for name in names()} == set(names())


def test_names():
    with pytest.raises(UserError, match="swap"):
        named("swop")
    with pytest.raises(UserError, match="already"):
        register(Swap)


@pytest.mark.parametrize("name", [n for n in names() if n != "isnet"])
def test_options_as_plain_values(name: str):
    method = named(name)().classified_by(Classification(label_smoothing=0.25))
    training = dataclasses.replace(PLAIN, objective=method)
    assert to_dict(method)["method"] == name
    assert from_dict(TrainConfig, to_dict(training), "here") == training
    unknown = to_dict(training)
    unknown["objective"]["method"] = "unknown"
    with pytest.raises(UserError, match=r"here: objective: .*unknown"):
        from_dict(TrainConfig, unknown, "here")


def test_swap_is_exchange_alone():
    exchange = Exchange(probability=0.5, max_shrink=1)
    config = ISNetConfig(heatmap_weight=0.0, exchange=exchange)
    assert Swap(exchange=exchange)._isnet == method_of(config)


def test_a_network_and_stages_of_its_own(tmp_path: Path):
    training = dataclasses.replace(ISNET, objective=Agreeing(weight=0.5), epochs=1)
    observer = Silent()
    network, history = fit(SMALL, training, split(36), split(10, 1), tmp_path, observer)
    steps = [what for what in observer.told if what[0] in ("stage", "step")]
    # All samples, then half of them.
    assert steps == [
        ("stage", "plain"), *(("step", n) for n in range(1, 5)),
        ("stage", "agreeing"), ("step", 1), ("step", 2),
    ]  # fmt: skip
    assert "apart" in history[0]
    loaded, description = load_network(tmp_path)
    assert description.method is not None
    assert description.method["weight"] == 0.5
    assert_same(loaded, network)
    assert arrays(loaded).keys() == arrays(load_network(tmp_path / "earlier")[0]).keys()
    # What is finished is not trained again, in either stage.
    again = Silent()
    found, _ = fit(SMALL, training, split(36), split(10, 1), tmp_path, again)
    assert "step" not in {what for what, *_ in again.told}
    assert_same(found, network)


def assert_same(found: Any, expected: Any) -> None:
    left, right = arrays(found), arrays(expected)
    assert left.keys() == right.keys()
    for name in right:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
