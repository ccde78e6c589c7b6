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
from jax.sharding import Mesh

from jaxmodels.models.gpt2 import GPT2
from jaxmodels.objective import Objective
from jaxmodels.optim import Apply, apply_updates
from jaxmodels.sharding import (
    batch_shardings,
    carry_shardings,
    constrain,
    gather_where_read,
    parameter_shardings,
    replicated,
    stacked,
    state_shardings,
)
from jaxmodels.shared.model_output import logits_of
from jaxmodels.state import Leaves, merge, split

# params and stats by dotted path, the optimizer's state, the step; the carry of a model that has
# one from batch to batch; and the average of the parameters, where one is kept.
State = dict[str, Any]
Batch = dict[str, jax.Array]
Carry = Any  # a tree of (directions, B, H) arrays, or () for a model that carries nothing


def init_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    carry: Carry = (),
    *,
    average: bool = False,
) -> tuple[nnx.GraphDef, State]:
    """The model's static structure and the state that a training step maps to the next.

    `average` keeps a moving average of the parameters, at first these themselves.
    """
    graphdef, params, stats = split(model)
    state = {
        "params": params,
        "stats": stats,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
    }
    if average:
        state["average"] = jax.tree.map(jnp.copy, params)
    return graphdef, state | ({"carry": carry} if carry else {})


def parameters(state: State) -> Leaves:
    """What is evaluated and saved: the average of the parameters, where one is kept."""
    return state.get("average", state["params"])


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
    graphdef: nnx.GraphDef, objective: Objective, mesh: Mesh | None = None
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, Leaves, Carry]]]:
    """(params, stats, batch, carry, dropout key) -> (loss, (outputs, new stats, carry)).

    In training mode. The carry is not differentiated: backpropagation ends with the batch.
    """

    def compute(
        params: Leaves, stats: Leaves, batch: Batch, carry: Carry, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, Leaves, Carry]]:
        model = gather_where_read(merge(graphdef, params, stats), mesh)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        inputs = [batch[name] for name in objective.inputs]
        outputs, carry = call(model, inputs, batch, carry, train=True, rngs=rngs)
        return objective.loss(outputs, batch[objective.target]), (outputs, split(model)[2], carry)

    return compute


def make_gradients(
    graphdef: nnx.GraphDef,
    objective: Objective,
    micro_batches: int = 1,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[tuple[dict[str, jax.Array], Leaves], Leaves, Carry]]:
    """(params, stats, batch, carry, key) -> (({"loss", "metric"}, gradients), new stats, carry).

    The batch may be cut into micro-batches, one after the other, whose means are weighted by what
    they count: the loss is that of the whole batch, as are its gradients.
    """
    loss_and_gradients = jax.value_and_grad(make_loss(graphdef, objective, mesh), has_aux=True)

    def whole(params: Leaves, stats: Leaves, batch: Batch, carry: Carry, key: jax.Array | None):
        (value, (outputs, stats, carry)), gradients = loss_and_gradients(
            params, stats, batch, carry, key
        )
        metrics = {"loss": value, "metric": objective.metric(outputs, batch[objective.target])}
        return (metrics, gradients), stats, carry

    def in_parts(params: Leaves, stats: Leaves, batch: Batch, carry: Carry, key: jax.Array | None):
        batches = {
            name: jnp.stack(jnp.split(value, micro_batches)) for name, value in batch.items()
        }
        carries = jax.tree.map(
            lambda part: jnp.stack(jnp.split(part, micro_batches, axis=1)), carry
        )
        if mesh is not None:
            first = jax.tree.map(lambda parts: parts[0], (batches, carries))
            places = batch_shardings(first[0], mesh), carry_shardings(first[1], mesh)
            batches, carries = constrain((batches, carries), jax.tree.map(stacked, places))
        total = jnp.maximum(objective.count(batch[objective.target]), 1)

        def body(sums_and_stats: Any, part: Any) -> Any:
            sums, stats = sums_and_stats
            number, batch, carry = part
            part_key = None if key is None else jax.random.fold_in(key, number)
            means, stats, carry = whole(params, stats, batch, carry, part_key)
            share = objective.count(batch[objective.target]) / total
            sums = jax.tree.map(lambda s, m: s + share.astype(m.dtype) * m, sums, means)
            return (sums, stats), carry

        first = jax.tree.map(lambda parts: parts[0], (batches, carries))
        zeros = jax.tree.map(
            lambda like: jnp.zeros(like.shape, like.dtype),
            jax.eval_shape(whole, params, stats, *first, key)[0],
        )
        parts = (jnp.arange(micro_batches), batches, carries)
        (sums, stats), carries = jax.lax.scan(body, (zeros, stats), parts)
        return sums, stats, jax.tree.map(lambda parts: jnp.concatenate(parts, axis=1), carries)

    return whole if micro_batches == 1 else in_parts


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    apply: Apply = apply_updates,
    *,
    micro_batches: int = 1,
    ema_decay: float = 0.0,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """(state, batch, learning rate, key) -> (next state, {"loss", "metric"}).

    Dropout draws from the key folded with the step, so a resumed run draws the same masks and no
    generator's state needs saving. The state is donated: do not use it after the call. On a mesh it
    lies as `state_shardings` says, before and after, and the batch as `batch_shardings` does.
    """
    gradients_of = make_gradients(graphdef, objective, micro_batches, mesh)

    def step(state: State, batch: Batch, rate: jax.Array, key: jax.Array | None):
        key = None if key is None else jax.random.fold_in(key, state["step"])
        (metrics, gradients), stats, carry = gradients_of(
            state["params"], state["stats"], batch, state.get("carry", ()), key
        )
        if mesh is not None:  # each device's part of the sums alone
            gradients = constrain(gradients, parameter_shardings(gradients, mesh))
        direction, slots = optimizer.update(gradients, state["optimizer"], state["params"])
        params = apply(state["params"], direction, jnp.asarray(rate))
        new = {"params": params, "stats": stats, "optimizer": slots, "step": state["step"] + 1}
        if "average" in state:
            new["average"] = jax.tree.map(
                lambda old, now: old + (1 - ema_decay) * (now - old), state["average"], params
            )
        new |= {"carry": carry} if carry else {}
        if mesh is not None:
            new = constrain(new, state_shardings(new, mesh))
            metrics = constrain(metrics, dict.fromkeys(metrics, replicated(mesh)))
        return new, metrics

    return jax.jit(step, donate_argnums=0)


def make_predict(
    graphdef: nnx.GraphDef, inputs: tuple[str, ...], mesh: Mesh | None = None
) -> Callable[[State, Batch, Carry], tuple[jax.Array, Carry]]:
    """(state, batch, carry) -> (outputs in evaluation mode, float32 at least, carry).

    On a mesh every device has the outputs of all rows.
    """

    def predict(state: State, batch: Batch, carry: Carry) -> tuple[jax.Array, Carry]:
        model = merge(graphdef, parameters(state), state["stats"])
        model = gather_where_read(model, mesh)
        outputs, carry = call(model, [batch[name] for name in inputs], batch, carry)
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        if mesh is not None:
            outputs = constrain(outputs, replicated(mesh))
        return outputs, carry

    return jax.jit(predict)
