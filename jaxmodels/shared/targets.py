"""What the losses and metrics of both frameworks agree on about their targets."""

IGNORED = -100  # the label of a place that none of them counts, as in torch and transformers


def median_index(quantiles: tuple[float, ...]) -> int:
    """The place of the quantile nearest 0.5, whose output is the point forecast."""
    return min(range(len(quantiles)), key=lambda place: abs(quantiles[place] - 0.5))
