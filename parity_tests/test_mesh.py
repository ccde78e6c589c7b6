"""Training on a mesh of simulated devices: one device's numbers, and what is refused."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels.engine
import jaxmodels.models.layers
from jaxmodels.collectives import collectives
from jaxmodels.engine import FlaxEngine, abstract_state, open_mesh
from jaxmodels.optim import make_optimizer
from jaxmodels.sharding import make_mesh, state_shardings
from jaxmodels.shared.command_line import make_engine
from jaxmodels.shared.lora import LoRAConfig
from jaxmodels.shared.meshes import choose_mesh, parse_mesh, row_parts
from jaxmodels.shared.tasks import TASKS
from parity_tests.mesh_rung import mesh_rung, meshes_of, random_batch, small_task
from parity_tests.tiny_runs import assert_same_weights, with_settings

MIXED = {"data": 2, "fsdp": 2, "tensor": 2}
GPT2 = TASKS["shakespeare-transformer"]


def mesh_of(sizes):
    return make_mesh(sizes, jax.devices()[: prod(sizes.values())])


# --- Equality -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meshes"),
    [
        ("houses-mlp", [{"data": 1}, {"data": 4}, MIXED]),
        ("cifar10-simplecnn", [{"data": 2, "fsdp": 2}]),  # BatchNorm, dropout, unequal counts
    ],
)
def test_a_mesh_computes_what_one_device_does(name, meshes):
    gradients, steps = mesh_rung(TASKS[name], meshes, dtypes=("float64",), draws=1)
    assert (gradients.bound, steps.bound) == (1e-12, 1e-9)
    assert gradients.ok, (gradients.value, gradients.where)
    assert steps.ok, (steps.value, steps.where)
    assert any("gradient" in leaf.name for leaf in gradients.leaves)
    assert all("after ten steps" in leaf.name for leaf in steps.leaves)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_task_computes_on_eight_devices_what_it_does_on_one(name):
    """On the last of the ways in which it may be cut, that of most axes; the rung has them all."""
    for verdict in mesh_rung(
        TASKS[name], meshes_of(TASKS[name])[-1:], dtypes=("float64",), draws=1
    ):
        assert verdict.ok, (verdict.value, verdict.where)


@pytest.mark.slow
def test_float32_is_as_accurate_on_a_mesh():
    (verdict,) = mesh_rung(GPT2, [{"fsdp": 2, "sequence": 2}], dtypes=("float32",))
    assert verdict.ok, (verdict.value, verdict.where)


@contextmanager
def patched(owner, name, value) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


def mean_of_means(sizes):
    """Each device's own mean, and the mean of these."""
    make, parts = jaxmodels.engine.make_objective, row_parts(sizes)

    def make_objective(task):
        objective = make(task)

        def loss(outputs, targets):
            pairs = zip(jnp.split(outputs, parts), jnp.split(targets, parts), strict=True)
            return jnp.stack([objective.loss(*pair) for pair in pairs]).mean()

        return dataclasses.replace(objective, loss=loss)

    return patched(jaxmodels.engine, "make_objective", make_objective)


def statistics_a_device(sizes):
    """BatchNorm by each device's own rows."""
    whole, parts = jaxmodels.models.layers.batch_norm, row_parts(sizes)

    def batch_norm(x, scale, bias, *, epsilon):
        found = [whole(part, scale, bias, epsilon=epsilon) for part in jnp.split(x, parts)]
        y, means, variances = zip(*found, strict=True)
        return jnp.concatenate(y), sum(means) / parts, sum(variances) / parts

    return patched(jaxmodels.models.layers, "batch_norm", batch_norm)


