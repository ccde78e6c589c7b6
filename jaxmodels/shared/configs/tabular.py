"""The models of rows of numbers."""

from dataclasses import dataclass
from typing import get_args

from jaxmodels.shared.configs.choices import (
    INITIALIZERS,
    Activation,
    Initializer,
    require_choice,
    require_positive,
    require_rate,
)


@dataclass(frozen=True)
class MLPConfig:
    """Linear layers with an activation and dropout between them, down to one number.

    Without `hidden_dims` it is linear regression, and a linear adaptive filter.
    """

    num_features: int = 256
    hidden_dims: tuple[int, ...] = ()
    activation: Activation = "relu"
    dropout_rate: float = 0.0
    initializer: Initializer = "zeros"

    def __post_init__(self) -> None:
        require_positive(self, "num_features")
        if self.hidden_dims:
            require_positive(self, "hidden_dims")
            if self.initializer == "zeros":
                raise ValueError(
                    "initializer 'zeros' leaves every unit of a hidden layer the same; "
                    "try he-normal"
                )
        require_choice(self, "activation", get_args(Activation))
        require_choice(self, "initializer", tuple(INITIALIZERS))
        require_rate(self, "dropout_rate")
