"""The sizes that the data dictate to a model."""

from typing import Any

from jaxmodels.shared.tasks import Task


def check_sizes(task: Task, source: str, **found: Any) -> None:
    """Raises a ValueError where a field of the model's config is not what the data have."""
    for name, value in found.items():
        if getattr(task.model, name) != value:
            raise ValueError(
                f"{source} has {name} {value}, the model {getattr(task.model, name)}; "
                f"add --model.{name.replace('_', '-')} {value}"
            )


def check_vocabulary(task: Task, source: str, size: int) -> None:
    """Raises a ValueError where the model has fewer rows than the vocabulary has ids.

    More may be: a table of a round size is the same for every source.
    """
    rows = getattr(task.model, "vocabulary_size")  # noqa: B009 (the models of this family have it)
    if size > rows:
        raise ValueError(
            f"{source} has a vocabulary of {size}, the model one of {rows}; "
            f"add --model.vocabulary-size {size}"
        )
