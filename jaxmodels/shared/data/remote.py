"""The two homes of public data sets, the Hugging Face Hub and tensorflow-datasets, for any data.

Each question is asked so that it fails at once, in one line, with what works instead.

>>> load_hub("karpathy/tiny_shakespeare", revision="refs/convert/parquet")["validation"].num_rows
1
"""

import os
import re
from typing import Any

OFFLINE = "with no network, use --source sample or --source PATH (a local copy)"
_HUB_TIMEOUT_SECONDS = 10.0
_TFDS_ROWS_PER_READ = 1024


def load_hub(name: str, *, subset: str | None = None, revision: str | None = None) -> Any:
    """The Hub's data set OWNER/NAME as a `datasets.DatasetDict`: split -> table.

    `subset` is what the Hub calls a configuration, for a set that has several.

    Raises:
        ValueError: `datasets` is not installed, or the data set cannot be had; one line.
    """
    where = f"hub:{name}" if revision is None else f"hub:{name}@{revision}"
    datasets = import_datasets(f"--source {where}")
    import huggingface_hub

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{where} is no Hub data set; expected hub:OWNER/NAME")
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        # One quick question first: load_dataset alone retries an unreachable Hub for half a minute.
        if not offline:
            api = huggingface_hub.HfApi()
            api.dataset_info(name, revision=revision, timeout=_HUB_TIMEOUT_SECONDS)
        return datasets.load_dataset(*filter(None, (name, subset)), revision=revision)
    except Exception as error:  # the HTTP library's own errors are not the standard library's
        cached = "" if offline else " (or HF_HUB_OFFLINE=1 if it was downloaded before)"
        raise ValueError(
            f"{where} cannot be loaded from the Hugging Face Hub ({one_line(error)}); "
            f"{OFFLINE}{cached}"
        ) from error


def import_datasets(source: str) -> Any:
    """Hugging Face's `datasets`, which reads `source`."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{source} needs the datasets library; pip install 'jaxmodels[hub]' installs it"
        ) from error
    return datasets


def prepared_tfds(name: str) -> Any:
    """The builder of a tfds data set that is prepared on this machine; it has `.info`.

    Raises:
        ValueError: tfds is not installed, or the data set is unknown or not prepared; one line.
    """
    where = f"tfds:{name}"
    try:
        import array_record  # noqa: F401  (what as_data_source reads with)
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"--source {where} needs tensorflow-datasets ({error}); "
            f"pip install 'jaxmodels[tfds]' installs it"
        ) from error
    data_dir = os.environ.get("TFDS_DATA_DIR")  # tfds itself looks once, when it is imported
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        raise ValueError(
            f"{where} is unknown to tfds ({one_line(error)}); {_prepare(name)}"
        ) from error
    # Downloading needs TensorFlow, and an unreachable home is retried for minutes: never start it.
    if not builder.is_prepared():
        raise ValueError(f"{where} is not prepared in {builder.data_path}; {_prepare(name)}")
    return builder


def read_tfds_split(
    builder: Any, split: str, *, undecoded: str | None = None
) -> list[dict[str, Any]]:
    """Every record of one split, without TensorFlow; the column `undecoded` as it is stored.

    Raises:
        ValueError: the files cannot be read; one line that names them.
    """
    import tensorflow_datasets as tfds

    decoders = {undecoded: tfds.decode.SkipDecoding()} if undecoded else None
    try:
        rows = builder.as_data_source(split=split, decoders=decoders)
        return [
            record
            for first in range(0, len(rows), _TFDS_ROWS_PER_READ)
            for record in rows.__getitems__(
                list(range(first, min(first + _TFDS_ROWS_PER_READ, len(rows))))
            )
        ]
    except Exception as error:
        raise ValueError(
            f"tfds:{builder.name} split {split} in {builder.data_path} cannot be read "
            f"({one_line(error)}); {_prepare(builder.name)}"
        ) from error


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _prepare(name: str) -> str:
    return (
        f"prepare it once where TensorFlow and a network are (tfds build {name} "
        f"--file_format=array_record) and set TFDS_DATA_DIR to its folder; {OFFLINE}"
    )
