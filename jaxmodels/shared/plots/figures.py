"""What every figure shares: colours, a white page with a title, quiet axes, a whole file or none.

Matplotlib is used through `Figure` objects alone (no pyplot), so that nothing global changes and no
display is needed. Colours are Okabe and Ito's (2008), which the colour-blind tell apart.

>>> figure = new_figure(7.0, 4.0, "a title")
>>> dress(figure.subplots(), x_label="day", y_label="price")
>>> save(figure, "run/figure.png")
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmodels.shared.files import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120

INK, MUTED, RULE = "#1f2933", "#5f6b7a", "#dde2e8"
BLUE, VERMILION, GREEN, RED = "#0072b2", "#d55e00", "#00734f", "#b3123b"

# Lines or dots of one axes: a colour and a mark each, which go round together after the last.
SERIES = (
    (BLUE, "o"),
    ("#e69f00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#56b4e9", "v"),
    ("#8c6d31", "P"),  # for yellow, which white paper swallows
    (MUTED, "X"),
)


def new_figure(width: float, height: float, title: str) -> "Figure":
    """A white figure (inches) with its title, wrapped to the width; labels are never clipped."""
    from matplotlib.figure import Figure  # here, for it takes half a second to import
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inches
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)
    columns = int(width * 10)
    lines = [wrapped for line in title.split("\n") for wrapped in textwrap.wrap(line, columns)]
    # parse_math: a class or file name may hold a dollar sign.
    figure.suptitle("\n".join(lines), fontsize=12, color=INK, fontweight="bold", parse_math=False)
    return figure


def save(figure: "Figure", path: str | Path) -> None:
    """Writes the PNG, replaced whole or not at all, into a folder that is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    figure.clear()


def save_note(text: str, path: str | Path, *, title: str) -> None:
    """In the place of a figure that has nothing to show."""
    figure = new_figure(7.0, 2.4, title)
    figure.text(0.5, 0.42, text, ha="center", va="center", fontsize=13, color=MUTED)
    save(figure, path)


def dress(axes: "Axes", *, x_label: str, y_label: str) -> None:
    """Labels, and no more ink around them than it takes."""
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)


def percent_axis(axes: "Axes", axis: str) -> None:
    """Fractions on the axis "x" or "y" are shown in percent."""
    from matplotlib.ticker import PercentFormatter

    getattr(axes, f"{axis}axis").set_major_formatter(PercentFormatter(1.0))


def shorten(name: str, limit: int = 18) -> str:
    """The name in at most `limit` characters, its dollars safe from being read as mathematics."""
    name = name.replace("$", r"\$")
    return name if len(name) <= limit else name[: limit - 1] + "…"
