"""The rungs that train: curve, metric, resume, engines; each holds on the sample and can fail."""

import dataclasses

import numpy as np
import pytest

from jaxmodels.engine import FlaxEngine
from jaxmodels.shared.configs import SimpleCNNConfig
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.tasks import TASKS, OptimizerConfig, ParityConfig, TrainingConfig
from parity_tests.results import Curves, Verdict
from parity_tests.tiny_runs import load_script
from parity_tests.trajectories import (
    ENGINES,
    TORCH_ENGINES,
    curve_ratios,
    curve_rung,
    engines_rung,
    metric_rung,
    resume_rung,
    tost_interval,
    train_steps,
)
from torchref.engines.plain import TorchEngine

TASK = dataclasses.replace(
    TASKS["cifar10-simplecnn"],
    model=SimpleCNNConfig(
        channels=(4, 5),
        hidden_dims=(11, 9),
        kernel_size=3,
        activation="swish",  # smooth: a flipped ReLU would drown the negative control
        batch_norm=True,
        dropout_rate=0.2,
    ),
    optimizer=OptimizerConfig(learning_rate=0.05, momentum=0.9, weight_decay=1e-3),
    training=TrainingConfig(batch_size=64),
    parity=ParityConfig(curve_steps=40, metric_epochs=2, metric_margin=0.15),
)
DATA = family_of(TASK).load("sample", TASK)


class WrongRate(FlaxEngine):
    """A learning rate that is off by one part in a thousand."""

    def train_step(self, batch, *, step, rate):
        return super().train_step(batch, step=step, rate=rate * 1.001)


class ForgetsMomentum(FlaxEngine):
    """A resume that restores the weights and not the optimizer."""

    def restore(self, name, step=None):
        fresh = self.state["optimizer"]
        position = super().restore(name, step)
        self.state["optimizer"] = fresh
        return position


class TorchWrongRate(TorchEngine):
    def train_step(self, batch, *, step, rate):
        return super().train_step(batch, step=step, rate=rate * (1 + 2e-7))  # a unit or two


class TorchForgetsMomentum(TorchEngine):
    def restore(self, name, step=None):
        position = super().restore(name, step)
        self.optimizer.state.clear()
        return position


class ForgetsStep(FlaxEngine):
    """A resume whose dropout starts over."""

    def restore(self, name, step=None):
        reached = self.state["step"] + 0
        position = super().restore(name, step)
        self.state["step"] = reached
        return position


def test_curves_stay_within_torchs_own_spread():
    verdict, curves = curve_rung(TASK, DATA)
    assert verdict.ok, f"{verdict.value} at {verdict.where}"
    assert curves.flax[0][-1] < curves.flax[0][0]
    for runs in (curves.flax, curves.torch):
        assert len(set(runs)) == len(runs)  # one ulp is enough to part them


def test_a_rate_off_by_a_thousandth_leaves_the_spread():
    verdict, _ = curve_rung(TASK, DATA, engines=ENGINES | {"flax": WrongRate})
    assert not verdict.ok
    assert verdict.first_divergence


def test_curve_ratio_is_of_the_nearest_run_to_the_largest_spread_so_far():
    torch_ = ((1.0, 1.0, 1.0), (1.0, 1.1, 1.0), (1.1, 1.0, 1.0))
    near, far = (1.0, 1.3, 1.2), (1.0, 1.9, 1.2)
    assert curve_ratios(Curves("t", (near, far), torch_)) == pytest.approx([0, 3, 2])


def test_curve_ratio_is_infinite_for_a_nan_in_any_run():
    calm, broken = (1.0, 1.0), (1.0, np.nan)
    assert curve_ratios(Curves("t", (calm, broken), (calm, calm)))[1] == np.inf
    assert curve_ratios(Curves("t", (calm, calm), (calm, broken)))[1] == np.inf


def test_accuracies_are_equivalent_and_paired_by_seed():
    verdict, accuracies = metric_rung(TASK, DATA, seeds=2)
    assert len(accuracies.flax) == len(accuracies.torch) == 2
    low, high = accuracies.interval
    assert low <= np.subtract(accuracies.flax, accuracies.torch).mean() <= high
    assert verdict.value == max(-low, high, low, -high)


def test_tost_interval_matches_the_t_distribution_and_fails_when_shifted():
    first, second = [0.90, 0.91, 0.92], [0.90, 0.90, 0.90]
    low, high = tost_interval(first, second)
    # mean 0.01, standard error 0.01 / sqrt(3), t(0.95, 2) = 2.91999
    assert (low, high) == pytest.approx((0.01 - 0.0168586, 0.01 + 0.0168586), abs=1e-6)
    assert max(map(abs, tost_interval([a + 0.05 for a in first], second))) > 0.05


def test_metric_needs_two_seeds():
    with pytest.raises(ValueError, match="--seeds 1 gives no interval"):
        metric_rung(TASK, DATA, seeds=1)


def test_resumed_runs_are_bit_identical():
    verdict = resume_rung(TASK, DATA)
    assert verdict.ok, verdict.where
    assert any(leaf.name.startswith("torch") for leaf in verdict.leaves)
    assert any(leaf.name.startswith("flax") for leaf in verdict.leaves)


@pytest.mark.parametrize(
    ("name", "engine"),
    [("flax", ForgetsMomentum), ("torch", TorchForgetsMomentum), ("flax", ForgetsStep)],
)
def test_a_resume_that_forgets_something_is_caught(name, engine):
    verdict = resume_rung(TASK, DATA, engines={name: engine})
    assert not verdict.ok
    assert verdict.first_divergence.startswith(name)


def test_torchs_engines_train_the_same_bits():
    verdict = engines_rung(TASK, DATA)
    assert verdict.ok, verdict.where
    counted = {leaf.name.partition(" ")[0] for leaf in verdict.leaves}
    assert counted == {"lightning", "accelerate"}
    assert verdict.value == 0 < len(verdict.leaves)


@pytest.mark.parametrize("installed", [False, True])
def test_xla_is_compared_where_it_is_installed_and_missed_in_words(installed, monkeypatch):
    script, verdict = load_script("parity"), Verdict("t", "engines", "float32", 0, 0, "w", note="3")
    monkeypatch.setattr(script, "engines_rung", lambda *_: verdict)
    monkeypatch.setattr(script, "xla_rung", lambda *_: "xla's")
    monkeypatch.setattr(script, "xla_installed", lambda: installed)
    first, *others = script.measure(TASK, "engines", "sample", 2, [], [])
    assert others == ["xla's"] * installed
    assert first.note == ("3" if installed else "3; without xla: torch_xla is not installed here")


def test_an_engine_with_another_rate_is_caught():
    pair = {"torch": TORCH_ENGINES["torch"], "other": train_steps(TorchWrongRate)}
    verdict = engines_rung(TASK, DATA, engines=pair)
    assert not verdict.ok
    assert verdict.first_divergence.startswith("other ")
    assert verdict.where == verdict.first_divergence
