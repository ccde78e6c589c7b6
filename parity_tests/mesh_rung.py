"""The rung `mesh`: a task on simulated devices, cut in every way, computes what one device does.

>>> mesh_rung(TASKS["imdb-bert"])  # with eight devices: start with simulate_devices()

The task's recipe, engine and kind of model, in a size that compiles in seconds; dropout is on.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.engine import FlaxEngine
from jaxmodels.optim import slots
from jaxmodels.sharding import make_mesh, place, place_batch
from jaxmodels.shared.configs import (
    BERTConfig,
    CharRNNConfig,
    CNNConfig,
    GPT2Config,
    ImageNetResNetConfig,
    LogisticRegressionConfig,
    MLPConfig,
    ModelConfig,
    RecurrentForecasterConfig,
    ResNetConfig,
    SimpleCNNConfig,
    TextClassifierConfig,
    TimeSeriesTransformerConfig,
    TransformerConfig,
)
from jaxmodels.shared.meshes import shown
from jaxmodels.shared.schedules import learning_rate
from jaxmodels.shared.targets import IGNORED
from jaxmodels.shared.tasks import Task
from jaxmodels.train import make_gradients
from parity_tests.cases import STEP_RATE
from parity_tests.ladder import BOUNDS, error_ratio, module_norms, relative_error
from parity_tests.own_pairs import make_pair
from parity_tests.pairs import Arrays, Dtype, Recipe, hot_values, precision
from parity_tests.results import LeafError, Verdict

DEVICES = 8
BATCH, STEPS, DRAWS = 16, 10, 4

_KINDS = [{axis: size} for axis in ("data", "fsdp", "tensor") for size in (2, 4, 8)]
_MIXED = [{"data": 2, "fsdp": 2}, {"data": 2, "fsdp": 2, "tensor": 2}]
MESHES: list[dict[str, int]] = [{"data": 1}, *_KINDS, *_MIXED]
# Of Transformers also:
SEQUENCE_MESHES: list[dict[str, int]] = [
    *({"sequence": size} for size in (2, 4, 8)),
    {"fsdp": 2, "tensor": 2, "sequence": 2},
]

# Sizes that eight devices divide, and hardly two alike.
_TRANSFORMER: dict[str, Any] = {"hidden_dim": 24, "num_layers": 2, "num_heads": 8, "mlp_dim": 56}
_SMALL: dict[type[ModelConfig], dict[str, Any]] = {
    LogisticRegressionConfig: {"image_size": 8},
    SimpleCNNConfig: {"image_size": 8, "channels": (8, 16), "hidden_dims": (32, 24)},
    CNNConfig: {"image_size": 8, "stage_channels": (8, 16), "hidden_dim": 24},
    ResNetConfig: {"image_size": 8, "depth": 8, "stage_channels": (8, 16, 24)},
    ImageNetResNetConfig: {
        "image_size": 16,
        "embedding_channels": 8,
        "stage_channels": (8, 16),
        "depths": (1, 1),
    },
    TextClassifierConfig: {"vocabulary_size": 40, "embedding_dim": 16, "hidden_dim": 24},
    CharRNNConfig: {"vocabulary_size": 40, "embedding_dim": 16, "hidden_dim": 24},
    RecurrentForecasterConfig: {"hidden_dim": 24},
    MLPConfig: {"num_features": 32},
    GPT2Config: {"vocabulary_size": 40, "context_length": 16, **_TRANSFORMER},
    BERTConfig: {"vocabulary_size": 40, "context_length": 16, **_TRANSFORMER},
    TimeSeriesTransformerConfig: {"window": 24, **_TRANSFORMER},
}

Context = Callable[[dict[str, int]], AbstractContextManager[Any]]


def simulate_devices() -> None:
    """Has JAX see eight CPU devices; before anything touches one.

    Raises:
        ValueError: it sees fewer by now.
    """
    if getattr(jax.config, "jax_num_cpu_devices", 0) < DEVICES:
        try:
            jax.config.update("jax_num_cpu_devices", DEVICES)
        except RuntimeError as error:
            raise ValueError(
                f"the rung mesh needs {DEVICES} devices, and JAX has started with fewer "
                f"({error}); set JAX_NUM_CPU_DEVICES={DEVICES}"
            ) from None


def meshes_of(task: Task) -> list[dict[str, int]]:
    """Every way in which the rung cuts the task."""
    return MESHES + (SEQUENCE_MESHES if isinstance(task.model, TransformerConfig) else [])


def mesh_rung(
    task: Task,
    meshes: Iterable[dict[str, int]] | None = None,
    *,
    dtypes: tuple[Dtype, ...] = ("float64", "float32"),
    draws: int = DRAWS,
    injected: Context = lambda sizes: nullcontext(),
) -> list[Verdict]:
    """Loss and gradients in float64, ten steps in float64, and all of it in float32.

    A float32 figure is by what factor a mesh's distance from float64 exceeds one device's, over
    `draws` of weights, or the other way round. `injected` is what a mutation changes on a mesh.
    """
    small = small_task(task)
    meshes = list(meshes_of(small) if meshes is None else meshes)
    truths = observe(small, None, "float64", draws)
    alone = {"float64": truths}
    if "float32" in dtypes:
        alone["float32"] = observe(small, None, "float32", draws)
    norms = [module_norms(truth) for truth in truths]
    leaves: dict[tuple[Dtype, bool], list[LeafError]] = {}
    for sizes in meshes:
        for dtype in dtypes:
            with injected(sizes):
                found = observe(small, sizes, dtype, draws)
            for name in truths[0]:
                errors = [_errors(side, truths, norms, name) for side in (found, alone[dtype])]
                value = max(errors[0]) if dtype == "float64" else error_ratio(*errors)
                stepped = dtype == "float64" and name.startswith(_STEPPED)
                leaf = LeafError(f"{shown(sizes)} {name}", value)
                leaves.setdefault((dtype, stepped), []).append(leaf)
    where = ", ".join(map(shown, meshes))
    return [
        _verdict(task.name, dtype, stepped, found, where)
        for (dtype, stepped), found in leaves.items()
    ]


_STEPPED = "after ten steps"


def small_task(task: Task) -> Task:
    """The task with a model and a batch that eight devices divide, at the step rung's rate."""
    rate = min(task.optimizer.learning_rate, STEP_RATE[task.optimizer.name])
    sizes = dict(_SMALL[type(task.model)])
    if isinstance(task.model, MLPConfig) and task.model.hidden_dims:
        sizes["hidden_dims"] = (24,)
    return replace(
        task,
        model=replace(task.model, **sizes),
        optimizer=replace(task.optimizer, learning_rate=rate),
        training=replace(task.training, batch_size=BATCH),
    )


