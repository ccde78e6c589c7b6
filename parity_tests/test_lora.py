"""Low-rank adapters: peft's own, in both libraries; what they leave alone; what is refused."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxmodels
import jaxmodels.lora
import jaxmodels.optim
import jaxmodels.train
import torchref
import torchref.lora
import torchref.optim
from jaxmodels import state
from jaxmodels.objective import Objective
from jaxmodels.shared.lora import LoRAConfig
from jaxmodels.shared.tasks import OptimizerConfig
from parity_tests.cases import CASES, config_of
from parity_tests.hub_pairs import load_hub_model
from parity_tests.pairs import hot_leaves
from torchref.weights import read_tensors

LIBRARIES = pytest.mark.parametrize("library", [jaxmodels, torchref])
CONFIGS = {
    "gpt2": replace(config_of("gpt2"), dropout_rate=0.0, attention_dropout_rate=0.0),
    "bert": config_of("bert"),
}
MODELS = pytest.mark.parametrize("name", CONFIGS)
# peft's names of what is adapted, and ours.
TARGETS = {
    "gpt2": (["c_attn", "c_proj", "c_fc"], (r"attention\.", r"linear[12]$")),
    "bert": (["query", "value"], (r"attention\.(query|value)$",)),
}
BOUNDS = {"float64": 1e-12, "float32": 2e-5}
IDS = np.random.default_rng(0).integers(1, 13, size=(3, 8))
MASK = np.arange(8) < np.array([[8], [5], [2]])


def save_base(name, folder):
    """A model's folder, with weights that show differences."""
    model = torchref.create(CONFIGS[name], seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    torchref.save_pretrained(model, CONFIGS[name], folder)
    return folder


def peft_model(name, base, **changes):
    """peft's model with a random A and B, in evaluation mode."""
    options = {
        **{"r": 4, "lora_alpha": 6, "lora_dropout": 0.3, "target_modules": TARGETS[name][0]},
        **{"fan_in_fan_out": name == "gpt2"},
    }
    model = peft.get_peft_model(load_hub_model(base), peft.LoraConfig(**options | changes))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


def loaded(library, name, base, adapter):
    return library.lora.load_adapter(library.from_pretrained(base), CONFIGS[name], adapter)


def adapted(library, name, **changes):
    """A fresh model of ours, whose A and B are random."""
    model = library.create(CONFIGS[name], seed=4)
    library.lora.add_lora(model, LoRAConfig(4, 6.0, 0.0, TARGETS[name][1], **changes), seed=5)
    randomize(library, model)
    return model


def randomize(library, model):
    rng = np.random.default_rng(6)
    with torch.no_grad():
        for layer in library.lora.adapted_layers(model).values():
            value = (0.4 * rng.normal(size=tuple(layer.lora_b.shape))).astype(np.float32)
            if library is jaxmodels:
                layer.lora_b[...] = jnp.asarray(value)
            else:
                layer.lora_b.copy_(torch.from_numpy(value))


def logits(library, model, dtype="float32"):
    """In evaluation mode, of our model or of transformers'."""
    if library is jaxmodels:
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            cast = state.cast(model, jnp.dtype(dtype))
            return np.asarray(cast(jnp.asarray(IDS), jnp.asarray(MASK)).logits)
    model = model.eval().to(getattr(torch, dtype))
    inputs = (torch.from_numpy(IDS), torch.from_numpy(MASK))
    if not isinstance(model, peft.PeftModel):
        inputs = [inputs[0], inputs[1]]
        return model(*inputs).logits.detach().numpy()
    output = model(input_ids=inputs[0], attention_mask=inputs[1].long())
    return output.logits.detach().numpy()


def distance(name, found, expected):
    """The largest difference, where GPT-2's tokens after the last real one say nothing."""
    real = MASK if name == "gpt2" else slice(None)
    return np.abs(found[real] - expected[real]).max() / np.abs(expected[real]).max()


def leaves_of(library, model):
    return state.read_leaves(model) if library is jaxmodels else read_tensors(model)


def is_adapter(leaf):
    return leaf.endswith((".lora_a", ".lora_b"))


@LIBRARIES
@MODELS
def test_an_adapter_of_peft_gives_the_logits_it_gives_there(library, name, tmp_path):
    base = save_base(name, tmp_path / "base")
    theirs = peft_model(name, base)
    theirs.save_pretrained(tmp_path / "adapter")
    model = loaded(library, name, base, tmp_path / "adapter")
    plain = logits(library, library.from_pretrained(base))
    expected = {"float32": logits(torchref, theirs), "float64": logits(torchref, theirs, "float64")}
    assert distance(name, plain, expected["float32"]) > 0.05
    for dtype, bound in BOUNDS.items():
        assert distance(name, logits(library, model, dtype), expected[dtype]) <= bound


@LIBRARIES
@MODELS
def test_another_scale_or_a_transposed_matrix_does_not(library, name, tmp_path):
    """The negative controls."""
    base = save_base(name, tmp_path / "base")
    theirs = peft_model(name, base)
    theirs.save_pretrained(tmp_path / "adapter")
    expected = logits(torchref, theirs, "float64")
    path = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"lora_alpha": 7}))
    wrong_scale = logits(library, loaded(library, name, base, tmp_path / "adapter"), "float64")
    path.write_text(json.dumps(content))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    for key, value in tensors.items():
        if ".lora_A." in key:
            tensors[key] = np.ascontiguousarray(value.T).reshape(value.shape)
    save_file(tensors, file)
    transposed = logits(library, loaded(library, name, base, tmp_path / "adapter"), "float64")
    for wrong in (wrong_scale, transposed):
        assert distance(name, wrong, expected) > 1e-3


