"""Prepares the biased data set on disk, once, and finds it there again."""

from pathlib import Path

from isnet_jax.data.digits.builder import (
    BiasedDigits,
    BiasedDigitsBuilderConfig,
    BiasedDigitsConfig,
)
from isnet_jax.data.drawn import Progress, prepared


def prepare(
    config: BiasedDigitsConfig, data_dir: str | Path, progress: Progress | None = None
) -> BiasedDigits:
    """Writes the data set below ``data_dir``, or finds it there: see `drawn.prepared`.

    Args:
        config: what to prepare; each config gets a folder of its own.
        data_dir: parent of the prepared folders, made if need be.
        progress: called with the number of examples written so far and the number of all.

    Returns:
        A builder for ``load_split``, or for TFDS's own ``builder.as_data_source(split)``.

    Raises:
        UserError: the digits are missing, the config asks for more than they can give, or files
            of a prepared data set are missing.
    """
    options = BiasedDigitsBuilderConfig(name=config.name(), options=config)
    return prepared(lambda place: BiasedDigits(data_dir=place, config=options), data_dir, progress)
