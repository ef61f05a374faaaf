"""What LRP has to know of JAX's primitives: flags of the operations, not a handler for each."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The cotangent is only moved: no arithmetic on the values.
REROUTING = _words(
    """reshape transpose broadcast_in_dim squeeze expand_dims rev slice dynamic_slice pad
    concatenate gather convert_element_type copy copy_p name reduce_precision
    sharding_constraint optimization_barrier split device_put"""
)

# One value goes through unchanged in shape and place.
IDENTITIES = _words(
    """convert_element_type copy copy_p name reduce_precision sharding_constraint
    optimization_barrier device_put"""
)

# Sums: relevance is shared in proportion, which in G form is the plain VJP.
SUMS = _words(
    """add sub add_any neg reduce_sum cumsum reduce_window_sum psum psum_invariant pmean
    all_gather reduce_scatter all_to_all ppermute scatter-add scatter scatter_add
    dynamic_update_slice real imag complex fft triangular_solve"""
)

# The winner takes all.
WINNERS = _words(
    """reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin sort top_k
    pmax pmin argmax argmin select_and_gather_add"""
)

PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})
LAYERS = frozenset({"dot_general", "conv_general_dilated"})

NONLINEAR = _words(
    """exp exp2 expm1 log log1p tanh logistic erf erfc erf_inv sqrt rsqrt cbrt abs integer_pow
    pow square sin cos tan asin acos atan sinh cosh asinh acosh atanh max min clamp sign floor
    ceil round lgamma digamma nextafter rem atan2"""
)

# Functions of jax.nn that are one activation, whose parts would not be recognised.
ACTIVATIONS = _words(
    """celu squareplus hard_sigmoid log_sigmoid soft_sign sparse_plus sparse_sigmoid hard_tanh"""
)

# out[i] depends on in[i] only (after broadcasting of axes of size one).
ELEMENTWISE = (
    NONLINEAR
    | ACTIVATIONS
    | IDENTITIES
    | _words(
        """add sub mul div add_any neg select_n eq ne lt le gt ge and or xor not is_finite
    stop_gradient custom_jvp_call"""
    )
)

SHAPING = frozenset({"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose"})

# Along which a norm's statistic travels between its reduction and its use; the statistics of
# concatenated maps are concatenations.
TRAVELLING = ELEMENTWISE | SHAPING | {"concatenate"}

# What `checkpoint_name` calls statistics that are measured where the program does not show it.
BATCH_STATISTICS = "batch_statistics"

REDUCTIONS = frozenset({"reduce_sum", "psum", "psum_invariant", "pmean"})

# Functions of jax.nn that are LRP operations as a whole: their plain VJP is right.
WHOLE = frozenset({"log_softmax", "softmax", "logsumexp"})

# Never negative, whatever the input.
NONNEGATIVE = frozenset({"exp", "exp2", "logistic", "abs", "square", "softmax", "cosh", "sqrt"})

# Not negative where no operand is.
SIGN_KEEPING = _words(
    """add mul div max min reshape transpose broadcast_in_dim squeeze expand_dims rev slice pad
    concatenate convert_element_type copy copy_p name optimization_barrier split reduce_sum
    reduce_max reduce_min reduce_window_sum reduce_window_max cumsum"""
)
