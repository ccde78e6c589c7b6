"""The PyTorch twins of `jaxmodels`, under the same names, trained by torch's own engines.

>>> import torchref
>>> model = torchref.create(torchref.TASKS["cifar10-resnet20"].model, seed=0)
>>> model = torchref.from_pretrained("runs/first")  # what any engine trained

Importing this does not import torch: the names below do, when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmodels.shared.tasks import TASKS
    from torchref.models import create
    from torchref.pretrained import from_pretrained, save_pretrained

__all__ = ["TASKS", "create", "from_pretrained", "save_pretrained"]

_HOMES = {
    "TASKS": "jaxmodels.shared.tasks",
    "create": "torchref.models",
    "from_pretrained": "torchref.pretrained",
    "save_pretrained": "torchref.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
