"""The parity ladder: rungs that anyone can climb with a pair of models.

>>> report = compare(flax_model, torch_model, {"image": images, "label": labels})
>>> report.ok, report.verdicts[0].where

Each rung is proved in float64 (relative error of every tensor, by its norm) and judged in float32:
each framework's distance from the float64 truth, over the other's. The bounds are in `BOUNDS`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from scipy.stats import binom
from torch import nn

from jaxmodels import state
from jaxmodels.shared.weights import (
    WeightRules,
    check_match,
    to_flax_layout,
    to_torch_layout,
    without_ignored,
)
from parity_tests.pairs import (
    Arrays,
    Dtype,
    Observation,
    Pair,
    Recipe,
    call_flax,
    call_torch,
    hot_leaves,
    observe_forward,
    observe_gradient,
    observe_steps,
)
from parity_tests.report import environment
from parity_tests.results import LeafError, Report, Verdict
from torchref.weights import load_tensors, read_tensors

BOUNDS: dict[tuple[str, str], float] = {
    ("weights", "float32"): 0,
    ("forward", "float64"): 1e-12,
    ("gradient", "float64"): 1e-10,
    ("step", "float64"): 1e-9,
    ("forward", "float32"): 4,
    ("gradient", "float32"): 4,
    ("step", "float32"): 4,
    ("curve", "float32"): 4,
    ("text", "float64"): 0,
    ("text", "float32"): 0,
    ("resume", "float32"): 0,
    ("engines", "float32"): 0,
    ("engines", "float64"): 1e-7,
    ("mesh", "float64"): 1e-12,
    ("mesh", "float32"): 4,
}

CLAIMS: dict[str, str] = {
    "weights": "every tensor makes the trip Flax -> torch -> Flax, and back, bit for bit; nothing "
    "is left over; fresh models are drawn from the same distributions",
    "forward": "every block's output and the logits agree, in training and evaluation mode",
    "gradient": "the loss and its gradient by every parameter agree",
    "step": "parameters, optimizer slots and BatchNorm statistics agree after ten steps",
    "curve": "step after step on the same batches, Flax's loss stays as close to torch's as "
    "torch stays to itself when its weights move by one unit in the last place or it uses float64",
    "metric": "the final accuracies or errors over several seeds are equivalent (paired TOST, 90% "
    "interval)",
    "text": "greedy, sampled (from the same noise) and beam-searched texts are the same, token by "
    "token; in float32 a difference counts where the margin of the choice exceeds twice what "
    "rounding may move the logits apart (five times torch's own distance from float64)",
    "resume": "a run stopped and resumed is bit for bit the run that was not",
    "engines": "plain torch, Lightning and Accelerate train the same bits; torch-xla the same "
    "numbers in float64, where it is installed",
    "mesh": "Flax on 1 to 8 devices, cut along data, fsdp, tensor and sequence, computes what one "
    "device does: loss, gradients and ten steps, dropout on, with a small model of the task's kind",
}

OBSERVERS: dict[str, Callable[[Pair, list[Arrays], Dtype], list[Observation]]] = {
    "forward": observe_forward,
    "gradient": observe_gradient,
    "step": observe_steps,
}

# Errors below two units in the last place of float32 count as equal: their ratio is luck.
FLOAT32_FLOOR = 2 * float(np.finfo(np.float32).eps)

# A tensor this small beside the others of its module is the rounding of an exact zero in float64.
VANISHING = 1e-12

# Of a float32 verdict, one leaf and one side: how surely luck alone does not exceed the bound.
CONFIDENCE = 0.996


def compare(
    flax_model: nnx.Module,
    torch_model: nn.Module,
    batch: Mapping[str, np.ndarray],
    *,
    weight_rules: WeightRules | None = None,
    name: str = "pair",
    rungs: Iterable[str] = ("weights", "forward", "gradient", "step"),
    recipe: Recipe | None = None,
    flax_call: Callable[[nnx.Module, dict[str, Any], bool], jax.Array] = call_flax,
    torch_call: Callable[[nn.Module, dict[str, Any]], torch.Tensor] = call_torch,
    hot: bool = True,
) -> Report:
    """Climbs the ladder with any Flax NNX model and its torch twin.

    Args:
        batch: numpy arrays; "label" (B,) integers goes to the loss, the rest is for the calls.
        weight_rules: how leaves correspond, where names or layouts are not this project's.
        recipe: optimizer, learning rate and loss of the step rung [SGD with momentum at 0.01].
        flax_call: (model, batch, train) -> logits [model(batch["image"], train=train)].
        torch_call: (model, batch) -> logits [model(batch["image"])]; its mode is set for it.
        hot: draw weights at which differences show; False compares at Flax's own weights.

    Raises:
        ValueError: an unknown rung, or a model that holds more than parameters and statistics.
    """
    recipe = recipe or Recipe()
    pair = Pair(
        name,
        flax_model,
        torch_model,
        dict(batch),
        weight_rules or WeightRules(),
        recipe,
        recipe,
        flax_call,
        torch_call,
    )
    return Report(
        command=f"compare({name!r})",
        environment=environment(),
        verdicts=tuple(climb(pair, rungs, hot=hot)),
        rung_claims=CLAIMS,
    )


def climb(pair: Pair, rungs: Iterable[str], *, hot: bool = True, draws: int = 16) -> list[Verdict]:
    """The verdicts of the rungs that need no data set, in order.

    float32 is judged over `draws` sets of hot weights, for one draw's rounding is luck.
    """
    verdicts = []
    for rung in rungs:
        if rung == "weights":
            verdicts.append(weights_rung(pair))
        elif rung in OBSERVERS:
            verdicts += observe_rung(pair, rung, hot=hot, draws=draws)
        else:
            raise ValueError(
                f"rung {rung!r} is unknown here; expected weights, {', '.join(OBSERVERS)}"
            )
    return verdicts


def weights_rung(pair: Pair) -> Verdict:
    """Flax -> torch -> Flax and torch -> Flax -> torch, and the scale of fresh weights."""
    leaves = {k: v.astype(np.float32) for k, v in hot_leaves(pair, 0).items()}
    differing: list[LeafError] = []
    try:
        load_tensors(pair.torch, to_torch_layout(leaves, pair.rules), pair.rules)
        tensors = read_tensors(pair.torch)
        back = to_flax_layout(tensors, pair.shapes(), pair.rules)
        again = to_torch_layout(back, pair.rules)
        check_match(
            *({k: v.shape for k, v in d.items()} for d in (without_ignored(tensors), again))
        )
        differing = [_bits_differ(name, back[name], leaves[name]) for name in leaves]
        differing += [_bits_differ(name, again[name], tensors[name]) for name in again]
        if pair.fresh:
            differing += _compare_initialisers(pair)
    except ValueError as error:
        lines = str(error).splitlines()
        return _verdict(
            pair, "weights", "float32", [LeafError(line.strip(), math.inf) for line in lines[-1:]]
        )
    count = sum(leaf.value for leaf in differing)
    worst = max(differing, key=lambda leaf: leaf.value)
    where = worst.name if count else f"all {len(leaves)} tensors"
    first = next((leaf.name for leaf in differing if leaf.value), "")
    return Verdict(pair.name, "weights", "float32", count, 0, where, first, leaves=tuple(differing))


def observe_rung(pair: Pair, rung: str, *, hot: bool, draws: int) -> list[Verdict]:
    """Both frameworks in both precisions: the float64 and the float32 verdict."""
    observe = OBSERVERS[rung]
    weights = [hot_leaves(pair, n) for n in range(draws)] if hot else [_own_leaves(pair)]
    try:
        in64, in32 = observe(pair, weights, "float64"), observe(pair, weights, "float32")
    except (ValueError, TypeError, RuntimeError) as error:
        failure = [LeafError(str(error).strip().splitlines()[0], math.inf)]
        return [_verdict(pair, rung, dtype, failure) for dtype in ("float64", "float32")]
    names = list(in64[0][1])
    extra = [n for n in in64[0][0] if n not in in64[0][1]]
    truths = [truth for _, truth in in64]
    norms = [module_norms(truth) for truth in truths]

    def errors(observed: list[Observation], side: int, name: str) -> list[float]:
        found = (both[side].get(name) for both in observed)
        return [
            relative_error(value, truth[name], of_modules[_module(name)])
            for value, truth, of_modules in zip(found, truths, norms, strict=True)
        ]

    leaves64 = [LeafError(n, max(errors(in64, 0, n))) for n in names]
    leaves64 += [LeafError(f"only in Flax: {n}", math.inf) for n in extra]
    leaves32 = [LeafError(n, error_ratio(errors(in32, 0, n), errors(in32, 1, n))) for n in names]
    vanishing = [
        n
        for n in names
        if all(_vanishes(t[n], norm[_module(n)]) for t, norm in zip(truths, norms, strict=True))
    ]
    note = f"zero but for rounding: {', '.join(vanishing)}" if vanishing else ""
    return [
        _verdict(pair, rung, "float64", leaves64, note),
        _verdict(pair, rung, "float32", leaves32, note),
    ]


def module_norms(arrays: Arrays) -> dict[str, float]:
    """By module the norm of all its tensors: of a gradient's key.kernel and key.bias together."""
    norms: dict[str, float] = {}
    for name, value in arrays.items():
        norm = float(np.linalg.norm(value))
        norms[_module(name)] = math.hypot(norms.get(_module(name), 0.0), norm)
    return norms