@LIBRARIES
@pytest.mark.parametrize(
    ("name", "targets", "modules"),
    [
        ("gpt2", (r"attention\.", r"linear[12]$"), ["c_attn", "c_fc", "c_proj"]),
        ("gpt2", (r"linear2$",), ["mlp.c_proj"]),
        ("gpt2", (r"blocks\.1\.linear1$",), ["1.mlp.c_fc"]),
        ("bert", (r"\.(query|value)$",), ["query", "value"]),
        ("bert", (r"attention\.output$", "^classifier$"), ["attention.output.dense", "classifier"]),
        ("bert", (r"linear2$",), None),
    ],
)
def test_peft_loads_what_is_saved_and_gives_our_logits(library, name, targets, modules, tmp_path):
    base = save_base(name, tmp_path / "base")
    model = library.from_pretrained(base)
    library.lora.add_lora(model, LoRAConfig(3, 5.0, 0.1, targets), seed=0)
    randomize(library, model)
    library.lora.save_adapter(model, CONFIGS[name], tmp_path / "adapter", base=str(base))
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == str(base)
    assert modules is None or content["target_modules"] == modules
    theirs = load_hub_model(base)
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    theirs = peft.get_peft_model(theirs, config)
    report = theirs.load_adapter(tmp_path / "adapter", "default")
    assert not report.unexpected_keys
    assert not [key for key in report.missing_keys if "lora" in key]
    again = peft.PeftModel.from_pretrained(load_hub_model(base), tmp_path / "adapter")
    for found in (theirs, again):
        expected = logits(torchref, found, "float64")
        assert distance(name, logits(library, model, "float64"), expected) <= BOUNDS["float64"]
    back = loaded(library, name, base, tmp_path / "adapter")
    for leaf, value in leaves_of(library, model).items():
        assert np.array_equal(leaves_of(library, back)[leaf], value), leaf


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
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_training_moves_the_adapters_and_not_a_bit_of_the_base(library, rate):
    model = library.create(CONFIGS["gpt2"], seed=0)
    library.lora.add_lora(model, LoRAConfig(rank=3, dropout_rate=rate), seed=0)
    before = leaves_of(library, model)
    config = OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.1, clip_norm=1.0)
    after, slots = (train_flax if library is jaxmodels else train_torch)(model, config)
    assert before.keys() == after.keys()
    for leaf, value in before.items():
        assert np.array_equal(after[leaf], value) != is_adapter(leaf), leaf
    count = sum(value.size for leaf, value in before.items() if is_adapter(leaf))
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


def test_hot_leaves_draw_both_matrices():
    leaves = hot_leaves(CASES["gpt2-lora"](), 0)
    drawn = {name: value.std() for name, value in leaves.items() if is_adapter(name)}
    assert len(drawn) == 16
    assert min(drawn.values()) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank is 0, expected an integer of 1 or more"),
        ({"rank": 2.0}, "rank is 2.0"),
        ({"alpha": 0}, "alpha is 0, expected a number above 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0, expected 0 <= rate < 1"),
        ({"targets": ()}, "targets is (), expected patterns"),
        ({"targets": "query"}, "targets is 'query', expected patterns"),
        ({"targets": ("(",)}, "targets: '(' is no regular expression"),
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
    with pytest.raises(ValueError, match="the model has no adapters"):
        library.lora.merge(model)
    library.lora.add_lora(model, LoRAConfig(), seed=0)
    with pytest.raises(ValueError, match="has adapters already"):
        library.lora.add_lora(model, LoRAConfig(), seed=0)


