"""A tiny pair for each model: sizes pairwise distinct, so that no wrong transpose fits.

`CASES` are for the tests and the audit; `task_pair` is a task's own model at its real size.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from torch import nn

import jaxmodels.frozen
import jaxmodels.lora
import jaxmodels.losses
import jaxmodels.models
import torchref.frozen
import torchref.lora
import torchref.losses
import torchref.models
from jaxmodels.models.attention import MultiHeadAttention
from jaxmodels.models.layers import BatchNorm
from jaxmodels.shared.configs import (
    BERTConfig,
    CharRNNConfig,
    CNNConfig,
    ForecasterConfig,
    GPT2Config,
    ImageModelConfig,
    ImageNetResNetConfig,
    LanguageModelConfig,
    LogisticRegressionConfig,
    MLPConfig,
    ModelConfig,
    RecurrentForecasterConfig,
    ResNetConfig,
    SimpleCNNConfig,
    TextClassifierConfig,
    TimeSeriesTransformerConfig,
)
from jaxmodels.shared.lora import LoRAConfig
from jaxmodels.shared.parameter_groups import layers_of
from jaxmodels.shared.schedules import ScheduleConfig
from jaxmodels.shared.targets import IGNORED
from jaxmodels.shared.tasks import OptimizerConfig, Task
from parity_tests.pairs import Arrays, Pair, Recipe
from torchref.models.attention import MultiHeadAttention as TorchMultiHeadAttention

# Larger rates make the trajectories themselves diverge: at 0.1 a gradient's float64 rounding has
# grown to 3e-10 after nine steps. The step rung therefore caps the rate, and keeps its bound.
STEP_RATE = {"sgd": 0.01, "proximal-sgd": 0.01, "adamw": 1e-3}

_LOGISTIC = LogisticRegressionConfig(
    image_size=6, in_channels=2, num_classes=7, initializer="he-normal"
)
_TWO_CONVOLUTIONS = SimpleCNNConfig(
    image_size=12, in_channels=2, num_classes=7, channels=(5, 6), hidden_dims=(11, 9)
)
_SIMPLECNN = replace(_TWO_CONVOLUTIONS, kernel_size=3, activation="swish", dropout_rate=0.3)
_SIMPLECNN_NORM = replace(_TWO_CONVOLUTIONS, kernel_size=5, batch_norm=True)
_CNN = CNNConfig(
    image_size=8,
    in_channels=2,
    num_classes=7,
    stage_channels=(4, 5),
    hidden_dim=9,
    activation="swish",
    dropout_rate=0.3,
    stage_dropout_rate=0.2,
)
_RESNET_A = ResNetConfig(
    depth=8, image_size=16, in_channels=3, num_classes=7, stage_channels=(4, 5, 6)
)
_RESNET_B = replace(_RESNET_A, shortcut="B")
# Odd sizes are rounded up on the way: 21 pixels, then 11, 6, 6 and 3.
_IMAGENET_BASIC = ImageNetResNetConfig(
    image_size=21,
    in_channels=3,
    num_classes=7,
    embedding_channels=4,
    stage_channels=(4, 5),  # the first block's shortcut is the identity, as in ResNet-18
    depths=(1, 2),
    block="basic",
)
_IMAGENET_BOTTLENECK = replace(
    _IMAGENET_BASIC, embedding_channels=5, stage_channels=(8, 12), block="bottleneck"
)
_TEXT_LSTM = TextClassifierConfig(
    vocabulary_size=17,
    num_classes=7,
    embedding_dim=5,
    hidden_dim=6,
    num_layers=2,
    bidirectional=True,
    dropout_rate=0.3,
)
_TEXT_GRU = replace(_TEXT_LSTM, cell="gru", bidirectional=False, pooling="last")
_CHAR_LSTM = CharRNNConfig(
    vocabulary_size=13, embedding_dim=5, hidden_dim=6, num_layers=2, dropout_rate=0.3
)
_CHAR_GRU = replace(_CHAR_LSTM, cell="gru")
_SERIES_LSTM = RecurrentForecasterConfig(
    num_features=3,
    num_horizons=2,
    quantiles=(0.1, 0.3, 0.5, 0.95),  # not symmetric, so that no two orders of them are one
    hidden_dim=5,
    num_layers=2,
    dropout_rate=0.3,
)
_SERIES_GRU = replace(_SERIES_LSTM, cell="gru", num_layers=1)
_GPT2 = GPT2Config(
    vocabulary_size=13,
    context_length=11,
    hidden_dim=15,
    num_layers=2,
    num_heads=3,
    mlp_dim=14,
    dropout_rate=0.3,
    attention_dropout_rate=0.2,
)
_BERT = BERTConfig(
    head="sequence-classification",
    num_classes=7,
    vocabulary_size=23,
    context_length=11,
    type_vocabulary_size=3,
    hidden_dim=15,
    num_layers=2,
    num_heads=5,
    mlp_dim=14,
    dropout_rate=0.3,
    attention_dropout_rate=0.2,
    classifier_dropout_rate=0.4,
)
_ROBERTA = replace(
    _BERT, family="roberta", head="token-classification", context_length=13, padding_id=1
)
_DISTILBERT = replace(
    _BERT, family="distilbert", head="masked-lm", type_vocabulary_size=0, layer_norm_epsilon=1e-5
)
_SERIES_PATCH = TimeSeriesTransformerConfig(
    num_features=3,
    window=25,
    num_horizons=2,
    quantiles=(0.1, 0.4, 0.5, 0.9),
    patch_length=7,
    patch_stride=5,
    hidden_dim=12,
    num_layers=2,
    num_heads=2,
    mlp_dim=11,
    dropout_rate=0.3,
    attention_dropout_rate=0.2,
)
_SERIES_PLAIN = replace(
    _SERIES_PATCH,
    window=9,
    patch_length=1,
    patch_stride=1,
    channel_independent=False,
    instance_norm=False,
)

_LINEAR = MLPConfig(num_features=7, initializer="lecun-normal")
_MLP = MLPConfig(
    num_features=7,
    hidden_dims=(6, 5),
    activation="gelu",
    dropout_rate=0.3,
    initializer="he-normal",
)

_SGD = OptimizerConfig(learning_rate=0.01, nesterov=True, weight_decay=5e-3)
_SGD_CLIPPED = replace(_SGD, clip_norm=0.7, nesterov=False)
_SGD_L1 = replace(_SGD, clip_norm=0.7, l1=1e-3, decay_mask="all")
_PROXIMAL = replace(_SGD, name="proximal-sgd", l1=0.02)
_ADAMW = OptimizerConfig(
    name="adamw", learning_rate=1e-3, weight_decay=0.05, clip_norm=0.5, l1=1e-3
)

_STEP = ScheduleConfig(name="step")
_COSINE = ScheduleConfig(name="cosine", warmup_fraction=0.2)
_ONE_CYCLE = ScheduleConfig(name="one-cycle", warmup_fraction=0.3)

# Each case's model, optimizer, schedule and label smoothing.
_SETTINGS: dict[str, tuple[ModelConfig, OptimizerConfig, ScheduleConfig, float]] = {
    "logistic": (_LOGISTIC, _SGD_L1, _STEP, 0.0),
    "logistic-adamw": (_LOGISTIC, _ADAMW, _ONE_CYCLE, 0.1),
    "simplecnn": (_SIMPLECNN, _ADAMW, _COSINE, 0.1),
    "simplecnn-norm": (_SIMPLECNN_NORM, _ADAMW, _ONE_CYCLE, 0.0),
    "cnn": (_CNN, _SGD_CLIPPED, _ONE_CYCLE, 0.1),
    "resnet-a": (_RESNET_A, _SGD, _ONE_CYCLE, 0.0),
    "resnet-b": (_RESNET_B, _SGD, _ONE_CYCLE, 0.1),
    "imagenet-resnet-basic": (_IMAGENET_BASIC, _SGD, _COSINE, 0.1),
    "imagenet-resnet-bottleneck": (_IMAGENET_BOTTLENECK, _ADAMW, _ONE_CYCLE, 0.0),
    "text-lstm": (_TEXT_LSTM, _ADAMW, _COSINE, 0.0),
    "text-gru": (_TEXT_GRU, _SGD_CLIPPED, _STEP, 0.1),
    "char-lstm": (_CHAR_LSTM, _SGD, _COSINE, 0.0),
    "char-gru": (_CHAR_GRU, _ADAMW, _ONE_CYCLE, 0.0),
    "series-lstm": (_SERIES_LSTM, _ADAMW, _COSINE, 0.0),
    "series-gru": (_SERIES_GRU, _SGD_CLIPPED, _ONE_CYCLE, 0.0),
    "gpt2": (_GPT2, _ADAMW, _COSINE, 0.0),
    "bert": (_BERT, _ADAMW, _ONE_CYCLE, 0.1),
    "roberta": (_ROBERTA, _SGD_CLIPPED, _COSINE, 0.0),
    "distilbert": (_DISTILBERT, _ADAMW, _COSINE, 0.0),
    "series-plain": (_SERIES_PLAIN, _SGD_CLIPPED, _ONE_CYCLE, 0.0),
    "series-patch": (_SERIES_PATCH, _ADAMW, _COSINE, 0.0),
    "linear-proximal": (_LINEAR, _PROXIMAL, _STEP, 0.0),
    "mlp": (_MLP, _ADAMW, _COSINE, 0.0),
}

# Each case's base and its adapters.
_ADAPTED: dict[str, tuple[str, LoRAConfig]] = {
    "gpt2-lora": (
        "gpt2",
        LoRAConfig(4, 6.0, 0.25, (r"attention\.(query_key_value|output)$", r"linear[12]$")),
    ),
    "bert-lora": (
        "bert",
        LoRAConfig(3, 5.0, 0.25, (r"attention\.(query|value)$", "^pooler$"), ("^classifier$",)),
    ),
}

# Each case's base, the decay of its rates by layer, and what is frozen of it.
_LAYERED: dict[str, tuple[str, float, tuple[str, ...]]] = {
    "bert-layers": ("bert", 0.6, ("^token_embedding", "norm2")),
    "resnet-layers": ("resnet-b", 0.7, (r"^stem\.", r"^blocks\.0\.convnorm1")),
}


def config_of(case: str) -> ModelConfig:
    """The config of a case's model."""
    return _SETTINGS[case][0]


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


