"""Checkpoints of the Hub: read in every format, equal to transformers' own, written for it."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodels
import torchref
from jaxmodels.shared.hub.tensor_files import open_tensors, read_all
from jaxmodels.shared.tasks import OptimizerConfig
from jaxmodels.state import read_leaves
from parity_tests.hub_pairs import hub_pair, load_hub_model
from parity_tests.ladder import BOUNDS, relative_error
from parity_tests.pairs import Recipe, hot_leaves, observe_forward, observe_gradient, observe_steps
from parity_tests.tiny_configs import config_of
from torchref.weights import read_tensors

FLAX = Path(__file__).parent / "fixtures" / "flax"
FIXTURES = sorted(path.name for path in FLAX.iterdir() if path.is_dir())
LIBRARIES = pytest.mark.parametrize("library", [jaxmodels, torchref])
HEADS = ("none", "masked-lm", "sequence-classification", "token-classification")


def without_dropout(config):
    rates = {f.name: 0.0 for f in dataclasses.fields(config) if f.name.endswith("dropout_rate")}
    return dataclasses.replace(config, **rates)


def family(case, head):
    config = dataclasses.replace(without_dropout(config_of(case)), head=head)
    if case == "distilbert":
        return dataclasses.replace(config, layer_norm_epsilon=1e-12)  # the Hub's has no other
    return config


# Every head of every architecture.
CONFIGS = {
    **{f"{case}-{h}": family(case, h) for case in ("bert", "roberta", "distilbert") for h in HEADS},
    **{f"gpt2-{head}": family("gpt2", head) for head in ("language-model", "none")},
    **{name: config_of(name) for name in ("imagenet-resnet-basic", "imagenet-resnet-bottleneck")},
}


def call(library, model, inputs):
    """The outputs of either library's model, as numpy."""
    asarray = jnp.asarray if library is jaxmodels else torch.from_numpy
    with torch.no_grad():
        output = model(*map(asarray, inputs))
    return {
        name: np.asarray(value)
        for name, value in output._asdict().items()
        if value is not None and name in ("logits", "last_hidden_state", "pooler_output")
    }


@LIBRARIES
@pytest.mark.parametrize("name", FIXTURES)
def test_what_transformers_flax_classes_wrote_gives_what_they_gave(library, name):
    golden = np.load(FLAX / name / "golden.npz")
    model = library.from_pretrained(FLAX / name)
    inputs = [golden[key] for key in golden if key in ("input_ids", "attention_mask")]
    outputs = call(library, model, inputs or [golden["pixel_values"]])
    compared = outputs.keys() & set(golden)
    assert compared >= {"logits"} or compared >= {"last_hidden_state"}
    for key in compared:
        np.testing.assert_allclose(outputs[key], golden[key], rtol=0, atol=5e-5, err_msg=key)


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "resnet-basic"])
def test_every_tensor_of_a_flax_checkpoint_is_used_as_it_is(name):
    """A key's bias changes no output, so outputs alone would not tell."""
    stored = read_all(open_tensors(FLAX / name))
    model = torchref.from_pretrained(FLAX / name)
    ours = [np.sort(value.ravel()) for value in read_tensors(model).values()]
    theirs = [np.sort(value.ravel()) for value in stored.values()]
    key = lambda values: (values.size, values.tolist())  # noqa: E731
    for found, expected in zip(sorted(ours, key=key), sorted(theirs, key=key), strict=True):
        assert np.array_equal(found, expected)


@LIBRARIES
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_loads_in_transformers_with_nothing_missing(library, name, tmp_path):
    config = CONFIGS[name]
    model = library.create(config, seed=3)
    library.save_pretrained(model, config, tmp_path)
    hub = load_hub_model(tmp_path)
    hub.save_pretrained(tmp_path / "again")
    again = library.from_pretrained(tmp_path / "again")
    before, after = (
        read_leaves(m) if library is jaxmodels else read_tensors(m) for m in (model, again)
    )
    for leaf, value in before.items():
        assert np.array_equal(after[leaf], value), leaf


@pytest.mark.parametrize("name", CONFIGS)
def test_float64_is_transformers_own(name):
    """Every module's and the model's output, every gradient, and ten steps of AdamW."""
    recipe = Recipe(OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.05))
    pair = hub_pair(name, CONFIGS[name], recipe)
    draws = [hot_leaves(pair, 0)]
    observers = {"forward": observe_forward, "gradient": observe_gradient, "step": observe_steps}
    for rung, observe in observers.items():
        if rung != "forward" and name.endswith("none"):
            continue  # no loss without a head
        ((ours, theirs),) = observe(pair, draws, "float64")
        assert ours.keys() == theirs.keys()
        for leaf in theirs:
            error = relative_error(ours[leaf], theirs[leaf])
            small = np.abs(theirs[leaf]).max() < 1e-14  # a key's bias has a gradient of zero
            assert small or error <= BOUNDS[rung, "float64"], f"{rung} {leaf}: {error}"
