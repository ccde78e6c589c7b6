"""Low-rank adapters as surgery: what they leave alone, merge and unmerge, what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels
import jaxmodels.lora
import jaxmodels.optim
import jaxmodels.train
import torchref
import torchref.lora
import torchref.optim
from jaxmodels import state
from jaxmodels.objective import Objective
from jaxmodels.shared.lora import LoRAConfig, is_adapter
from jaxmodels.shared.tasks import OptimizerConfig
from parity_tests.adapters import (
    BOUNDS,
    CONFIGS,
    IDS,
    LIBRARIES,
    MODELS,
    TARGETS,
    adapted,
    distance,
    leaves_of,
    logits,
    randomize,
)
from parity_tests.cases import CASES
from parity_tests.ladder import BOUNDS as LADDER_BOUNDS
from parity_tests.ladder import module_norms, relative_error
from parity_tests.pairs import hot_leaves, observe_steps
from torchref.weights import read_tensors


@LIBRARIES
@MODELS
def test_a_fresh_adapter_changes_nothing(library, name):
    model = library.create(CONFIGS[name], seed=0)
    before = logits(library, model)
    library.lora.add_lora(model, LoRAConfig(), seed=0)
    assert np.array_equal(logits(library, model), before)
    draws = [
        next(v for k, v in leaves_of(library, other).items() if k.endswith("lora_a"))
        for other in (
            library.lora.add_lora(library.create(CONFIGS[name]), LoRAConfig(), seed=seed)
            for seed in (0, 0, 1)
        )
    ]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_both_libraries_draw_the_same_adapters():
    draws = []
    for library in (jaxmodels, torchref):
        model = library.create(CONFIGS["bert"])
        library.lora.add_lora(model, LoRAConfig(targets=TARGETS["bert"][1]), seed=3)
        draws.append({k: v for k, v in leaves_of(library, model).items() if is_adapter(k)})
    assert draws[0].keys() == draws[1].keys()
    for leaf, value in draws[0].items():
        assert np.array_equal(value, draws[1][leaf].T), leaf
    first, second = (v for k, v in draws[0].items() if k.endswith("query.lora_a"))
    assert not np.array_equal(first, second)  # each layer has its own
    assert abs(first).max() == pytest.approx(15**-0.5, rel=0.1)


def train_flax(model, optimizer_config):
    """Five steps; the leaves after them and the optimizer's elements."""
    optimizer = jaxmodels.optim.make_optimizer(optimizer_config)
    graphdef, carried = jaxmodels.train.init_state(model, optimizer)
    objective = Objective(("tokens",), "label")
    step = jaxmodels.train.make_train_step(graphdef, optimizer, objective)
    carried = jax.tree.map(jnp.copy, carried)  # it is donated
    for _ in range(5):
        batch = {"tokens": jnp.asarray(IDS), "label": jnp.asarray(IDS)}
        carried, _ = step(carried, batch, 0.01, jax.random.key(0))
    slots = jaxmodels.optim.slots(carried["optimizer"])
    after = {k: np.asarray(v) for k, v in (carried["params"] | carried["stats"]).items()}
    return after, {key: sum(v.size for v in part.values()) for key, part in slots.items()}


def train_torch(model, optimizer_config):
    optimizer = torchref.optim.make_optimizer(optimizer_config, model.train())
    for _ in range(5):
        optimizer.zero_grad()
        output = model(torch.from_numpy(IDS)).logits
        torch.nn.functional.cross_entropy(
            output.flatten(0, 1), torch.from_numpy(IDS).flatten()
        ).backward()
        torchref.optim.prepare_gradients(optimizer_config, model)
        torchref.optim.set_learning_rate(optimizer, 0.01)
        optimizer.step()
    slots = torchref.optim.slots(optimizer, model)
    optimizer.state_dict()  # which fails on slots of what is no parameter of it
    return read_tensors(model), {
        key: sum(v.numel() for v in part.values()) for key, part in slots.items()
    }


@LIBRARIES
@pytest.mark.parametrize(("rate", "saved"), [(0.0, ()), (0.5, (r"^norm$", r"0\.linear1$"))])
def test_training_moves_the_adapters_and_not_a_bit_of_the_base(library, rate, saved):
    model = library.create(CONFIGS["gpt2"], seed=0)
    config = LoRAConfig(rank=3, dropout_rate=rate, modules_to_save=saved)
    library.lora.add_lora(model, config, seed=0)
    before = leaves_of(library, model)
    trained = {
        leaf
        for leaf in before
        if is_adapter(leaf) or (saved and leaf.startswith(("norm.", "blocks.0.linear1.")))
    }
    assert len(trained) == 4 + 4 * bool(saved)
    config = OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.1, clip_norm=1.0)
    after, slots = (train_flax if library is jaxmodels else train_torch)(model, config)
    assert before.keys() == after.keys()
    for leaf, value in before.items():
        assert np.array_equal(after[leaf], value) != (leaf in trained), leaf
    count = sum(before[leaf].size for leaf in trained)
    assert slots == {"first_moment": count, "second_moment": count}


def structure_of(model):
    """What a model is, less its values: its modules' kinds and what trains."""
    if isinstance(model, torch.nn.Module):
        trains = {name: p.requires_grad for name, p in model.named_parameters()}
        return [type(module) for module in model.modules()], trains
    return state.split(model)[0]


