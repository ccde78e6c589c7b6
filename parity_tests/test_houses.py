"""House prices: two kinds of NA, what is fitted on which rows, and scikit-learn's answers."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared.data import house_features
from jaxmodels.shared.data.house_columns import NOMINAL, NONE_IF_ZERO, NUMERIC, ORDINAL
from jaxmodels.shared.data.house_sample import make_cells, make_sample, write_sample
from jaxmodels.shared.data.house_tables import parse, read_kaggle
from jaxmodels.shared.data.houses import HouseDataConfig, load_houses
from jaxmodels.shared.experiments.closed_form import closed_form
from jaxmodels.shared.families import houses as family
from jaxmodels.shared.loop import evaluate
from jaxmodels.shared.tasks import TASKS, Task
from parity_tests.tiny_runs import ENGINES, call, compile_once, history, train_tiny, with_settings

__all__ = ["compile_once"]  # a fixture

ROWS, WIDTH = 300, 256
# Of a prediction, in the log of the price: what float32 leaves of exact descent.
TOLERANCE = 3e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's folder, of synthetic houses."""
    path = tmp_path_factory.mktemp("kaggle")
    write_sample(path, rows=ROWS, unpriced=40)
    return path


def changed(folder: Path, tmp_path: Path, row: int, column: str, value: str) -> Path:
    """A copy of train.csv with another value in a row, which is counted as in an editor."""
    rows = list(csv.reader((folder / "train.csv").read_text().splitlines()))
    rows[row - 1][rows[0].index(column)] = value
    path = tmp_path / "train.csv"
    path.write_text("".join(",".join(cells) + "\n" for cells in rows))
    return path


# ---- Reading


def test_columns_are_each_of_one_kind() -> None:
    kinds = (NUMERIC, ORDINAL, NOMINAL)
    assert sum(map(len, kinds)) == len(set().union(*kinds)) == 79
    assert set(NONE_IF_ZERO) <= set().union(*kinds)


def test_na_means_none_only_where_the_house_has_no_such_part() -> None:
    cells = make_cells(4, seed=0)
    cells["TotalBsmtSF"][:] = ["0", "800", "NA", "800"]
    cells["BsmtExposure"][:] = ["NA", "NA", "NA", "Gd"]
    cells["Alley"][:] = ["NA", "Grvl", "NA", ""]
    cells["MasVnrType"][:] = ["None", "NA", "BrkFace", "None"]
    cells["LotFrontage"][:] = ["NA", "70", "", "60"]
    table = parse(cells, where="here", priced=True)
    assert table.words["BsmtExposure"].tolist() == ["none", None, "none", "Gd"]
    assert table.words["Alley"].tolist() == ["none", "Grvl", "none", "none"]
    assert table.words["MasVnrType"].tolist() == ["None", None, "BrkFace", "None"]
    assert np.isnan(table.numbers["LotFrontage"]).tolist() == [True, False, True, False]
    assert table.missing()["BsmtExposure"] == 1


def test_garage_that_is_not_there_has_the_year_of_the_house() -> None:
    cells = make_cells(3, seed=0)
    cells["GarageArea"][:], cells["GarageYrBlt"][:] = ["0", "400", "400"], ["NA", "NA", "1999"]
    table = parse(cells, where="here", priced=True)
    years = table.numbers["GarageYrBlt"]
    assert years[0] == table.numbers["YearBuilt"][0]
    assert np.isnan(years[1])
    assert years[2] == 1999