def random_batch(task: Task) -> Arrays:
    """A batch as the task's family has it. Of labels, those of the first rows do not count."""
    batch = make_pair(task.name, task.model, Recipe(), batch_size=BATCH).batch
    if np.issubdtype(batch["label"].dtype, np.integer):
        batch["label"] = batch["label"].copy()  # which may be a view of the tokens
        batch["label"][:3] = IGNORED
    if isinstance(task.model, GPT2Config | CharRNNConfig):
        batch["targets"] = batch.pop("label")
        batch["reset"] = np.arange(BATCH) % 3 == 0
    if isinstance(task.model, BERTConfig):
        for name in ("input_ids", "attention_mask"):
            batch[name] = np.pad(batch[name], ((0, 0), (0, 16 - batch[name].shape[1])))
    return batch


def observe(task: Task, sizes: Mapping[str, int] | None, dtype: Dtype, draws: int) -> list[Arrays]:
    """For each draw of weights the loss, gradients, and the state after ten steps; in float64."""
    mesh = None
    if sizes is not None:
        mesh = make_mesh(sizes, jax.devices()[: prod(sizes.values())])
    engine = FlaxEngine(task, Path(), mesh=mesh)
    drawn = engine.state
    gradients_of = jax.jit(make_gradients(engine.graphdef, engine.objective, mesh=mesh))
    batch = {name: _cast(value, dtype) for name, value in random_batch(task).items()}
    names = (*engine.objective.inputs, engine.objective.target, "reset")
    shapes = {name: leaf.shape for name, leaf in (drawn["params"] | drawn["stats"]).items()}
    observations = []
    with precision(dtype):
        for seed in range(draws):
            hot = hot_values(shapes, seed)
            engine.state = jax.tree_util.tree_map_with_path(
                lambda path, leaf, hot=hot: _hot(path, leaf, hot, dtype, mesh), drawn
            )
            inputs: Any = {name: batch[name] for name in names if name in batch}
            inputs = inputs if mesh is None else place_batch(inputs, mesh)
            carry = engine.state.get("carry", ())
            params, stats = engine.state["params"], engine.state["stats"]
            (metrics, gradients), _, _ = gradients_of(
                params, stats, inputs, carry, engine.dropout_key
            )
            found = {"loss": metrics["loss"]}
            found |= {f"gradient {name}": value for name, value in gradients.items()}
            for step in range(STEPS):
                rate = learning_rate(task.schedule, task.optimizer.learning_rate, step, STEPS)
                engine.train_step(batch, step=step, rate=rate)
            found |= {f"{_STEPPED} {name}": value for name, value in _state(engine).items()}
            observations.append({k: np.asarray(v, np.float64) for k, v in found.items()})
    return observations


def _state(engine: FlaxEngine) -> dict[str, jax.Array]:
    """Parameters, statistics, carry and the optimizer's slots."""
    found = dict(engine.state["params"] | engine.state["stats"])
    carried = jax.tree.leaves(engine.state.get("carry", ()))
    found |= {f"carry.{number}": value for number, value in enumerate(carried)}
    for slot, values in slots(engine.state["optimizer"]).items():
        found |= {f"{slot} {name}": value for name, value in values.items()}
    return found


def _hot(path: Any, leaf: jax.Array, hot: Arrays, dtype: Dtype, mesh: Any) -> jax.Array:
    """A leaf of a state in `dtype`, in its place; parameters and statistics are hot."""
    value = np.array(leaf)
    if path[0].key in ("params", "stats"):
        value = hot[path[-1].key]
    sharding: Any = leaf.sharding
    return place(_cast(value, dtype), mesh and sharding)


def _cast(value: np.ndarray, dtype: Dtype) -> np.ndarray:
    return value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _errors(
    found: list[Arrays], truths: list[Arrays], norms: list[dict[str, float]], name: str
) -> list[float]:
    module = name.rpartition(".")[0]
    return [
        relative_error(values.get(name), truth[name], of_modules[module])
        for values, truth, of_modules in zip(found, truths, norms, strict=True)
    ]


def _verdict(
    name: str, dtype: Dtype, stepped: bool, leaves: list[LeafError], meshes: str
) -> Verdict:
    bound = BOUNDS["step" if stepped else "mesh", dtype]
    what = "after ten steps" if stepped else "loss and gradients"
    if dtype == "float32":
        what = "loss, gradients and ten steps"
    worst = max(leaves, key=lambda leaf: leaf.value)
    first = next((leaf.name for leaf in leaves if not leaf.value <= bound), "")
    note = f"{what}, on {meshes}, beside one device"
    return Verdict(name, "mesh", dtype, worst.value, bound, worst.name, first, note, tuple(leaves))
