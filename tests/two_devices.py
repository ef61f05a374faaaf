"""The step on two devices against the step on one, for tests/training/test_step.py."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from tiny_training import PLAIN, split

from isnet_jax import Classification
from isnet_jax.training import init_state, make_step, objective


class Plain(nnx.Module):
    """Without batch norm: samples do not see each other."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.conv(x)).mean((1, 2)))


def main() -> None:
    assert jax.device_count() == 2
    model = Plain(nnx.Rngs(0))
    optimiser = PLAIN.optimiser.make(10)
    state = init_state(model, optimiser, jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, split(16).batch(slice(None)))
    single = jax.jit(make_step(model, objective(Classification()), optimiser))
    step = make_step(model, objective(Classification()), optimiser, axis_name="data")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    launchers = {
        "shard_map": jax.jit(
            jax.shard_map(
                step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False
            )
        ),
        "pmap": lambda state, batch: jax.tree.map(
            lambda leaf: leaf[0],
            jax.pmap(step, axis_name="data", in_axes=(None, 0))(
                state, jax.tree.map(lambda a: a.reshape(2, -1, *a.shape[1:]), batch)
            ),
        ),
    }
    expected = single(*single(state, batch)[:1], batch)
    for name, launch in launchers.items():
        found = launch(*launch(state, batch)[:1], batch)
        for (path, e), f in zip(
            jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(found), strict=True
        ):
            if jnp.issubdtype(e.dtype, jax.dtypes.prng_key):
                e, f = jax.random.key_data(e), jax.random.key_data(f)
            message = f"{name} {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-6, err_msg=message)


if __name__ == "__main__":
    main()
