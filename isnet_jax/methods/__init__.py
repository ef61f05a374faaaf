"""Methods: ways to train a classifier, each a dataclass of options in a file of its own."""

from typing import TYPE_CHECKING

from isnet_jax._lazy import exports

if TYPE_CHECKING:
    from isnet_jax.methods.losses import Objective as Objective
    from isnet_jax.methods.losses import loss_function as loss_function
    from isnet_jax.methods.losses import method_of as method_of
    from isnet_jax.methods.method import Blueprint as Blueprint
    from isnet_jax.methods.method import Context as Context
    from isnet_jax.methods.method import Earlier as Earlier
    from isnet_jax.methods.method import LossFunction as LossFunction
    from isnet_jax.methods.method import Method as Method
    from isnet_jax.methods.method import Setup as Setup
    from isnet_jax.methods.registry import named as named
    from isnet_jax.methods.registry import names as names
    from isnet_jax.methods.registry import register as register

__getattr__, __dir__ = exports(
    __name__,
    {
        "losses": ("Objective", "loss_function", "method_of"),
        "method": ("Blueprint", "Context", "Earlier", "LossFunction", "Method", "Setup"),
        "registry": ("named", "names", "register"),
    },
)
