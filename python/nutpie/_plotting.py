"""What the figures have in common: colours, style, words on axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "GREY",
    "STYLE",
    "chain_colour",
    "close_if_shown",
    "empty",
    "need_matplotlib",
    "note",
    "plain_log_ticks",
    "shortened",
]

#: Colours of chains that differ for colour-blind readers too (Okabe and Ito 2008), and the line styles behind them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6b6b6b"

#: Settings of matplotlib.
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.frameon": False,
}


def need_matplotlib(function: str) -> Any:
    """Return the module matplotlib.

    Raises
    ------
    ImportError
        With advice, if it is not there.
    """
    try:
        import matplotlib as mpl
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError(f'{function} needs matplotlib: pip install "nutpie[plots]"') from error
    return mpl


def close_if_shown(figure: Figure) -> None:
    """Close a figure that a notebook is going to show: it shows open figures and returned ones, the same one twice."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    if "inline" in mpl.get_backend().lower():
        plt.close(figure)


def chain_colour(chain: int, chains: int) -> Any:
    """Colour of the chain at a position."""
    if chains <= len(COLOURS):
        return COLOURS[chain]
    import matplotlib as mpl

    return mpl.colormaps["viridis"](0.92 * chain / (chains - 1))


def empty(axes: Axes, title: str, why: str) -> None:
    """Say why there is nothing to see."""
    axes.set_title(title)
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=GREY, transform=axes.transAxes)


def note(axes: Axes, text: str) -> None:
    """Write small text above the right end of a panel."""
    axes.text(1, 1.02, text, ha="right", va="bottom", fontsize=8, color=GREY, transform=axes.transAxes)


def plain_log_ticks(axes: Axes) -> None:
    """Numbers such as 0.2 and not powers of ten, at ticks that a short axis has too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    if high < 5 * low:
        # A narrow axis would show noise as if it mattered, and have no room for a second tick.
        middle = np.sqrt(low * high)
        low, high = middle / np.sqrt(5), middle * np.sqrt(5)
        axes.set_ylim(low, high)
    subs = (1.0, 2.0, 5.0) if high / max(low, 1e-300) < 100 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def shortened(name: str, longest: int = 34) -> str:
    """Cut a name that is too long."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
