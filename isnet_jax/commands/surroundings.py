"""What a command finds where it is started."""

from __future__ import annotations

import os

from isnet_jax.errors import UserError, printable


def require_folder() -> None:
    """Raises a `UserError` where the working directory was deleted."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the working directory is gone ({error.strerror}). Go to one that is there: cd FOLDER."
        ) from error


def require_devices() -> None:
    """Raises a `UserError` where JAX finds no device; of several processes, connect them before."""
    import jax

    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = printable(str(error).split("\n")[0] or "none of these devices is here")
        raise UserError(
            f"JAX cannot compute with JAX_PLATFORMS={printable(asked)!r} ({reason}). Unset it, or "
            "set it to cpu."
        ) from error
