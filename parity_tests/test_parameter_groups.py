"""Rates by layer and frozen parameters: by hand, on both sides, and what they leave alone."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels
import jaxmodels.frozen
import torchref
import torchref.frozen
from jaxmodels import state
from jaxmodels.frozen import FrozenBatchNorm
from jaxmodels.optim import make_optimizer
from jaxmodels.shared.configs import BERTConfig, SimpleCNNConfig
from jaxmodels.shared.parameter_groups import find_frozen, layers_of, rate_scales
from jaxmodels.shared.tasks import TASKS, OptimizerConfig
from jaxmodels.shared.weights import WeightRules
from parity_tests.tiny_configs import config_of
from torchref.frozen import FrozenBatchNorm2d
from torchref.optim import make_optimizer as make_torch_optimizer
from torchref.optim import set_learning_rate
from torchref.weights import read_tensors

# Of each model: its layers, and some parameters' distances from the head.
LAYERS = {
    "bert": (
        (1, 1),
        {"token_embedding.weight": 3, "embedding_norm.bias": 3, "blocks.0.norm1.weight": 2}
        | {"blocks.1.attention.query.bias": 1, "pooler.weight": 0, "classifier.bias": 0},
    ),
    "gpt2": (
        (1, 1),
        {"position_embedding.weight": 3, "blocks.0.linear1.weight": 2, "blocks.1.norm2.bias": 1}
        | {"norm.weight": 0},
    ),
    "resnet-b": (
        (1, 1, 1),
        {"stem.conv.weight": 4, "blocks.0.convnorm1.norm.bias": 3, "linear.bias": 0}
        | {"blocks.2.projection.conv.weight": 1},
    ),
    "imagenet-resnet-basic": (
        (1, 2),
        {"stem.norm.weight": 3, "blocks.0.convnorms.0.conv.weight": 2, "linear.weight": 0}
        | {"blocks.1.projection.norm.bias": 1, "blocks.2.convnorms.1.conv.weight": 1},
    ),
    "cnn": ((1, 1), {"stages.0.blocks.1.conv.weight": 2, "linear1.weight": 0}),
    "series-patch": ((1, 1), {"instance_norm.weight": 3, "patch_embedding.bias": 3}),
}


@pytest.mark.parametrize("case", LAYERS)
def test_rates_fall_from_the_head_to_the_inputs(case: str) -> None:
    layers, distances = LAYERS[case]
    config = config_of(case)
    assert layers_of(config) == layers
    names = set(read_tensors(torchref.create(config)))
    assert distances.keys() <= names
    scales = rate_scales(0.5, names, layers)
    assert {name: scales[name] for name in distances} == {k: 0.5**v for k, v in distances.items()}
    # The last names differ in Flax, and no rate does.
    flax_names = state.read_shapes(nnx.eval_shape(lambda: jaxmodels.create(config)))
    own = rate_scales(0.5, flax_names, layers)
    assert {WeightRules().torch_name(k): v for k, v in own.items()} == scales


def test_stages_of_resnets_share_a_rate() -> None:
    assert layers_of(TASKS["cifar10-resnet20"].model) == (3, 3, 3)
    names = [f"blocks.{block}.x" for block in range(9)]
    found = rate_scales(0.5, names, (3, 3, 3))
    assert list(found.values()) == [0.125] * 3 + [0.25] * 3 + [0.5] * 3


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="SimpleCNN is no stack of blocks"):
        layers_of(SimpleCNNConfig())
    task = TASKS["cifar10-logistic"]
    with pytest.raises(ValueError, match="LogisticRegression is no stack of blocks"):
        replace(task, optimizer=replace(task.optimizer, layer_decay=0.9))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_first_step_is_a_layers_share_of_the_rate(name: Any) -> None:
    """Of one plain step: what moves a parameter by d moves it by decay ** distance * d."""
    config = OptimizerConfig(name=name, weight_decay=0.1, momentum=0.0)
    names = ("pooler.kernel", "blocks.0.linear1.kernel", "token_embedding.embedding")
    arrays = {name: jnp.ones((2, 2)) for name in names}
    gradients = jax.tree.map(lambda value: 3 * value, arrays)
    moves = []
    for decay in (1.0, 0.5):
        optimizer = make_optimizer(replace(config, layer_decay=decay), (1,))
        direction, _ = optimizer.update(gradients, optimizer.init(arrays), arrays)
        moves.append([float(direction[key][0, 0]) for key in names])  # type: ignore[index]
    np.testing.assert_allclose(np.divide(*moves), [1, 2, 4], rtol=1e-6)


def test_torch_groups_by_rate_and_decay() -> None:
    model = torchref.create(config_of("bert"))
    config = OptimizerConfig(name="adamw", weight_decay=0.1, layer_decay=0.5)
    optimizer = make_torch_optimizer(config, model, (1, 1))
    set_learning_rate(optimizer, 0.01)
    found = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    rates = [0.01, 0.005, 0.0025, 0.00125]
    assert found == [(rate, decay) for rate in rates for decay in (0.1, 0.0)]
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(model.parameters()))


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


def after_training_mode(model: Any) -> dict[str, np.ndarray]:
    """What the model holds once it has run in training mode."""
    if isinstance(model, torch.nn.Module):
        model.train()(torch.from_numpy(images()))
        return read_tensors(model)
    nnx.jit(lambda model, x: model(x, train=True))(model, jnp.asarray(images()))
    return {WeightRules().torch_name(k): v for k, v in state.read_leaves(model).items()}


@pytest.mark.parametrize("library", [jaxmodels, torchref], ids=["flax", "torch"])
def test_frozen_batch_norm_keeps_its_statistics_and_normalises_by_them(library: Any) -> None:
    model = library.create(config_of("resnet-b"), seed=0)
    plain = after_training_mode(library.create(config_of("resnet-b"), seed=0))
    library.frozen.freeze_found(model, (r"^stem\.", r"^blocks\.0\.convnorm1\.norm\.weight$"))
    after = after_training_mode(model)
    fresh = torchref.create(config_of("resnet-b"), seed=0)
    statistics = {k: v for k, v in read_tensors(fresh).items() if "running" in k}
    kept = {name for name, value in statistics.items() if np.array_equal(after[name], value)}
    assert kept == {"stem.norm.running_mean", "stem.norm.running_var"}  # not where a half trains
    assert not np.array_equal(plain["stem.norm.running_mean"], after["stem.norm.running_mean"])
    library.frozen.unfreeze(model)
    kinds = {type(module) for module in _modules(model)}
    assert not kinds & {FrozenBatchNorm, FrozenBatchNorm2d}
    thawed = after_training_mode(model)
    assert not np.array_equal(thawed["stem.norm.running_mean"], after["stem.norm.running_mean"])


def _modules(model: Any) -> list[Any]:
    if isinstance(model, torch.nn.Module):
        return list(model.modules())
    return [module for _, module in nnx.iter_modules(model)]


def test_the_same_parameters_are_frozen_in_both() -> None:
    patterns = ("embedding", r"blocks\.0\.", r"norm1\.weight$")
    flax, twin = jaxmodels.create(config_of("bert")), torchref.create(config_of("bert"))
    jaxmodels.frozen.freeze_found(flax, patterns)
    torchref.frozen.freeze_found(twin, patterns)
    trains = {WeightRules().torch_name(name) for name in state.split(flax)[1]}
    assert trains == {name for name, p in twin.named_parameters() if p.requires_grad}
    assert "blocks.1.norm1.bias" in trains
    assert not {"blocks.1.norm1.weight", "blocks.0.linear1.bias", "type_embedding.weight"} & trains


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="'conv' is found in no parameter's path; the model has a"):
        find_frozen(("conv",), ["a.weight", "a.bias"])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        find_frozen(("weight", "bias"), ["a.weight", "a.bias"])
    config = config_of("bert")
    assert isinstance(config, BERTConfig)
    model = jaxmodels.create(replace(config, scan_layers=True))
    with pytest.raises(ValueError, match=r"linear1.bias would be frozen in 1 of 2 blocks"):
        jaxmodels.frozen.freeze_found(model, (r"0\.linear1\.bias",))
    with pytest.raises(ValueError, match=r"optimizer.freeze: '\(' is no regular expression"):
        OptimizerConfig(freeze=("(",))
    with pytest.raises(ValueError, match=r"layer_decay 1.5 must be in \(0, 1\]"):
        OptimizerConfig(layer_decay=1.5)
