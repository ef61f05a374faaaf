"""A checkpoint of one device read and written on eight, for tests/training/test_faults.py.

python checkpoint_on_devices.py FOLDER OUT
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny_training import PLAIN, SMALL

from isnet_jax.training import Checkpoints, TrainState, init_state


def like(epochs: int) -> TrainState:
    """The structure of the state of `PLAIN` with 24 samples."""
    model = SMALL.create()
    return init_state(model, PLAIN.optimiser.make(epochs * 3), jax.random.key(0))


def main(folder: Path, out: Path) -> None:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def spread(leaf):
        """Split along an axis where one divides, else a copy on each device."""
        axes = [size % 8 == 0 and size > 0 for size in leaf.shape]
        axis = axes.index(True) if any(axes) else None
        spec = PartitionSpec(*(None if n != axis else "data" for n in range(leaf.ndim)))
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    wanted = jax.tree.map(spread, like(3))
    with Checkpoints(folder) as checkpoints:
        resumed = checkpoints.resume(wanted)
    assert resumed is not None
    state, progress = resumed
    shards = 0
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(place.sharding, leaf.ndim)
        assert len(leaf.sharding.device_set) == 8
        shards += not leaf.sharding.is_fully_replicated
    assert shards > 2
    with Checkpoints(out) as checkpoints:
        checkpoints.save(state, progress)
    with Checkpoints(folder) as checkpoints:
        resumed = checkpoints.resume(like(3))
    assert resumed is not None
    for leaf, alone in zip(jax.tree.leaves(state), jax.tree.leaves(resumed[0]), strict=True):
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(leaf, alone)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
