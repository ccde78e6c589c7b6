"""A page that shows where a classifier's first token looks: each layer and head, token by token.

>>> write_attention_page(Path("out.html"), "runs/first", [AttendedText("positive 0.98", tokens, w)])
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmodels.shared.files import replaced

_STYLE = """
:root { color-scheme: light dark; --ink: 37 99 235; }
body { font: 15px/1.7 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; font-weight: 600; }
.row { display: flex; gap: .8rem; border-top: 1px solid rgb(128 128 128 / .3); padding: .2rem 0; }
.name { flex: 0 0 5.5rem; color: gray; }
.row span span { border-radius: 3px; padding: 0 .15em; margin-right: .1em;
  background: rgb(var(--ink) / calc(var(--w) * .75)); }
"""


@dataclass(frozen=True)
class AttendedText:
    """`title` says what was predicted; tokens: T; weights: (layers, heads, T), each row sums to 1.

    `weights` are what the first token attends to.
    """

    title: str
    tokens: Sequence[str]
    weights: np.ndarray


def write_attention_page(path: Path, title: str, texts: Sequence[AttendedText]) -> None:
    """Writes one HTML file that needs no other."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Attention: {html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>Attention from the first token: {html.escape(title)}</h1>",
        "<p class='key'>The colour is a token's share of the row's largest, the ends' tokens aside;"
        " a token's tooltip has its weight.</p>",
        *map(_text, texts),
        "</html>\n",
    ]
    with replaced(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _text(text: AttendedText) -> str:
    layers = [
        f"<details><summary>layer {number}</summary>"
        + _row("mean", text.tokens, layer.mean(axis=0))
        + "".join(_row(f"head {head}", text.tokens, row) for head, row in enumerate(layer, 1))
        + "</details>"
        for number, layer in enumerate(text.weights, 1)
    ]
    mean = _row("all heads", text.tokens, text.weights.mean(axis=(0, 1)))
    return f"<section><h2>{html.escape(text.title)}</h2>{mean}{''.join(layers)}</section>"


def _row(name: str, tokens: Sequence[str], weights: np.ndarray) -> str:
    # The tokens at the ends often take nearly all: beside them no word would show.
    largest = max(float(weights[1:-1].max(initial=0)), 1e-9)
    spans = " ".join(
        f"<span style='--w:{min(weight / largest, 1):.2f}' title='{weight:.4f}'>"
        f"{html.escape(token)}</span>"
        for token, weight in zip(tokens, weights.tolist(), strict=True)
    )
    return f"<div class='row'><span class='name'>{name}</span><span>{spans}</span></div>"
