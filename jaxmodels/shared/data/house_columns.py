"""The columns of Kaggle's Ames houses, and how each is read (`data_description.txt` there).

De Cock 2011, "Ames, Iowa: Alternative to the Boston Housing Data". An `NA` of these files means one
of two things: the house has no such part (an alley, a basement, a pool), or nobody wrote it down.
"""

ID, PRICE = "Id", "SalePrice"

# Worst to best. Where a house has no such part, the value is 0, one below the worst.
_QUALITY = ("Po", "Fa", "TA", "Gd", "Ex")
_FINISH = ("Unf", "LwQ", "Rec", "BLQ", "ALQ", "GLQ")
ORDINAL: dict[str, tuple[str, ...]] = {
    "LotShape": ("IR3", "IR2", "IR1", "Reg"),
    "Utilities": ("ELO", "NoSeWa", "NoSewr", "AllPub"),
    "LandSlope": ("Sev", "Mod", "Gtl"),
    "ExterQual": _QUALITY,
    "ExterCond": _QUALITY,
    "BsmtQual": _QUALITY,
    "BsmtCond": _QUALITY,
    "BsmtExposure": ("No", "Mn", "Av", "Gd"),
    "BsmtFinType1": _FINISH,
    "BsmtFinType2": _FINISH,
    "HeatingQC": _QUALITY,
    "CentralAir": ("N", "Y"),
    "KitchenQual": _QUALITY,
    "Functional": ("Sal", "Sev", "Maj2", "Maj1", "Mod", "Min2", "Min1", "Typ"),
    "FireplaceQu": _QUALITY,
    "GarageFinish": ("Unf", "RFn", "Fin"),
    "GarageQual": _QUALITY,
    "GarageCond": _QUALITY,
    "PavedDrive": ("N", "P", "Y"),
    "PoolQC": ("Fa", "TA", "Gd", "Ex"),
}

# MSSubClass is a code. Fence grades two things, privacy and wood, and so has no one order.
NOMINAL: tuple[str, ...] = (
    "MSSubClass",
    "MSZoning",
    "Street",
    "Alley",
    "LandContour",
    "LotConfig",
    "Neighborhood",
    "Condition1",
    "Condition2",
    "BldgType",
    "HouseStyle",
    "RoofStyle",
    "RoofMatl",
    "Exterior1st",
    "Exterior2nd",
    "MasVnrType",
    "Foundation",
    "Heating",
    "Electrical",
    "GarageType",
    "Fence",
    "MiscFeature",
    "SaleType",
    "SaleCondition",
)

# None is negative: areas in square feet, counts, grades, years, dollars.
NUMERIC: tuple[str, ...] = (
    "LotFrontage",
    "LotArea",
    "OverallQual",
    "OverallCond",
    "YearBuilt",
    "YearRemodAdd",
    "MasVnrArea",
    "BsmtFinSF1",
    "BsmtFinSF2",
    "BsmtUnfSF",
    "TotalBsmtSF",
    "1stFlrSF",
    "2ndFlrSF",
    "LowQualFinSF",
    "GrLivArea",
    "BsmtFullBath",
    "BsmtHalfBath",
    "FullBath",
    "HalfBath",
    "BedroomAbvGr",
    "KitchenAbvGr",
    "TotRmsAbvGrd",
    "Fireplaces",
    "GarageYrBlt",
    "GarageCars",
    "GarageArea",
    "WoodDeckSF",
    "OpenPorchSF",
    "EnclosedPorch",
    "3SsnPorch",
    "ScreenPorch",
    "PoolArea",
    "MiscVal",
    "MoSold",
    "YrSold",
)

# Where NA means "none", and the number that must then be 0 (or NA too): a basement whose exposure
# is NA, and which has an area, was not written down. "" where no number tells.
NONE_IF_ZERO: dict[str, str] = {
    "Alley": "",
    "BsmtQual": "TotalBsmtSF",
    "BsmtCond": "TotalBsmtSF",
    "BsmtExposure": "TotalBsmtSF",
    "BsmtFinType1": "TotalBsmtSF",
    "BsmtFinType2": "TotalBsmtSF",
    "FireplaceQu": "Fireplaces",
    "GarageType": "GarageArea",
    "GarageYrBlt": "GarageArea",
    "GarageFinish": "GarageArea",
    "GarageQual": "GarageArea",
    "GarageCond": "GarageArea",
    "PoolQC": "PoolArea",
    "Fence": "",
    "MiscFeature": "MiscVal",
}

COLUMNS = (*NUMERIC, *ORDINAL, *NOMINAL)
NA = "NA"
NONE = "none"  # a category of its own
