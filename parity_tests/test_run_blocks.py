"""How a stack of blocks runs, checkpointed, scanned or with its weights shown, changes nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels.models
import torchref.models
from jaxmodels import state
from jaxmodels.models.transformer import Block, PostNormBlock, run_blocks
from jaxmodels.shared.configs import BERTConfig, GPT2Config
from jaxmodels.shared.model_output import logits_of
from parity_tests.hub_pairs import load_hub_model
from parity_tests.tiny_configs import config_of

TOKENS = np.random.default_rng(0).integers(1, 11, size=(3, 7))
CONFIG = GPT2Config(
    hidden_dim=12, num_layers=2, num_heads=3, mlp_dim=10, dropout_rate=0.2, initializer="he-normal"
)


def transformer(case, **changes):
    """The ladder's config of a case, changed."""
    config = config_of(case)
    assert isinstance(config, BERTConfig | GPT2Config)
    return dataclasses.replace(config, **changes)


def flax_loss(kind, config):
    """(the loss of a stack's output in training mode, by parameters and key; the parameters)."""
    rngs = nnx.Rngs(0)
    blocks = [kind(config, dtype=None, rngs=rngs) for _ in range(config.num_layers)]
    graphdef, params, rest = state.split(nnx.List(blocks))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 7, config.hidden_dim)), jnp.float32)

    def loss(params, key):
        blocks: Any = state.merge(graphdef, params, rest)
        rngs = nnx.Rngs(dropout=key)
        return (run_blocks(blocks, x, None, config, train=True, rngs=rngs)[0] ** 3).mean()

    return loss, params


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        (Block, ["gradient_checkpointing"]),
        (Block, ["scan_layers"]),
        (PostNormBlock, ["gradient_checkpointing", "scan_layers"]),
    ],
)
def test_flax_loss_gradients_and_dropout_masks_stay(kind, way):
    found = []
    for config in (CONFIG, dataclasses.replace(CONFIG, **dict.fromkeys(way, True))):
        loss, params = flax_loss(kind, config)
        both = jax.jit(jax.value_and_grad(loss))
        found.append(both(params, jax.random.key(5)))
    (value, gradients), (other, others) = found
    assert float(other) == pytest.approx(float(value), rel=1e-5)
    other_masks, _ = both(params, jax.random.key(6))
    assert abs(other_masks / value - 1) > 1e-2  # the control: another key is another loss
    for name, gradient in gradients.items():
        scale = np.linalg.norm(gradient) + 1e-2  # a key's bias has a gradient of zero
        assert np.linalg.norm(others[name] - gradient) < 1e-5 * scale, name


@pytest.mark.parametrize(
    ("way", "primitive"), [("scan_layers", "scan"), ("gradient_checkpointing", "remat2")]
)
def test_flax_programs_are_what_the_config_says(way, primitive):
    """One body for all layers, or a block's inside computed anew in the backward pass."""
    for wanted in (True, False):
        loss, params = flax_loss(Block, dataclasses.replace(CONFIG, **{way: wanted}))
        jaxpr = jax.make_jaxpr(jax.grad(loss))(params, jax.random.key(0))
        found = {equation.primitive.name for equation in jaxpr.eqns}
        assert (primitive in found) == wanted, found


@pytest.mark.parametrize("case", ["bert", "gpt2"])
def test_torch_checkpointing_computes_each_block_twice_and_changes_nothing(case):
    found, calls = [], []
    for wanted in (False, True):
        config = transformer(case, dropout_rate=0.2, gradient_checkpointing=wanted)
        model = torchref.models.create(config, seed=1).double().train()
        count = [0]
        for block in model.blocks:  # type: ignore[union-attr]
            block.linear1.register_forward_hook(
                lambda *_, count=count: count.__setitem__(0, count[0] + 1)
            )
        torch.manual_seed(3)
        loss = (logits_of(model(torch.from_numpy(TOKENS))) ** 2).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append([loss, *gradients])
        calls.append(count[0])
    assert calls == [config.num_layers, 2 * config.num_layers]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("case", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("scanned", [False, True])
def test_attention_maps_are_transformers_own(case, scanned, tmp_path):
    config = transformer(case, scan_layers=scanned)
    model = jaxmodels.models.create(config, seed=2)
    jaxmodels.save_pretrained(model, config, tmp_path)
    mask = (np.arange(7) < [[7], [5], [2]]).astype(np.int64)  # padded at the end
    inputs = [TOKENS] if case == "gpt2" else [TOKENS, mask]
    ours = {
        "flax": model(*map(jnp.asarray, inputs), output_attentions=True).attentions,  # type: ignore[operator]
        "torch": torchref.from_pretrained(tmp_path)(
            *map(torch.from_numpy, inputs), output_attentions=True
        ).attentions,
    }
    hub = load_hub_model(tmp_path)
    with torch.no_grad():
        theirs = hub(*map(torch.from_numpy, inputs), output_attentions=True).attentions
    for side, maps in ours.items():
        assert len(maps) == len(theirs) == config.num_layers
        for layer, (found, expected) in enumerate(zip(maps, theirs, strict=True)):
            found = np.asarray(found.detach() if side == "torch" else found)
            np.testing.assert_allclose(
                found, expected.numpy(), atol=2e-6, err_msg=f"{side}, layer {layer}"
            )
            assert found.max() - found.min() > 0.1  # the control: not all alike
