"""Both frameworks find the same layers, counts and gradients, and those that arithmetic gives."""

import csv
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels.inspection
import jaxmodels.written_out
import torchref.inspection
import torchref.written_out
from jaxmodels import state
from jaxmodels.models import create
from jaxmodels.shared.configs import CNNConfig, GPT2Config
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.inspection import layer_table, totals, what_moves, without_weights
from jaxmodels.shared.model_output import logits_of
from jaxmodels.shared.tasks import TASKS
from jaxmodels.shared.weights import WeightRules
from parity_tests.tiny_configs import config_of
from parity_tests.tiny_runs import DATA, call, refused, with_settings
from torchref.models import create as create_torch
from torchref.weights import read_tensors

# Three convolutions, three max-pools, two linear layers.
SIMPLE_NN = CNNConfig(convolutions_per_stage=1)
MODELS = ("cifar10-simplecnn", "imdb-lstm", "imdb-bert", "shakespeare-gru", "prices-transformer")


def first_batch(task, rows=None):
    family = family_of(task)
    batch = next(family.training_batches(task, family.load("sample", task)))
    return {name: value[:rows] for name, value in batch.items()}


@pytest.mark.parametrize("name", MODELS)
def test_both_frameworks_find_the_same_layers(name):
    task = TASKS[name]
    batch = first_batch(task, 2)
    flax = jaxmodels.inspection.layers_of_task(task, batch)
    found = torchref.inspection.layers_of_task(task, batch)
    # One counts in the traced program, the other by torch's own counter.
    left, right = (
        [(name, row.parameters, row.macs, row.activations) for name, row in rows]
        for rows in (
            [(WeightRules().module_name(row.name), row) for row in flax],
            [(row.name, row) for row in found],
        )
    )
    assert left == right
    parameters = sum(p.numel() for p in create_torch(task.model).parameters())
    assert totals(flax)[0] == parameters
    one = totals(jaxmodels.inspection.layers_of_task(task, first_batch(task, 1)))
    assert totals(flax)[2] != one[2]  # the control: of half the rows


def test_a_simple_network_has_the_shapes_and_counts_of_a_text_book():
    model = nnx.eval_shape(lambda: create(SIMPLE_NN))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    rows = {row.name: row for row in jaxmodels.inspection.layers(model, images)}
    first, last = rows["stages.0.blocks.0.conv"], rows["linear2"]
    assert (first.inputs, first.output) == (((1, 32, 32, 3),), (1, 32, 32, 32))
    assert (first.weights, first.parameters) == (((3, 3, 3, 32),), 864)
    assert first.macs == 32 * 32 * 32 * 27
    assert rows["stages.2.blocks.0.conv"].macs == 8 * 8 * 128 * 9 * 64
    assert (rows["linear1"].macs, last.macs) == (4 * 4 * 128 * 256, 256 * 10)
    assert (last.parameters, last.activations) == (2570, 10)
    assert sum(row.macs for row in rows.values()) == 10_848_768
    rows = torchref.inspection.layers(create_torch(SIMPLE_NN), torch.zeros(1, 32, 32, 3))
    assert rows[0].inputs == ((1, 3, 32, 32),)
    assert rows[0].weights == ((32, 3, 3, 3),)
    assert totals(rows)[1] == 10_848_768


@pytest.mark.parametrize("scan", [False, True])
def test_attention_loops_and_tied_heads_are_counted(scan):
    config = GPT2Config(vocabulary_size=50, hidden_dim=24, mlp_dim=40, num_layers=3, num_heads=4)
    config = replace(config, scan_layers=scan, gradient_checkpointing=scan)
    model = nnx.eval_shape(lambda: create(config))
    rows = jaxmodels.inspection.layers(model, jax.ShapeDtypeStruct((2, 7), jnp.int32))
    block = 7 * 24 * (3 * 24 + 24 + 2 * 40) + 2 * 7 * 7 * 24
    assert totals(rows)[1] == 2 * (3 * block + 7 * 24 * 50)
    (lstm,) = (
        row
        for row in torchref.inspection.layers_of_task(
            TASKS["prices-lstm"], first_batch(TASKS["prices-lstm"], 1)
        )
        if row.kind == "LSTM"
    )
    assert lstm.macs == 60 * 4 * 64 * (1 + 64)


