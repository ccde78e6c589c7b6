"""The one attention function: torch's own as the oracle, what masks mean, rows with nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

import jaxmodels.models.attention
import torchref.models.attention

RNG = np.random.default_rng(0)
QUERY = RNG.normal(size=(4, 3, 5, 2))  # (B, N, T, D)
KEY, VALUE = RNG.normal(size=(2, 4, 3, 7, 2))  # (B, N, S, D)
FULLY_MASKED = RNG.random((4, 3, 5, 7)) < 0.5
FULLY_MASKED[1, :, 2] = False
MASKS = {
    "none": None,
    "causal": np.tri(5, 7, dtype=bool),
    "padding": (np.arange(7) < np.array([7, 1, 4, 6])[:, None])[:, None, None],
}


def attend_flax(query, key, value, mask=None):
    """The result and the gradients of its sum of squares, as numpy."""

    def loss(arrays):
        attended, _ = jaxmodels.models.attention.attention(*arrays, mask=mask)
        return (attended**2).sum(), attended

    with jax.enable_x64(True):
        arrays = [jnp.asarray(array) for array in (query, key, value)]
        (_, attended), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
        return np.asarray(attended), [np.asarray(gradient) for gradient in gradients]


def attend_torch(query, key, value, mask=None, function=torchref.models.attention.attention):
    """The twin of `attend_flax`."""
    arrays = [torch.from_numpy(array.copy()).requires_grad_() for array in (query, key, value)]
    attended = function(*arrays, None if mask is None else torch.from_numpy(mask))
    attended = attended[0] if isinstance(attended, tuple) else attended  # torch's own is bare
    (attended**2).sum().backward()
    return attended.detach().numpy(), [array.grad.numpy() for array in arrays]  # type: ignore[union-attr]


SIDES = pytest.mark.parametrize("attend", [attend_flax, attend_torch])


@SIDES
@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_torchs_own_where_every_row_may_attend(attend, mask):
    found, gradients = attend(QUERY, KEY, VALUE, MASKS[mask])
    expected, oracle = attend_torch(QUERY, KEY, VALUE, MASKS[mask], F.scaled_dot_product_attention)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    for gradient, other in zip(gradients, oracle, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=0, atol=1e-13)


@SIDES
def test_a_fully_masked_row_is_zero_with_finite_gradients(attend):
    found, gradients = attend(QUERY, KEY, VALUE, FULLY_MASKED)
    nothing = np.logical_not(FULLY_MASKED.any(axis=-1))
    assert nothing[1, :, 2].all()
    assert not nothing.all()
    assert not found[nothing].any()
    assert found[~nothing].all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not gradients[0][nothing].any()


@SIDES
def test_true_means_attend(attend):
    """Rows that may attend to one step get its value, and the others' values have no gradient."""
    mask = np.tile(np.arange(7) == 4, (5, 1))
    found, gradients = attend(QUERY, KEY, VALUE, mask)
    np.testing.assert_allclose(found, np.repeat(VALUE[:, :, 4:5], 5, axis=2), rtol=1e-15)
    assert gradients[2][:, :, 4].all()
    assert not np.delete(gradients[2], 4, axis=2).any()


def test_the_causal_mask_lets_a_step_see_itself_and_the_past():
    expected = [[True, False, False], [True, True, False], [True, True, True]]
    assert jaxmodels.models.attention.causal_mask(3).tolist() == expected
    assert torchref.models.attention.causal_mask(3).tolist() == expected


@SIDES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_result_keeps_its_inputs_precision(attend, dtype):
    assert attend(*(a.astype(dtype) for a in (QUERY, KEY, VALUE)))[0].dtype == dtype


def test_a_bfloat16_softmax_is_float32():
    """Its products are bfloat16, and so is what comes out."""
    query, key, value = (jnp.asarray(array, jnp.bfloat16) for array in (QUERY, KEY, VALUE))
    program = jax.make_jaxpr(jaxmodels.models.attention.attention)(query, key, value)
    kinds = {e.invars[0].aval.dtype for e in program.eqns if e.primitive.name == "exp"}  # type: ignore[attr-defined]
    assert kinds == {np.dtype(np.float32)}
    assert program.out_avals[0].dtype == jnp.bfloat16  # type: ignore[attr-defined]


def test_dropout_falls_on_the_weights_and_nothing_else():
    """With one step to attend to, its whole weight is dropped or doubled, and no part of it."""
    layer = jaxmodels.models.attention.MultiHeadAttention(
        6, 3, fused=False, dropout_rate=0.5, initializer="he-normal", dtype=None, rngs=nnx.Rngs(0)
    )
    x = jnp.asarray(RNG.normal(size=(40, 1, 6)), jnp.float32)
    layer.output.kernel[...] = jnp.eye(6)
    heads = layer(x, train=True, rngs=nnx.Rngs(1))[0].reshape(40, 3, 2)
    kept = np.asarray((heads != 0).all(axis=-1))
    assert np.array_equal(kept, (heads != 0).any(axis=-1))
    assert 0.2 < kept.mean() < 0.8
    value = np.asarray(layer(x)[0]).reshape(40, 3, 2)
    np.testing.assert_allclose(heads[kept], 2 * value[kept], rtol=1e-5)
