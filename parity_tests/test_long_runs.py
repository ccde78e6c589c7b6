"""What helps a long run: batches sent ahead, programs kept, FLOPs counted, steps profiled."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import throughput
from jaxmodels.engine import FlaxEngine
from jaxmodels.feeding import sent_ahead
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.loop import speeds
from jaxmodels.shared.profiling import parse_steps
from jaxmodels.shared.progress import Progress
from jaxmodels.shared.training import choose_trainer
from parity_tests.fresh_processes import run
from parity_tests.tiny_runs import DATA, TASK, compile_once, train_tiny, with_settings

__all__ = ["compile_once"]  # a fixture

ONE = with_settings(training={"epochs": 1})


def test_batches_are_on_the_device_before_they_are_asked_for(tmp_path: Path) -> None:
    engine, given = FlaxEngine(ONE, tmp_path), []

    def batches() -> Iterator[Any]:
        for batch in family_of(ONE).training_batches(ONE, DATA):
            given.append(batch)
            yield batch

    with engine.feed(batches()) as fed:
        for step in range(3):
            batch = next(fed)
            assert batch is given[step]
            until = time.monotonic() + 10
            while len(given) < step + 3:  # this one, and two that wait
                assert time.monotonic() < until
                time.sleep(0.01)
            sent = engine.fed[1]
            assert sorted(sent) == ["image", "label"]
            assert all(isinstance(value, jax.Array) for value in sent.values())
            np.testing.assert_array_equal(sent["image"], batch["image"])
        time.sleep(0.05)
        assert len(given) <= 3 + 3  # no more: the third is due, two wait, one is being made


def test_a_broken_batch_is_told_where_it_is_due() -> None:
    def batches() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("row 3 is torn")

    with sent_ahead(batches(), lambda batch: -batch) as pairs:
        assert [next(pairs), next(pairs)] == [(1, -1), (2, -2)]
        with pytest.raises(ValueError, match="row 3 is torn"):
            next(pairs)
    with sent_ahead(iter(range(3)), str) as pairs:
        assert list(pairs) == [(0, "0"), (1, "1"), (2, "2")]
    threads = threading.active_count()
    with sent_ahead(itertools.count(), str) as pairs:
        assert next(pairs) == (0, "0")
    assert threading.active_count() == threads


def test_flops_are_those_counted_by_hand() -> None:
    def layers(x: jax.Array, kernels: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, kernel: (y @ kernel, None), x, kernels)[0].sum()

    x, kernels = jnp.ones((5, 7)), jnp.ones((3, 7, 7))
    once = 2 * 3 * 5 * 7 * 7
    assert throughput.flops(jax.jit(layers), x, kernels) == once
    backward = jax.jit(jax.grad(layers, argnums=(0, 1)))  # two products for each forward
    assert throughput.flops(backward, x, kernels) == 3 * once


def test_speeds_are_told_where_flops_are_counted(tmp_path: Path) -> None:
    _, recorder = train_tiny("flax", tmp_path, ONE)
    (row,) = recorder.rows
    engine = FlaxEngine(ONE, tmp_path / "other")
    batch = next(family_of(ONE).training_batches(ONE, DATA))
    counted = engine.train_step(batch, step=0, rate=0.1)["flops"]
    steps = row["seconds"] * row["steps_per_second"]
    assert row["teraflops_per_second"] * row["seconds"] * 1e12 == pytest.approx(counted * steps)
    assert "mfu" not in row  # nobody publishes a CPU's
    assert speeds(6, 2.0, None) == {"teraflops_per_second": 3e-12}
    assert speeds(6, 2.0, 30.0) == {"teraflops_per_second": 3e-12, "mfu": 0.1}
    assert speeds(0, 2.0, 30.0) == {}


def test_the_epochs_line_has_the_speed_of_each_device(capsys: pytest.CaptureFixture) -> None:
    row = {"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.5, "validation_loss": None}
    row |= {"images_per_second": 800.0, "teraflops_per_second": 0.0123}
    bar = Progress(3, 5, 16, unit="images", metric="accuracy")
    bar.end_epoch(row)
    assert "800 images/s  12.3 GFLOP/s\n" in capsys.readouterr().out
    row |= {"images_per_device_per_second": 100.0, "teraflops_per_second": 1.23, "mfu": 0.51}
    bar.end_epoch(row | {"train_skipped_steps": 2})
    line = capsys.readouterr().out
    assert "2 steps skipped" in line
    assert "800 images/s" in line
    assert ", 100 a device  1.23 TFLOP/s  MFU 51%\n" in line


@pytest.mark.parametrize(
    ("kind", "peak"), [("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v6 lite", 918e12)]
)
def test_a_chips_peak_is_the_published_one(
    kind: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert throughput.peak_flops() is None

    class Device:
        device_kind = kind

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert throughput.peak_flops() == peak


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_the_steps_asked_for_are_traced(engine: Any, tmp_path: Path) -> None:
    _, fit = choose_trainer(engine, ONE, tmp_path, profiled=(1, 3))
    fit(DATA, False)
    files = [file for file in (tmp_path / "profile").rglob("*") if file.is_file()]
    assert files
    if engine == "torch":
        events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
        steps = [e for e in events if e["name"].startswith("Optimizer.step")]
        assert len({e["ts"] for e in steps}) == 2


def test_no_steps_are_traced_unasked(tmp_path: Path) -> None:
    train_tiny("torch", tmp_path, ONE)
    assert not (tmp_path / "profile").exists()
    with pytest.raises(ValueError, match="--profile: not with --engine lightning"):
        choose_trainer("lightning", TASK, tmp_path, profiled=(1, 3))


@pytest.mark.parametrize("text", ["10", "15:10", "5:5", "a:b", "-1:3", "1:2:3", ""])
def test_steps_that_are_none_are_refused(text: str) -> None:
    assert parse_steps("10:15") == (10, 15)
    with pytest.raises(ValueError, match=f"--profile {text}: expected FIRST:END"):
        parse_steps(text)


KEEP = """
import os, sys
os.environ.pop("JAXMODELS_PROGRAMS", None)
os.environ["XDG_CACHE_HOME"] = sys.argv[1]
if sys.argv[2]:
    os.environ["JAXMODELS_PROGRAMS"] = sys.argv[2]
import jax, jax.numpy as jnp
from pathlib import Path
from jaxmodels.compilation import keep_programs
keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))
"""


def test_programs_are_kept_in_the_users_cache_or_where_told(tmp_path: Path) -> None:
    run(KEEP, tmp_path / "cache", "")
    assert any((tmp_path / "cache" / "jaxmodels" / "programs").iterdir())
    run(KEEP, tmp_path / "none", "off")
    assert not (tmp_path / "none").exists()
