"""What a setting of a model may be, and the checks of the configs that have it.

Each check takes a config and a field's name, and raises a ValueError that names the field, its
value and what would do.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

Activation = Literal["relu", "swish", "gelu", "gelu_tanh"]  # "gelu" is the exact one, by erf

# The standard deviation of a fresh kernel by its fan-in: he-normal of He et al. 2015, lecun-normal
# of LeCun et al. 1998, gpt2 of Radford et al. 2019. Biases start at zero. Flax's and torch's own
# defaults differ, and neither is used.
Initializer = Literal["he-normal", "lecun-normal", "gpt2", "zeros"]
INITIALIZERS: dict[str, Callable[[int], float]] = {
    "he-normal": lambda fan_in: (2 / fan_in) ** 0.5,
    "lecun-normal": lambda fan_in: (1 / fan_in) ** 0.5,
    "gpt2": lambda fan_in: 0.02,
    "zeros": lambda fan_in: 0.0,
}


def require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(not isinstance(item, int) or item < 1 for item in values):
            raise ValueError(f"{name} {value} must be positive integers")


def require_odd(config: Any, name: str) -> None:
    value = getattr(config, name)
    if value < 1 or value % 2 == 0:
        raise ValueError(f"{name} {value} must be odd, so that the padding keeps the image's size")


def require_divisible(config: Any, name: str, divisor: int, why: str) -> None:
    value = getattr(config, name)
    if value % divisor:
        near = max(divisor, value // divisor * divisor)
        raise ValueError(f"{name} {value} must divide by {divisor} ({why}); try {near}")


def require_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} {getattr(config, name)!r} must be one of {choices}")


def require_rate(config: Any, name: str) -> None:
    if not 0 <= getattr(config, name) < 1:
        raise ValueError(f"{name} {getattr(config, name)} must be in [0, 1)")


def require_epsilon(config: Any, name: str) -> None:
    if not getattr(config, name) > 0:
        raise ValueError(f"{name} {getattr(config, name)} must be positive; try 1e-5")


def require_quantiles(config: Any) -> None:
    quantiles = config.quantiles
    between = all(isinstance(item, float) and 0 < item < 1 for item in quantiles)
    if not between or list(quantiles) != sorted(set(quantiles)) or 0.5 not in quantiles:
        raise ValueError(
            f"quantiles {quantiles} must ascend, lie in (0, 1) and hold 0.5; try 0.05 0.5 0.95"
        )


def require_transformer(config: Any) -> None:
    """What the blocks of every transformer need."""
    require_positive(config, "hidden_dim", "num_layers", "num_heads", "mlp_dim")
    width, heads = config.hidden_dim, config.num_heads
    if width % heads:
        near = [size for size in (width // heads * heads, width // heads * heads + heads) if size]
        raise ValueError(
            f"hidden_dim {width} must divide by num_heads {heads}; "
            f"try {' or '.join(map(str, near))}"
        )
    if not config.embedding_deviation >= 0:
        raise ValueError(
            f"embedding_deviation {config.embedding_deviation} must not be negative; try 0.02"
        )
    require_choice(config, "activation", get_args(Activation))
    require_choice(config, "initializer", tuple(INITIALIZERS))
    require_rate(config, "dropout_rate")
    require_rate(config, "attention_dropout_rate")
    require_epsilon(config, "layer_norm_epsilon")


def require_training_defaults(config: Any) -> None:
    if not 0 < config.batch_norm_momentum <= 1 or config.batch_norm_epsilon <= 0:
        raise ValueError("batch_norm_momentum must be in (0, 1] and batch_norm_epsilon positive")
    require_choice(config, "initializer", tuple(INITIALIZERS))
