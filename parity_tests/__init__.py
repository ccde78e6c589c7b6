"""The parity suite: `compare` climbs the ladder with any pair of models; the rest is ours.

>>> from parity_tests import compare
>>> report = compare(flax_model, torch_model, {"image": images, "label": labels})
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity_tests.ladder import compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    # Lazily, so that tests of one framework run where the other is not installed.
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    from parity_tests.ladder import compare

    return compare