def test_sample_written_as_csv_is_read_back(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=1460, unpriced=400)
    for found, expected in zip(read_kaggle(tmp_path), make_sample(), strict=True):
        assert found is not None
        np.testing.assert_array_equal(found.ids, expected.ids)
        for name in NUMERIC:
            np.testing.assert_array_equal(found.numbers[name], expected.numbers[name])
        for name in (*ORDINAL, *NOMINAL):
            assert found.words[name].tolist() == expected.words[name].tolist()
    assert "SalePrice" not in (tmp_path / "test.csv").read_text().partition("\n")[0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("SalePrice", "cheap", "row 5, column SalePrice: 'cheap'; expected a number"),
        ("SalePrice", "NA", "row 5, column SalePrice: 'NA'; expected a number"),
        ("SalePrice", "0", "row 5, column SalePrice: '0'; expected a positive price"),
        ("SalePrice", "inf", "row 5, column SalePrice: 'inf'; expected a finite number"),
        ("LotArea", "large", "row 5, column LotArea: 'large'; expected a number"),
        ("LotArea", "-3", "row 5, column LotArea: '-3'; expected a number of at least 0"),
        ("ExterQual", "Bad", "row 5, column ExterQual: 'Bad'; expected one of Po, Fa, TA, Gd, Ex"),
        ("Id", "1", "row 5, column Id: 1 is the Id of row 2 too"),
        ("Id", "x", "row 5, column Id: 'x'; expected a whole number"),
    ],
)
def test_malformed_cell_is_named(
    folder: Path, tmp_path: Path, column: str, value: str, message: str
) -> None:
    path = changed(folder, tmp_path, 5, column, value)
    with pytest.raises(ValueError, match=r"train\.csv") as refused:
        read_kaggle(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_malformed_file_is_named(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "train.csv").read_text().splitlines()
    for content, message in (
        ("", "is empty"),
        (lines[0] + "\n", "has a header and no row"),
        (lines[0].replace("LotArea", "Lot") + "\n" + lines[1] + "\n", "lacks 1 columns: LotArea"),
        (
            lines[0] + "\n" + lines[1] + ",1,2\n" + lines[2] + ",1,2,3\n",
            r"row 2 has 83 cells; expected 81",
        ),
        (lines[0] + "\n" + lines[1] + ',"x"y\n', "no CSV file"),
        (lines[0] + ",LotArea\n", "has column LotArea twice"),
    ):
        path = tmp_path / "train.csv"
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_kaggle(tmp_path)
    with pytest.raises(ValueError, match="does not exist; expected a folder"):
        read_kaggle(tmp_path / "nowhere")


# ---- Preparing


def test_nothing_is_fitted_on_other_rows(folder: Path) -> None:
    priced, _ = read_kaggle(folder)
    half = priced.rows(np.arange(ROWS // 2))
    fitted = house_features.fit(half, skew_limit=0.75, whiten=False)
    known = half.numbers["LotFrontage"]
    assert fitted.fills["LotFrontage"] == np.median(known[~np.isnan(known)])
    features = fitted(half)
    varied = features.std(axis=0) > 0
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(features.std(axis=0)[varied], 1, rtol=1e-5)
    other = house_features.fit(priced, skew_limit=0.75, whiten=False)
    assert other.target_mean != fitted.target_mean  # the control
    assert abs(fitted(priced.rows(np.arange(ROWS // 2, ROWS))).mean(axis=0)).max() > 1e-3


def test_ordinals_keep_their_order_and_words_spread_out(folder: Path) -> None:
    priced, _ = read_kaggle(folder)
    fitted = house_features.fit(priced, skew_limit=0.75, whiten=False)
    raw = fitted(priced) * fitted.scale + fitted.mean
    quality = raw[:, fitted.names.index("ExterQual")]
    grades = [1 + ORDINAL["ExterQual"].index(word) for word in priced.words["ExterQual"]]
    np.testing.assert_allclose(quality, grades, atol=1e-4)
    street = raw[:, fitted.names.index("Street=Grvl")]
    np.testing.assert_allclose(street, priced.words["Street"] == "Grvl", atol=1e-4)
    none = raw[priced.words["PoolQC"] == "none", fitted.names.index("PoolQC")]
    np.testing.assert_allclose(none, 0, atol=1e-4)


def test_unknown_word_is_all_zeros_and_counted(folder: Path) -> None:
    priced, _ = read_kaggle(folder)
    fitted = house_features.fit(priced, skew_limit=0.75, whiten=False)
    odd = priced.rows(np.arange(3))
    odd.words["Foundation"][1] = "Straw"
    assert fitted.unknown(odd) == {"Foundation=Straw": 1}
    raw = fitted(odd) * fitted.scale + fitted.mean
    own = [place for place, name in enumerate(fitted.names) if name.startswith("Foundation=")]
    np.testing.assert_allclose(raw[:, own].sum(axis=1), [1, 0, 1], atol=1e-5)


def test_skewed_columns_alone_are_logged(folder: Path) -> None:
    priced, _ = read_kaggle(folder)
    fitted = house_features.fit(priced, skew_limit=0.75, whiten=False)
    assert "LotArea" in fitted.logged
    assert "OverallQual" not in fitted.logged
    assert not house_features.fit(priced, skew_limit=1e9, whiten=False).logged


def test_whitened_features_are_uncorrelated_and_span_the_same(folder: Path) -> None:
    priced, _ = read_kaggle(folder)
    plain, white = (
        house_features.fit(priced, skew_limit=0.75, whiten=whiten)(priced).astype(np.float64)
        for whiten in (False, True)
    )
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(white.shape[1]), atol=1e-4)
    assert white.shape[1] == np.linalg.matrix_rank(plain, tol=1e-3) < plain.shape[1]


def test_fitted_file_gives_the_same_features(folder: Path, tmp_path: Path) -> None:
    task = with_settings(TASKS["houses-linear"], data={"validation_fraction": 0.1})
    data = family.load(str(folder), task)
    (name, content), *_ = family.fitted_files(data).items()
    (tmp_path / name).write_text(content)
    again = family.load(str(folder), task, tmp_path)
    np.testing.assert_array_equal(again.test.inputs, data.test.inputs)
    for broken in ("{}", content.replace('"mean": [', '"mean": [0.5, ', 1), "no JSON"):
        (tmp_path / name).write_text(broken)
        with pytest.raises(ValueError, match=name):
            family.load(str(folder), task, tmp_path)


def test_folds_partition_the_rows(folder: Path) -> None:
    tests = []
    for fold in range(4):
        config = HouseDataConfig(folds=4, fold=fold, validation_fraction=0.2)
        data = load_houses(str(folder), config, width=WIDTH)
        parts = [split.table.ids for split in (data.train, data.validation, data.test)]
        assert sorted(np.concatenate(parts)) == list(range(1, ROWS + 1))
        tests.append(data.test.table.ids)
    assert sorted(np.concatenate(tests)) == list(range(1, ROWS + 1))
    everything = load_houses(str(folder), HouseDataConfig(folds=0), width=WIDTH)
    assert (len(everything.train), len(everything.test)) == (ROWS, 0)


def test_sizes_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"add --model\.num-features 2"):
        load_houses(str(folder), HouseDataConfig(), width=100)
    with pytest.raises(ValueError, match=r"lower --data\.folds"):
        load_houses(str(folder), HouseDataConfig(folds=ROWS + 1, fold=ROWS), width=WIDTH)
    wrongs: tuple[dict[str, Any], ...]
    wrongs = ({"folds": 1}, {"fold": 5}, {"validation_fraction": 1.0}, {"passes": 0})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=f"data.{next(iter(wrong))}"):
            HouseDataConfig(**wrong)


# ---- Training

LINEAR = ("houses-linear", "houses-ridge", "houses-lasso")


def trained(engine: str, name: str, folder: Path, out: Path) -> tuple[Task, Any, np.ndarray]:
    """(task, data, predictions of the test split) of a task's own recipe, on fewer checkpoints."""
    passes = {"houses-linear": 25}.get(name, 300)
    task = with_settings(TASKS[name], data={"passes": passes}, training={"epochs": 2})
    data = family.load(str(folder), task)
    fitted, _ = train_tiny(engine, out, task, data=data)
    outputs = evaluate(task, data, "test", fitted.predict).outputs
    assert outputs is not None
    return task, data, outputs


@pytest.mark.parametrize("engine", ["flax", "torch"])
@pytest.mark.parametrize("name", LINEAR)
def test_descent_reaches_scikit_learns_solution(
    engine: str, name: str, folder: Path, tmp_path: Path
) -> None:
    task, data, outputs = trained(engine, name, folder, tmp_path)

    def distance(task: Task) -> float:
        solution = closed_form(task, len(data.train))
        assert solution is not None
        solution.fit(data.train.inputs, data.train.targets)
        return float(np.abs(solution.predict(data.test.inputs) - outputs).max())

    assert distance(task) < TOLERANCE
    # The negative control: an alpha that is off by a percent is told apart.
    off = {"weight_decay": 1.01 * task.optimizer.weight_decay, "l1": 1.01 * task.optimizer.l1}
    if any(off.values()):
        assert distance(with_settings(task, optimizer=off)) > 10 * TOLERANCE


def test_lightning_is_plain_torch_bit_for_bit_on_the_lasso(folder: Path, tmp_path: Path) -> None:
    """Whose step ends with a shrinkage."""
    task = with_settings(TASKS["houses-lasso"], data={"passes": 5}, training={"epochs": 2})
    data = family.load(str(folder), task)
    runs = {name: train_tiny(name, tmp_path / name, task, data=data)[0] for name in ENGINES[1:]}
    for key, value in runs["torch"].weights().items():
        np.testing.assert_array_equal(runs["lightning"].weights()[key], value)
    assert history(tmp_path / "torch") == history(tmp_path / "lightning")


def test_lasso_leaves_exact_zeros(folder: Path, tmp_path: Path) -> None:
    task = with_settings(TASKS["houses-lasso"], data={"passes": 150}, training={"epochs": 2})
    data = family.load(str(folder), task)
    weights = {}
    for engine in ("flax", "torch"):
        fitted, _ = train_tiny(engine, tmp_path / engine, task, data=data)
        weights[engine] = fitted.weights()["linear.weight"][0]
        assert 0 < (weights[engine] != 0).sum() < len(data.preparation.names) / 2
    np.testing.assert_array_equal(weights["flax"] == 0, weights["torch"] == 0)


def test_elastic_net_too_and_what_has_no_closed_form() -> None:
    ridge = TASKS["houses-ridge"]
    both = with_settings(ridge, optimizer={"weight_decay": 0.02, "l1": 0.01})
    solution = closed_form(both, 100)
    assert solution is not None
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 5)), rng.normal(size=100)
    fitted = solution.fit(x, y).estimator
    gradient = x.T @ (fitted.predict(x) - y) / 100 + 0.02 * fitted.coef_
    np.testing.assert_allclose(gradient, -0.01 * np.sign(fitted.coef_), atol=1e-6)
    assert closed_form(TASKS["houses-mlp"], 100) is None
    assert closed_form(with_settings(ridge, optimizer={"decay_mask": "all"}), 100) is None


def test_small_batches_and_all_rows(folder: Path) -> None:
    task = with_settings(TASKS["houses-ridge"], data={"passes": 3})
    data = family.load(str(folder), task)
    rows = len(data.train)
    assert family.steps_per_epoch(task, data) == 3
    assert family.units_per_step(task, data) == rows
    batch = next(family.training_batches(task, data))
    assert sorted(batch["index"]) == list(range(rows))
    small = replace(task, training=replace(task.training, batch_size=50))
    assert family.steps_per_epoch(small, data) == 3 * (rows // 50)


# ---- Scripts


def test_run_leaves_a_submission_and_its_figures(folder: Path, tmp_path: Path) -> None:
    code, out, err = call(
        *(
            "train",
            "houses-linear",
            "--engine",
            "torch",
            "--source",
            folder,
            "--out",
            tmp_path / "r",
        )
    )
    assert code == 0, err
    assert "RMSE of the log price" in out
    with open(tmp_path / "r" / "submission.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["Id"]) for row in rows] == list(range(ROWS + 1, ROWS + 41))
    assert all(float(row["SalePrice"]) > 0 for row in rows)
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    with open(tmp_path / "r" / "predictions.csv") as file:
        pairs = [(float(r["SalePrice"]), float(r["predicted"])) for r in csv.DictReader(file)]
    errors = np.log([predicted / price for price, predicted in pairs])
    assert metrics["rmse_log_price"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
    drawn = {path.name for path in (tmp_path / "r" / "plots").iterdir()}
    own = ("prices", "correlations", "missing", "skew", "predictions", "residuals", "curves")
    assert drawn == {f"{name}.png" for name in own}
    again, other, err = call("evaluate", tmp_path / "r", "--engine", "flax")
    assert again == 0, err
    assert other.split("squared error ")[1][:6] == out.split("test squared error ")[1][:6]


def test_cross_validation_stands_beside_scikit_learns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "_draw", lambda *_: None)  # half of the time
    arguments = ("--engine", "torch", "--source", folder, "--folds", 2, "--out", tmp_path / "cv")
    code, out, err = call("cross_validate", "houses-linear", *arguments)
    assert code == 0, err
    metrics = json.loads((tmp_path / "cv" / "metrics.json").read_text())
    assert [fold["rows"] for fold in metrics["folds"]] == [150, 150]
    assert all(fold["distance"] < TOLERANCE for fold in metrics["folds"])
    mean = np.mean([fold["rmse"] for fold in metrics["folds"]])
    assert metrics["mean"]["rmse"] == pytest.approx(mean)
    assert (tmp_path / "cv" / "table.md").read_text() in out
    for arguments, message in (
        (("lms",), "has no folds"),
        (("houses-linear", "--folds", 1), "--folds 1 must be at least 2"),
    ):
        code, _, err = call("cross_validate", *arguments, "--out", tmp_path / "no")
        assert code == 2
        assert message in err
