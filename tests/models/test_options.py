"""What every network can: channels, dropout, normalisation, dtypes, rematerialisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from isnet_jax import Classification, ISNetConfig, UserError, lrp, models
from isnet_jax.models.densenet import DenseNet
from isnet_jax.models.resnet import BasicBlock, ResNet
from isnet_jax.models.vgg import VGG
from isnet_jax.models.vit import VisionTransformer
from isnet_jax.training import build_step, compile_step, init_state, loss_function

TINY = {
    "resnet": lambda **o: ResNet(3, block=BasicBlock, blocks=(1, 1, 1, 1), **o),
    "densenet": lambda **o: DenseNet(3, depths=(2, 2), growth=4, stem=4, **o),
    "vgg": lambda **o: VGG(3, depths=(1, 1, 1, 1, 1), batch_norm=True, hidden=16, **o),
    "vit": lambda **o: VisionTransformer(3, width=8, depth=2, heads=2, patch=8, image_size=32, **o),
}
X = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def images(channels: int = 3, size: int = 32) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (2, size, size, channels))


@pytest.mark.parametrize("family", TINY)
def test_bf16_inside_and_float32_outside(family):
    """Parameters, statistics and logits are float32, layers compute in bf16."""

    def run(x):
        model = TINY[family](dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        features = model.embed(x.astype(jnp.bfloat16))
        return features, model(x), nnx.state(model, (nnx.Param, nnx.BatchStat))

    features, logits, state = jax.eval_shape(run, X)
    assert (features.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


def test_bf16_is_near_float32():
    logits = {}
    for dtype in (None, jnp.bfloat16):
        model = models.create("small", num_classes=3, dtype=dtype, rngs=nnx.Rngs(0))
        logits[dtype] = model(images())
    np.testing.assert_allclose(logits[jnp.bfloat16], logits[None], atol=0.05)
    assert (logits[jnp.bfloat16] != logits[None]).any()


@pytest.mark.parametrize("family", ["resnet", "densenet", "vgg", "vit"])
def test_remat_is_in_the_program_and_changes_no_place_of_relevance(family):
    """For equal numbers see test_densenet; nothing is computed here."""
    rows = {}
    for remat in (False, True):
        model = nnx.eval_shape(lambda remat=remat: TINY[family](remat=remat, rngs=nnx.Rngs(0)))
        model = with_zeros(model)
        model.eval()
        program = str(jax.make_jaxpr(lambda x, model=model: model(x))(X))
        assert ("remat2" in program or "checkpoint" in program) == remat
        table = lrp.inspect(lambda x, model=model: model(x), X, rules=lrp.Epsilon(1e-2))
        assert not table.unsupported
        rows[remat] = sorted((row.kind, row.name) for row in table if row.kind != "layer")
    assert rows[True] == rows[False]


def with_zeros(model: nnx.Module) -> nnx.Module:
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def test_remat_computes_the_same():
    found = []
    for remat in (False, True):
        model = TINY["vit"](remat=remat, rngs=nnx.Rngs(0))
        graph, state = nnx.split(model, nnx.Param)
        loss = jax.jit(jax.grad(lambda s, graph=graph: nnx.merge(graph, s)(images()).sum()))
        found.append(loss(state))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "share"),
    [(Classification(), 0.8), (ISNetConfig(variant="selective", batch_stats="gradient"), 0.55)],
)
def test_remat_takes_less_memory_in_the_compiled_step(config, share):
    bytes_taken = {}
    for remat in (False, True):
        model = DenseNet(3, depths=(4, 4), growth=16, stem=16, remat=remat, rngs=nnx.Rngs(0))
        optimiser = optax.sgd(0.1)
        step = compile_step(build_step(model, loss_function(config), optimiser))
        state = init_state(model, optimiser, jax.random.key(0))
        batch = {
            "image": jnp.zeros((4, 64, 64, 3)),
            "mask": jnp.ones((4, 64, 64, 1)),
            "label": jnp.arange(4) % 3,
        }
        compiled = step.lower(state, batch).compile()
        bytes_taken[remat] = compiled.memory_analysis().temp_size_in_bytes
    assert bytes_taken[True] < share * bytes_taken[False], bytes_taken


def test_dropout_acts_before_the_head_in_train_mode_only():
    streams = nnx.Rngs(params=0, dropout=1)
    model = models.create("small", num_classes=3, dropout=0.5, rngs=streams)
    model.eval()
    plain = models.create("small", num_classes=3, rngs=nnx.Rngs(params=0))
    plain.eval()
    np.testing.assert_array_equal(model(images()), plain(images()))
    model.train()
    assert (model(images()) != model(images())).any()
    features = model.dropout(jnp.ones((4, 100)))
    assert set(np.unique(features)) == {0.0, 2.0}


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_is_inside(channels):
    mean, deviation = (0.4,) * channels, (0.2,) * channels
    options = {"num_classes": 3, "in_channels": channels}
    model = models.create("small", normalisation=(mean, deviation), rngs=nnx.Rngs(0), **options)
    plain = models.create("small", rngs=nnx.Rngs(0), **options)
    x = images(channels)
    np.testing.assert_allclose(model(x), plain((x - 0.4) / 0.2), rtol=1e-5, atol=1e-6)
    assert not set(models.torch_names(model)) ^ set(models.torch_names(plain))
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == len(
        jax.tree.leaves(nnx.state(plain, nnx.Param))
    )


def test_z_b_passes_through_the_normalisation():
    """Its box is that of the images.

    Without biases in the denominator, z^B of the normalised image is z^B of the image on the layer
    with the normalisation folded in.
    """
    mean, deviation = jnp.array([0.4, 0.5, 0.6]), jnp.array([0.2, 0.25, 0.3])
    kernel = jax.random.normal(jax.random.key(1), (32 * 32 * 3, 4))
    x = images()

    def inside(x):
        return jax.nn.relu(((x - mean) / deviation).reshape(2, -1) @ kernel)

    def folded(x):
        scale = jnp.broadcast_to(1 / deviation, (32, 32, 3)).reshape(-1, 1)
        shift = jnp.broadcast_to(-mean / deviation, (32, 32, 3)).reshape(-1) @ kernel
        return jax.nn.relu(x.reshape(2, -1) @ (kernel * scale) + shift)

    rules = lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0, zero_bias=True))
    maps = [lrp.relevance(f, x, target=1, rules=rules)[1] for f in (inside, folded)]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-4 * float(jnp.abs(maps[1]).max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropot": 0.5}, "unknown option of small 'dropot'; did you mean 'dropout'"),
        ({"remat": True}, "small has no option 'remat'. Those have it: densenet121"),
        ({"dropout": 1.0}, r"dropout is 1\.0; expected in \[0, 1\)"),
        ({"normalisation": "imagnet"}, "did you mean 'imagenet'"),
        ({"normalisation": ((0.5,), (0.5,))}, "expected 3 means and 3 positive"),
    ],
)
def test_options_that_are_not(options, message):
    with pytest.raises(UserError, match=message):
        models.create("small", num_classes=3, rngs=nnx.Rngs(0), **options)


def test_images_that_do_not_fit():
    model = models.create("small", num_classes=3, in_channels=1, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"expected \(B, H, W, 1\).*in_channels"):
        model(images())
    with pytest.raises(UserError, match="uint8; expected floating point"):
        model(jnp.zeros((2, 32, 32, 1), jnp.uint8))
    logits, state = abstract("vgg11")
    with pytest.raises(UserError, match="16x16; expected at least 32x32"):
        jax.eval_shape(logits, state, images(size=16))


@pytest.mark.parametrize(
    ("name", "least"), [("densenet121", 29), ("vgg11", 32), ("compact", 8), ("small", 2)]
)
def test_images_of_which_nothing_would_be_left(name: str, least: int):
    logits, state = abstract(name)
    traced = jax.make_jaxpr(logits)(state, jnp.zeros((1, least, 40, 3)))
    assert not [
        v for e in traced.jaxpr.eqns for v in e.outvars if 0 in getattr(v.aval, "shape", ())
    ]
    with pytest.raises(UserError, match=f"{least - 1}x40; expected at least {least}x{least}"):
        jax.eval_shape(logits, state, jnp.zeros((1, least - 1, 40, 3)))


def abstract(name: str):
    """A function of state and images in eval mode, and a state without arrays."""
    model = nnx.eval_shape(lambda: models.create(name, num_classes=3, rngs=nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)
    return lambda state, images: nnx.merge(graph, state)(images), state
