"""Recurrent layers: torch's own as the oracle, padding that changes nothing, state across calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels.models
import torchref.models
import torchref.models.recurrent
from jaxmodels import state
from jaxmodels.models.recurrent import CELLS, TextClassifier, pool
from jaxmodels.shared.configs import CharRNNConfig, TextClassifierConfig
from jaxmodels.shared.weights import to_torch_layout
from parity_tests.cases import CASES
from parity_tests.pairs import hot_leaves
from torchref.weights import load_tensors

CONFIG = TextClassifierConfig(
    vocabulary_size=17, num_classes=3, embedding_dim=5, hidden_dim=4, num_layers=2
)
LENGTHS = jnp.array([7, 1, 4, 6])
TOKENS = jax.random.randint(jax.random.key(0), (4, 7), 1, 16)


def relative(found, truth):
    return np.linalg.norm(np.asarray(found) - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_layer_is_torchs_own_from_any_state_at_any_length(kind, bidirectional):
    """Both frameworks' against `torch.nn.LSTM` and `GRU` row by row without padding, in float64."""
    rng = np.random.default_rng(1)
    oracle = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](
        5, 4, bidirectional=bidirectional, batch_first=True
    ).double()
    weights = oracle.state_dict()
    x = rng.normal(size=(4, 7, 5))
    start = rng.normal(size=(2 if kind == "lstm" else 1, 1 + bidirectional, 4, 4))
    with jax.enable_x64(True):
        layer = CELLS[kind](5, 4, bidirectional=bidirectional, dtype=None, rngs=nnx.Rngs(0))
        state.write_leaves(layer, {k: v.numpy() for k, v in weights.items()})
        outputs, end = layer(jnp.asarray(x), LENGTHS, tuple(map(jnp.asarray, start)))
    twin = torchref.models.recurrent.CELLS[kind](
        5, 4, bidirectional=bidirectional, batch_first=True
    ).double()
    twin.load_state_dict(weights)
    with torch.no_grad():
        expected = [
            oracle(x_row, tuple(row) if kind == "lstm" else row[0])
            for x_row, row in (
                (torch.from_numpy(x[n : n + 1, :length]), torch.from_numpy(start[:, :, n : n + 1]))
                for n, length in enumerate(LENGTHS.tolist())
            )
        ]
        twin_outputs, twin_end = twin(
            torch.from_numpy(x), torch.tensor(LENGTHS.tolist()), tuple(torch.from_numpy(start))
        )
    assert outputs.dtype == jnp.float64
    assert len(twin_end) == 1, "torch's c of a padded row is that of the padding"
    for found, found_end in ((outputs, end), (twin_outputs, twin_end)):
        for row, length in enumerate(LENGTHS.tolist()):
            values, last = expected[row]
            assert relative(found[row, :length], values[0].numpy()) < 1e-14
            assert not np.asarray(found[row, length:]).any()
            for part, value in zip(found_end, last if kind == "lstm" else [last], strict=False):
                assert relative(part[:, row], value[:, 0].numpy()) < 1e-14


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_padding_changes_nothing_forward_or_backward(cell, pooling):
    """More padding, with garbage in it: the same logits and gradients."""
    config = dataclasses.replace(CONFIG, cell=cell, pooling=pooling, bidirectional=True)
    graphdef, params, rest = state.split(jaxmodels.models.create(config))
    garbage = np.full((4, 7), 16, np.int32)
    padded = np.where(np.arange(7) < LENGTHS[:, None], TOKENS, 0)
    wider = np.concatenate([np.where(np.arange(7) < LENGTHS[:, None], TOKENS, 9), garbage], axis=1)

    def loss(params, tokens):
        logits = state.merge(graphdef, params, rest)(tokens, LENGTHS)  # type: ignore[operator]
        return (logits**2).sum(), logits

    (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params, padded)
    (_, same), again = jax.value_and_grad(loss, has_aux=True)(params, wider)
    np.testing.assert_allclose(logits, same, rtol=2e-6)
    for name, value in gradients.items():
        assert relative(again[name], value) < 2e-6, name
    assert not np.asarray(again["embedding.embedding"][16]).any()  # never but in the padding
    moved, _ = loss(params, np.where(padded == TOKENS[2, 3], 1 + TOKENS[2, 3] % 15, padded))
    assert moved != loss(params, padded)[0]  # the control: a valid step does count


