"""The tasks: data set + model config + optimizer + budget, as plain data.

A task is described once and runs on every engine. `TASKS` is the registry that `scripts/train.py`
and `scripts/parity.py` list; a new task is a new row. What it reads, feeds and compares follows
from the kind of its data (`families`). The budgets are for the real data sets; on the embedded
samples (`--source sample`) the same recipe runs unchanged and takes a few minutes at most.
"""

import math
import typing
from dataclasses import dataclass, field, replace
from typing import Literal

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
    architecture,
)
from jaxmodels.shared.data.houses import HouseDataConfig
from jaxmodels.shared.data.images import ImageDataConfig
from jaxmodels.shared.data.lms import LMSDataConfig
from jaxmodels.shared.data.reviews import ReviewDataConfig
from jaxmodels.shared.data.series import SeriesDataConfig
from jaxmodels.shared.data.subwords import SubwordDataConfig
from jaxmodels.shared.data.text import TextDataConfig
from jaxmodels.shared.data.wikitext import WikiTextDataConfig
from jaxmodels.shared.lora import NO_ADAPTERS, LoRAConfig
from jaxmodels.shared.parameter_groups import layers_of
from jaxmodels.shared.patterns import check_patterns
from jaxmodels.shared.schedules import ScheduleConfig

DataConfig = (
    ImageDataConfig
    | ReviewDataConfig
    | SubwordDataConfig
    | TextDataConfig
    | WikiTextDataConfig
    | SeriesDataConfig
    | HouseDataConfig
    | LMSDataConfig
)

