"""How our own step is compiled."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_CPU_OPTIONS = {
    # Convolutions leave YNNPACK for Eigen, which is faster on 3x3 shapes; reductions must stay.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    # Without its barriers what `remat` computes again is the same as what was computed before, and
    # XLA keeps that.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` on the current backend.

    Empty where the installed XLA does not know them.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS).lower(jnp.zeros(())).compile()
    except Exception:  # XLA does not export its error type; any refusal means "unknown"
        return {}
    return dict(_CPU_OPTIONS)