def test_a_model_of_ones_own_with_arguments_that_are_no_arrays():
    class Flax(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(3, 5, rngs=nnx.Rngs(0))

        def __call__(self, x, times):
            return {"out": self.linear(x) * times}

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 5)

        def forward(self, x, times):
            return (self.linear(x) * times,)

    (flax,) = jaxmodels.inspection.layers(Flax(), np.zeros((2, 3), np.float32), 4)
    (found,) = torchref.inspection.layers(Torch(), torch.zeros(2, 3), 4)
    for row in (flax, found):
        assert (row.name, row.parameters, row.macs) == ("linear", 20, 30)
        assert (row.inputs, row.output) == (((2, 3),), (2, 5))


def test_the_table_is_aligned_and_sums():
    images = torch.zeros(1, 32, 32, 3)
    header, *lines = layer_table(torchref.inspection.layers(create_torch(SIMPLE_NN), images)).split(
        "\n"
    )
    columns = ["layer", "kind", "input", "output", "weights", "parameters", "MACs", "MiB", "out"]
    assert header.split() == columns
    assert len({line.rindex(" ") for line in lines}) == 1
    assert lines[-1].split()[:3] == ["sum", "620,586", "10,848,768"]


PLAIN = with_settings(model={"dropout_rate": 0.0})


def test_gradients_before_the_first_step_are_the_same():
    batch = first_batch_of_tiny()
    start = read_tensors(create_torch(PLAIN.model))
    weights, flax = jaxmodels.inspection.gradients(PLAIN, batch, lambda fresh: start)
    _, found = torchref.inspection.gradients(PLAIN, batch, lambda fresh: start)
    assert weights.keys() == flax.keys() == found.keys()
    largest = max(np.linalg.norm(value) for value in found.values())
    for name, value in found.items():
        assert np.array_equal(weights[name], start[name])
        assert np.linalg.norm(flax[name] - value) < 1e-5 * largest, name
    _, other = jaxmodels.inspection.gradients(PLAIN, batch)  # the control: other weights
    assert max(np.linalg.norm(other[n] - flax[n]) for n in found) > 1e-2 * largest


@pytest.mark.parametrize("library", [jaxmodels.inspection, torchref.inspection])
def test_from_zero_weights_the_last_bias_alone_moves(library):
    batch = first_batch_of_tiny()
    weights, gradients = library.gradients(PLAIN, batch, without_weights)
    assert not any(np.any(value) for value in weights.values() if value.ndim > 1)
    moved = {name for name, value in gradients.items() if np.any(value)}
    assert moved == {"linear3.bias"}
    assert what_moves(gradients).endswith("parameters get a gradient: linear3.bias")
    _, drawn = library.gradients(PLAIN, batch)
    assert len([1 for value in drawn.values() if np.any(value)]) == len(drawn)


def first_batch_of_tiny():
    return next(family_of(PLAIN).training_batches(PLAIN, DATA))


# ---- Layers written out