def test_blocks_that_are_scanned_are_adapted_alike():
    model = jaxmodels.create(replace(CONFIGS["gpt2"], scan_layers=True))
    with pytest.raises(ValueError, match=r"linear1 would be adapted in 1 of 2 blocks"):
        jaxmodels.lora.add_lora(model, LoRAConfig(targets=(r"0\.linear1",)), seed=0)


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, edit):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
ERRORS = {
    **{
        f"{name} is": partial(edit_config, **{name: value})
        for name, value in {
            **{"use_dora": True, "use_rslora": True, "bias": "all", "lora_bias": True},
            **{"modules_to_save": ["wte"], "layers_pattern": "h", "layers_to_transform": [0]},
            **{"rank_pattern": {"c_fc": 2}, "alpha_pattern": {"c_fc": 2}},
            **{"exclude_modules": ["c_fc"], "trainable_token_indices": [0], "new_field": 3},
            **{"init_lora_weights": "pissa", "peft_type": "LOHA", "r": "four", "lora_alpha": -1},
            **{"layer_replication": [[0, 1]], "target_parameters": ["x"], "target_modules": ["q"]},
        }.items()
        if name not in ("lora_alpha", "target_modules")
    },
    "alpha is -1": partial(edit_config, lora_alpha=-1),
    "target_modules is ['q'], and": partial(edit_config, target_modules=["q"]),
    "target_modules is None": partial(edit_config, target_modules=None),
    f"missing {FIRST} (4, 15)": lambda folder: edit_tensors(folder, lambda t: t.pop(FIRST)),
    "unexpected more (1,)": lambda folder: edit_tensors(
        folder, lambda t: t.update(more=np.zeros(1, np.float32))
    ),
    f"{FIRST} has shape (15, 4), expected (4, 15)": lambda folder: edit_tensors(
        folder, lambda t: t.update({FIRST: np.zeros((15, 4), np.float32)})
    ),
    f"values of '{FIRST}' are NaN": lambda folder: edit_tensors(
        folder, lambda t: t.update({FIRST: np.full((4, 15), np.nan, np.float32)})
    ),
    "adapter_config.json is missing": lambda f: (f / "adapter_config.json").unlink(),
    "adapter_model.safetensors is missing": lambda f: (f / "adapter_model.safetensors").unlink(),
    "is not a whole safetensors file": lambda f: (f / "adapter_model.safetensors").write_bytes(
        b"cut"
    ),
}


@pytest.fixture(scope="module")
def gpt2_adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    peft_model("gpt2", save_base("gpt2", folder / "base")).save_pretrained(folder / "adapter")
    return folder / "adapter"


@pytest.mark.parametrize("message", ERRORS)
def test_what_would_compute_something_else_is_refused_by_name(message, gpt2_adapter, tmp_path):
    for file in gpt2_adapter.glob("adapter_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = torchref.create(CONFIGS["gpt2"])
    ERRORS[message](tmp_path)
    before = read_tensors(model)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        torchref.lora.load_adapter(model, CONFIGS["gpt2"], tmp_path)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert read_tensors(model).keys() == before.keys()


def test_an_adapter_of_a_task_that_saves_its_head_is_refused(tmp_path):
    theirs = peft_model("bert", save_base("bert", tmp_path / "base"), task_type="SEQ_CLS")
    theirs.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="modules_to_save is"):
        loaded(torchref, "bert", tmp_path / "base", tmp_path / "adapter")


def test_a_pattern_and_peft_s_own_names_select_what_peft_selects(tmp_path):
    base = save_base("gpt2", tmp_path / "base")
    pattern = r".*\.h\.1\.(attn\.c_attn|mlp\.c_fc)"
    theirs = peft_model("gpt2", base, target_modules=pattern, task_type="CAUSAL_LM")
    theirs.save_pretrained(tmp_path / "adapter")
    model = loaded(torchref, "gpt2", base, tmp_path / "adapter")
    assert list(torchref.lora.adapted_layers(model)) == [
        "blocks.1.attention.query_key_value",
        "blocks.1.linear1",
    ]
    expected = logits(torchref, theirs, "float64")
    assert distance("gpt2", logits(torchref, model, "float64"), expected) <= BOUNDS["float64"]
