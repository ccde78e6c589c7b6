"""What a model checks of its inputs' shapes, so that a wrong layout is an error and not a guess."""

from collections.abc import Sequence


def channels_first(shape: Sequence[int], in_channels: int) -> bool:
    """Whether images are (B, C, H, W), as the Hub has them, and not (B, H, W, C), as we do.

    The axis tells that has in_channels; where both have, it is the last.

    Raises:
        ValueError: neither has.
    """
    shape = tuple(shape)
    if len(shape) == 4 and in_channels in (shape[1], shape[3]):
        return shape[3] != in_channels
    raise ValueError(
        f"images have shape {shape}, expected (B, H, W, {in_channels}) or the Hub's "
        f"(B, {in_channels}, H, W)"
        + ("; give a single image as images[None]" if len(shape) == 3 else "")
    )


def check_length(length: int, limit: int) -> None:
    """Raises a ValueError where a model is given more tokens than it has positions."""
    if length > limit:
        raise ValueError(
            f"{length} tokens exceed the model's context of {limit}; pass {limit} of them at most"
        )
