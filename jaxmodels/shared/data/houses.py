"""House prices as numpy: one fold to test on, some rows to validate on, the others prepared.

>>> data = load_houses("sample", HouseDataConfig(), width=256)
>>> data.train.inputs.shape, data.train.targets.shape, len(data.test)
((1168, 256), (1168,), 292)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxmodels.shared.data import house_features, house_sample
from jaxmodels.shared.data.house_features import Preparation
from jaxmodels.shared.data.house_tables import HouseTable, read_kaggle


@dataclass(frozen=True)
class HouseDataConfig:
    """How houses are split and prepared.

    The rows are shuffled by `split_seed` and cut into `folds`; fold number `fold` (from 0) is the
    test split, and `validation_fraction` of the others the validation split. With 0 folds there is
    no test split: all rows train, as they should before a submission. `skew_limit` and `whiten` are
    those of `house_features.fit`. An epoch goes through the training rows `passes` times: where all
    of them are one batch, an epoch of one step would be no unit to write a history in.
    """

    dataset: Literal["houses"] = "houses"
    folds: int = 5
    fold: int = 0
    validation_fraction: float = 0.0
    split_seed: int = 0
    skew_limit: float = 0.75
    whiten: bool = False
    passes: int = 1

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"data.folds {self.folds} must be 0 or at least 2; try 5")
        if not 0 <= self.fold < max(1, self.folds):
            raise ValueError(
                f"data.fold {self.fold} must be at least 0 and below data.folds {self.folds}"
            )
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"data.validation_fraction {self.validation_fraction} must be in [0, 1)"
            )
        if self.split_seed < 0 or not self.skew_limit >= 0:
            raise ValueError("data.split_seed and data.skew_limit must not be negative")
        if self.passes < 1:
            raise ValueError(f"data.passes {self.passes} must be at least 1")


@dataclass(frozen=True)
class HouseSplit:
    """N houses, inputs (N, width) float32, and targets (N,) float32, centred log prices."""

    table: HouseTable
    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True)
class HouseData:
    """A data set, ready to be batched. `source` says for people what was read.

    unpriced: the houses of Kaggle's test.csv, where the source has them.
    """

    source: str
    train: HouseSplit
    validation: HouseSplit
    test: HouseSplit
    unpriced: HouseTable | None
    preparation: Preparation
    width: int

    def inputs(self, table: HouseTable) -> np.ndarray:
        """Prepared houses: (N, width) float32."""
        return _padded(self.preparation(table), self.width)


def load_houses(
    source: str, config: HouseDataConfig, *, width: int, preparation: Preparation | None = None
) -> HouseData:
    """Reads "sample", Kaggle's folder or a CSV file like its train.csv, and prepares the rows.

    Columns of zeros fill the features up to `width`, so that a model of a round size is the same
    for every split. What was fitted before, `preparation`, is not fitted again.

    Raises:
        ValueError: the source is malformed, too small for its splits, or has more features.
    """
    if source == "sample":
        description, (priced, unpriced) = house_sample.DESCRIPTION, house_sample.make_sample()
    else:
        description, (priced, unpriced) = source, read_kaggle(Path(source))
    train, validation, test = (priced.rows(rows) for rows in _split(priced, config, description))
    preparation = preparation or house_features.fit(
        train, skew_limit=config.skew_limit, whiten=config.whiten
    )
    found = len(preparation.names) if preparation.basis is None else preparation.basis.shape[1]
    if found > width:
        raise ValueError(
            f"{description} has {found} features, the model {width}; add --model.num-features "
            f"{found}"
        )

    def prepare(table: HouseTable) -> HouseSplit:
        inputs = _padded(preparation(table), width)
        return HouseSplit(table, inputs, preparation.targets(table))

    splits = (prepare(train), prepare(validation), prepare(test))
    return HouseData(description, *splits, unpriced, preparation, width)


def _split(
    table: HouseTable, config: HouseDataConfig, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of the training, validation and test split, each ascending."""
    order = np.random.Generator(np.random.PCG64(config.split_seed)).permutation(len(table))
    test = np.array_split(order, config.folds)[config.fold] if config.folds else order[:0]
    rest = np.setdiff1d(order, test)
    shuffled = order[np.isin(order, rest)]
    count = round(config.validation_fraction * len(rest))
    train, validation = shuffled[count:], shuffled[:count]
    short = (config.folds and not len(test)) or (config.validation_fraction and not count)
    if len(train) < 2 or short:
        raise ValueError(
            f"{where} has {len(table)} rows, which leaves {len(train)} for training, {count} for "
            f"validation and {len(test)} for testing; expected more; lower --data.folds or "
            "--data.validation-fraction, or give more rows"
        )
    return np.sort(train), np.sort(validation), np.sort(test)


def _padded(features: np.ndarray, width: int) -> np.ndarray:
    return np.pad(features, ((0, 0), (0, width - features.shape[1])))
