"""The project's own two models of a config as a pair, with a random batch.

>>> pair = make_pair("mine", GPT2Config(), Recipe())
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import jaxmodels.losses
import jaxmodels.models
import torchref.losses
import torchref.models
from jaxmodels.shared.configs import (
    BERTConfig,
    CharRNNConfig,
    ForecasterConfig,
    GPT2Config,
    ImageModelConfig,
    LanguageModelConfig,
    MLPConfig,
    ModelConfig,
    TextClassifierConfig,
)
from jaxmodels.shared.targets import IGNORED
from parity_tests.pairs import Arrays, Pair, Recipe


def make_pair(
    name: str, config: ModelConfig, recipe: Recipe, *, batch_size: int = 20, seed: int = 0
) -> Pair:
    """The project's own pair for a config, with a random batch."""
    rng = np.random.default_rng(seed)

    def make_flax(seed: int):
        return jaxmodels.models.create(config, seed=seed)

    def make_torch(seed: int):
        return torchref.models.create(config, seed=seed)

    pair = Pair(
        name,
        make_flax(seed),
        make_torch(seed),
        {},
        flax_recipe=recipe,
        torch_recipe=recipe,
        fresh=(make_flax, make_torch),
    )
    if isinstance(config, TextClassifierConfig):
        return replace(
            pair,
            batch=_padded_texts(config, rng, batch_size),
            flax_call=lambda m, batch, train: m(batch["tokens"], batch["lengths"], train=train),
            torch_call=lambda m, batch: m(batch["tokens"], batch["lengths"]),
        )
    if isinstance(config, CharRNNConfig):
        return replace(
            pair,
            batch=_running_text(config, rng, batch_size),
            flax_call=lambda m, batch, train: m(batch["tokens"], train=train)[0],
            torch_call=lambda m, batch: m(batch["tokens"])[0],
        )
    if isinstance(config, GPT2Config):
        return replace(
            pair,
            batch=_running_text(config, rng, batch_size),
            flax_call=_call_gpt2,
            torch_call=_call_gpt2,
        )
    if isinstance(config, BERTConfig):
        return replace(
            pair,
            batch=_masked_texts(config, rng, batch_size),
            flax_call=_call_bert,
            torch_call=_call_bert,
        )
    if isinstance(config, ForecasterConfig):
        return _forecasts(pair, config, rng, batch_size)
    if isinstance(config, MLPConfig):
        return _rows(pair, config, rng, batch_size)
    return replace(pair, batch=_images(config, rng, batch_size))


def _images(config: ImageModelConfig, rng: np.random.Generator, count: int) -> Arrays:
    """Images whose pixels have mean 0.5 and deviation 1."""
    shape = (count, config.image_size, config.image_size, config.in_channels)
    return {
        "image": (0.5 + rng.normal(size=shape)).astype(np.float32),
        "label": rng.integers(config.num_classes, size=count).astype(np.int32),
    }


def _padded_texts(config: TextClassifierConfig, rng: np.random.Generator, count: int) -> Arrays:
    """Texts of 1 to 8 tokens, padded by 0 to 9, so that no text fills its row."""
    lengths = rng.integers(1, 9, size=count).astype(np.int32)
    tokens = rng.integers(1, config.vocabulary_size, size=(count, 9)).astype(np.int32)
    return {
        "tokens": np.where(np.arange(9) < lengths[:, None], tokens, 0).astype(np.int32),
        "lengths": lengths,
        "label": rng.integers(config.num_classes, size=count).astype(np.int32),
    }


def _running_text(config: LanguageModelConfig, rng: np.random.Generator, count: int) -> Arrays:
    """Texts of 8 tokens, and the same one token on."""
    tokens = rng.integers(config.vocabulary_size, size=(count, 9)).astype(np.int32)
    return {"tokens": tokens[:, :-1], "label": tokens[:, 1:]}


def _masked_texts(config: BERTConfig, rng: np.random.Generator, count: int) -> Arrays:
    """Texts of 1 to 8 tokens padded to 9, and what the head is to say of them."""
    lengths = rng.integers(1, 9, size=(count, 1))
    tokens = rng.integers(config.vocabulary_size, size=(count, 9))
    tokens[tokens == config.padding_id] += 1
    mask = np.arange(9) < lengths
    batch = {
        "input_ids": np.where(mask, tokens, config.padding_id),
        "attention_mask": mask,
        "token_type_ids": rng.integers(max(1, config.type_vocabulary_size), size=(count, 9)),
    }
    targets, shape = config.num_classes, (count, 9)
    if config.head == "sequence-classification":
        shape = (count,)
    elif config.head == "masked-lm":
        targets = config.vocabulary_size
    batch["label"] = rng.integers(targets, size=shape)
    if shape != (count,):
        batch["label"] = np.where(mask, batch["label"], IGNORED)
    return {name: value.astype(np.int32) for name, value in batch.items()}


def _call_bert(model: Any, batch: dict[str, Any], *train: bool) -> Any:
    options = {"train": train[0]} if train else {}
    types = batch["token_type_ids"]
    output = model(batch["input_ids"], batch["attention_mask"], token_type_ids=types, **options)
    return output.last_hidden_state if model.config.head == "none" else output.logits


def _call_gpt2(model: Any, batch: dict[str, Any], *train: bool) -> Any:
    output = model(batch["tokens"], **({"train": train[0]} if train else {}))
    return output.last_hidden_state if model.config.head == "none" else output.logits


def _forecasts(pair: Pair, config: ForecasterConfig, rng: np.random.Generator, count: int) -> Pair:
    """The pair with random windows and targets, trained by the pinball loss on either side."""
    window = getattr(config, "window", 9)  # a recurrent model takes any length
    inputs = rng.normal(size=(count, window, config.num_features))
    targets = rng.normal(size=(count, config.num_horizons))
    flax_loss, torch_loss = (
        partial(side.pinball_loss, quantiles=config.quantiles)
        for side in (jaxmodels.losses, torchref.losses)
    )
    return replace(
        pair,
        batch={"inputs": inputs.astype(np.float32), "label": targets.astype(np.float32)},
        flax_recipe=replace(pair.flax_recipe, loss=flax_loss),
        torch_recipe=replace(pair.torch_recipe, loss=torch_loss),
        flax_call=lambda m, batch, train: m(batch["inputs"], train=train),
        torch_call=lambda m, batch: m(batch["inputs"]),
    )


def _rows(pair: Pair, config: MLPConfig, rng: np.random.Generator, count: int) -> Pair:
    """The pair with random rows and targets, trained by half the squared error on either side."""
    inputs, targets = rng.normal(size=(count, config.num_features)), rng.normal(size=count)
    return replace(
        pair,
        batch={"inputs": inputs.astype(np.float32), "label": targets.astype(np.float32)},
        flax_recipe=replace(pair.flax_recipe, loss=jaxmodels.losses.half_squared_error),
        torch_recipe=replace(pair.torch_recipe, loss=torchref.losses.half_squared_error),
        flax_call=lambda m, batch, train: m(batch["inputs"], train=train),
        torch_call=lambda m, batch: m(batch["inputs"]),
    )
