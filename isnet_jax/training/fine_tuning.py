"""Training that starts from weights which are there, and moves some of them less than others."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from isnet_jax.errors import UserError, printable, suggest
from isnet_jax.files import open_regular
from isnet_jax.methods.method import LossFunction
from isnet_jax.models import Network, load_weights, torch_names
from isnet_jax.models.torch_weights import Head

_FROZEN, _TRAINED = "frozen", "trained"


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """What a training starts from, and how far it moves each stage of the network.

    The stages of a network lie one after the other between its input and its head, the last dense
    layer: a ResNet's are its stem and its four groups of blocks, a DenseNet's its stem and its
    blocks, a VGG's what lies between its pools and each dense layer, a Vision Transformer's its
    embedding and each layer of its encoder.

    Attributes:
      weights: file to start from, .safetensors, or .pth with torch installed, with the names of
        torchvision, timm or Hugging Face; random weights if left out.
      head: "auto" takes the head too where it has the network's classes, "load" insists on it,
        "replace" draws a new one.
      freeze: so many stages from the input on stay as they are, statistics of norms included; -1
        freezes all but the head.
      head_first: share of all steps, in [0, 1), in which the head alone is trained; then the
        learning rate of the rest rises as at the start.
      layer_decay: in (0, 1]: each stage learns at this times the rate of what follows it; the
        head at the whole rate.
      freeze_statistics: batch norms normalise by the statistics they start with.

    Raises:
      UserError: a value out of its range.
    """

    weights: Path | None = None
    head: Head = "auto"
    freeze: int = 0
    head_first: float = 0.0
    layer_decay: float = 1.0
    freeze_statistics: bool = False

    def __post_init__(self):
        if self.head not in get_args(Head):
            raise UserError("fine-tuning: " + suggest(str(self.head), get_args(Head), "head"))
        if self.freeze < -1:
            raise UserError(
                f"fine-tuning: freeze is {self.freeze}; expected a number of stages, or -1 for all "
                "but the head."
            )
        if not 0 <= self.head_first < 1:
            raise UserError(f"fine-tuning: head_first is {self.head_first}; expected in [0, 1).")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"fine-tuning: layer_decay is {self.layer_decay}; expected in (0, 1].")

    def fingerprint(self) -> str | None:
        """SHA-256 of the file of weights; None without one.

        Raises:
          UserError: it cannot be read.
        """
        if self.weights is None:
            return None
        try:
            with open_regular(self.weights) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{printable(self.weights)} cannot be read ({reason}).") from error

    def load(self, model: nnx.Module, tell: Callable[[str], None] = lambda text: None) -> None:
        """Load the weights, if there are any, into a network, in the dtypes that it has.

        Args:
          tell: is given a sentence that says what was loaded, and whether the head is new.

        Raises:
          UserError: see `models.load_weights`; or something shall stay as it is, and is random.
        """
        if self.weights is None:
            if self.freeze or self.freeze_statistics:
                given = "freeze" if self.freeze else "freeze_statistics"
                raise UserError(
                    f"fine-tuning: {given} would keep random values. Give a file of weights to "
                    "start from: --weights FILE."
                )
            return
        variables = torch_names(model)
        dtypes = {name: variable.dtype for name, variable in variables.items()}
        kept = load_weights(model, self.weights, head=self.head)
        for name, dtype in dtypes.items():
            variables[name].set_value(variables[name][...].astype(dtype))
        loaded = f"{len(variables) - len(kept)} arrays from {self.weights}"
        tell(f"{loaded}; {'new: ' + ', '.join(kept) if kept else 'the head too'}")

    def frozen(self, model: Network) -> int:
        """How many stages stay as they are.

        Raises:
          UserError: the network has fewer.
        """
        count = len(model.stages)
        if self.freeze > count:
            raise UserError(
                f"fine-tuning: freeze is {self.freeze}, but a {type(model).__name__} has {count} "
                "stages before its head. Give at most that, or -1 for all of them."
            )
        return count if self.freeze == -1 else self.freeze

    def optimiser(
        self, rule: optax.GradientTransformation, model: nnx.Module, steps: int, warmup: int
    ) -> optax.GradientTransformation:
        """An optimiser that moves each stage as far as it shall.

        Args:
          rule: of what is trained.
          steps: of the whole training.
          warmup: in how many of them the learning rate rises.
        """
        if not self.freeze and not self.head_first and self.layer_decay == 1:
            return rule
        network = _stages_of(model)
        last, frozen = len(network.stages), self.frozen(network)
        start = round(self.head_first * steps)

        def share(count: Any) -> Any:
            return jnp.clip((count - start + 1) / max(warmup, 1), 0, 1)

        # Of the head, nothing changes; of the stages, the rate.
        rates: dict[Any, optax.GradientTransformation] = {last: optax.identity()}
        for stage in range(last):
            decayed = optax.scale(self.layer_decay ** (last - stage))
            late = optax.scale_by_schedule(share) if start else optax.identity()
            rates[stage] = optax.chain(late, decayed)
        staged = optax.chain(rule, optax.partition(rates, _labels(network.stage_of)))
        if not frozen:
            return staged
        return optax.partition(
            {_TRAINED: staged, _FROZEN: optax.set_to_zero()},
            _labels(lambda path: _FROZEN if network.stage_of(path) < frozen else _TRAINED),
        )

    def loss(self, function: LossFunction, model: nnx.Module) -> LossFunction:
        """The loss of a network of which a part stays as it is.

        Its gradient with respect to that part is zero, and is not computed.

        Args:
          model: the network's structure.
        """
        if not self.freeze and not self.freeze_statistics:
            return function
        network = _stages_of(model)
        frozen = self.frozen(network)

        def held(path: tuple[Any, ...]) -> bool:
            return network.stage_of(".".join(map(str, path))) < frozen

        def loss(model: nnx.Module, *arguments: Any) -> Any:
            for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
                if held(path):
                    variable.set_value(lax.stop_gradient(variable.get_value()))
            for path, module in nnx.iter_modules(model):
                if hasattr(module, "use_running_average"):
                    still = self.freeze_statistics or held(path)
                    module.use_running_average |= still  # pyright: ignore
            return function(model, *arguments)

        return loss


def _labels(of_path: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Labels of a tree of parameters, for `optax.partition`."""

    def label(path: Any, _: Any) -> Any:
        return of_path(jax.tree_util.keystr(path, simple=True, separator="."))

    return lambda parameters: jax.tree_util.tree_map_with_path(label, parameters)


def _stages_of(model: nnx.Module) -> Network:
    if not isinstance(model, Network):
        raise UserError(
            f"fine-tuning: a {type(model).__name__} says nothing of its stages; expected one of "
            "isnet_jax.models, or a subclass of its Network."
        )
    return model