def _case(name: str) -> Pair:
    config, optimizer, schedule, smoothing = _SETTINGS[name]
    return make_pair(name, config, Recipe.of(optimizer, schedule, smoothing))


def _lora_case(name: str) -> Pair:
    """A pair of which the adapters alone train."""
    base, config = _ADAPTED[name]
    pair = _case(base)
    assert pair.fresh is not None
    of_flax, of_torch = pair.fresh

    def make_flax(seed: int):
        return jaxmodels.lora.add_lora(of_flax(seed), config, seed=seed)

    def make_torch(seed: int):
        return torchref.lora.add_lora(of_torch(seed), config, seed=seed)

    fresh = (make_flax, make_torch)
    return replace(pair, name=name, flax=make_flax(0), torch=make_torch(0), fresh=fresh)


def _layered_case(name: str) -> Pair:
    """A pair of which a part is frozen, and whose rates differ by layer."""
    base, decay, frozen = _LAYERED[name]
    pair = _case(base)
    jaxmodels.frozen.freeze_found(pair.flax, frozen)
    torchref.frozen.freeze_found(pair.torch, frozen)
    optimizer = replace(pair.flax_recipe.optimizer, layer_decay=decay)
    recipe = replace(pair.flax_recipe, optimizer=optimizer, layers=layers_of(config_of(base)))
    return replace(pair, name=name, flax_recipe=recipe, torch_recipe=recipe)


