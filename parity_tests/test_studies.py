"""Named studies: every variant is a training, and divergence one of the results."""

import json
from pathlib import Path

import pytest

from jaxmodels.shared.data.lms import make_stream
from jaxmodels.shared.experiments import studies
from jaxmodels.shared.experiments.studies import STUDIES, Result, Study
from jaxmodels.shared.experiments.study_results import make_table, write_study
from jaxmodels.shared.tasks import TASKS
from parity_tests.tiny_runs import call, compile_once, with_settings

__all__ = ["compile_once"]  # a fixture


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two rates, 80 samples each."""
    settings = {"training": {"epochs": 8}, "data": {"num_samples": 80}}
    monkeypatch.setitem(studies.TASKS, "lms", with_settings(TASKS["lms"], **settings))
    rates = {f"rate {rate}": (f"optimizer.learning-rate={rate}",) for rate in (0.05, 0.5)}
    return Study("short", "two rates", "lms", rates, "validation_squared_error", log_axis=True)


def test_study_tells_divergence_from_convergence(short: Study, tmp_path: Path) -> None:
    results = studies.run_study(short, "torch", "sample", tmp_path)
    assert [bool(result.diverged) for result in results] == [False, True]
    table = write_study(tmp_path, short, results, source="sample")
    lines = [line for line in table.splitlines() if line.startswith("| rate")]
    assert "converges" in lines[0]
    assert "0.5 is above the stability bound 2/lambda_max" in lines[1]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["metrics"] is None for row in content["results"]] == [False, True]
    assert 0 < len(results[1].history) < 8


def test_rates_of_the_study_are_on_both_sides_of_the_bound() -> None:
    made = studies.tasks_of(STUDIES["lms-rates"]).values()
    rates = [task.optimizer.learning_rate for task in made]
    assert rates == [0.005, 0.01, 0.05, 0.1, 0.5, 1.0]
    bound = make_stream(TASKS["lms"].data).stability_bound  # type: ignore[arg-type]
    assert [rate > bound for rate in rates] == [False] * 4 + [True] * 2


def test_table_has_a_row_for_what_has_no_metrics() -> None:
    table = make_table(STUDIES["lms-rates"], [Result("rate 9", [], None, "It diverges. Much more")])
    assert table.splitlines()[-1] == "| rate 9 | - | - | It diverges |"


def test_unknown_study_is_refused(tmp_path: Path) -> None:
    code, _, err = call("experiment", "lms-rate", "--out", tmp_path / "x")
    assert code == 2
    assert "expected one of lms-rates" in err


@pytest.mark.parametrize("name", STUDIES)
def test_settings_of_a_study_exist_and_differ(name: str) -> None:
    tasks = studies.tasks_of(STUDIES[name], ["training.epochs=1"])
    assert len(tasks) >= 2
    assert len(set(tasks.values())) == len(tasks)
    assert {task.training.epochs for task in tasks.values()} == {1}


def test_weights_are_drawn_beside_each_other(tmp_path: Path) -> None:
    small = ("model.channels=2,3", "model.hidden-dims=8,6", "model.kernel-size=3")
    small += ("training.epochs=1", "training.batch-size=1200")
    flags = [part for setting in small for part in ("--set", setting)]
    code, output, errors = call(
        "experiment", "cifar10-l1-l2", "--engine", "torch", "--out", tmp_path / "study", *flags
    )
    assert code == 0, errors
    assert output.count("| L1 1e-4 |") == 1
    assert "wiener" not in output  # the control: there is a column for a reference elsewhere
    assert (tmp_path / "study" / "kernels.png").stat().st_size > 10_000
    code, _, errors = call("experiment", "cifar10-l1-l2", "--set", "model.chanels=2")
    assert code == 2
    assert "model.chanels is unknown to cifar10-simplecnn" in errors
