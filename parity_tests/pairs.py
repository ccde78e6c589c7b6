"""A pair of models under comparison, and what either side computes: the instruments of the ladder.

Each `observe_*` function takes a few draws of weights and returns, for each, both sides' results as
named float64 arrays in Flax's layout, so that any two (Flax against torch, float32 against float64)
are compared name by name.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import jaxmodels.losses
import jaxmodels.optim
import jaxmodels.train
import torchref.losses
import torchref.optim
from jaxmodels import state
from jaxmodels.modules import named_modules
from jaxmodels.shared.model_output import logits_of
from jaxmodels.shared.schedules import ScheduleConfig, learning_rate
from jaxmodels.shared.tasks import OptimizerConfig
from jaxmodels.shared.weights import WeightRules, to_flax_layout, to_torch_layout
from parity_tests import surgery
from torchref.weights import load_tensors, read_tensors

Arrays = dict[str, np.ndarray]
Dtype = Literal["float64", "float32"]
Observation = tuple[Arrays, Arrays]  # Flax's and torch's
FlaxCall = Callable[[nnx.Module, dict[str, Any], bool], jax.Array]
TorchCall = Callable[[nn.Module, dict[str, Any]], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one side trains. Both sides of a clean pair have equal ones."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=0.01))
    rate: Callable[[int, int], float] = lambda step, total: 0.01
    loss: Callable[..., Any] | None = None  # (logits, labels) -> scalar; None: cross-entropy
    label_smoothing: float = 0.0
    make_optimizer: Callable[..., Any] | None = None  # None: the framework's own
    layers: tuple[int, ...] = ()  # of the model, where their rates differ

    @staticmethod
    def of(optimizer: OptimizerConfig, schedule: ScheduleConfig, smoothing: float) -> "Recipe":
        rate = partial(_scheduled, schedule, optimizer.learning_rate)
        return Recipe(optimizer, rate, label_smoothing=smoothing)


def _scheduled(schedule: ScheduleConfig, peak: float, step: int, total: int) -> float:
    return learning_rate(schedule, peak, step, total)


def call_flax(model: nnx.Module, batch: dict[str, Any], train: bool) -> jax.Array:
    """How the project's own Flax models are called."""
    return logits_of(model(batch["image"], train=train))  # type: ignore[operator]


