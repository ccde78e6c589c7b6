"""The Flax training step: one jitted, donated function of (state, batch, learning rate).

>>> graphdef, state = init_state(model, optimizer)
>>> step = make_train_step(graphdef, optimizer, loss=cross_entropy)
>>> state, metrics = step(state, {"image": images, "label": labels}, 0.1, jax.random.key(0))
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxmodels.optim import apply_updates
from jaxmodels.state import Leaves, merge, split

State = dict[str, Any]  # params and stats by dotted path, the optimizer's state, the step
Batch = dict[str, jax.Array]


def init_state(
    model: nnx.Module, optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, State]:
    """The model's static structure and the state that a training step maps to the next."""
    graphdef, params, stats = split(model)
    return graphdef, {
        "params": params,
        "stats": stats,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def make_loss(
    graphdef: nnx.GraphDef, loss: Callable[..., jax.Array]
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, Leaves]]]:
    """(params, stats, batch, dropout key) -> (loss, (logits, new stats)), in training mode."""

    def compute(params: Leaves, stats: Leaves, batch: Batch, key: jax.Array | None):
        model = merge(graphdef, params, stats)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        logits = model(batch["image"], train=True, rngs=rngs)
        return loss(logits, batch["label"]), (logits, split(model)[2])

    return compute


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    loss: Callable[..., jax.Array],
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """(state, batch, learning rate, key) -> (next state, {"loss", "accuracy"}).

    Dropout draws from the key folded with the step, so a resumed run draws the same masks and no
    generator's state needs saving. The state is donated: do not use it after the call.
    """
    loss_and_gradients = jax.value_and_grad(make_loss(graphdef, loss), has_aux=True)

    def step(state: State, batch: Batch, rate: jax.Array, key: jax.Array | None):
        key = None if key is None else jax.random.fold_in(key, state["step"])
        (value, (logits, stats)), gradients = loss_and_gradients(
            state["params"], state["stats"], batch, key
        )
        direction, slots = optimizer.update(gradients, state["optimizer"], state["params"])
        params = apply_updates(state["params"], direction, jnp.asarray(rate))
        metrics = {
            "loss": value,
            "accuracy": (logits.argmax(axis=-1) == batch["label"]).mean(),
        }
        step = state["step"] + 1
        return {"params": params, "stats": stats, "optimizer": slots, "step": step}, metrics

    return jax.jit(step, donate_argnums=0)


def make_predict(graphdef: nnx.GraphDef) -> Callable[[State, jax.Array], jax.Array]:
    """(state, images) -> logits in evaluation mode, float32 at least."""

    def predict(state: State, images: jax.Array) -> jax.Array:
        logits = merge(graphdef, state["params"], state["stats"])(images)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    return jax.jit(predict)