# The models that each kind of data can be given to.
MODELS_OF: dict[type[DataConfig], tuple[type[ModelConfig], ...]] = {
    ImageDataConfig: typing.get_args(ImageModelConfig),
    ReviewDataConfig: (TextClassifierConfig,),
    SubwordDataConfig: (BERTConfig,),
    TextDataConfig: typing.get_args(LanguageModelConfig),
    WikiTextDataConfig: (GPT2Config,),
    SeriesDataConfig: typing.get_args(ForecasterConfig),
    HouseDataConfig: (MLPConfig,),
    LMSDataConfig: (MLPConfig,),
}


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum, proximal SGD, or AdamW (Loshchilov & Hutter 2019).

    For sgd, `weight_decay` is L2: decay * parameter joins the gradient before the momentum. For
    adamw it is decoupled: rate * decay * parameter leaves the parameter directly. `decay_mask`
    "kernels" spares what has one axis, biases and norms. `l1` adds l1 * sign(parameter) to the
    gradient, under the same mask. `clip_norm` scales the whole gradient (before L1 and L2) to at
    most that norm; 0 is off.

    `layer_decay` multiplies the rate once for each layer from the head down to the embeddings
    (`rate_scales`); 1 is off. `freeze` are patterns of the parameters that do not train and take no
    memory here, by our path and torch's last name (`blocks.0.norm1.weight`); a BatchNorm of frozen
    parameters keeps its running statistics too, and normalises by them.

    proximal-sgd is sgd, but for its L1: after the update each parameter moves towards 0 by
    rate * l1 / (1 - momentum), and no further than 0 (Daubechies et al. 2004). A momentum sums to
    1 / (1 - momentum) gradients, so that it comes to rest where the lasso's solution is.
    """

    name: Literal["sgd", "proximal-sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_mask: Literal["all", "kernels"] = "kernels"
    l1: float = 0.0
    clip_norm: float = 0.0
    layer_decay: float = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "proximal-sgd", "adamw"):
            raise ValueError(f"optimizer.name {self.name!r} must be sgd, proximal-sgd or adamw")
        if self.decay_mask not in ("all", "kernels"):
            raise ValueError(f"optimizer.decay_mask {self.decay_mask!r} must be all or kernels")
        for name in ("learning_rate", "epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name} {getattr(self, name)} must be positive")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} {getattr(self, name)} must be in [0, 1)")
        for name in ("weight_decay", "l1", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name} {getattr(self, name)} must not be negative")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov needs optimizer.momentum above 0; try 0.9")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay {self.layer_decay} must be in (0, 1]")
        if self.layer_decay != 1 and self.name == "proximal-sgd":
            raise ValueError("optimizer.layer_decay is not for proximal-sgd, which has one rate")
        check_patterns("optimizer.freeze", self.freeze)


@dataclass(frozen=True)
class TrainingConfig:
    """The budget and what happens on the way.

    `precision` "bfloat16" computes convolutions and linear layers in bfloat16; parameters,
    normalisation statistics and the loss stay float32. `early_stopping_patience` and
    `checkpoint_every_steps` are off at 0 (a checkpoint is always written at an epoch's end); the
    newest `keep_checkpoints` of them are kept, and the best epoch's.

    `micro_batches` is into how many parts a step's batch is cut, whose gradients are summed as if
    it were one: less memory, the same step, but that BatchNorm sees a part at a time. `ema_decay`
    above 0 keeps an exponential moving average of the parameters, of which each step takes
    1 - ema_decay from the new ones; it is what is evaluated and saved (Polyak & Juditsky 1992).
    """

    epochs: int = 10
    batch_size: int = 128
    evaluation_batch_size: int = 500
    seed: int = 0
    label_smoothing: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    early_stopping_patience: int = 0
    checkpoint_every_steps: int = 0
    keep_checkpoints: int = 2
    micro_batches: int = 1
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "evaluation_batch_size", "micro_batches")
        for name in (*counts, "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} {getattr(self, name)} must be at least 1")
        for name in ("early_stopping_patience", "checkpoint_every_steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} {getattr(self, name)} must not be negative")
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.{name} {getattr(self, name)} must be in [0, 1)")
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"training.micro_batches {self.micro_batches} must divide training.batch_size "
                f"{self.batch_size}; try {math.gcd(self.batch_size, self.micro_batches)}"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"training.precision {self.precision!r} must be float32 or bfloat16")


@dataclass(frozen=True)
class ParityConfig:
    """What the statistical rungs spend and tolerate. The bounds of the others are the ladder's.

    `metric_margin`: the two one-sided tests must show |difference| below it, in the unit of the
    family's metric (a fraction right, or an error in standard deviations).
    """

    curve_steps: int = 200
    metric_epochs: int = 8
    metric_margin: float = 0.02


@dataclass(frozen=True)
class Task:
    """One task. `goal` is what its recipe reaches, or should, on real data; in words.

    `lora`, off at rank 0, trains adapters in the place of the model's own weights. Its modules to
    save are the task's new head, where it has one.
    """

    name: str
    description: str
    model: ModelConfig
    data: DataConfig
    lora: LoRAConfig = NO_ADAPTERS
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    goal: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.model, MODELS_OF[type(self.data)]):
            raise ValueError(
                f"task {self.name}: {architecture(self.model)} is no model for {self.data.dataset}"
            )
        self.layers()

    def layers(self) -> tuple[int, ...]:
        """The model's layers, for the optimizer; () where it tells none apart.

        Raises:
            ValueError: the rates are to differ by layer, and the model has none.
        """
        return () if self.optimizer.layer_decay == 1 else layers_of(self.model)


_SHAKESPEARE_LSTM = Task(
    name="shakespeare-lstm",
    description="the next character of a text: two layers of LSTM with carried state",
    model=CharRNNConfig(cell="lstm", hidden_dim=256, dropout_rate=0.2),
    data=TextDataConfig(),
    optimizer=OptimizerConfig(name="adamw", learning_rate=4e-3, clip_norm=1.0),
    schedule=ScheduleConfig(name="cosine", warmup_fraction=0.05),
    training=TrainingConfig(epochs=20, batch_size=64, evaluation_batch_size=64),
    goal="1.55 nats a character of Tiny Shakespeare's last tenth",
)

_PRICES_LSTM = Task(
    name="prices-lstm",
    description="log returns 1, 5 and 20 days ahead and their quantiles: an LSTM",
    model=RecurrentForecasterConfig(cell="lstm", dropout_rate=0.2),
    data=SeriesDataConfig(),
    optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=1e-2),
    schedule=ScheduleConfig(name="cosine", warmup_fraction=0.1),
    training=TrainingConfig(epochs=20, batch_size=64, early_stopping_patience=5),
    parity=ParityConfig(metric_epochs=4),
    goal="to beat the random walk; on prices nobody should expect it",
)

_HOUSES_RIDGE = Task(
    name="houses-ridge",
    description="house prices by ridge regression: scikit-learn's, by full-batch descent",
    model=MLPConfig(),
    data=HouseDataConfig(passes=50),
    optimizer=OptimizerConfig(
        learning_rate=0.05, momentum=0.95, nesterov=True, weight_decay=0.05
    ),  # decay d is Ridge's alpha d * N
    training=TrainingConfig(epochs=20, batch_size=2000),  # all rows
    goal="an RMSE of the log price of 0.1334 over five folds of Kaggle's training rows",
)

_TASKS = (
    Task(
        name="lms",
        description="the least-mean-squares filter, sample by sample, beside the Wiener solution",
        model=MLPConfig(num_features=2),
        data=LMSDataConfig(),
        optimizer=OptimizerConfig(learning_rate=0.01, momentum=0.0),
        training=TrainingConfig(epochs=100, batch_size=1),
        goal="the Wiener solution's error, to a few percent",
    ),
    replace(
        _HOUSES_RIDGE,
        name="houses-linear",
        description="house prices by least squares, on whitened features",
        data=HouseDataConfig(whiten=True, passes=5),
        optimizer=OptimizerConfig(learning_rate=0.5, momentum=0.0),  # halves the error each step
        training=TrainingConfig(epochs=10, batch_size=2000),
        goal="an RMSE of the log price of 0.1405 over five folds of Kaggle's training rows",
    ),
    _HOUSES_RIDGE,
    replace(
        _HOUSES_RIDGE,
        name="houses-lasso",
        description="house prices by the lasso: scikit-learn's, by proximal descent",
        optimizer=OptimizerConfig(
            name="proximal-sgd", learning_rate=0.05, momentum=0.9, nesterov=True, l1=0.003
        ),
        goal="an RMSE of the log price of 0.1284 over five folds of Kaggle's training rows",
    ),
    replace(
        _HOUSES_RIDGE,
        name="houses-mlp",
        description="house prices by a network of one hidden layer",
        model=MLPConfig(hidden_dims=(128,), dropout_rate=0.3, initializer="gpt2"),
        data=HouseDataConfig(validation_fraction=0.1),
        optimizer=OptimizerConfig(name="adamw", learning_rate=3e-4, weight_decay=1.0),
        schedule=ScheduleConfig(name="cosine", warmup_fraction=0.1),
        training=TrainingConfig(epochs=60, batch_size=64),
        goal="an RMSE of the log price of 0.1378 over five folds of Kaggle's training rows",
    ),
    Task(
        name="cifar10-logistic",
        description="logistic regression on raw pixels: the baseline of every figure",
        model=LogisticRegressionConfig(),
        data=ImageDataConfig(crop_padding=0),
        optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=1e-4),
        schedule=ScheduleConfig(name="cosine"),
        training=TrainingConfig(epochs=10),
        goal="38% of the test images right, on a JPEG quality-75 copy of CIFAR-10",
    ),
    Task(
        name="cifar10-simplecnn",
        description="2 convolutions + 2 pools + 3 linear layers, with BatchNorm and dropout",
        model=SimpleCNNConfig(batch_norm=True, dropout_rate=0.1),
        data=ImageDataConfig(),
        optimizer=OptimizerConfig(name="adamw", learning_rate=2e-3, weight_decay=1e-2),
        schedule=ScheduleConfig(name="one-cycle", warmup_fraction=0.25),
        training=TrainingConfig(epochs=12),
        goal="73% of the test images right, on a JPEG quality-75 copy of CIFAR-10",
    ),
    Task(
        name="cifar10-cnn",
        description="VGG-style net of 6 convolutions with BatchNorm and dropout",
        model=CNNConfig(),
        data=ImageDataConfig(),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, weight_decay=1e-2, clip_norm=1.0
        ),
        schedule=ScheduleConfig(name="cosine", warmup_fraction=0.1),
        training=TrainingConfig(epochs=20, label_smoothing=0.1),
        goal="82% of the test images right, on a JPEG quality-75 copy of CIFAR-10",
    ),
    Task(
        name="cifar10-resnet20",
        description="ResNet-20 of He et al. 2016, 0.27M parameters, SGD with Nesterov momentum",
        model=ResNetConfig(depth=20),
        data=ImageDataConfig(validation_fraction=0.02),
        optimizer=OptimizerConfig(learning_rate=0.2, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one-cycle", warmup_fraction=0.25),
        training=TrainingConfig(epochs=50),
        goal="88% of the test images right, on a JPEG quality-75 copy of CIFAR-10",
    ),
    Task(
        name="cifar10-transfer-resnet18",
        description="ResNet-18 as on the Hub, fine-tuned with --pretrained on enlarged images",
        model=ImageNetResNetConfig(
            image_size=64,
            num_classes=10,
            stage_channels=(64, 128, 256, 512),
            depths=(2, 2, 2, 2),
            block="basic",
        ),
        data=ImageDataConfig(resize_to=64),
        optimizer=OptimizerConfig(
            learning_rate=0.02, nesterov=True, weight_decay=1e-4, layer_decay=0.7
        ),
        schedule=ScheduleConfig(name="one-cycle", warmup_fraction=0.2),
        training=TrainingConfig(epochs=5, batch_size=64),
        parity=ParityConfig(curve_steps=20, metric_epochs=1),
        goal="93% of the test images right, from microsoft/resnet-18 at 224 pixels",
    ),
    Task(
        name="imdb-lstm",
        description="sentiment of film reviews: embedding, LSTM, mean over the words, linear",
        model=TextClassifierConfig(dropout_rate=0.5),
        data=ReviewDataConfig(max_length=400),
        optimizer=OptimizerConfig(name="adamw", learning_rate=2e-3, clip_norm=1.0),
        schedule=ScheduleConfig(name="one-cycle", warmup_fraction=0.25),
        training=TrainingConfig(epochs=5, batch_size=64),
        goal="87% of IMDb's test reviews right within five epochs",
    ),
    Task(
        name="imdb-bert",
        description="sentiment of film reviews: BERT, RoBERTa or DistilBERT, by --pretrained",
        model=BERTConfig(  # of a run without a checkpoint
            head="sequence-classification",
            vocabulary_size=8000,
            hidden_dim=64,
            num_layers=2,
            num_heads=4,
            mlp_dim=256,
        ),
        data=SubwordDataConfig(),
        lora=LoRAConfig(rank=0, modules_to_save=(r"^(pooler|classifier)$",)),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=5e-5, weight_decay=1e-2, clip_norm=1.0
        ),
        schedule=ScheduleConfig(name="linear", warmup_fraction=0.1),
        training=TrainingConfig(epochs=2, batch_size=16, evaluation_batch_size=64),
        goal="an F1 of 0.88 on IMDb's test reviews, from all-MiniLM-L6-v2 and 8,000 reviews",
    ),
    _SHAKESPEARE_LSTM,
    replace(
        _SHAKESPEARE_LSTM,
        name="shakespeare-gru",
        description="the next character of a text: two layers of GRU with carried state",
        model=CharRNNConfig(cell="gru", hidden_dim=304, dropout_rate=0.2),
    ),
    replace(
        _SHAKESPEARE_LSTM,
        name="shakespeare-transformer",
        description="the next character of a text: a GPT-2 of four layers",
        model=GPT2Config(hidden_dim=144, mlp_dim=576),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, beta2=0.99, weight_decay=0.1, clip_norm=1.0
        ),
        schedule=ScheduleConfig(name="cosine", warmup_fraction=0.05, final_scale=0.05),
        training=TrainingConfig(epochs=30, batch_size=64, evaluation_batch_size=64),
    ),
    Task(
        name="wikitext-gpt2",
        description="perplexity on WikiText: a GPT-2, fine-tuned by --pretrained or from nothing",
        model=GPT2Config(vocabulary_size=2048),  # of a run without a checkpoint
        data=WikiTextDataConfig(),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-3, beta2=0.99, weight_decay=0.1, clip_norm=1.0
        ),
        schedule=ScheduleConfig(name="cosine", warmup_fraction=0.05, final_scale=0.05),
        training=TrainingConfig(epochs=5, batch_size=16, evaluation_batch_size=16),
        parity=ParityConfig(metric_epochs=2),
        goal="a perplexity near 20 a token of wikitext-2-raw-v1, from gpt2 at a rate of 5e-5",
    ),
    _PRICES_LSTM,
    replace(
        _PRICES_LSTM,
        name="prices-gru",
        description="log returns 1, 5 and 20 days ahead and their quantiles: a GRU",
        model=RecurrentForecasterConfig(cell="gru", dropout_rate=0.2),
    ),
    replace(
        _PRICES_LSTM,
        name="prices-transformer",
        description="log returns 1, 5 and 20 days ahead and their quantiles: PatchTST",
        model=TimeSeriesTransformerConfig(dropout_rate=0.2),
        optimizer=OptimizerConfig(name="adamw", learning_rate=5e-4, weight_decay=1e-2),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