class FlaxNorm(nnx.Module):
    """BatchNorm, ReLU, a linear layer on the mean over pixels: images (B, H, W, C) -> (B, K)."""

    def __init__(self, channels: int, num_classes: int):
        self.norm = BatchNorm(channels, momentum=0.1, epsilon=1e-5)
        self.linear = nnx.Linear(channels, num_classes, rngs=nnx.Rngs(0))

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return self.linear(jax.nn.relu(self.norm(images, train=train)).mean(axis=(1, 2)))


class TorchNorm(nn.Module):
    """The twin of `FlaxNorm`."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, momentum=0.1, eps=1e-5)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.norm(images.permute(0, 3, 1, 2))).mean(dim=(2, 3)))


def _offset_case() -> Pair:
    """Inputs of mean 10 and deviation 1, where a variance E[x^2] - E[x]^2 loses its digits."""
    rng = np.random.default_rng(0)
    batch = {
        "image": (10 + rng.normal(size=(20, 8, 9, 5))).astype(np.float32),
        "label": rng.integers(7, size=20).astype(np.int32),
    }
    return Pair("norm-offset", FlaxNorm(5, 7), TorchNorm(5, 7), batch)


class FlaxMasked(nnx.Module):
    """Attention among valid steps, a linear layer on the mean: x (B, T, C) -> logits (B, K)."""

    def __init__(self, width: int, num_heads: int, num_classes: int):
        shared = {"initializer": "lecun-normal", "dtype": None, "rngs": nnx.Rngs(0)}
        self.attention = MultiHeadAttention(
            width, num_heads, fused=False, dropout_rate=0.3, **shared
        )
        self.linear = nnx.Linear(width, num_classes, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, valid: jax.Array, *, train: bool = False) -> jax.Array:
        attended, _, _ = self.attention(x, valid[:, None, None], train=train)
        return self.linear(attended.mean(axis=1))


class TorchMasked(nn.Module):
    """The twin of `FlaxMasked`."""

    def __init__(self, width: int, num_heads: int, num_classes: int):
        super().__init__()
        self.attention = TorchMultiHeadAttention(width, num_heads, fused=False, dropout_rate=0.3)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        attended, _, _ = self.attention(x, valid[:, None, None])
        return self.linear(attended.mean(dim=1))


def _masked_case() -> Pair:
    """Rows of 0 to 8 valid steps of 9: some may attend to nothing at all."""
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(20, 9, 10)).astype(np.float32),
        "valid": np.arange(9) < (np.arange(20) % 9)[:, None],
        "label": rng.integers(7, size=20).astype(np.int32),
    }
    return Pair(
        "attention-masked",
        FlaxMasked(10, 2, 7),
        TorchMasked(10, 2, 7),
        batch,
        flax_call=lambda m, batch, train: m(batch["x"], batch["valid"], train=train),
        torch_call=lambda m, batch: m(batch["x"], batch["valid"]),
    )


CASES: dict[str, Callable[[], Pair]] = {
    **{name: partial(_case, name) for name in _SETTINGS},
    **{name: partial(_lora_case, name) for name in _ADAPTED},
    **{name: partial(_layered_case, name) for name in _LAYERED},
    "norm-offset": _offset_case,
    "attention-masked": _masked_case,
}


def task_pair(task: Task) -> Pair:
    """A task's own model, optimizer, schedule and loss, with the rate capped at `STEP_RATE`."""
    rate = min(task.optimizer.learning_rate, STEP_RATE[task.optimizer.name])
    optimizer = replace(task.optimizer, learning_rate=rate)
    recipe = Recipe.of(optimizer, task.schedule, task.training.label_smoothing)
    return make_pair(task.name, task.model, recipe, batch_size=16)
