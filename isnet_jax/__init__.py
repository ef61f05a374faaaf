"""Image classifiers that ignore biased backgrounds: ISNet and functional LRP in JAX."""

import sys
from typing import TYPE_CHECKING

from isnet_jax._lazy import exports
from isnet_jax._moved import Moved
from isnet_jax.errors import UserError as UserError

if TYPE_CHECKING:
    from isnet_jax import lrp as lrp
    from isnet_jax import models as models
    from isnet_jax.objective import Classification as Classification
    from isnet_jax.objective import ISNetConfig as ISNetConfig
    from isnet_jax.objective import isnet_loss as isnet_loss
    from isnet_jax.objective import plain_loss as plain_loss

__getattr__, __dir__ = exports(
    __name__,
    {
        "lrp": (),
        "models": (),
        "objective": ("Classification", "ISNetConfig", "isnet_loss", "plain_loss"),
    },
)

sys.meta_path.insert(0, Moved())  # Before what would find files below a module that moved.
