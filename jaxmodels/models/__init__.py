"""The Flax NNX models and their registry.

A model is called with its family's inputs, as `model(images, train=False, rngs=None)` or
`model(tokens, lengths, train=False, rngs=None)`; `rngs` feeds dropout when training.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.bert import BERT
from jaxmodels.models.cnn import CNN, SimpleCNN
from jaxmodels.models.forecaster import RecurrentForecaster
from jaxmodels.models.gpt2 import GPT2
from jaxmodels.models.imagenet_resnet import ImageNetResNet
from jaxmodels.models.linear import LogisticRegression
from jaxmodels.models.mlp import MLP
from jaxmodels.models.recurrent import CharRNN, TextClassifier
from jaxmodels.models.resnet import ResNet
from jaxmodels.models.time_series import TimeSeriesTransformer
from jaxmodels.shared import configs

MODELS: dict[type[configs.ModelConfig], Callable[..., nnx.Module]] = {
    configs.LogisticRegressionConfig: LogisticRegression,
    configs.SimpleCNNConfig: SimpleCNN,
    configs.CNNConfig: CNN,
    configs.ResNetConfig: ResNet,
    configs.ImageNetResNetConfig: ImageNetResNet,
    configs.TextClassifierConfig: TextClassifier,
    configs.CharRNNConfig: CharRNN,
    configs.RecurrentForecasterConfig: RecurrentForecaster,
    configs.GPT2Config: GPT2,
    configs.BERTConfig: BERT,
    configs.TimeSeriesTransformerConfig: TimeSeriesTransformer,
    configs.MLPConfig: MLP,
}


def create(
    config: configs.ModelConfig, *, seed: int = 0, dtype: jnp.dtype | None = None
) -> nnx.Module:
    """The model that `config` describes, freshly initialised in float32.

    `dtype` is what convolutions and linear layers compute in (None: the parameters' own).
    """
    return MODELS[type(config)](config, dtype=dtype, rngs=nnx.Rngs(seed))
