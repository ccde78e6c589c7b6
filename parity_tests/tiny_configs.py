"""The tiny models of the ladder's cases, and what each is trained with.

Sizes are pairwise distinct, so that no wrong transpose fits.
"""

from dataclasses import replace

from jaxmodels.shared.configs import (
    BERTConfig,
    CharRNNConfig,
    CNNConfig,
    GPT2Config,
    ImageNetResNetConfig,
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
from jaxmodels.shared.schedules import ScheduleConfig
from jaxmodels.shared.tasks import OptimizerConfig

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
SETTINGS: dict[str, tuple[ModelConfig, OptimizerConfig, ScheduleConfig, float]] = {
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
ADAPTED: dict[str, tuple[str, LoRAConfig]] = {
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
LAYERED: dict[str, tuple[str, float, tuple[str, ...]]] = {
    "bert-layers": ("bert", 0.6, ("^token_embedding", "norm2")),
    "resnet-layers": ("resnet-b", 0.7, (r"^stem\.", r"^blocks\.0\.convnorm1")),
}


def config_of(case: str) -> ModelConfig:
    """The config of a case's model."""
    return SETTINGS[case][0]
