"""The step over several devices: `jax.pmap`, or jit and `jax.shard_map` over a mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from isnet_jax.errors import UserError, suggest
from isnet_jax.objective.batch import Batch, Whole
from isnet_jax.training.compilation import compiler_options
from isnet_jax.training.step import Metrics, TrainState, compile_step

AXIS = "data"

Step = Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, Metrics]]
Parallel = Literal["auto", "single", "pmap", "mesh"]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the training step runs over devices. The batch is that of all devices together.

    Attributes:
      parallel: "single" runs on the first device; "pmap" on all devices of one host, by
        `jax.pmap`; "mesh" on all devices of all processes, by jit and `jax.shard_map`; "auto" is
        single with one device and mesh with several.
      accumulate: each device takes its share of the batch in so many equal parts, one after the
        other, with the memory of one; at least 1. The gradient is the whole batch's, but that
        batch norm measures each part on its own.
      synchronise_batch_norm: whether batch norms measure what all devices hold, as one device
        would, instead of each device its own share.
    """

    parallel: Parallel = "auto"
    accumulate: int = 1
    synchronise_batch_norm: bool = False

    def __post_init__(self):
        if self.parallel not in get_args(Parallel):
            raise UserError(suggest(self.parallel, get_args(Parallel), what="parallel"))
        if self.accumulate < 1:
            raise UserError(f"accumulate is {self.accumulate}; expected at least 1.")

    def launcher(self, batch_size: int) -> Launcher:
        """The launcher for the devices there are.

        Raises:
          UserError: the batch does not divide by devices and parts, or the kind does not fit the
            number of processes.
        """
        devices, processes = jax.device_count(), jax.process_count()
        kind = self.parallel
        if kind == "auto":
            kind = "single" if devices == 1 else "mesh"
        if kind != "mesh" and processes > 1:
            raise UserError(
                f'parallel is "{kind}" with {processes} processes; expected "mesh", which runs on '
                "the devices of all of them."
            )
        used = 1 if kind == "single" else devices
        if batch_size % (used * self.accumulate):
            part = used * self.accumulate
            near = sorted({max(batch_size // part, 1) * part, -(-batch_size // part) * part})
            raise UserError(
                f"the batch of {batch_size} does not divide into equal parts for {used} devices x "
                f"{self.accumulate} accumulated: choose batch_size {' or '.join(map(str, near))}, "
                'another accumulate, or parallel "single".'
            )
        if kind == "single":
            return Launcher(kind, None, self.synchronise_batch_norm)
        # Each process's rows of the batch are next to each other.
        ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))
        return Launcher(kind, mesh, self.synchronise_batch_norm)


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What the compiler says of a compiled step.

    Attributes:
      parameters: the number of trained values.
      devices: on how many the step runs.
      flops: floating point operations of a step on each device; None where it does not say.
      memory: bytes each device needs for a step, state and batch included; None likewise.
    """

    parameters: int
    devices: int
    flops: float | None
    memory: int | None

    def __str__(self) -> str:
        devices = "1 device" if self.devices == 1 else f"{self.devices} devices"
        parts = [f"{self.parameters:,} parameters", devices]
        each = "" if self.devices == 1 else " each"
        if self.flops is not None:
            parts.append(f"{self.flops / 1e9:.3g} GFLOP a step{each}")
        if self.memory is not None:
            parts.append(f"{self.memory / 2**20:.3g} MiB{each}")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Launcher:
    """Runs a per-device step on one device or on all; made by `MeshConfig.launcher`.

    Attributes:
      kind: "single", "pmap" or "mesh".
      mesh: the devices along the axis "data"; None for one.
      synchronise_batch_norm: see `MeshConfig`.
    """

    kind: Literal["single", "pmap", "mesh"]
    mesh: Mesh | None
    synchronise_batch_norm: bool

    @property
    def devices(self) -> int:
        """On how many the step runs."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def axis_name(self) -> str | None:
        """The mapped axis, for `build_step` and `loss_function`."""
        return None if self.mesh is None else AXIS

    def cost(self, compiled: jax.stages.Compiled, model: nnx.Module) -> StepCost:
        """What the compiler says of the model's launched step."""
        memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
        needed = None
        if memory is not None:
            needed = (
                memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                - memory.alias_size_in_bytes
                + memory.temp_size_in_bytes
            )
        return StepCost(
            parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))),
            devices=self.devices,
            flops=(costs or {}).get("flops"),
            memory=needed,
        )

    def prepared(self, model: nnx.Module) -> nnx.Module:
        """The model as the step shall run it: a copy with norms that know the axis, or itself."""
        if self.mesh is None or not self.synchronise_batch_norm:
            return model
        copy = nnx.clone(model)
        copy.set_attributes(axis_name=AXIS, raise_if_not_found=False)
        return copy

    def launch(
        self,
        step: Step,
        on_compiled: Callable[[jax.stages.Compiled], None] = lambda compiled: None,
    ) -> Step:
        """The step on all devices, compiled at its first call; the state is donated.

        Args:
          step: of `build_step` with this axis.
          on_compiled: given the compiled step before it runs for the first time.

        Returns:
          `(state, batch) -> (state, metrics)`: a state of `place`, and this process's rows of the
          batch as NumPy arrays.
        """
        mapped = self._mapped(step)
        compiled: list[Any] = []

        def run(state: TrainState, batch: Mapping[str, Any]) -> tuple[TrainState, Metrics]:
            rows = self._split(batch)
            if not compiled:
                compiled.append(mapped.lower(state, rows).compile())
                on_compiled(compiled[0])
            return compiled[0](state, rows)

        return run

    def launch_validation(
        self, validate: Callable[[TrainState, Batch, Whole], Metrics]
    ) -> Callable[[TrainState, Batch, Whole], Metrics]:
        """A validation on all devices, compiled once for each shape.

        Args:
          validate: of `build_validation` with this axis.

        Returns:
          `(state, part, whole) -> metrics`: a state of `place`, and NumPy arrays, the same in
          every process; the part's rows divide by the devices.
        """
        if self.mesh is None:
            return jax.jit(validate, compiler_options=compiler_options())
        everywhere, rows = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.jit(
            self._shard_map(validate, (everywhere, rows, everywhere)),
            compiler_options=compiler_options(),
        )
        sharded, replicated = (NamedSharding(self.mesh, spec) for spec in (rows, everywhere))

        def run(state: TrainState, part: Batch, whole: Whole) -> Metrics:
            return mapped(state, _placed(part, sharded), _placed(whole, replicated))

        return run

    def place(self, state: TrainState) -> TrainState:
        """The state on all devices; every process gives the same values."""
        return state if self.mesh is None else jax.tree.map(self._replicated, state)

    def local(self, state: TrainState) -> TrainState:
        """The same values on one device of this process, until the next step."""
        if self.mesh is None:
            return state
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, state)

    def _mapped(self, step: Callable[..., Any]) -> Any:
        if self.mesh is None:
            return compile_step(step)
        if self.kind == "pmap":
            return jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, 0),
                out_axes=None,
                devices=list(self.mesh.devices.flat),
                donate_argnums=0,
            )
        return compile_step(self._shard_map(step, (PartitionSpec(), PartitionSpec(AXIS))))

    def _shard_map(self, function: Callable[..., Any], in_specs: Any) -> Callable[..., Any]:
        # With the check on, JAX itself would sum the gradients of what all devices share.
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=PartitionSpec(),
            check_vma=False,
        )

    def _split(self, batch: Mapping[str, Any]) -> Any:
        if self.mesh is None:
            return dict(batch)
        if self.kind == "pmap":
            size = self.mesh.size
            return jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), dict(batch))
        rows = NamedSharding(self.mesh, PartitionSpec(AXIS))
        place = functools.partial(jax.make_array_from_process_local_data, rows)
        return jax.tree.map(place, dict(batch))

    def _replicated(self, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self._replicated(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        assert self.mesh is not None
        # A copy: on CPUs arrays made from NumPy's may share its memory, and these are donated.
        return jnp.copy(_placed(np.asarray(leaf), NamedSharding(self.mesh, PartitionSpec())))


def _placed(values: Any, sharding: NamedSharding) -> Any:
    """NumPy arrays, the same in every process, as global ones."""
    return jax.tree.map(
        lambda value: jax.make_array_from_callback(value.shape, sharding, value.__getitem__),
        values,
    )


Launch = MeshConfig  # Its former name.
