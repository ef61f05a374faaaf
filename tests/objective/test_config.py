"""ISNetConfig: what it accepts, and the LRP and ranges that follow from it."""

from __future__ import annotations

import pytest

from isnet_jax import Classification, ISNetConfig, UserError, lrp


def test_another_first_layer_rule():
    config = ISNetConfig(box_rule=lrp.ZBox(-1.0, 2.0))
    assert config.composites()[0].first == lrp.ZBox(-1.0, 2.0)
    assert ISNetConfig().composites()[0].first == lrp.ZBox(0.0, 1.0)
    assert ISNetConfig(box_rule=False).composites()[0].first is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "selectiv"}, "unknown variant 'selectiv'; did you mean 'selective'"),
        ({"foreground_loss": "l3"}, "unknown foreground_loss 'l3'"),
        ({"batch_stats": "const"}, "unknown batch_stats 'const'; did you mean 'constant'"),
        ({"heatmap_weight": 1.5}, r"heatmap_weight is 1.5; expected in \[0, 1\]"),
        ({"gwrp_decay": -0.1}, r"gwrp_decay is -0.1; expected in \[0, 1\]"),
        ({"deep_supervision_decay": 2}, r"deep_supervision_decay is 2; expected in \[0, 1\]"),
        ({"background_weight": -1.0}, "background_weight is -1.0; expected finite, at least 0"),
        (
            {"foreground_weight": float("nan")},
            "foreground_weight is nan; expected finite, at least 0",
        ),
        ({"lrp_epsilon": -1e-3}, "lrp_epsilon is -0.001; expected finite, at least 0"),
        ({"softmax_epsilon": -1.0}, "softmax_epsilon is -1.0; expected finite, at least 0"),
        ({"background_scale": 0.0}, "background_scale is 0.0; expected above 0"),
        ({"foreground_range": (2.0, 1.0)}, r"holds \(2.0, 1.0\); expected 0 < C1 < C2"),
        ({"foreground_range": ((1.0, 2.0), (0.0, 1.0))}, r"holds \(0.0, 1.0\); expected 0 < C1"),
        ({"foreground_range": (1.0, 2.0, 3.0)}, r"expected \(C1, C2\) or one such pair"),
        ({"engine": "bloc"}, "unknown engine 'bloc'; did you mean 'block'"),
        ({"background_norm": "mean"}, "unknown background_norm 'mean'"),
        ({"heatmap_fraction": 0.0}, r"heatmap_fraction is 0.0; expected in \(0, 1\]"),
        ({"deep_supervision": "stage1"}, r"the text 'stage1'; .* names: \('stage1',\)"),
        ({"heatmap_chunk": -1}, "heatmap_chunk is -1; expected finite, at least 0"),
        (
            {"heatmap_chunk": 2, "deep_supervision": True},
            "heatmap_chunk cannot go with deep_supervision: .* Leave heatmap_chunk None",
        ),
        ({"heatmap_schedule": ((5, 0.1), (5, 0.2))}, r"has the steps \[5, 5\]; expected numbers"),
        ({"heatmap_schedule": ((0, 0.1), (5, 1.2))}, r"holds P = 1.2; expected in \[0, 1\]"),
        (
            {"variant": "selective", "classification": Classification(task="multilabel")},
            'variant "selective" explains a softmax, .* Use "stochastic"',
        ),
    ],
)
def test_configurations_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        ISNetConfig(**changes)


def test_one_pair_of_bounds_for_each_map():
    several = ISNetConfig(foreground_range=((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)))
    assert several.foreground_ranges(3) == (((1.0, 2.0),), ((3.0, 4.0),), ((5.0, 6.0),))
    assert ISNetConfig().foreground_ranges(2) == (((1.0, 25.0),),) * 2
    with pytest.raises(UserError, match="has 3 pairs; expected one, or 2: the input's and one for"):
        several.foreground_ranges(2)
    dual = ISNetConfig(variant="dual", foreground_range=((1.0, 2.0), (3.0, 4.0)))
    assert dual.foreground_ranges(1) == (((1.0, 2.0), (3.0, 4.0)),)
    with pytest.raises(UserError, match=r"has 2 pairs; expected one, or 4: .* two for each place"):
        dual.foreground_ranges(2)


def test_the_schedule_of_p():
    config = ISNetConfig(heatmap_weight=0.8, heatmap_schedule=((10, 0.2), (20, 0.6)))
    found = [float(config.weight_at(step)) for step in (0, 10, 15, 20, 99)]
    assert found == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])
    assert config.weight_at(None) == 0.8
    assert ISNetConfig(heatmap_weight=0.8).weight_at(7) == 0.8


def test_engines():
    assert ISNetConfig(engine="block").composites() == (
        lrp.ISNetBlock(1e-2, first=lrp.ZBox(0.0, 1.0)),
    )
    assert ISNetConfig(engine="attention", lrp_epsilon=0.1).composites() == (
        lrp.AttnLRP(0.1, lrp.ZBox(0.0, 1.0, 0.1)),
    )
    plus, epsilon = ISNetConfig(variant="dual", box_rule=False).composites()
    assert (plus.layer, plus.first) == (lrp.ZPlus(), None)
    assert epsilon == lrp.ISNetFlex(1e-2, batch_statistics="constant")
    for variant in ("gradient_input", "softmax_gradient_input"):
        config = ISNetConfig(variant=variant, batch_stats="gradient")
        assert config.composites() == (lrp.ISNetFlex(0.0),)


def test_the_default_is_the_recommended_one():
    """The best row of docs/variants.md that costs one heatmap."""
    config = ISNetConfig()
    assert (config.variant, config.batch_stats) == ("stochastic", "constant")