def masks_a_device(sizes):
    """Dropout whose key is folded with the number of the device."""
    bernoulli, parts = jax.random.bernoulli, row_parts(sizes)

    def folded(key, p=0.5, shape=(), **options):
        shape = (shape[0] // parts, *shape[1:])
        keys = [jax.random.fold_in(key, part) for part in range(parts)]
        return jnp.concatenate([bernoulli(key, p, shape, **options) for key in keys])

    return patched(jax.random, "bernoulli", folded)


@pytest.mark.parametrize(
    ("name", "injected"),
    [
        ("cifar10-logistic", mean_of_means),
        ("cifar10-simplecnn", statistics_a_device),
        ("houses-mlp", masks_a_device),
    ],
)
def test_what_devices_do_by_themselves_is_caught(name, injected):
    gradients, steps = mesh_rung(
        TASKS[name], [{"data": 2}], dtypes=("float64",), draws=1, injected=injected
    )
    assert not gradients.ok
    assert gradients.value > 1e-6
    assert not steps.ok


def test_float32_that_is_worse_on_a_mesh_is_caught():
    make = jaxmodels.engine.make_objective

    def rounded(task):
        objective = make(task)

        def loss(outputs, targets):
            return objective.loss(outputs.astype(jnp.bfloat16).astype(outputs.dtype), targets)

        return dataclasses.replace(objective, loss=loss)

    def injected(sizes):
        return patched(jaxmodels.engine, "make_objective", rounded)

    task, meshes = TASKS["houses-linear"], [{"data": 2}]
    (clean,) = mesh_rung(task, meshes, dtypes=("float32",))
    (worse,) = mesh_rung(task, meshes, dtypes=("float32",), injected=injected)
    assert clean.ok, (clean.value, clean.where)
    assert not worse.ok


@pytest.mark.slow
def test_everything_that_a_step_may_do_is_done_on_a_mesh(tmp_path):
    """Micro-batches, an average, adapters, frozen parameters and rates by layer."""
    settings = {
        "training": {"micro_batches": 2, "ema_decay": 0.9},
        "optimizer": {"freeze": ("^position_embedding",), "layer_decay": 0.8},
    }
    lora = dataclasses.replace(
        with_settings(GPT2, training=settings["training"]),
        lora=LoRAConfig(3, 5.0, 0.25, (r"attention\.(query_key_value|output)$",)),
    )
    for task in (
        with_settings(GPT2, **settings),
        lora,
        with_settings(GPT2, model={"scan_layers": True}),
    ):
        for verdict in mesh_rung(task, [MIXED], dtypes=("float64",), draws=1):
            assert verdict.ok, (verdict.value, verdict.where)


# --- The state ------------------------------------------------------------------------------------


def start(fresh):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=value.shape).astype("f") for name, value in fresh.items()}


@pytest.mark.parametrize("begin", [None, start])
def test_a_state_is_drawn_in_its_places_with_the_bits_of_one_device(begin, tmp_path):
    lora = LoRAConfig(3, 5.0, 0.25, (r"attention\.(query_key_value|output)$",))
    task = dataclasses.replace(small_task(GPT2), lora=lora)
    task = with_settings(task, training={"ema_decay": 0.9})
    alone, cut = (FlaxEngine(task, tmp_path, begin, mesh=m) for m in (None, mesh_of(MIXED)))
    assert_same_weights(cut.weights(), alone.weights())
    graphdef, abstract = abstract_state(task, make_optimizer(task.optimizer))
    assert cut.mesh is not None
    wanted = state_shardings(abstract, cut.mesh)
    leaves = jax.tree.map(lambda leaf: leaf.sharding, cut.state)
    assert jax.tree.leaves(leaves) == jax.tree.leaves(wanted)
    assert graphdef == cut.graphdef
    moments = [leaf for leaf in jax.tree.leaves(cut.state["optimizer"]) if leaf.ndim]
    assert not all(leaf.is_fully_replicated for leaf in [*moments, *cut.state["stats"].values()])


def test_a_step_leaves_the_state_in_its_places_and_compiles_once(tmp_path):
    task = small_task(TASKS["houses-mlp"])
    engine = FlaxEngine(task, tmp_path, mesh=mesh_of(MIXED))
    before = jax.tree.map(lambda leaf: leaf.sharding, engine.state)
    for step in range(3):
        engine.train_step(random_batch(task), step=step, rate=0.1)
    assert jax.tree.map(lambda leaf: leaf.sharding, engine.state) == before
    assert engine.step._cache_size() == 1  # type: ignore[attr-defined]
    weights = engine.weights()
    engine.save("last", {"step": 3, "epoch": 0})
    other = FlaxEngine(task, tmp_path, mesh=mesh_of({"fsdp": 8}))
    other.restore("last")  # on another mesh
    assert_same_weights(other.weights(), weights)


