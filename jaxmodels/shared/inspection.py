"""A model layer by layer, as `jaxmodels.inspection` and `torchref.inspection` find it.

Multiply-accumulates (MACs) are those of convolutions and matrix products, padding included; what is
added, normalised or looked up counts as none. Half the FLOPs that others quote.

>>> print(layer_table(jaxmodels.inspection.layers(model, images)))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A module with weights or products of its own; "" is the whole model's own part.

    Shapes are the framework's: inputs and output of the layer's first call, of its arrays alone.
    `activations` are the numbers that all its calls put out, `macs` what they multiply.
    """

    name: str
    kind: str
    inputs: tuple[Shape, ...]
    output: Shape
    weights: tuple[Shape, ...]
    parameters: int
    macs: int
    activations: int


def layer_table(layers: Sequence[Layer]) -> str:
    """A line a layer and one of sums, in aligned columns."""
    header = ("layer", "kind", "input", "output", "weights", "parameters", "MACs", "MiB out")
    lines = [
        (
            layer.name or "(model)",
            layer.kind,
            _shapes(layer.inputs),
            _shapes([layer.output]),
            _shapes(layer.weights),
            f"{layer.parameters:,}",
            f"{layer.macs:,}",
            _mebibytes(layer.activations),
        )
        for layer in layers
    ]
    parameters, macs, activations = totals(layers)
    lines.append(("sum", "", "", "", "", f"{parameters:,}", f"{macs:,}", _mebibytes(activations)))
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in (header, *lines))


def totals(layers: Sequence[Layer]) -> tuple[int, int, int]:
    """(parameters, MACs, activations) of the whole model."""
    return (
        sum(layer.parameters for layer in layers),
        sum(layer.macs for layer in layers),
        sum(layer.activations for layer in layers),
    )


def layer_rows(layers: Sequence[Layer]) -> list[list[str]]:
    """The layers for a CSV file, the header first; shapes as in 3x32x32."""
    cells = {"inputs": _shapes, "weights": _shapes, "output": lambda shape: _shapes([shape])}
    names = [field.name for field in fields(Layer)]
    return [names] + [
        [cells.get(name, str)(getattr(layer, name)) for name in names] for layer in layers
    ]


def without_weights(fresh: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with every matrix, kernel and table at 0; scales and biases as they are."""
    return {name: np.zeros_like(v) if v.ndim > 1 else v for name, v in fresh.items()}


def what_moves(gradients: Mapping[str, np.ndarray]) -> str:
    """Which parameters a step would move, by their gradients."""
    moved = [name for name, value in gradients.items() if np.any(value)]
    named = f": {', '.join(moved)}" if 0 < len(moved) < min(5, len(gradients)) else ""
    return f"{len(moved)} of {len(gradients)} parameters get a gradient{named}"


def _shapes(shapes: Sequence[Shape]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def _mebibytes(numbers: int) -> str:
    """Of float32."""
    return f"{numbers * 4 / 2**20:.3f}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.ljust(width) if column < 5 else text.rjust(width)
        for column, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