def call_torch(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """How the project's own torch models are called."""
    return logits_of(model(batch["image"]))


@dataclass(frozen=True)
class Pair:
    """Two models that should be one function, a batch, and how each side is called and trained.

    The batch holds numpy arrays; floating ones are cast to the precision under test, and "label"
    goes to the loss. `fresh` makes newly initialised models, for the check of the initialisers.
    """

    name: str
    flax: nnx.Module
    torch: nn.Module
    batch: Arrays
    rules: WeightRules = field(default_factory=WeightRules)
    flax_recipe: Recipe = field(default_factory=Recipe)
    torch_recipe: Recipe = field(default_factory=Recipe)
    flax_call: FlaxCall = call_flax
    torch_call: TorchCall = call_torch
    flax_batch: Callable[[Arrays], Arrays] = lambda batch: batch  # a mutation's way in
    fresh: tuple[Callable[[int], nnx.Module], Callable[[int], nn.Module]] | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every Flax leaf's shape by dotted path."""
        return {name: value.shape for name, value in state.read_leaves(self.flax).items()}


def hot_leaves(pair: Pair, seed: int) -> Arrays:
    """Weights of a pair's model at which differences show."""
    return hot_values(pair.shapes(), seed)


def hot_values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Arrays:
    """Random weights at which differences show, all exactly representable in float32.

    At the usual small weights a wrong GELU or epsilon hides below 1e-5. Kernels keep the signal's
    scale (He et al. 2015); biases, norms and statistics are far from their initial values.
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    for name, shape in shapes.items():
        normal = rng.normal(size=shape)
        leaf = name.rpartition(".")[2]
        if leaf in ("kernel", "lora_a", "lora_b"):
            value = normal * (2 / np.prod(shape[:-1])) ** 0.5
        elif leaf == "embedding":
            value = normal
        elif leaf.startswith("weight_"):  # a recurrent layer's, (gates * H, in)
            value = normal * shape[-1] ** -0.5
        elif leaf == "scale":
            value = 1 + 0.3 * normal
        elif leaf == "var":
            value = np.exp(0.3 * normal)
        else:
            value = 0.3 * normal
        leaves[name] = value.astype(np.float32).astype(np.float64)
    return leaves


@contextmanager
def precision(dtype: Dtype) -> Iterator[None]:
    """float64 in JAX where asked for; torch needs no switch."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def observe_forward(pair: Pair, draws: list[Arrays], dtype: Dtype) -> list[Observation]:
    """The outputs of every block and the logits, in both modes.

    Dropout draws the same masks on both sides. A module that has no counterpart under the pair's
    rules (torch's `nn.Tanh`, where Flax calls a function) is passed over; the logits never are.
    """
    modules = [name for name, _ in named_modules(pair.flax)]
    flax_names = {pair.rules.module_name(name): name for name in modules}
    names: list[str] = []  # jit sorts a dict's keys; the order of execution matters here

    def compute(params: Any, stats: Any, batch: dict[str, jax.Array]) -> list[jax.Array]:
        found = {}
        for train in (False, True):
            model = surgery.share_flax_dropout(state.merge(graphdef, params, stats))
            with surgery.recorded_flax(model) as outputs:
                logits = pair.flax_call(model, batch, train)
            found |= _in_mode(outputs | {"logits": logits}, train)
        names[:] = found
        return list(found.values())

    graphdef = state.split(pair.flax)[0]
    run = jax.jit(compute)
    observations = []
    for leaves in draws:
        with precision(dtype):
            values = run(*_flax_inputs(pair, leaves, dtype))
        flax = {name: _float64(value) for name, value in zip(names, values, strict=True)}
        model, batch = _torch_inputs(pair, leaves, dtype)
        torch_ = {}
        for train in (False, True):
            with surgery.recorded_torch(model.train(train)) as outputs, torch.no_grad():
                logits = pair.torch_call(model, batch)
            matched = {flax_names[n]: value for n, value in outputs.items() if n in flax_names}
            torch_ |= _in_mode(matched | {"logits": logits}, train)
        flax = {name: value for name, value in flax.items() if name in torch_}
        observations.append((flax, {name: _float64(value) for name, value in torch_.items()}))
    return observations


def observe_gradient(pair: Pair, draws: list[Arrays], dtype: Dtype) -> list[Observation]:
    """The training loss and its gradient by every parameter."""
    run = jax.jit(jax.value_and_grad(_flax_loss(pair), has_aux=True))
    observations = []
    for leaves in draws:
        with precision(dtype):
            (value, _), gradients = run(*_flax_inputs(pair, leaves, dtype))
            flax = {"loss": _float64(value)} | {k: _float64(v) for k, v in gradients.items()}
        model, batch = _torch_inputs(pair, leaves, dtype)
        loss = _torch_loss(pair, model.train(), batch)
        loss.backward()
        found = {k: _float64(p.grad) for k, p in model.named_parameters() if p.grad is not None}
        shapes = {name: shape for name, shape in pair.shapes().items() if name in flax}
        gradients = to_flax_layout(found, shapes, pair.rules)
        observations.append((flax, {"loss": _float64(loss)} | gradients))
    return observations


def observe_steps(
    pair: Pair, draws: list[Arrays], dtype: Dtype, *, steps: int = 10
) -> list[Observation]:
    """Parameters, statistics and optimizer slots after `steps` steps."""
    recipe = pair.flax_recipe
    make_optimizer = recipe.make_optimizer or jaxmodels.optim.make_optimizer
    optimizer = make_optimizer(recipe.optimizer, recipe.layers)
    apply = jaxmodels.optim.make_apply(recipe.optimizer)
    loss_and_gradients = jax.value_and_grad(_flax_loss(pair), has_aux=True)

    @jax.jit
    def update(params: Any, stats: Any, slots: Any, batch: Any, rate: jax.Array):
        (_, stats), gradients = loss_and_gradients(params, stats, batch)
        direction, slots = optimizer.update(gradients, slots, params)
        return apply(params, direction, rate), stats, slots

    observations = []
    for leaves in draws:
        with precision(dtype):
            params, stats, batch = _flax_inputs(pair, leaves, dtype)
            slots = optimizer.init(params)
            for step in range(steps):
                rate = jnp.asarray(recipe.rate(step, steps), dtype)
                params, stats, slots = update(params, stats, slots, batch, rate)
            flax = dict(params | stats)
            for slot, values in jaxmodels.optim.slots(slots).items():
                flax |= {f"{slot} {name}": value for name, value in values.items()}
            flax = {name: _float64(value) for name, value in flax.items()}
        observations.append((flax, _torch_steps(pair, leaves, dtype, steps)))
    return observations


def _torch_steps(pair: Pair, leaves: Arrays, dtype: Dtype, steps: int) -> Arrays:
    model, batch = _torch_inputs(pair, leaves, dtype)
    model.train()
    recipe = pair.torch_recipe
    optimizer = torchref.optim.make_optimizer(recipe.optimizer, model, recipe.layers)
    for step in range(steps):
        optimizer.zero_grad()
        _torch_loss(pair, model, batch).backward()
        torchref.optim.prepare_gradients(recipe.optimizer, model)
        torchref.optim.set_learning_rate(optimizer, recipe.rate(step, steps))
        optimizer.step()
    shapes = pair.shapes()
    flax_names = {pair.rules.torch_name(name): name for name in shapes}
    found = to_flax_layout(read_tensors(model, pair.rules), shapes, pair.rules)
    for slot, values in torchref.optim.slots(optimizer, model).items():
        own = {flax_names[name]: shapes[flax_names[name]] for name in values}
        tensors = {name: _float64(value) for name, value in values.items()}
        found |= {f"{slot} {n}": v for n, v in to_flax_layout(tensors, own, pair.rules).items()}
    return {name: _float64(value) for name, value in found.items()}


def _flax_inputs(
    pair: Pair, leaves: Arrays, dtype: Dtype
) -> tuple[state.Leaves, state.Leaves, dict[str, jax.Array]]:
    """Parameters, statistics and the batch, on device in `dtype`."""
    _, params, stats = state.split(pair.flax)
    params = {name: jnp.asarray(leaves[name], dtype) for name in params}
    stats = {name: jnp.asarray(leaves[name], dtype) for name in stats}
    batch = pair.flax_batch(pair.batch)
    return params, stats, {k: jnp.asarray(_cast(value, dtype)) for k, value in batch.items()}


def _torch_inputs(
    pair: Pair, leaves: Arrays, dtype: Dtype
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    model = surgery.share_torch_dropout(pair.torch).to(getattr(torch, dtype))
    load_tensors(model, to_torch_layout(leaves, pair.rules), pair.rules)
    batch = {k: stored_channels_first(_cast(value, dtype)) for k, value in pair.batch.items()}
    return model, {k: torch.from_numpy(value) for k, value in batch.items()}


def stored_channels_first(images: np.ndarray) -> np.ndarray:
    """The same (B, H, W, C) values in the memory order in which torch's BatchNorm is accurate.

    torch's float32 BatchNorm kernel for channels_last sums its statistics naively and is
    several times less accurate than the one for contiguous NCHW (`test_ladder.py` measures it);
    parity is judged against the better. Arrays that are not images are returned as they are.
    """
    if images.ndim != 4:
        return images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)


def _flax_loss(pair: Pair) -> Callable[..., tuple[jax.Array, Any]]:
    """(params, stats, batch) -> (loss, new stats)."""
    recipe = pair.flax_recipe
    graphdef = state.split(pair.flax)[0]
    loss = recipe.loss or partial(
        jaxmodels.losses.cross_entropy, label_smoothing=recipe.label_smoothing
    )

    def compute(params: Any, stats: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        model = surgery.share_flax_dropout(state.merge(graphdef, params, stats))
        logits = pair.flax_call(model, batch, True)
        return loss(logits, batch["label"]), state.split(model)[2]

    return compute


def _torch_loss(pair: Pair, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    recipe = pair.torch_recipe
    loss = recipe.loss or partial(
        torchref.losses.cross_entropy, label_smoothing=recipe.label_smoothing
    )
    return loss(pair.torch_call(model, batch), batch["label"])


def _in_mode(outputs: dict[str, Any], train: bool) -> dict[str, Any]:
    return {f"{'train' if train else 'eval'} {name}": value for name, value in outputs.items()}


def _cast(value: np.ndarray, dtype: Dtype) -> np.ndarray:
    return value.astype(dtype) if np.issubdtype(value.dtype, np.floating) else value


def _float64(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return np.array(value, dtype=np.float64)
