"""Regular expressions that users write to choose parts of a model by their dotted paths.

>>> find_paths("lora.targets", (r"attention\\.query$",), linears, "linear layer's")
['blocks.0.attention.query', 'blocks.1.attention.query']
"""

import re
from collections.abc import Iterable


def check_patterns(label: str, patterns: tuple[str, ...]) -> None:
    """Raises a ValueError, which names the setting, unless all are regular expressions."""
    if isinstance(patterns, str):
        raise ValueError(
            f"{label} is {patterns!r}, expected patterns of paths, such as (r'linear1$',)"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{label}: {pattern!r} is no regular expression ({error})") from None


def find_paths(
    label: str, patterns: tuple[str, ...], paths: Iterable[str], whose: str
) -> list[str]:
    """The paths in which some pattern is found, in their order.

    Raises:
        ValueError: a pattern is found in none; the paths that there are are listed.
    """
    paths = list(paths)
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"{label}: {pattern!r} is found in no {whose} path; the model has {kinds(paths)}"
            )
    return [path for path in paths if any(re.search(p, path) for p in patterns)]


def kinds(paths: Iterable[str]) -> str:
    """The paths with their numbers left out, for an error."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", path) for path in paths)) or "none"