def relative_error(found: np.ndarray | None, truth: np.ndarray, module_norm: float = 0.0) -> float:
    """|found - truth| / |truth| by the Euclidean norm; infinite for a NaN or another shape.

    A truth that vanishes beside `module_norm`, the norm of all its module's tensors, has no digits
    to compare, and the error is relative to that norm. An attention's key bias adds the same to
    all scores of a query, which the softmax ignores: its gradient is zero, what either framework
    has for it is rounding, and its kernel's gradient is made of the same terms uncancelled.
    """
    if found is None or found.shape != truth.shape:
        return math.inf
    distance = float(np.linalg.norm(found - truth))
    norm = module_norm if _vanishes(truth, module_norm) else float(np.linalg.norm(truth))
    if not math.isfinite(distance):
        return math.inf
    if norm == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / norm


def error_ratio(first: list[float], second: list[float]) -> float:
    """By what factor one side's errors exceed the other's in the typical draw, at the least.

    The lower confidence limit of the median of first / second over the draws, or of second / first
    if that is larger. It is the limit of the sign test: of 16 draws the third lowest ratio, of 8
    the lowest. Errors are at least `FLOAT32_FLOOR`, and one that is no number makes it infinite.

    A limit and not the median itself, because in some draws a ReLU's or max-pool's input rounds to
    the other side and the one framework in which it does is off a thousandfold by luck alone. Luck
    takes either side; only worse arithmetic takes the same side in nearly every draw.
    """
    if math.isinf(max(*first, *second)):
        return math.inf
    ratios = sorted(
        max(a, FLOAT32_FLOOR) / max(b, FLOAT32_FLOOR) for a, b in zip(first, second, strict=True)
    )
    # At most `spared` of n ratios lie below their median with probability 1 - CONFIDENCE or less.
    spared = max(int(binom.ppf(1 - CONFIDENCE, len(ratios), 0.5)) - 1, 0)
    return max(ratios[spared], 1 / ratios[-1 - spared], 1.0)


