"""Model configurations: one frozen dataclass a model, every numerical default explicit.

`CONFIGS` names them all; `to_json` and `from_json` are the `config.json` of a checkpoint.

>>> config = ResNetConfig(depth=32)
>>> from_json(to_json(config)) == config
True
"""

import dataclasses
from typing import Any

from jaxmodels.shared.configs.choices import INITIALIZERS, Activation, Initializer
from jaxmodels.shared.configs.images import (
    CNNConfig,
    ImageNetResNetConfig,
    LogisticRegressionConfig,
    ResNetConfig,
    SimpleCNNConfig,
)
from jaxmodels.shared.configs.recurrent import (
    CharRNNConfig,
    RecurrentForecasterConfig,
    TextClassifierConfig,
)
from jaxmodels.shared.configs.tabular import MLPConfig
from jaxmodels.shared.configs.transformers import (
    GPT2_SIZES,
    BERTConfig,
    GPT2Config,
    TimeSeriesTransformerConfig,
)

__all__ = [
    "CONFIGS",
    "GPT2_SIZES",
    "INITIALIZERS",
    "Activation",
    "BERTConfig",
    "CNNConfig",
    "CharRNNConfig",
    "ForecasterConfig",
    "GPT2Config",
    "ImageModelConfig",
    "ImageNetResNetConfig",
    "Initializer",
    "LanguageModelConfig",
    "LogisticRegressionConfig",
    "MLPConfig",
    "ModelConfig",
    "RecurrentForecasterConfig",
    "ResNetConfig",
    "SimpleCNNConfig",
    "TextClassifierConfig",
    "TimeSeriesTransformerConfig",
    "TransformerConfig",
    "architecture",
    "from_json",
    "to_json",
]

ImageModelConfig = (
    LogisticRegressionConfig | SimpleCNNConfig | CNNConfig | ResNetConfig | ImageNetResNetConfig
)
TransformerConfig = GPT2Config | BERTConfig | TimeSeriesTransformerConfig
LanguageModelConfig = CharRNNConfig | GPT2Config
ForecasterConfig = RecurrentForecasterConfig | TimeSeriesTransformerConfig
ModelConfig = (
    ImageModelConfig
    | TextClassifierConfig
    | LanguageModelConfig
    | ForecasterConfig
    | BERTConfig
    | MLPConfig
)

CONFIGS: dict[str, type[ModelConfig]] = {
    "LogisticRegression": LogisticRegressionConfig,
    "SimpleCNN": SimpleCNNConfig,
    "CNN": CNNConfig,
    "ResNet": ResNetConfig,
    "ImageNetResNet": ImageNetResNetConfig,
    "TextClassifier": TextClassifierConfig,
    "CharRNN": CharRNNConfig,
    "RecurrentForecaster": RecurrentForecasterConfig,
    "GPT2": GPT2Config,
    "BERT": BERTConfig,
    "TimeSeriesTransformer": TimeSeriesTransformerConfig,
    "MLP": MLPConfig,
}


def architecture(config: ModelConfig) -> str:
    """The model's class name, which both frameworks share: `"ResNet"` for a `ResNetConfig`."""
    return next(name for name, kind in CONFIGS.items() if type(config) is kind)


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The content of `config.json`: the architecture and every field."""
    return {"architecture": architecture(config)} | dataclasses.asdict(config)


def from_json(content: Any) -> ModelConfig:
    """The inverse of `to_json`. Every field must be known and, as JSON, of its default's type.

    Raises:
        ValueError: the architecture or a field is unknown, missing or malformed.
    """
    name = content.get("architecture") if isinstance(content, dict) else None
    if name not in CONFIGS:
        raise ValueError(f"architecture {name!r} is unknown; expected one of {sorted(CONFIGS)}")
    kind = CONFIGS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given = {key: value for key, value in content.items() if key != "architecture"}
    if given.keys() != fields.keys():
        unknown, missing = (
            sorted(given.keys() - fields.keys()),
            sorted(fields.keys() - given.keys()),
        )
        raise ValueError(f"{name} config has unknown fields {unknown} and lacks {missing}")
    values = {}
    for key, value in given.items():
        default = fields[key].default
        value = tuple(value) if isinstance(value, list) else value
        same_type = type(value) is type(default) or (type(value), type(default)) == (int, float)
        if not same_type:
            raise ValueError(
                f"{name} config: {key} is {value!r}; expected something like {default!r}"
            )
        values[key] = value
    return kind(**values)
