"""The table of every task on every engine, and its place in a page."""

import json

import pytest

from jaxmodels.shared.experiments.engine_table import (
    MARKS,
    Trained,
    engine_table,
    train_apart,
)
from jaxmodels.shared.files import place_between
from jaxmodels.shared.tasks import TASKS
from parity_tests.tiny_runs import call, refused, with_settings

ROWS = [
    Trained("lms", "flax", "test squared error", 0.25, 0.002, 2**20 * 300, 2),
    Trained("lms", "xla", "test squared error", 0.26, 1.5, None, 2),
    Trained("imdb-lstm", "xla", "test accuracy", 0.875, 0.0123456, 2**20 * 1500, 5),
    Trained("imdb-lstm", "flax", "test accuracy", 0.5, 0.1, 2**30, 3),
]


def test_table_has_a_line_a_task_and_a_column_an_engine():
    assert engine_table(ROWS).splitlines() == [
        "| task | epochs | metric | flax | xla |",
        "| --- | ---: | --- | ---: | ---: |",
        "| `lms` | 2 | test squared error | 0.2500, 2 ms, 300 MiB | 0.2600, 1.5e+03 ms, - |",
        "| `imdb-lstm` | 3 to 5 | test accuracy | 0.5000, 100 ms, 1,024 MiB | 0.8750, 12.3 ms, "
        "1,500 MiB |",
    ]


def test_table_takes_the_place_of_the_one_before(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter, É\n", encoding="utf-8")
    for table in ("| first |\n", "| second |\n"):
        place_between(page, MARKS, table)
        text = page.read_text(encoding="utf-8")
        assert text == f"before\n{MARKS[0]}\n{table}{MARKS[1]}\nafter, É\n"
    for text in ("no marks", MARKS[0], f"{MARKS[1]} {MARKS[0]}"):
        page.write_text(text)
        with pytest.raises(ValueError, match=r"page.md has no place for the table; write <!-- eng"):
            place_between(page, MARKS, "| new |\n")
        assert page.read_text() == text


def test_runs_are_trained_apart_once_and_put_into_the_page(tmp_path):
    page, out = tmp_path / "page.md", tmp_path / "runs"
    page.write_text(f"{MARKS[0]}\n{MARKS[1]}\n")
    command = ("benchmark", "houses-linear", "--engines", "torch,lightning", "--out", out)
    command += ("--set", "training.epochs=2", "--readme", page)
    code, printed, errors = call(*command)
    assert code == 0, errors
    line = page.read_text().splitlines()[3]
    assert line.startswith("| `houses-linear` | 2 | test squared error |")
    torch, lightning = (cell.split(", ") for cell in line.strip("| ").split(" | ")[3:])
    assert torch[0] == lightning[0]
    assert line in printed
    rows = json.loads((out / "engines.json").read_text())["rows"]
    metrics = json.loads((out / "houses-linear-torch" / "metrics.json").read_text())
    assert rows[0]["value"] == metrics["test_squared_error"]
    assert rows[0]["seconds"] == 1 / metrics["steps_per_second"]
    assert 2**26 < rows[0]["peak_memory_bytes"] < 2**34
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    assert call(*command)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == before
    assert "holds a run of other settings" in refused(
        "benchmark", "houses-linear", "--engines", "torch", "--out", out
    )


def test_what_fails_is_told_in_its_own_words(tmp_path):
    task = with_settings(TASKS["cifar10-logistic"], training={"epochs": 1})
    with pytest.raises(ValueError, match=r"cifar10-logistic on torch: .*nowhere"):
        train_apart(task, "torch", str(tmp_path / "nowhere"), tmp_path)
    task = with_settings(task, training={"checkpoint_every_steps": 3})
    with pytest.raises(ValueError, match=r"logistic on lightning: --training.checkpoint-every-ste"):
        train_apart(task, "lightning", "sample", tmp_path)


def test_bad_arguments_are_refused(tmp_path):
    found = refused("benchmark", "lms", "--engines", "jax", "--out", tmp_path)
    assert "--engines 'jax' is unknown" in found
    found = refused("benchmark", "lms", "--engines", "xla", "--xla-python", tmp_path / "python")
    assert "python does not exist; make test-xla builds it" in found
    found = refused("benchmark", "lms", "--set", "training.epochs=2", "--out", tmp_path)
    assert "add --engines all" in found
