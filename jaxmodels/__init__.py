"""Models in Flax NNX, trained, sharded and proved equal to their PyTorch twins in `torchref`.

>>> import jaxmodels
>>> model = jaxmodels.create(jaxmodels.TASKS["cifar10-resnet20"].model, seed=0)
>>> model = jaxmodels.from_pretrained("runs/first")  # what any engine trained

Importing this imports neither jax nor flax: the names below do, when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmodels.models import create
    from jaxmodels.pretrained import from_pretrained, save_pretrained
    from jaxmodels.shared.tasks import TASKS

__all__ = ["TASKS", "create", "from_pretrained", "save_pretrained"]

_HOMES = {
    "TASKS": "jaxmodels.shared.tasks",
    "create": "jaxmodels.models",
    "from_pretrained": "jaxmodels.pretrained",
    "save_pretrained": "jaxmodels.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
