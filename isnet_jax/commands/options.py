"""The options that all training jobs share."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tyro

from isnet_jax import models
from isnet_jax.commands import logs
from isnet_jax.data import Augmentation, Split
from isnet_jax.errors import UserError
from isnet_jax.methods import Method, Objective, named
from isnet_jax.methods.isnet import ISNet
from isnet_jax.methods.plain import Plain
from isnet_jax.objective.calibration import calibrated
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.exchange import Exchange
from isnet_jax.training import (
    CheckpointConfig,
    DistributedConfig,
    FineTuneConfig,
    MeshConfig,
    ModelDescription,
    OptimiserConfig,
    TrainConfig,
)
from isnet_jax.training.config import SelectBy


def recommended() -> ISNetConfig:
    """What holds on every set whose bias lies on the background: docs/hard-backgrounds.md."""
    exchange = Exchange(probability=1.0, consistency=1.0, unexchanged=0.0)
    return ISNetConfig(heatmap_weight=0.0, exchange=exchange)


# What of an ISNet's options has an effect where nothing is explained.
_WITHOUT_HEATMAPS = ("heatmap_weight", "heatmap_schedule", "classification", "exchange")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network and how its weights come about.

    Attributes:
      model: architecture of the networks.
      dtype: what the layers compute in; parameters, statistics of norms, logits and the heatmap
        loss stay in float32.
      remat: keep only what convolutions and dense layers return and compute the rest again for the
        gradient: less memory, a third for DenseNet121, up to 20 % more time, longer compilation.
      optimiser: how weights are updated.
      epochs: passes of the network over the training images; of a run's, of the ISNet.
      batch_size: images in each training step.
      augmentation: random transformations of image and mask together.
      seed: decides weights, order of the images and random choices; the data have their own.
      normalisation: of images inside the network, by the mean and deviation that the weights were
        trained with: imagenet's, half (0.5 and 0.5), or none. "auto" is imagenet where weights
        are given, and none elsewhere.
      fine_tune: weights to start from, and what moves how far.
    """

    model: str = "compact"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    epochs: int = 12
    batch_size: int = 64
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    normalisation: Literal["auto", "imagenet", "half", "none"] = "auto"
    fine_tune: Annotated[FineTuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FineTuneConfig
    )

    def __post_init__(self):
        models.check_options(self.model, self.model_options)

    @property
    def model_options(self) -> dict[str, Any]:
        """The options of `models.create` that differ from its defaults."""
        automatic = "none" if self.fine_tune.weights is None else "imagenet"
        options = {
            "dtype": self.dtype,
            "remat": self.remat,
            "normalisation": automatic if self.normalisation == "auto" else self.normalisation,
        }
        defaults = ("float32", False, "none")
        return {name: value for name, value in options.items() if value not in defaults}

    def description(self, train: Split) -> ModelDescription:
        """Of the networks for such data."""
        names, shape = train.class_names, train.images.shape[1:]
        return ModelDescription(self.model, len(names), names, shape, self.model_options)

    def training(
        self,
        objective: Objective,
        *,
        epochs: int | None = None,
        **options: Any,
    ) -> TrainConfig:
        """How a network is trained for an objective; other options of `TrainConfig` besides."""
        return TrainConfig(
            objective=objective,
            optimiser=self.optimiser,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            seed=self.seed,
            fine_tune=self.fine_tune,
            epochs=self.epochs if epochs is None else epochs,
            **options,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(NetworkOptions):
    """Where a training goes, how long, and what it runs on.

    Attributes:
      out: output folder: a new one, or that of the same run interrupted.
      patience: end a training after so many epochs without a new best one; 0 never does.
      checkpoints: when they are written and how many are kept.
      profile_steps: first and last step, from 1, of which to write a profile into the run.
      log: where curves and pictures go: TensorBoard's files in the run; and, if installed, Weights
        & Biases (wandb) and MLflow.
      launch: how the step runs over devices.
      processes: of which this is one, for training over several hosts.
    """

    out: Path = Path("runs/run")
    patience: int = 0
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    profile_steps: tuple[int, int] | None = None
    log: tuple[logs.Kind, ...] = ("tensorboard",)
    launch: Annotated[MeshConfig, tyro.conf.arg(name="")] = field(default_factory=MeshConfig)
    processes: DistributedConfig = field(default_factory=DistributedConfig)

    def training(self, objective: Objective, **options: Any) -> TrainConfig:
        return super().training(
            objective,
            patience=self.patience,
            checkpoints=self.checkpoints,
            profile_steps=self.profile_steps,
            launch=self.launch,
            **options,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob(RunOptions):
    """An ISNet or a network of another method, and a plain classifier to compare it with.

    `of_method` gives the job the options of its method, as a field of the method's name.

    Attributes:
      method: what is trained: isnet, plain, swap (backgrounds exchanged, nothing else) or others,
        see docs/how-to/choose-a-method.md; a wrong name lists all. `--method NAME --help` shows the
        method's own options.
      isnet: the ISNet's objective: classes are learnt from images with the background of another
        one, the same logits are asked for the images as they are, and there are no heatmaps. The
        papers' objective has heatmaps alone (heatmap_weight 0.7, exchange.probability 0,
        exchange.consistency 0). Multi-label data set the classification's task themselves.
      plain_epochs: passes of a plain classifier to compare with.
      calibration: file of `isnet-jax calibrate`; its ranges replace isnet.foreground_range.
      select_by: what makes an epoch the best, which is kept, on validation images: the lowest
        loss, or the most right predictions with backgrounds exchanged ("interventions"). The
        loss prefers networks that are as biased as the images.
    """

    method: str = "isnet"
    isnet: ISNetConfig = field(default_factory=recommended)
    plain_epochs: int = 6
    calibration: Path | None = None
    select_by: SelectBy = "loss"

    def __post_init__(self):
        super().__post_init__()
        if self.plain_epochs < 0:
            raise UserError(f"plain_epochs is {self.plain_epochs}; expected 0 or more.")
        for network in self.networks:
            self.training_of(network)  # Checks the options.

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks to train: see `networks_of`."""
        return networks_of(self.method, self.plain_epochs)

    @property
    def chosen(self) -> Method:
        """The method with its options."""
        if self.method == ISNet.name:
            return ISNet(objective=self.isnet)
        if self.method == Plain.name:
            return Plain(classification=self.isnet.classification)
        return getattr(self, field_of(self.method), None) or named(self.method)()

    def with_classification(self, **changes: Any) -> Self:
        """The same job with such a classification loss, of every network."""
        loss = dataclasses.replace(self.chosen.classification, **changes)
        changed: dict[str, Any] = {"isnet": dataclasses.replace(self.isnet, classification=loss)}
        if hasattr(self, field_of(self.method)):
            changed.setdefault(field_of(self.method), self.chosen.classified_by(loss))
        return dataclasses.replace(self, **changed)

    @property
    def note(self) -> str | None:
        """What to say of options that were chosen and change nothing."""
        if self.method == ISNet.name:
            if self.isnet.explains:
                return None
            used, default = _WITHOUT_HEATMAPS, ISNetConfig()
            why = "nothing is explained, as isnet.heatmap_weight is 0"
            remedy = (
                "The papers' objective: --isnet.heatmap-weight 0.7 --isnet.exchange.probability 0 "
                "--isnet.exchange.consistency 0"
            )
        else:
            (option,) = (f for f in dataclasses.fields(self) if f.name == "isnet")
            used, default = ("classification",), option.default_factory()  # pyright: ignore
            why = f"the method is {self.method}"
            remedy = f"`--method {self.method} --help` shows what does."
        names = [f.name for f in dataclasses.fields(ISNetConfig) if f.name not in used]
        unused = [n for n in names if getattr(self.isnet, n) != getattr(default, n)]
        return f"{why}, so {', '.join(unused)} changes nothing. {remedy}" if unused else None

    def calibrated(self) -> Self:
        """The same job with the ranges of its calibration in the objective.

        Raises:
          UserError: no such file, or one that was made for other heatmaps.
        """
        if self.calibration is None:
            return self
        if self.method != ISNet.name:
            raise UserError(
                f"calibration is of the method isnet; this is {self.method}. Leave it out."
            )
        isnet = calibrated(self.isnet, self.model, self.dtype, self.calibration)
        return dataclasses.replace(self, isnet=isnet, calibration=None)

    def training_of(self, network: str) -> TrainConfig:
        """How one of `networks` is trained."""
        own = network == self.method
        objective: Objective = self.chosen
        if not own or self.method == Plain.name:
            objective = self.chosen.classification
        elif self.method == ISNet.name:
            objective = self.isnet
        return self.training(
            objective,
            epochs=self.epochs if own else self.plain_epochs,
            select_by=self.select_by,
        )


def networks_of(method: str, plain_epochs: int) -> tuple[str, ...]:
    """What a job trains: "plain", if it is wanted to compare with, and a network of its method."""
    return ("plain", method) if plain_epochs and method != Plain.name else (method,)


def field_of(method: str) -> str:
    """The field of a job that holds the options of a method."""
    return method.replace("-", "_")


Job = TypeVar("Job", bound=TrainingJob)


def of_method(kind: type[Job], name: str) -> type[Job]:
    """The kind of job for a method: with the method's options as a field of its name.

    Raises:
      UserError: no such method.
    """
    method = named(name)
    if name != ISNet.name and field_of(name) in {f.name for f in dataclasses.fields(kind)}:
        raise UserError(f"a method cannot have the name of the option {name}. Choose another name.")
    fields: list[Any] = [("method", str, field(default=name))]
    if name not in (ISNet.name, Plain.name):
        fields.append((field_of(name), method, field(default_factory=method)))
    own = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    made = dataclasses.make_dataclass(
        kind.__name__, fields, bases=(kind,), namespace=own, frozen=True, kw_only=True
    )
    return made  # pyright: ignore[reportReturnType]
