"""The Flax training step: one jitted, donated function of (state, batch, learning rate).

>>> graphdef, state = init_state(model, optimizer)
>>> step = make_train_step(graphdef, optimizer, Objective(loss=cross_entropy))
>>> state, metrics = step(state, {"image": images, "label": labels}, 0.1, jax.random.key(0))
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxmodels.models.gpt2 import GPT2
from jaxmodels.objective import Objective
from jaxmodels.optim import apply_updates
from jaxmodels.shared.model_output import logits_of
from jaxmodels.state import Leaves, merge, split

# params and stats by dotted path, the optimizer's state, the step; and the carry of a model that
# carries its state from batch to batch.
State = dict[str, Any]
Batch = dict[str, jax.Array]
Carry = Any  # a tree of (directions, B, H) arrays, or () for a model that carries nothing


def init_state(
    model: nnx.Module, optimizer: optax.GradientTransformation, carry: Carry = ()
) -> tuple[nnx.GraphDef, State]:
    """The model's static structure and the state that a training step maps to the next."""
    graphdef, params, stats = split(model)
    state = {
        "params": params,
        "stats": stats,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
    }
    return graphdef, state | ({"carry": carry} if carry else {})


def call(
    model: nnx.Module,
    inputs: list[jax.Array],
    batch: Batch,
    carry: Carry,
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
) -> tuple[jax.Array, Carry]:
    """(outputs, carry). Where the batch's "reset" (B,) is true, a row's carry starts at zero.

    With "start" () a GPT-2 reads the tokens from that place on, and its cache is what it carries.
    """
    if isinstance(model, GPT2) and "start" in batch:
        cache = carry or model.initial_cache(len(inputs[0]), model.config.context_length)
        output = model(*inputs, cache=cache, start=batch["start"])
        return output.logits, output.cache
    if not carry:
        return logits_of(model(*inputs, train=train, rngs=rngs)), ()  # type: ignore[operator]
    carry = jax.tree.map(lambda part: jnp.where(batch["reset"][:, None], 0, part), carry)
    return model(*inputs, carry, train=train, rngs=rngs)  # type: ignore[operator]


def make_loss(
    graphdef: nnx.GraphDef, objective: Objective
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, Leaves, Carry]]]:
    """(params, stats, batch, carry, dropout key) -> (loss, (outputs, new stats, carry)).

    In training mode. The carry is not differentiated: backpropagation ends with the batch.
    """

    def compute(
        params: Leaves, stats: Leaves, batch: Batch, carry: Carry, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, Leaves, Carry]]:
        model = merge(graphdef, params, stats)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        inputs = [batch[name] for name in objective.inputs]
        outputs, carry = call(model, inputs, batch, carry, train=True, rngs=rngs)
        return objective.loss(outputs, batch[objective.target]), (outputs, split(model)[2], carry)

    return compute


def make_train_step(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, objective: Objective
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """(state, batch, learning rate, key) -> (next state, {"loss", "metric"}).

    Dropout draws from the key folded with the step, so a resumed run draws the same masks and no
    generator's state needs saving. The state is donated: do not use it after the call.
    """
    loss_and_gradients = jax.value_and_grad(make_loss(graphdef, objective), has_aux=True)

    def step(state: State, batch: Batch, rate: jax.Array, key: jax.Array | None):
        key = None if key is None else jax.random.fold_in(key, state["step"])
        (value, (outputs, stats, carry)), gradients = loss_and_gradients(
            state["params"], state["stats"], batch, state.get("carry", ()), key
        )
        direction, slots = optimizer.update(gradients, state["optimizer"], state["params"])
        params = apply_updates(state["params"], direction, jnp.asarray(rate))
        metrics = {"loss": value, "metric": objective.metric(outputs, batch[objective.target])}
        new = {"params": params, "stats": stats, "optimizer": slots, "step": state["step"] + 1}
        return new | ({"carry": carry} if carry else {}), metrics

    return jax.jit(step, donate_argnums=0)


def make_predict(
    graphdef: nnx.GraphDef, inputs: tuple[str, ...]
) -> Callable[[State, Batch, Carry], tuple[jax.Array, Carry]]:
    """(state, batch, carry) -> (outputs in evaluation mode, float32 at least, carry)."""

    def predict(state: State, batch: Batch, carry: Carry) -> tuple[jax.Array, Carry]:
        model = merge(graphdef, state["params"], state["stats"])
        outputs, carry = call(model, [batch[name] for name in inputs], batch, carry)
        return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)), carry

    return jax.jit(predict)
