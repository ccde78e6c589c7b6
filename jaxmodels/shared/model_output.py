"""What the Hub's architectures return, in either framework.

>>> model(input_ids, attention_mask).logits  # (B, T, V) of GPT-2, (B, num_classes) of a classifier
"""

from typing import Any, NamedTuple


class ModelOutput(NamedTuple):
    """Arrays of the framework that computed them; what a model has not, or was not asked for, None.

    `attentions` has a layer's weights (B, num_heads, T, S) each, `cache` the keys and values of all
    steps so far (see `generate`).
    """

    logits: Any = None
    last_hidden_state: Any = None  # (B, T, C) of a transformer, (B, H, W, C) of a ResNet
    pooler_output: Any = None  # (B, C)
    attentions: tuple[Any, ...] | None = None
    cache: Any = None


def logits_of(output: Any) -> Any:
    """The logits of a `ModelOutput`; other models return theirs bare."""
    return output.logits if isinstance(output, ModelOutput) else output
