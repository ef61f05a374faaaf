"""Prepares the biased data set on disk, once, and finds it there again."""

import logging
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from isnet_jax.data.digits.builder import (
    SPLITS,
    BiasedDigits,
    BiasedDigitsBuilderConfig,
    BiasedDigitsConfig,
    Progress,
)
from isnet_jax.data.digits.sources import quiet_tfds
from isnet_jax.errors import UserError


def prepare(
    config: BiasedDigitsConfig, data_dir: str | Path, progress: Progress | None = None
) -> BiasedDigits:
    """Writes the data set below ``data_dir``, or finds it there from an earlier time.

    The data set becomes visible when it is complete: preparing that was interrupted leaves nothing
    behind but a folder ``incomplete.*``, which may be deleted. Several processes may prepare the
    same data set at once; the first to finish provides it.

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
    builder = _builder(config, data_dir)
    if not builder.data_path.exists():
        builder.progress = progress
        try:
            with quiet_tfds():
                builder.download_and_prepare(
                    file_format="array_record",
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
        except OSError:
            if not builder.data_path.exists():
                raise
            # Another process was faster: its folder is in the place of ours.
            builder = _builder(config, data_dir)
    _check_files(builder)
    return builder


def _builder(config: BiasedDigitsConfig, data_dir: str | Path) -> BiasedDigits:
    builder_config = BiasedDigitsBuilderConfig(name=config.name(), options=config)
    logger = absl_logging.get_absl_logger()
    logger.addFilter(_unless_custom_config)
    try:
        return BiasedDigits(data_dir=Path(data_dir).expanduser(), config=builder_config)
    finally:
        logger.removeFilter(_unless_custom_config)


def _unless_custom_config(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Using custom data configuration")


def _check_files(builder: BiasedDigits) -> None:
    folder = builder.data_path
    remedy = f"Delete the folder {folder}; it will be prepared anew."
    absent = [name for name in SPLITS if name not in builder.info.splits]
    if absent:
        raise UserError(
            f"the prepared data in {folder} do not have the splits {', '.join(absent)}: "
            f"dataset_info.json is missing or of something else. {remedy}"
        )
    files = [Path(path) for name in SPLITS for path in builder.info.splits[name].filepaths]
    missing = [path.name for path in files if not path.exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} files are missing from the prepared data: "
            f"{', '.join(missing)}. {remedy}"
        )
