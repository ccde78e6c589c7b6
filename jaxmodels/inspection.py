"""A Flax model layer by layer, by tracing alone: nothing is computed, no weights are needed.

>>> print(layer_table(layers(model, images)))
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.interpreters import partial_eval

from jaxmodels import state
from jaxmodels.engine import initial_carry, make_model
from jaxmodels.modules import named_modules, replace_call
from jaxmodels.objective import make_objective
from jaxmodels.shared.inspection import Layer, Shape
from jaxmodels.shared.loop import Start
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import to_torch_layout
from jaxmodels.train import make_gradients

_MARK = "layer:"  # before a layer's path in the names of its operations


def layers(model: nnx.Module, *inputs: Any) -> list[Layer]:
    """The layers of `model(*inputs)` in evaluation mode, in order of execution.

    `model` may be one of `nnx.eval_shape`, and `inputs` arrays or `jax.ShapeDtypeStruct`s. MACs are
    counted in the traced program, operation by operation, a loop's as often as it turns.
    """
    graphdef, weights = nnx.split(model)
    calls: dict[str, tuple[tuple[Shape, ...], Shape]] = {}
    activations: Counter[str] = Counter()

    def run(weights: Any, *inputs: Any) -> None:
        model = nnx.merge(graphdef, weights)
        for name, module in named_modules(model):
            if callable(module):
                _record(name, module, calls, activations)
        model(*inputs)

    macs = _macs_by_layer(jax.make_jaxpr(run)(weights, *inputs).jaxpr)
    rows, modules = [], dict(named_modules(model))
    for name in calls:  # in the order of their first end
        parameters = [v for v in vars(modules[name]).values() if isinstance(v, nnx.Param)]
        if parameters or macs[name]:
            shapes = [tuple(value.shape) for value in parameters]
            kind, count = type(modules[name]).__name__, sum(math.prod(s) for s in shapes)
            row = (*calls[name], tuple(shapes), count, macs[name], activations[name])
            rows.append(Layer(name, kind, *row))
    return rows


def layers_of_task(task: Task, batch: dict[str, np.ndarray]) -> list[Layer]:
    """The layers of a task's model for the batch, as it is when its training starts."""
    inputs = [batch[name] for name in make_objective(task).inputs]
    model = make_model(task)
    carry = initial_carry(model)(len(inputs[0]))
    return layers(model, *inputs, *([carry] if carry else []))


def gradients(
    task: Task, batch: dict[str, np.ndarray], start: Start | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, their gradients) of the task's model before its first step, by torch's names."""
    model, objective = make_model(task, start), make_objective(task)
    graphdef, params, stats = state.split(model)
    names = (*objective.inputs, objective.target, "reset")
    inputs = {name: jnp.asarray(batch[name]) for name in names if name in batch}
    carry = initial_carry(model)(len(inputs[objective.target]))
    key = jax.random.key(task.training.seed)
    run = jax.jit(make_gradients(graphdef, objective, task.training.micro_batches))
    (_, found), _, _ = run(params, stats, inputs, carry, key)
    weights, found = (
        to_torch_layout({name: np.asarray(value) for name, value in leaves.items()})
        for leaves in (params, found)
    )
    return weights, found


def _record(
    name: str,
    module: nnx.Module,
    calls: dict[str, tuple[tuple[Shape, ...], Shape]],
    activations: Counter[str],
) -> None:
    original = type(module).__call__  # type: ignore[attr-defined]

    def call(self: Any, *args: Any, **options: Any) -> Any:
        with jax.named_scope(_MARK + name):
            output = original(self, *args, **options)
        found = _shapes(output)
        calls.setdefault(name, (_shapes(args), found[0] if found else ()))
        activations[name] += math.prod(found[0]) if found else 0
        return output

    replace_call(module, call)


def _shapes(value: Any) -> tuple[Shape, ...]:
    """Of the arrays in arguments, a tuple, or an output object; what is no array is passed over."""
    found: list[Shape] = []
    for leaf in jax.tree.leaves(value):
        if hasattr(leaf, "shape"):
            found.append(tuple(leaf.shape))
        else:  # an object that JAX does not look into, or a number
            found.extend(_shapes(list(getattr(leaf, "__dict__", {}).values())))
    return tuple(found)


def count_macs(program: Any) -> int:
    """The multiply-accumulates of a jaxpr's products and convolutions, a loop's each time it turns.

    Of branches the last counts, as of a `platform_dependent`'s its default does. What nobody uses
    does not, nor what a strided convolution's gradient multiplies with the zeros between its
    inputs.
    """
    used, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    return sum(macs for _, macs in _operations(used, "", 1))


def _macs_by_layer(program: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, macs in _operations(program, "", 1):
        found[name] += macs
    return found


def _operations(program: Any, layer: str, times: int) -> Iterator[tuple[str, int]]:
    """(layer, MACs) of every product and convolution of a jaxpr and of those within it."""
    for equation in program.eqns:
        # Inside another jaxpr the names begin anew; what has none belongs to its caller.
        marks = [p for p in str(equation.source_info.name_stack).split("/") if _MARK in p]
        own = marks[-1].partition(_MARK)[2].rstrip(")") if marks else layer
        shapes = [tuple(operand.aval.shape) for operand in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            length = math.prod([shapes[0][axis] for axis in contracted])
            yield own, times * math.prod(shapes[2]) * length
        elif equation.primitive.name == "conv_general_dilated":
            out_channels = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
            zeros = math.prod(equation.params["lhs_dilation"])
            macs = math.prod(shapes[2]) * math.prod(shapes[1]) // out_channels // zeros
            yield own, times * macs
        elif equation.primitive.name == "cond":
            yield from _operations(equation.params["branches"][-1].jaxpr, own, times)
            continue
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for parameter in equation.params.values():
            for part in parameter if isinstance(parameter, tuple | list) else (parameter,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _operations(inner, own, times * turns)
