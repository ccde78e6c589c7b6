"""Pairs of our Flax models and transformers' own torch classes.

>>> climb(hub_pair("bert", config), ["forward", "gradient", "step"])
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxmodels.shared.configs import BERTConfig, ImageNetResNetConfig, ModelConfig
from jaxmodels.shared.hub.folder import config_content, hub_name, is_transposed
from jaxmodels.shared.weights import WeightRules
from parity_tests.own_pairs import make_pair
from parity_tests.pairs import Pair, Recipe

# Copies of other tensors, which transformers lists beside them.
_COPIES = ("lm_head.weight", "decoder.weight", "decoder.bias", "vocab_projector.weight")

_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")


@dataclass(frozen=True)
class HubRules(WeightRules):
    """How our Flax leaves correspond to the tensors of transformers' torch class."""

    config: ModelConfig | None = None
    ignored: tuple[str, ...] = ("num_batches_tracked", "position_ids", *_COPIES)

    def torch_name(self, flax_name: str) -> str:
        assert self.config is not None
        return hub_name(self.config, WeightRules().torch_name(flax_name))

    def module_name(self, path: str) -> str:
        """A linear layer's or norm's; what the Hub cuts otherwise has no counterpart.

        Nor have positions: theirs put out (1, T, C), ours (T, C).
        """
        assert self.config is not None
        try:
            if path == "position_embedding":
                raise KeyError(path)
            return hub_name(self.config, f"{path}.weight").removesuffix(".weight")
        except (KeyError, StopIteration):
            return f"only in ours: {path}"

    def axes(self, flax_name: str, rank: int) -> tuple[int, ...]:
        axes = super().axes(flax_name, rank)
        assert self.config is not None
        return axes[::-1] if is_transposed(self.config, self.torch_name(flax_name)) else axes


def hub_model(config: ModelConfig) -> Any:
    """transformers' torch model of a config, freshly drawn, with attention that is not fused."""
    import transformers

    content = json.loads(json.dumps(config_content(config)))
    kind = getattr(transformers, content["architectures"][0])
    hub_config = kind.config_class(**content, attn_implementation="eager")
    return kind(hub_config)


def load_hub_model(folder: Path) -> Any:
    """transformers' torch model of a folder, in evaluation mode.

    Raises:
        ValueError: it draws tensors anew, or leaves some unused; they are named.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    content = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, content["architectures"][0])
    model, report = kind.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    wrong = {part: sorted(report[part]) for part in _FAULTS if report[part]}
    if wrong:
        raise ValueError(f"{folder}: transformers loads it with {wrong}")
    return model.eval()


def hub_pair(
    name: str, config: ModelConfig, recipe: Recipe | None = None, *, batch_size: int = 20
) -> Pair:
    """Our Flax model and transformers' torch model of a config, which must have no dropout.

    transformers' dropout layers are others than ours, so masks cannot be shared.
    """
    pair = make_pair(name, config, recipe or Recipe(), batch_size=batch_size)
    return replace(
        pair,
        torch=hub_model(config),
        rules=HubRules(config=config),
        torch_call=partial(_call, config),
        fresh=None,
    )


def _call(config: ModelConfig, model: Any, batch: dict[str, Any]) -> Any:
    if isinstance(config, ImageNetResNetConfig):
        output = model(batch["image"].permute(0, 3, 1, 2))
    elif isinstance(config, BERTConfig):
        types = {"token_type_ids": batch["token_type_ids"]} if config.type_vocabulary_size else {}
        output = model(batch["input_ids"], batch["attention_mask"], **types)
    else:
        output = model(batch["tokens"])
    bare = getattr(config, "head", "") == "none"
    return output.last_hidden_state if bare else output.logits
