"""Synthetic houses in exactly the format of Kaggle's: the embedded sample, which needs no network.

No row is a real one. Prices follow from quality, area, age and neighbourhood, with noise of 0.1 in
the log; most other columns tell something of those four.
"""

import csv
from pathlib import Path

import numpy as np

from jaxmodels.shared.data.house_columns import COLUMNS, ID, NA, NUMERIC, ORDINAL, PRICE
from jaxmodels.shared.data.house_tables import HouseTable, parse

DESCRIPTION = "sample: 1,460 synthetic houses in Kaggle's format"
NOISE = 0.1  # standard deviation of the log price about what the columns tell
_PRICED, _UNPRICED = 1460, 400

# The words of each nominal column, the frequent ones first; "NA" means that there is none.
_WORDS = {
    "MSSubClass": "20 60 50 120 30 160 70 80 90 190 85 75 45 180 40",
    "MSZoning": "RL RM FV RH C(all)",
    "Street": "Pave Grvl",
    "Alley": "NA Grvl Pave",
    "LandContour": "Lvl Bnk HLS Low",
    "LotConfig": "Inside Corner CulDSac FR2 FR3",
    "Neighborhood": "NAmes CollgCr OldTown Edwards Somerst Gilbert NridgHt Sawyer NWAmes SawyerW "
    "BrkSide Crawfor Mitchel NoRidge Timber IDOTRR ClearCr StoneBr SWISU Blmngtn MeadowV BrDale "
    "Veenker NPkVill Blueste",
    "Condition1": "Norm Feedr Artery RRAn PosN RRAe PosA RRNn RRNe",
    "Condition2": "Norm Feedr Artery RRNn PosN",
    "BldgType": "1Fam TwnhsE Duplex Twnhs 2fmCon",
    "HouseStyle": "1Story 2Story 1.5Fin SLvl SFoyer 1.5Unf 2.5Unf 2.5Fin",
    "RoofStyle": "Gable Hip Flat Gambrel Mansard Shed",
    "RoofMatl": "CompShg Tar&Grv WdShngl WdShake",
    "Exterior1st": "VinylSd HdBoard MetalSd WdSdng Plywood CemntBd BrkFace WdShing Stucco AsbShng",
    "Exterior2nd": "VinylSd MetalSd HdBoard WdSdng Plywood CmentBd WdShng Stucco BrkFace AsbShng",
    "MasVnrType": "None BrkFace Stone BrkCmn",
    "Foundation": "PConc CBlock BrkTil Slab Stone Wood",
    "Heating": "GasA GasW Grav Wall OthW Floor",
    "Electrical": "SBrkr FuseA FuseF FuseP Mix",
    "GarageType": "Attchd Detchd BuiltIn Basment CarPort 2Types",
    "Fence": "NA MnPrv GdPrv GdWo MnWw",
    "MiscFeature": "Shed Gar2 Othr TenC",
    "SaleType": "WD New COD ConLD ConLI ConLw CWD Oth Con",
    "SaleCondition": "Normal Partial Abnorml Family Alloca AdjLand",
}
# Which ordinal and nominal columns a house without the part has not.
_BASEMENT = ("BsmtQual", "BsmtCond", "BsmtExposure", "BsmtFinType1", "BsmtFinType2")
_GARAGE = ("GarageType", "GarageYrBlt", "GarageFinish", "GarageQual", "GarageCond")


def make_sample() -> tuple[HouseTable, HouseTable]:
    """The houses with prices, and those to be priced."""
    priced = parse(make_cells(_PRICED, seed=0), where="sample", priced=True)
    unpriced = make_cells(_UNPRICED, seed=1, first_id=_PRICED + 1)
    return priced, parse(unpriced, where="sample", priced=False)


