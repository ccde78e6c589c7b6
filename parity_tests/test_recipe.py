"""A recipe's loss, optimizers and schedules against formulas written out, in both frameworks."""

import math
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402

import jaxmodels.losses  # noqa: E402
import jaxmodels.optim  # noqa: E402
import torchref.losses  # noqa: E402
import torchref.optim  # noqa: E402
from jaxmodels.shared.schedules import ScheduleConfig, learning_rate  # noqa: E402
from jaxmodels.shared.tasks import OptimizerConfig  # noqa: E402

RATE = 0.125
RNG = np.random.default_rng(0)
SHAPES = {"layer.kernel": (3, 2), "layer.bias": (2,)}
START = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADIENTS = [
    {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    for _ in range(3)
]


def flax_steps(config: OptimizerConfig) -> dict[str, np.ndarray]:
    """The parameters after a step with each of the gradients."""
    optimizer = jaxmodels.optim.make_optimizer(config)
    params = {name: jnp.asarray(value) for name, value in START.items()}
    state = optimizer.init(params)
    for gradients in GRADIENTS:
        gradients = {name: jnp.asarray(value) for name, value in gradients.items()}
        direction, state = optimizer.update(gradients, state, params)
        params = jaxmodels.optim.make_apply(config)(params, direction, jnp.asarray(RATE))
    return {name: np.asarray(value) for name, value in params.items()}


def torch_steps(config: OptimizerConfig) -> dict[str, np.ndarray]:
    layer = torch.nn.Linear(3, 2)
    targets = {"layer.kernel": layer.weight, "layer.bias": layer.bias}
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(torch.from_numpy(START[name].T))
    optimizer = torchref.optim.make_optimizer(config, layer)
    for gradients in GRADIENTS:
        for name, target in targets.items():
            target.grad = torch.from_numpy(gradients[name].T.copy())
        torchref.optim.prepare_gradients(config, layer)
        torchref.optim.set_learning_rate(optimizer, RATE)
        optimizer.step()
    return {name: target.detach().numpy().T for name, target in targets.items()}


def by_hand(config: OptimizerConfig) -> dict[str, np.ndarray]:
    """The formulas of the `OptimizerConfig` docstring, in float64."""
    params = {name: value.astype(np.float64) for name, value in START.items()}
    first = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    second = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step, gradients in enumerate(GRADIENTS, start=1):
        norm = math.sqrt(sum(float(np.square(g, dtype=float).sum()) for g in gradients.values()))
        scale = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for name, gradient in gradients.items():
            p, g = params[name], scale * gradient.astype(np.float64)
            masked = config.decay_mask == "all" or name == "layer.kernel"
            decay = config.weight_decay * masked
            if config.name != "proximal-sgd":
                g = g + config.l1 * masked * np.sign(p)
            if config.name in ("sgd", "proximal-sgd"):
                g = g + decay * p
                first[name] = config.momentum * first[name] + g
                step_by = g + config.momentum * first[name] if config.nesterov else first[name]
            else:
                first[name] = config.beta1 * first[name] + (1 - config.beta1) * g
                second[name] = config.beta2 * second[name] + (1 - config.beta2) * g * g
                mean = first[name] / (1 - config.beta1**step)
                spread = np.sqrt(second[name] / (1 - config.beta2**step))
                step_by = mean / (spread + config.epsilon) + decay * p
            params[name] = p - RATE * step_by
            if config.name == "proximal-sgd":
                by = RATE * config.l1 * masked / (1 - config.momentum)
                moved = np.abs(params[name]) - by
                params[name] = np.sign(params[name]) * np.maximum(moved, 0)
    return params


OPTIMIZERS = {
    "plain": OptimizerConfig(momentum=0.0),
    "momentum": OptimizerConfig(momentum=0.9),
    "nesterov": OptimizerConfig(momentum=0.8, nesterov=True),
    "clip": OptimizerConfig(clip_norm=0.5),
    "clip-unreached": OptimizerConfig(clip_norm=1e3),
    "l1": OptimizerConfig(l1=0.1),
    "l1-all": OptimizerConfig(l1=0.1, decay_mask="all"),
    "l2": OptimizerConfig(weight_decay=0.1),
    "l2-all": OptimizerConfig(weight_decay=0.1, decay_mask="all"),
    "proximal": OptimizerConfig(name="proximal-sgd", momentum=0.5, l1=0.2),
    "proximal-all": OptimizerConfig(
        name="proximal-sgd", momentum=0.5, nesterov=True, l1=0.2, decay_mask="all"
    ),
    "proximal-l2": OptimizerConfig(name="proximal-sgd", momentum=0.5, l1=0.2, weight_decay=0.1),
    "adamw": OptimizerConfig(name="adamw", weight_decay=0.1),
    "adamw-all": OptimizerConfig(name="adamw", weight_decay=0.1, decay_mask="all", beta1=0.8),
    "everything": OptimizerConfig(name="adamw", weight_decay=0.1, l1=0.05, clip_norm=0.5),
}


@pytest.mark.parametrize("steps", [flax_steps, torch_steps], ids=["flax", "torch"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_follows_its_formula(name: str, steps: Any) -> None:
    found, expected = steps(OPTIMIZERS[name]), by_hand(OPTIMIZERS[name])
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=2e-6, atol=2e-6, err_msg=key)


def test_optimizers_differ_by_more_than_the_tolerance() -> None:
    """The negative control: no formula above passes for another's."""
    names = [name for name in OPTIMIZERS if name != "clip-unreached"]  # which is momentum alone
    results = {name: by_hand(OPTIMIZERS[name]) for name in names}
    for name in names:
        for other in names:
            gap = max(np.abs(results[name][key] - results[other][key]).max() for key in SHAPES)
            assert name == other or gap > 1e-3, (name, other)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing_spreads_over_all_classes(smoothing: float) -> None:
    logits = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2, 0], np.int32)
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    wanted = np.full((6, 4), smoothing / 4)
    wanted[np.arange(6), labels] += 1 - smoothing
    expected = -(wanted * log_p).sum(axis=1).mean()
    flax = jaxmodels.losses.cross_entropy(
        jnp.asarray(logits), jnp.asarray(labels), label_smoothing=smoothing
    )
    twin = torchref.losses.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), label_smoothing=smoothing
    )
    assert float(flax) == pytest.approx(expected, rel=1e-6)
    assert float(twin) == pytest.approx(expected, rel=1e-6)
    if smoothing:  # not over the K - 1 others, as some have it
        others = np.where(wanted > 0.5, 1 - smoothing, smoothing / 3)
        assert abs(-(others * log_p).sum(axis=1).mean() - expected) > 1e-3