def test_pooling_by_hand():
    outputs = jnp.asarray([[[1.0, -5.0], [3.0, -2.0], [9.0, 9.0]]])
    state = (jnp.asarray([[[3.0]], [[-5.0]]]),)  # forward's after step 2, backward's after step 1
    for how, expected in (("mean", [2, -3.5]), ("max", [3, -2]), ("last", [3, -5])):
        assert pool(outputs, state, jnp.asarray([2]), how)[0].tolist() == expected


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_state_carries_from_one_chunk_to_the_next(cell):
    config = CharRNNConfig(
        vocabulary_size=17, embedding_dim=5, hidden_dim=4, num_layers=2, cell=cell
    )
    for model in (jaxmodels.models.create(config), torchref.models.create(config)):
        tokens = TOKENS if isinstance(model, nnx.Module) else torch.tensor(TOKENS.tolist())
        whole, end = model(tokens)  # type: ignore[operator]
        first, states = model(tokens[:, :3])  # type: ignore[operator]
        second, carried = model(tokens[:, 3:], states)  # type: ignore[operator]
        forgotten, _ = model(tokens[:, 3:])  # type: ignore[operator]
        as_array = lambda x: np.asarray(x.detach() if isinstance(x, torch.Tensor) else x)  # noqa: E731
        parts = np.concatenate([as_array(first), as_array(second)], axis=1)
        np.testing.assert_allclose(parts, as_array(whole), rtol=1e-5, atol=1e-6)
        assert not np.allclose(as_array(forgotten), as_array(second), atol=1e-3)
        for layer, again in zip(end, carried, strict=True):
            for part, same in zip(layer, again, strict=True):
                np.testing.assert_allclose(as_array(part), as_array(same), rtol=1e-5, atol=1e-6)


def test_the_scan_holds_nothing_but_the_recurrent_product():
    """One scan a layer and direction; the inputs of all steps are multiplied outside of it."""
    config = dataclasses.replace(CONFIG, bidirectional=True)
    model = jaxmodels.models.create(config)
    program = jax.make_jaxpr(lambda t, n: model(t, n))(TOKENS, LENGTHS)  # type: ignore[operator]
    scans = [e for e in program.eqns if e.primitive.name == "scan"]
    assert len(scans) == 2 * config.num_layers
    for scan in scans:
        names = [e.primitive.name for e in scan.params["jaxpr"].eqns]
        assert names.count("dot_general") == 1


def test_bfloat16_is_computed_in_and_parameters_stay_float32():
    model = jaxmodels.models.create(CONFIG, dtype=jnp.bfloat16)
    assert model(TOKENS, LENGTHS).dtype == jnp.bfloat16  # type: ignore[operator]
    assert {value.dtype for value in state.read_leaves(model).values()} == {np.dtype(np.float32)}


def test_dropout_falls_between_layers_and_not_after_the_last():
    model = TextClassifier(
        dataclasses.replace(CONFIG, num_layers=3, dropout_rate=0.5), rngs=nnx.Rngs(0)
    )
    assert len(model.recurrent.dropouts) == 2
    x = model.embedding(TOKENS)
    trained, _ = model.recurrent(x, LENGTHS, train=True, rngs=nnx.Rngs(1))
    evaluated, _ = model.recurrent(x, LENGTHS)
    assert not np.allclose(trained, evaluated)
    assert np.count_nonzero(trained) == np.count_nonzero(evaluated)


def test_an_id_outside_the_vocabulary_is_not_another_word():
    model = jaxmodels.models.create(CONFIG)
    assert np.isnan(model(np.full((1, 2), 17), np.array([2]))).all()  # type: ignore[operator]


@pytest.mark.parametrize("case", ["text-lstm", "char-gru", "series-lstm"])
def test_hot_recurrent_weights_neither_vanish_nor_saturate(case):
    pair = CASES[case]()
    leaves = hot_leaves(pair, 0)
    load_tensors(pair.torch, to_torch_layout(leaves))
    outputs = []
    hook = pair.torch.recurrent.register_forward_hook(lambda *a: outputs.append(a[2][0]))  # type: ignore[union-attr, operator]
    pair.torch_call(pair.torch.eval(), {k: torch.from_numpy(v) for k, v in pair.batch.items()})
    hook.remove()
    assert 0.02 < outputs[0].abs().max() < 0.999