def flax_outputs(config, images, rewrite=lambda model: model):
    """The logits and the gradients of their squares, in float64."""
    with jax.enable_x64(True):
        model = rewrite(state.cast(create(config), jnp.float64))
        graphdef, params, stats = state.split(model)

        def loss(params):
            logits = logits_of(state.merge(graphdef, params, stats)(jnp.asarray(images)))
            return (logits**2).sum(), logits

        (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {name: np.asarray(v) for name, v in (gradients | {"logits": logits}).items()}


def torch_outputs(config, images, rewrite=lambda model: model):
    model = rewrite(create_torch(config, seed=0).double()).eval()
    logits = logits_of(model(torch.from_numpy(images)))
    (logits**2).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return gradients | {"logits": logits.detach().numpy()}


@pytest.mark.parametrize(
    ("outputs", "library"),
    [(flax_outputs, jaxmodels.written_out), (torch_outputs, torchref.written_out)],
)
def test_a_network_written_out_computes_what_its_layers_do(outputs, library, monkeypatch):
    config: Any = config_of("simplecnn")
    size, channels = config.image_size, config.in_channels
    images = np.random.default_rng(0).normal(size=(2, size, size, channels))
    expected = outputs(config, images)
    assert distance(outputs(config, images, library.written_out), expected) < 1e-12
    original = library.convolution
    monkeypatch.setattr(  # the control: a kernel upside down
        library, "convolution", lambda x, kernel, *a, **o: original(x, flip(kernel), *a, **o)
    )
    assert distance(outputs(config, images, library.written_out), expected) > 1e-2


def flip(kernel):
    """A convolution proper, in place of a cross-correlation."""
    return kernel.flip(2, 3) if isinstance(kernel, torch.Tensor) else kernel[::-1, ::-1]


def distance(found, expected):
    """The largest relative difference of a tensor."""
    assert found.keys() == expected.keys()
    return max(
        np.linalg.norm(found[name] - value) / np.linalg.norm(value)
        for name, value in expected.items()
    )


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_a_convolution_of_any_stride_and_padding(stride, padding):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 3, 9, 8))
    weight, bias = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    x, weight, bias = map(torch.from_numpy, (x, weight, bias))
    expected = torch.nn.functional.conv2d(x, weight, bias, stride, padding)
    found = torchref.written_out.convolution(x, weight, bias, stride=stride, padding=padding)
    assert distance({"": found}, {"": expected}) < 1e-14
    with jax.enable_x64(True):
        flax = jaxmodels.written_out.convolution(
            jnp.asarray(x.numpy().transpose(0, 2, 3, 1)),
            jnp.asarray(weight.numpy().transpose(2, 3, 1, 0)),
            jnp.asarray(bias.numpy()),
            stride=stride,
            padding=padding,
        )
    assert distance({"": np.asarray(flax).transpose(0, 3, 1, 2)}, {"": expected.numpy()}) < 1e-14


# ---- The script


def test_the_script_prints_the_table_and_leaves_files(tmp_path):
    task = ("cifar10-cnn", "--set", "model.stage-channels=4,6", "--engine", "torch")
    code, printed, errors = call("inspect_model", *task, "--out", tmp_path)
    assert code == 0, errors
    assert "with all weights at 0: 1 of 16 parameters get a gradient: linear2.bias" in printed
    with open(tmp_path / "layers.csv") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["name"], rows[0]["inputs"]) == ("stages.0.blocks.0.conv", "1x3x32x32")
    assert rows[0]["macs"] == str(32 * 32 * 4 * 27)
    assert rows[-1]["name"] == "linear2"
    assert (tmp_path / "gradients.png").stat().st_size > 10_000
    code, printed, errors = call("inspect_model", "houses-mlp", "--batch-size", 3)
    assert code == 0, errors
    assert "hidden.0 Linear 3x256 3x128 256x128, 128 32,896 98,304" in " ".join(printed.split())


def test_a_run_is_inspected_with_its_own_weights(tmp_path):
    code, _, errors = call(
        "train", "cifar10-logistic", "--engine", "torch", "--epochs", 1, "--out", tmp_path / "run"
    )
    assert code == 0, errors
    code, printed, errors = call("inspect_model", tmp_path / "run", "--engine", "torch")
    assert code == 0, errors
    assert "as trained: 2 of 2 parameters get a gradient" in printed
    assert "--set training.epochs=2: " in refused(
        "inspect_model", tmp_path / "run", "--set", "training.epochs=2"
    )


def test_what_cannot_be_inspected_is_refused():
    assert "task 'nothing' is unknown" in refused("inspect_model", "nothing")
    assert "--batch-size 0 must be at least 1" in refused("inspect_model", "lms", "--batch-size", 0)
    assert "--set training.batch-size=9" in refused("inspect_model", "lms", "--batch-size", 9)