def torch_rates(make: Any, steps: int, peak: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = make(optimizer)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def rates(config: ScheduleConfig, steps: int, peak: float) -> list[float]:
    return [learning_rate(config, peak, step, steps) for step in range(steps)]


def test_one_cycle_is_torchs() -> None:
    # torch's peak is at pct_start * steps - 1, ours at warmup_fraction of steps - 1: here step 5.
    config = ScheduleConfig(
        name="one-cycle", warmup_fraction=0.25, initial_scale=0.04, final_scale=0.0004
    )
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.3, 21, pct_start=6 / 21, div_factor=25, final_div_factor=100
        ),
        21,
        0.3,
    )
    assert rates(config, 21, 0.3) == pytest.approx(expected, rel=1e-12)
    assert max(rates(config, 21, 0.3)) == rates(config, 21, 0.3)[5] == 0.3


def test_cosine_is_torchs() -> None:
    config = ScheduleConfig(name="cosine", final_scale=0.01)
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.003),
        21,
        0.3,
    )
    assert rates(config, 21, 0.3) == pytest.approx(expected, rel=1e-12)


def test_schedules_at_known_points() -> None:
    step = ScheduleConfig(name="step", milestones=(0.5, 0.75), decay_factor=0.1)
    expected = [1.0] * 4 + [0.1] * 2 + [0.01] * 3  # progress 4/8 is a milestone passed
    assert rates(step, 9, 1.0) == pytest.approx(expected)
    assert rates(ScheduleConfig(), 3, 0.7) == [0.7] * 3
    linear = ScheduleConfig(name="linear", warmup_fraction=0.4, final_scale=0.1)
    down = [0.85, 0.7, 0.55, 0.4, 0.25, 0.1]  # 1 at progress 0.4, 0.1 at 1
    assert rates(linear, 11, 2.0) == pytest.approx(
        [2 * rate for rate in [0.25, 0.5, 0.75, 1.0, 1.0, *down]]
    )
    warm = ScheduleConfig(name="cosine", warmup_fraction=0.4)
    assert rates(warm, 11, 1.0)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates(warm, 11, 1.0)[7] == pytest.approx(0.5)  # halfway down
    assert rates(warm, 11, 1.0)[-1] == pytest.approx(0.0)
    assert rates(warm, 1, 1.0) == [1.0]  # a budget of one step has no warm-up