def test_predictions_of_any_number_of_rows_are_brought_to_the_host(tmp_path):
    task = small_task(TASKS["houses-mlp"])
    alone, cut = (FlaxEngine(task, tmp_path, mesh=m) for m in (None, mesh_of({"data": 8})))
    batch = random_batch(task)
    for rows in (1, 5, 16):
        part = {name: value[:rows] for name, value in batch.items()}
        expected, found = alone.predict(part)[0], cut.predict(part)[0]
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_dropout_masks_do_not_depend_on_the_mesh():
    """Threefry's numbers are a function of their place, so that each device draws its own."""

    def draw(key):
        ones = jnp.ones((16, 24))
        return nnx.Dropout(0.5)(ones, deterministic=False, rngs=nnx.Rngs(dropout=key))

    key, mesh = jax.random.key(3), mesh_of({"data": 8})
    places = jax.sharding.NamedSharding(mesh, jax.P("data"))
    program = jax.jit(draw, out_shardings=places).lower(key).compile()
    alone = np.asarray(jax.jit(draw)(key))
    assert np.array_equal(program(key), alone)
    assert 0.3 < (alone == 0).mean() < 0.7
    assert collectives(program.as_text() or "", mesh) == []


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("data=3", "needs 3 devices, and there are 8; .* as in data=8; JAX_NUM_CPU_DEVICES=3"),
        ("data=2,tensor=2", "needs 4 devices, and there are 8; .* as in data=4,tensor=2"),
        ("data=2,data=4", "has the axis data twice"),
        ("model=8", "has the axis model; expected some of data, fsdp, tensor, sequence"),
        ("data", "'data' is no AXIS=SIZE; try data=2"),
        ("data=-8", "'data=-8' is no AXIS=SIZE"),
        ("tensor=8", "tensor 8 does not divide model.num_heads 4; try tensor 1, 2, 4"),
        ("data=8", r"batch_size 12; try --batch-size 16, or .* multiply to 1, 2, 3, 4, 6, 12"),
        ("sequence=8", "sequence 8 does not divide the 12 tokens .* sequence 1, 2, 3, 4, 6, 12"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_what_would(mesh, message):
    settings = {"model": {"num_heads": 4}, "data": {"sequence_length": 12}}
    task = with_settings(GPT2, **settings, training={"batch_size": 12})
    with pytest.raises(ValueError, match=message):
        open_mesh(mesh, task)


def test_a_mesh_is_refused_where_there_are_no_tokens_or_no_flax(tmp_path):
    task = TASKS["imdb-lstm"]
    with pytest.raises(ValueError, match="imdb-lstm trains TextClassifier, which has no tokens"):
        open_mesh("data=4,sequence=2", task)
    with pytest.raises(ValueError, match="data=8 is for --engine flax, and this is"):
        make_engine("torch", task, tmp_path, mesh="data=8")
    parts = with_settings(task, training={"micro_batches": 4, "batch_size": 16})
    with pytest.raises(ValueError, match=r"the 4 rows of each of training.micro_batches 4; .* 32"):
        open_mesh("data=8", parts)
    open_mesh("data=8", parts, trains=False)  # what only predicts is filled up


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    task = small_task(TASKS["houses-mlp"])
    engine = FlaxEngine(task, tmp_path, mesh=mesh_of({"data": 8}))
    batch = {name: value[:12] for name, value in random_batch(task).items()}
    with pytest.raises(ValueError, match=r"8 parts a process, which .* its 12 rows; .* 16"):
        engine.train_step(batch, step=0, rate=0.1)


def test_the_mesh_of_auto_follows_devices_batch_and_size(capsys):
    def chosen(devices, task=GPT2, gigabytes=1.0):
        return choose_mesh(
            task,
            num_devices=devices,
            state_bytes=int(gigabytes * 2**30),
            memory_bytes=16 * 2**30,
        )[0]

    assert chosen(1) == {"data": 1}
    assert chosen(8) == {"data": 8}
    assert chosen(8, gigabytes=14) == {"data": 2, "fsdp": 4}
    assert chosen(8, gigabytes=100) == {"fsdp": 8}
    assert chosen(128) == {"data": 64, "tensor": 2}  # of a batch of 64
    with pytest.raises(ValueError, match=r"does not divide model.num_heads 4"):
        chosen(1024)
    with pytest.raises(ValueError, match=r"does not divide training.batch_size 64"):
        chosen(128, TASKS["imdb-lstm"])
    assert open_mesh("auto", GPT2).shape == {"data": 8}
    assert (
        capsys.readouterr().out == "--mesh auto: data=8 (0.02 GiB of state, of 16 GiB a device)\n"
    )


def test_a_mesh_is_read_as_written():
    assert parse_mesh("data=16, fsdp=4") == {"data": 16, "fsdp": 4}
