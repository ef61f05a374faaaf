"""Networks of Equinox, equimo, Haiku, Keras and Hugging Face; each imported where it is made."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp

from foreign_networks.registry import Made, drawn, network, shaken


def equinox_made(model: Any, x: jax.Array, *options: Any) -> Made:
    """A model of one sample, over the batch."""
    import equinox as eqx

    parameters, rest = eqx.partition(eqx.nn.inference_mode(model), eqx.is_inexact_array)

    def apply(parameters, x):
        return jax.vmap(lambda x: eqx.combine(parameters, rest)(x, *options))(x)

    return Made(apply, shaken(parameters), x)


@network("Equinox CNN: channels first, GroupNorm, PReLU, max pool", "equinox")
def equinox_cnn():
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 3)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 6, 3, padding=1, key=keys[0]),
            eqx.nn.GroupNorm(2, 6),
            eqx.nn.Lambda(eqx.nn.PReLU(0.2)),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(6, 6, 3, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.AdaptiveAvgPool2d(1),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(6, 3, key=keys[2]),
        ]
    )
    return equinox_made(model, drawn(2, 3, 6, 6))


@network("GRU cell under scan (Equinox)", "equinox", conserves=False, written_in=False)
def equinox_gru():
    import equinox as eqx

    class Net(eqx.Module):
        cell: eqx.nn.GRUCell
        head: eqx.nn.Linear

        def __call__(self, xs):
            def step(h, x):
                return self.cell(x, h), None

            return self.head(jax.lax.scan(step, jnp.zeros(5), xs)[0])

    keys = jax.random.split(jax.random.key(1))
    return equinox_made(
        Net(eqx.nn.GRUCell(3, 5, key=keys[0]), eqx.nn.Linear(5, 3, key=keys[1])), drawn(2, 4, 3)
    )


def equimo_models() -> Any:
    """`equimo.vision.models`, called `equimo.models` before version 2."""
    try:
        import equimo.vision.models as found
    except ModuleNotFoundError:
        import equimo.models as found
    return found


@network("Vision transformer (equimo)", "equimo", conserves=False, written_in=False)
def equimo_vit():
    model = equimo_models().VisionTransformer(
        img_size=4,
        in_channels=3,
        patch_size=2,
        dim=8,
        num_heads=2,
        depths=[1],
        num_classes=3,
        key=jax.random.key(2),
    )
    return equinox_made(model, drawn(2, 3, 4, 4), jax.random.key(0))


@network("ConvNeXt (equimo)", "equimo")
def equimo_convnext():
    model = equimo_models().ConvNeXt(
        in_channels=3, depths=[1, 1], dims=[4, 6], num_classes=3, key=jax.random.key(3)
    )
    return equinox_made(model, drawn(2, 3, 16, 16), jax.random.key(0))


@network(
    "MobileNetV3: hard swish, squeeze-excite (equimo)", "equimo", conserves=False, written_in=False
)
def equimo_mobilenet():
    layers = [(4, 8, 3, 1, True, "relu"), (4, 8, 3, 1, True, "hard_swish")]
    model = equimo_models().MobileNetv3(
        3, layers, last_channels=6, num_classes=3, key=jax.random.key(4)
    )
    return equinox_made(model, drawn(2, 3, 8, 8), jax.random.key(0))


def haiku_made(build: Any, x: jax.Array) -> Made:
    import haiku as hk

    transformed = hk.without_apply_rng(hk.transform_with_state(build))
    parameters, state = transformed.init(jax.random.key(0), x)

    def apply(values, x):
        return transformed.apply(values["parameters"], values["state"], x)[0]

    return Made(apply, shaken({"parameters": parameters, "state": state}), x)


@network("ResNet (Haiku)", "dm-haiku")
def haiku_resnet():
    import haiku as hk

    def build(x):
        net = hk.nets.ResNet(
            (1, 1, 1, 1),
            3,
            bottleneck=False,
            channels_per_group=(4, 4, 6, 6),
            use_projection=(False, False, True, True),
            strides=(1, 1, 2, 1),
            initial_conv_config={"output_channels": 4, "kernel_shape": 3, "stride": 1},
            logits_config={"w_init": hk.initializers.RandomNormal(0.3)},
        )
        return net(x, is_training=hk.running_init())

    return haiku_made(build, drawn(2, 8, 8, 3))


@network("LSTM by dynamic_unroll (Haiku)", "dm-haiku", conserves=False, written_in=False)
def haiku_lstm():
    import haiku as hk

    def build(x):
        core = hk.LSTM(5)
        states, _ = hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)
        return hk.Linear(3)(hk.LayerNorm(-1, True, True)(states[:, -1]))

    return haiku_made(build, drawn(2, 4, 3))


def keras_made(build: Any, x: jax.Array) -> Made:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise ImportError("Keras runs on another backend; set KERAS_BACKEND=jax")
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    model = build(keras)
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    initial = shaken(
        {v.path: v.numpy() for v in variables if jnp.issubdtype(v.dtype, jnp.floating)}
    )

    def apply(values, x):
        trainable, fixed = (
            [values.get(v.path, v.value) for v in some]
            for some in (model.trainable_variables, model.non_trainable_variables)
        )
        return model.stateless_call(trainable, fixed, x, training=False)[0]

    return Made(apply, initial, x)


@network("Keras CNN: separable convolution, batch norm, concatenation", "keras")
def keras_cnn():
    def build(keras):
        inputs = keras.Input((6, 6, 3), batch_size=2)
        x = keras.layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
        h = keras.layers.SeparableConv2D(6, 3, padding="same")(x)
        h = keras.layers.LeakyReLU(0.1)(keras.layers.BatchNormalization()(h))
        h = keras.layers.Concatenate()([keras.layers.MaxPooling2D()(t) for t in (x, h)])
        h = keras.layers.GlobalAveragePooling2D()(h)
        return keras.Model(inputs, keras.layers.Dense(3)(h))

    return keras_made(build, drawn(2, 6, 6, 3))


@network("Keras LSTM and GRU", "keras", conserves=False, written_in=False)
def keras_recurrent():
    def build(keras):
        inputs = keras.Input((4, 3), batch_size=2)
        x = keras.layers.LSTM(5, return_sequences=True)(inputs)
        x = keras.layers.GRU(5)(x)
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    return keras_made(build, drawn(2, 4, 3))


def hugging_face_made(model: Any, x: jax.Array) -> Made:
    def apply(parameters, x):
        return model(pixel_values=x, params=parameters).logits

    return Made(apply, shaken(model.params), x)


@network(
    "Vision transformer (Hugging Face Flax)", "transformers", conserves=False, written_in=False
)
def hugging_face_vit():
    from transformers import FlaxViTForImageClassification, ViTConfig

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=4,
        patch_size=2,
        num_labels=3,
        initializer_range=0.4,
    )
    return hugging_face_made(
        FlaxViTForImageClassification(config, dtype=jnp.float64), drawn(2, 3, 4, 4)
    )


@network("ResNet (Hugging Face Flax)", "transformers")
def hugging_face_resnet():
    from transformers import FlaxResNetForImageClassification, ResNetConfig

    config = ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 6],
        depths=[1, 1],
        layer_type="basic",
        num_labels=3,
        image_size=16,
    )
    model = FlaxResNetForImageClassification(config, input_shape=(1, 16, 16, 3), dtype=jnp.float64)

    def apply(variables, x):
        return model.module.apply(variables, x, deterministic=True).logits

    return Made(apply, shaken(dict(model.params)), drawn(2, 16, 16, 3))