@LIBRARIES
@MODELS
def test_merging_gives_the_same_function_and_unmerging_the_same_bits(library, name, tmp_path):
    model, plain = adapted(library, name), library.create(CONFIGS[name])
    before, structure = leaves_of(library, model), structure_of(model)
    expected = logits(library, model, "float64")
    with jax.enable_x64():
        if library is jaxmodels:  # `logits` has cast torch's
            model = state.cast(model, jnp.float64)
        merged = library.lora.merge(model)
    assert distance(name, logits(library, model, "float64"), expected) <= 1e-12
    assert leaves_of(library, model).keys() == leaves_of(library, plain).keys()
    assert structure_of(model) == structure_of(plain)
    library.save_pretrained(model, CONFIGS[name], tmp_path)
    again = library.from_pretrained(tmp_path)
    assert distance(name, logits(library, again), expected) <= BOUNDS["float32"]
    library.lora.unmerge(model, merged)
    after = leaves_of(library, model)
    assert after.keys() == before.keys()
    for leaf, value in before.items():
        assert np.array_equal(after[leaf], value), leaf
    assert structure_of(model) == structure


def dropped_deviation(seeds, **changes):
    """The logits' deviation with dropout in the adapters alone, and its gradient."""
    model = jaxmodels.create(replace(CONFIGS["gpt2"], **changes))
    jaxmodels.lora.add_lora(model, LoRAConfig(dropout_rate=0.5), seed=0)
    randomize(jaxmodels, model)
    graphdef, params, rest = state.split(model)

    def compute(params, key):
        rngs = nnx.Rngs(dropout=key)
        output = state.merge(graphdef, params, rest)(jnp.asarray(IDS), train=True, rngs=rngs)
        return output.logits.std()

    run = jax.jit(jax.value_and_grad(compute))
    return [run(params, jax.random.key(seed)) for seed in seeds]


def test_flax_dropout_is_the_same_where_blocks_are_scanned_or_computed_anew():
    (first, of_first), (same, _), (other, _) = dropped_deviation((0, 0, 1))
    assert first == same != other
    for changes in ({"scan_layers": True}, {"gradient_checkpointing": True}):
        ((value, gradients),) = dropped_deviation((0,), **changes)
        assert value == pytest.approx(float(first), rel=1e-5)
        for leaf, gradient in gradients.items():
            np.testing.assert_allclose(gradient, of_first[leaf], rtol=1e-3, atol=1e-6)


def test_ten_steps_with_a_head_beside_the_adapters_are_equal_in_float64():
    """One draw of the ladder's step rung, whose sixteen are slow."""
    pair = CASES["bert-lora"]()
    ((flax, twin),) = observe_steps(pair, [hot_leaves(pair, 0)], "float64")
    norms = module_norms(twin)
    errors = {
        name: relative_error(flax[name], value, norms[name.rpartition(".")[0]])
        for name, value in twin.items()
    }
    assert flax.keys() == twin.keys()
    assert max(errors.values()) <= LADDER_BOUNDS["step", "float64"]
    trained = {name.partition(" ")[2] for name in twin if name.startswith("first_moment ")}
    assert {"classifier.kernel", "pooler.lora_a"} < trained
    assert not [name for name in trained if name.startswith(("token_", "blocks.0.linear"))]


def test_hot_leaves_draw_both_matrices():
    leaves = hot_leaves(CASES["gpt2-lora"](), 0)
    drawn = {name: value.std() for name, value in leaves.items() if is_adapter(name)}
    assert len(drawn) == 16
    assert min(drawn.values()) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": -1}, "lora.rank is -1, expected an integer of 0 (off) or more"),
        ({"rank": 2.0}, "rank is 2.0"),
        ({"alpha": 0}, "alpha is 0, expected a number above 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0, expected 0 <= rate < 1"),
        ({"targets": ()}, "targets is empty, expected patterns"),
        ({"targets": "query"}, "targets is 'query', expected patterns"),
        ({"targets": ("(",)}, "targets: '(' is no regular expression"),
        ({"modules_to_save": ("[",)}, "lora.modules_to_save: '[' is no regular expression"),
    ],
)
def test_a_wrong_config_is_refused(changes, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        LoRAConfig(**changes)
    assert message in str(error.value)


@LIBRARIES
def test_a_target_that_is_nowhere_a_second_adapter_and_none_are_refused(library):
    model = library.create(CONFIGS["gpt2"])
    with pytest.raises(ValueError, match=r"'key\$' is found in no .* blocks.\*.attention.output"):
        library.lora.add_lora(model, LoRAConfig(targets=("key$",)), seed=0)
    with pytest.raises(ValueError, match=r"modules_to_save: 'head\$' is found in no module's path"):
        library.lora.add_lora(model, LoRAConfig(modules_to_save=("head$",)), seed=0)
    with pytest.raises(ValueError, match=r"0.attention.query_key_value is among the targets"):
        library.lora.add_lora(model, LoRAConfig(modules_to_save=("query",)), seed=0)
    with pytest.raises(ValueError, match="rank is 0, which is no adapter"):
        library.lora.add_lora(model, LoRAConfig(rank=0), seed=0)
    with pytest.raises(ValueError, match="the model has no adapters"):
        library.lora.merge(model)
    library.lora.add_lora(model, LoRAConfig(), seed=0)
    with pytest.raises(ValueError, match="has adapters already"):
        library.lora.add_lora(model, LoRAConfig(), seed=0)


def test_blocks_that_are_scanned_are_adapted_alike():
    model = jaxmodels.create(replace(CONFIGS["gpt2"], scan_layers=True))
    with pytest.raises(ValueError, match=r"linear1 would be adapted in 1 of 2 blocks"):
        jaxmodels.lora.add_lora(model, LoRAConfig(targets=(r"0\.linear1",)), seed=0)