def write_sample(folder: Path, *, rows: int, unpriced: int) -> None:
    """A train.csv and a test.csv of synthetic houses, as Kaggle's folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "train.csv": make_cells(rows, seed=0),
        "test.csv": make_cells(unpriced, seed=1, first_id=rows + 1),
    }
    for name, cells in tables.items():
        kept = [column for column in cells if column != PRICE or name == "train.csv"]
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(kept)
            writer.writerows(zip(*(cells[column] for column in kept), strict=True))


def make_cells(rows: int, *, seed: int, first_id: int = 1) -> dict[str, np.ndarray]:
    """Column -> text (N,), as a CSV file holds it."""
    rng = np.random.Generator(np.random.PCG64(seed))
    quality = np.clip(np.rint(rng.normal(6, 1.4, rows)), 1, 10)
    built = np.rint(np.clip(1971 + 8 * (quality - 6) + rng.normal(0, 25, rows), 1872, 2009))
    living = np.exp(rng.normal(7.25 + 0.08 * (quality - 6), 0.27, rows))
    numbers = _numbers(rng, quality, built, living)
    cells = {
        name: np.rint(numbers[name]).astype(int).astype(str).astype(object) for name in NUMERIC
    }
    for name, words in _WORDS.items():
        cells[name] = _draw(rng, words.split(), rows)
    for name, order in ORDINAL.items():
        middle = 0.6 * (len(order) - 1) + 0.5 * (quality - 6) + rng.normal(0, 0.8, rows)
        grades = np.clip(np.rint(middle), 0, len(order) - 1).astype(int)
        cells[name] = np.array(order, object)[grades]
    _take_away(cells, numbers, rng)
    names = _WORDS["Neighborhood"].split()
    effect = {name: 0.15 * np.cos(3 * place) for place, name in enumerate(names)}
    log_price = (
        12.0
        + 0.1 * (quality - 6)
        + 0.55 * np.log(living / 1450)
        + 0.0025 * (built - 1971)
        + 0.04 * (numbers["OverallCond"] - 5.5)
        + 0.05 * numbers["GarageCars"]
        + [effect[name] for name in cells["Neighborhood"]]
        + rng.normal(0, NOISE, rows)
    )
    cells[PRICE] = np.rint(np.exp(log_price)).astype(int).astype(str).astype(object)
    cells[ID] = np.arange(first_id, first_id + rows).astype(str).astype(object)
    return {name: cells[name] for name in (ID, *COLUMNS, PRICE)}


def _numbers(
    rng: np.random.Generator, quality: np.ndarray, built: np.ndarray, living: np.ndarray
) -> dict[str, np.ndarray]:
    """Every numeric column: (N,) float64, to be rounded."""
    rows = len(quality)

    def sometimes(share: float, mean: float) -> np.ndarray:
        """0, or with probability `share` about `mean`."""
        return (rng.random(rows) < share) * np.exp(rng.normal(np.log(mean), 0.6, rows))

    upstairs = np.where(rng.random(rows) < 0.45, 0.45 * living, 0)
    basement = np.where(rng.random(rows) < 0.03, 0, (living - upstairs) * rng.uniform(0.8, 1, rows))
    finished = basement * np.where(rng.random(rows) < 0.7, rng.random(rows), 0)
    cars = np.clip(np.rint(rng.normal(1.8 + 0.25 * (quality - 6), 0.6, rows)), 0, 4)
    return {
        "LotFrontage": np.exp(rng.normal(4.2, 0.3, rows)),
        "LotArea": np.exp(rng.normal(9.1, 0.5, rows)),
        "OverallQual": quality,
        "OverallCond": np.clip(rng.normal(5.6, 1.1, rows), 1, 9),
        "YearBuilt": built,
        "YearRemodAdd": np.maximum(built, rng.integers(1950, 2010, rows)),
        "MasVnrArea": sometimes(0.4, 200),
        "BsmtFinSF1": finished,
        "BsmtFinSF2": sometimes(0.1, 200) * (basement > 0),
        "BsmtUnfSF": basement - finished,
        "TotalBsmtSF": basement,
        "1stFlrSF": living - upstairs,
        "2ndFlrSF": upstairs,
        "LowQualFinSF": sometimes(0.02, 300),
        "GrLivArea": living,
        "BsmtFullBath": (rng.random(rows) < 0.4) * (basement > 0),
        "BsmtHalfBath": (rng.random(rows) < 0.06) * (basement > 0),
        "FullBath": np.clip(living / 900 + rng.normal(0, 0.4, rows), 1, 3),
        "HalfBath": rng.random(rows) < 0.4,
        "BedroomAbvGr": np.clip(living / 520 + rng.normal(0, 0.6, rows), 1, 6),
        "KitchenAbvGr": 1 + (rng.random(rows) < 0.04),
        "TotRmsAbvGrd": np.clip(living / 230 + rng.normal(0, 0.8, rows), 3, 14),
        "Fireplaces": np.clip(rng.normal(0.6 + 0.25 * (quality - 6), 0.6, rows), 0, 3),
        "GarageYrBlt": np.minimum(2010, built + rng.geometric(0.5, rows) - 1),
        "GarageCars": cars,
        "GarageArea": cars * rng.normal(265, 30, rows),
        "WoodDeckSF": sometimes(0.48, 170),
        "OpenPorchSF": sometimes(0.55, 70),
        "EnclosedPorch": sometimes(0.14, 140),
        "3SsnPorch": sometimes(0.02, 200),
        "ScreenPorch": sometimes(0.08, 180),
        "PoolArea": sometimes(0.01, 500),
        "MiscVal": sometimes(0.04, 600),
        "MoSold": rng.integers(1, 13, rows),
        "YrSold": rng.integers(2006, 2011, rows),
    }


def _draw(rng: np.random.Generator, words: list[str], rows: int) -> np.ndarray:
    """Words (N,), each about half as frequent as the one before, but none below 2%."""
    weights = np.maximum(0.5 ** np.arange(len(words)), 0.02)
    return rng.choice(np.array(words, object), size=rows, p=weights / weights.sum())


def _take_away(
    cells: dict[str, np.ndarray], numbers: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    """Writes NA where a house has no such part, and where nobody wrote a value down."""
    rounded = {name: np.rint(numbers[name]) for name in numbers}
    parts = dict.fromkeys(_BASEMENT, "TotalBsmtSF") | dict.fromkeys(_GARAGE, "GarageArea")
    parts |= {"FireplaceQu": "Fireplaces", "PoolQC": "PoolArea", "MiscFeature": "MiscVal"}
    for name, number in parts.items():
        cells[name][rounded[number] == 0] = NA
    for name, share in (("LotFrontage", 0.17), ("MasVnrType", 0.005), ("MasVnrArea", 0.005)):
        cells[name][rng.random(len(cells[name])) < share] = NA