def _module(name: str) -> str:
    """Of `momentum blocks.0.linear.bias`, what it has in common with the kernel's."""
    return name.rpartition(".")[0]


def _vanishes(truth: np.ndarray, module_norm: float) -> bool:
    return float(np.linalg.norm(truth)) < VANISHING * module_norm


def _verdict(pair: Pair, rung: str, dtype: str, leaves: list[LeafError], note: str = "") -> Verdict:
    bound = BOUNDS[rung, dtype]
    worst = max(leaves, key=lambda leaf: leaf.value)
    first = next((leaf.name for leaf in leaves if not leaf.value <= bound), "")
    return Verdict(
        pair.name, rung, dtype, worst.value, bound, worst.name, first, note, tuple(leaves)
    )


def _bits_differ(name: str, found: np.ndarray, expected: np.ndarray) -> LeafError:
    same = found.shape == expected.shape and found.tobytes() == expected.tobytes()
    return LeafError(name, 0.0 if same else 1.0)


def _own_leaves(pair: Pair) -> Arrays:
    return {name: value.astype(np.float64) for name, value in state.read_leaves(pair.flax).items()}


def _compare_initialisers(pair: Pair, *, draws: int = 8, sigmas: float = 6) -> list[LeafError]:
    """1 for each leaf whose fresh values differ in mean or scale by more than chance allows."""
    assert pair.fresh is not None
    make_flax, make_torch = pair.fresh
    flax = [state.read_leaves(make_flax(seed)) for seed in range(draws)]
    shapes = pair.shapes()
    torch_ = [
        to_flax_layout(read_tensors(make_torch(seed), pair.rules), shapes, pair.rules)
        for seed in range(draws)
    ]
    found = []
    for name in shapes:
        samples = [np.concatenate([d[name].ravel() for d in side]) for side in (flax, torch_)]
        count = samples[0].size
        scales = [float(np.sqrt(np.mean(np.square(s)))) for s in samples]
        pooled = max(scales)
        # The standard error of a normal sample's root mean square is scale / sqrt(2 count).
        scale_gap = abs(scales[0] - scales[1]) > sigmas * pooled / math.sqrt(count)
        mean_gap = abs(samples[0].mean() - samples[1].mean()) > sigmas * pooled * math.sqrt(
            2 / count
        )
        found.append(LeafError(f"fresh {name}", float(scale_gap or mean_gap)))
    return found
