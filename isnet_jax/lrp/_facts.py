"""What LRP has to know of JAX's primitives: flags of the operations, not a handler for each."""

from __future__ import annotations

# The cotangent is only moved: no arithmetic on the values.
REROUTING = frozenset(
    """reshape transpose broadcast_in_dim squeeze expand_dims rev slice dynamic_slice pad
    concatenate gather convert_element_type copy copy_p name reduce_precision
    sharding_constraint optimization_barrier split device_put""".split()
)

# One value goes through unchanged in shape and place.
IDENTITIES = frozenset(
    """convert_element_type copy copy_p name reduce_precision sharding_constraint
    optimization_barrier device_put""".split()
)

# Sums: relevance is shared in proportion, which in G form is the plain VJP.
SUMS = frozenset(
    """add sub add_any neg reduce_sum cumsum reduce_window_sum psum psum_invariant pmean
    all_gather reduce_scatter all_to_all ppermute scatter-add scatter scatter_add
    dynamic_update_slice real imag complex fft triangular_solve""".split()
)

# The winner takes all.
WINNERS = frozenset(
    """reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin sort top_k
    pmax pmin argmax argmin select_and_gather_add""".split()
)

PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})
LAYERS = frozenset({"dot_general", "conv_general_dilated"})

NONLINEAR = frozenset(
    """exp exp2 expm1 log log1p tanh logistic erf erfc erf_inv sqrt rsqrt cbrt abs integer_pow
    pow square sin cos tan asin acos atan sinh cosh asinh acosh atanh max min clamp sign floor
    ceil round lgamma digamma nextafter rem atan2""".split()
)

# out[i] depends on in[i] only (after broadcasting of axes of size one).
ELEMENTWISE = NONLINEAR | IDENTITIES | frozenset(
    """add sub mul div add_any neg select_n eq ne lt le gt ge and or xor not is_finite
    stop_gradient custom_jvp_call""".split()
)

# Along which a batch or layer norm's statistic travels between its reduction and its use.
SHAPING = frozenset({"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose"})

REDUCTIONS = frozenset({"reduce_sum", "psum", "psum_invariant", "pmean"})

# Functions of jax.nn that are LRP operations as a whole: their plain VJP is right.
WHOLE = frozenset({"log_softmax", "softmax", "logsumexp"})
