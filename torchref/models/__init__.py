"""The torch models and their registry; attribute names are those of `jaxmodels.models`."""

from collections.abc import Callable

import torch
from torch import nn

from jaxmodels.shared import configs
from torchref.models.bert import BERT
from torchref.models.cnn import CNN, SimpleCNN
from torchref.models.forecaster import RecurrentForecaster
from torchref.models.gpt2 import GPT2
from torchref.models.imagenet_resnet import ImageNetResNet
from torchref.models.linear import LogisticRegression
from torchref.models.mlp import MLP
from torchref.models.recurrent import CharRNN, TextClassifier
from torchref.models.resnet import ResNet
from torchref.models.time_series import TimeSeriesTransformer

MODELS: dict[type[configs.ModelConfig], Callable[..., nn.Module]] = {
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


def create(config: configs.ModelConfig, *, seed: int = 0) -> nn.Module:
    """The model that `config` describes, freshly initialised in float32, in training mode."""
    return MODELS[type(config)](config, generator=torch.Generator().manual_seed(seed))
