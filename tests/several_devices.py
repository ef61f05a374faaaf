"""The step on eight devices against the step on one, for tests/training/test_step.py."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from tiny_training import PLAIN, split

from isnet_jax import Classification, ISNetConfig
from isnet_jax.training import build_step, init_state, loss_function

DEVICES = 8
OBJECTIVES = {
    "plain": Classification(class_weights=(1.0, 2.0, 5.0)),
    "isnet": ISNetConfig(
        variant="stochastic", foreground_range=(1e-3, 1e-2), batch_stats="gradient"
    ),
    "fraction": ISNetConfig(
        variant="stochastic", heatmap_fraction=0.5, box_rule=False, batch_stats="gradient"
    ),
}


class Plain(nnx.Module):
    """Without batch norm: samples do not see each other."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), param_dtype=float, rngs=rngs)
        self.fc = nnx.Linear(4, 3, param_dtype=float, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.conv(x)).mean((1, 2)))


def main(config: ISNetConfig | Classification) -> None:
    assert jax.device_count() == DEVICES
    model = Plain(nnx.Rngs(0))
    optimiser = PLAIN.optimiser.make(10)
    state = init_state(model, optimiser, jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, split(4 * DEVICES).batch(slice(None)))
    batch["image"] = batch["image"].astype(float)
    batch["has_mask"] = jnp.arange(4 * DEVICES) % 5 > 0
    single = jax.jit(build_step(model, loss_function(config), optimiser))
    step = build_step(model, loss_function(config, "data"), optimiser, axis_name="data")
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    launchers = {
        "shard_map": jax.jit(
            jax.shard_map(
                step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False
            )
        ),
        "pmap": lambda state, batch: jax.tree.map(
            lambda leaf: leaf[0],
            jax.pmap(step, axis_name="data", in_axes=(None, 0))(
                state, jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), batch)
            ),
        ),
    }
    expected = single(*single(state, batch)[:1], batch)
    for name, launch in launchers.items():
        found = launch(*launch(state, batch)[:1], batch)
        for (path, e), f in zip(
            jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(found), strict=True
        ):
            if "nonfinite" in jax.tree_util.keystr(path):
                continue
            if jnp.issubdtype(e.dtype, jax.dtypes.prng_key):
                e, f = jax.random.key_data(e), jax.random.key_data(f)
            message = f"{name} {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(f, e, rtol=1e-9, atol=1e-12, err_msg=message)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for kind, config in OBJECTIVES.items():
        print(kind, flush=True)
        main(config)
