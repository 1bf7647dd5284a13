"""`plot_metric`: the inverse mass matrix that the warm-up found, and how it came about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie._case import joined
from nutpie._plotting import (
    GREY,
    STYLE,
    chain_colour,
    close_if_shown,
    need_matplotlib,
    note,
    plain_log_ticks,
    shortened,
)
from nutpie._run_data import ADAPTATION, group
from nutpie.metric import GROUP, Metric
from nutpie.settings import declared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FinalMetrics", "plot_metric", "spectrum_panel"]

#: Index that stands for the chains that share a metric, and their colour.
SHARED = -1
SHARED_COLOUR = "#222222"

#: Eigenvalues of the whole matrix are drawn if computing them takes fewer operations, or so.
MOST_OPERATIONS = 4e9

#: Eigenvectors and parameters in the panel of the directions, at most.
DIRECTIONS, PARAMETERS = 8, 14


@dataclass(frozen=True)
class FinalMetrics:
    """The different metrics at the end of a warm-up.

    Parameters
    ----------
    metrics
        One for each chain, or for all chains that share one.
    labels
        Whose they are.
    colours
        Colour of each.
    names
        Names of the parameters.
    """

    metrics: list[Metric]
    labels: list[str]
    colours: list[Any]
    names: list[str]

    @classmethod
    def read(cls, result: Any) -> FinalMetrics | None:
        """Take them from a result; None if it has none."""
        dataset, adaptation = group(result, GROUP), group(result, ADAPTATION)
        if dataset is None:
            return None
        chains = dataset["chain"].values.tolist()
        shares = np.zeros(len(chains), bool) if adaptation is None else adaptation["shares_metric"].values.astype(bool)
        together = [label for label, shared in zip(chains, shares, strict=True) if shared]
        groups = [([i], f"chain {chains[i]}", chain_colour(i, len(chains))) for i in np.flatnonzero(~shares).tolist()]
        if together:
            name = "all chains" if len(together) == len(chains) else f"chains {joined(map(str, together))}"
            groups.insert(0, (np.flatnonzero(shares).tolist(), name, SHARED_COLOUR))
        return cls(
            [Metric.from_result(result, positions[0]) for positions, *_ in groups],
            [label for _, label, _ in groups],
            [colour for *_, colour in groups],
            dataset["unconstrained_parameter"].values.tolist(),
        )


def plot_metric(result: Any) -> Figure:
    """Draw the inverse mass matrix, and how it came about in the warm-up.

    The panels are: the eigenvalues of the matrix, beside the variances on its diagonal; the eigenvalues that remain
    when each parameter is scaled by its standard deviation, after each change of the matrix, where the grey band is
    taken for 1; the scales relative to the last ones, as the factor by which they typically differ; and the directions
    of the eigenvectors whose eigenvalues are furthest from 1, or the scales if there are none. The second and third are
    not there after ``adaptation="fixed"``, which changes nothing.

    Parameters
    ----------
    result : arviz.InferenceData or xarray.DataTree
        What `nutpie.sample` returned.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; save it with ``savefig``.

    Raises
    ------
    ImportError
        Without matplotlib, which ``pip install "nutpie[plots]"`` brings.
    TypeError
        If `result` is not a result.
    ValueError
        If it has no group ``mass_matrix``.

    Examples
    --------
    >>> nutpie.plot_metric(idata).savefig("metric.png", dpi=150)
    """
    mpl = need_matplotlib("plot_metric")
    final = FinalMetrics.read(result)
    if final is None:
        raise ValueError(f"the result has no group {GROUP!r}: no metric to draw")
    history = _History.read(result)
    with mpl.rc_context(STYLE):
        rows = 2 if history.draw.size else 1
        figure = mpl.pyplot.figure(figsize=(11.5, 0.6 + 3.5 * rows), layout="constrained")
        figure.get_layout_engine().set(hspace=0.06, wspace=0.04)
        figure.suptitle(history.verdict.replace("; ", "\n", 1), x=0.01, ha="left", fontsize=10.5)
        grid = figure.add_gridspec(rows, 2)
        spectrum_panel(figure.add_subplot(grid[0, 0]), final)
        _directions(figure.add_subplot(grid[-1, 0] if rows == 2 else grid[0, 1]), final)
        if history.draw.size:
            _eigenvalues(figure.add_subplot(grid[0, 1]), history)
            _scales(figure.add_subplot(grid[1, 1]), history)
        _legend(figure, history, final)
    close_if_shown(figure)
    return figure


def spectrum_panel(axes: Axes, final: FinalMetrics) -> None:
    """Draw the eigenvalues of the metrics, and the variances on their diagonals where the matrices are not diagonal."""
    from matplotlib.ticker import MaxNLocator

    n_dim, n_metrics = len(final.names), len(final.metrics)
    whole = n_metrics * n_dim**3 <= MOST_OPERATIONS
    place = np.arange(1, n_dim + 1)
    marker = "o" if n_dim <= 40 else ""
    for metric, label, colour in zip(final.metrics, final.labels, final.colours, strict=True):
        variances = np.sort(_diagonal(metric))[::-1]
        if metric.rank and whole:
            axes.plot(place, metric.spectrum(), marker=marker, ms=3.5, lw=1.4, color=colour, label=label)
            axes.plot(place, variances, lw=1, ls=":", color=GREY if n_metrics == 1 else colour)
        else:
            axes.plot(place, variances, marker=marker, ms=3.5, lw=1.4, color=colour, label=label)
    axes.set_yscale("log")
    plain_log_ticks(axes)
    coupled = any(metric.rank for metric in final.metrics)
    axes.set_title("Metric: eigenvalues" if whole or not coupled else "Metric: variances")
    axes.set_xlabel("of the inverse mass matrix, the largest first")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if coupled and whole:
        note(axes, "dotted: its diagonal")
    if coupled and 1 < n_metrics <= 5:
        axes.legend(loc="upper right", fontsize=8)


def _diagonal(metric: Metric) -> np.ndarray:
    return metric.stds**2 * (1 + (metric.eigvals - 1) @ np.square(metric.eigvecs))


# -------------------------------------------------------------------------------------------------------- its history


@dataclass(frozen=True)
class _History:
    """What the group ``adaptation`` tells of the changes of the metrics."""

    verdict: str
    #: Index of the chain, or `SHARED`, of each change; empty if they are not known.
    chain: np.ndarray
    draw: np.ndarray
    reason: np.ndarray
    eigvals: np.ndarray
    stds: np.ndarray
    #: Draws after which the warm-up was extended, and those that it had at its end.
    extended: list[int]
    end: int
    #: Eigenvalues between the inverse of this and this are taken for 1; None if none are.
    cutoff: float | None
    chains: list[int]

    @classmethod
    def read(cls, result: Any) -> _History:
        dataset = group(result, ADAPTATION)
        known = dataset is not None and "change_draw" in dataset
        columns = {
            name: np.asarray(dataset[f"change_{name}"].values) if known else np.empty((0, 0))
            for name in ("chain", "draw", "reason", "eigvals", "stds")
        }
        checks = [] if dataset is None else dataset["check_draws"].values[dataset["check_extended"].values].tolist()
        return cls(
            verdict="" if dataset is None else str(dataset.attrs.get("verdict", "")),
            extended=sorted(set(checks)),
            end=0 if dataset is None else int(dataset["warmup_draws"].max()),
            cutoff=_cutoff(dataset),
            chains=[] if dataset is None else dataset["chain"].values.tolist(),
            **columns,
        )

    def whose(self) -> list[tuple[int, Any]]:
        """Return the chains whose changes there are, `SHARED` among them, with their colours."""
        found = [
            (label, chain_colour(i, len(self.chains)))
            for i, label in enumerate(self.chains)
            if (self.chain == label).any()
        ]
        return [*found, (SHARED, SHARED_COLOUR)] if (self.chain == SHARED).any() else found


def _cutoff(dataset: Any) -> float | None:
    try:
        described = json.loads(dataset.attrs["inference_library_settings"])
    except (AttributeError, KeyError, ValueError):
        return None
    if described.get("adaptation") not in ("auto", "low_rank"):
        return None
    name = "mass_matrix_eigval_cutoff"
    return float(described["settings"].get(name, declared()[name].default))


def _eigenvalues(axes: Axes, history: _History) -> None:
    if history.cutoff is not None:
        axes.axhspan(1 / history.cutoff, history.cutoff, color="0.92", zorder=0)
    for label, colour in history.whose():
        mine = history.chain == label
        draw, values = history.draw[mine], history.eigvals[mine]
        axes.plot(
            np.repeat(draw, values.shape[1]), values.ravel(), "o", ms=3 if label == SHARED else 2.2, color=colour, lw=0
        )
        if label == SHARED:
            # What is between would not connect the same directions.
            for outermost in (np.fmax.reduce(values, axis=1, initial=1), np.fmin.reduce(values, axis=1, initial=1)):
                axes.plot(draw, outermost, lw=1, color=colour, alpha=0.5)
    known = history.eigvals[np.isfinite(history.eigvals)]
    reach = max(4.0, *known, *(1 / known)) if known.size else 4.0
    axes.set_ylim(1 / (3 * reach), 1.5 * reach)
    axes.set_yscale("log")
    plain_log_ticks(axes)
    if not known.size:
        axes.text(0.5, 0.5, "none: the metric is diagonal", ha="center", va="center", transform=axes.transAxes)
    axes.set_title("Warm-up: eigenvalues of the scaled matrix")
    _mark_events(axes, history)


def _scales(axes: Axes, history: _History) -> None:
    for label, colour in history.whose():
        mine = history.chain == label
        # Chains that joined go on with what all share.
        last = history.stds[mine | (history.chain == SHARED)][-1] if label != SHARED else history.stds[mine][-1]
        factors = np.exp(np.sqrt(np.square(np.log(history.stds[mine] / last)).mean(axis=1)))
        axes.step(
            np.append(history.draw[mine], _until(history, label)),
            np.append(factors, factors[-1]),
            where="post",
            color=colour,
            lw=1.6 if label == SHARED else 1.1,
        )
    axes.set_yscale("log")
    axes.set_ylim(0.95, None)
    plain_log_ticks(axes)
    axes.set_title("Warm-up: scales over the last ones")
    axes.set_ylabel("typical factor over parameters")
    _mark_events(axes, history)


def _until(history: _History, label: int) -> int:
    """Return the draw up to which a chain has its own metric, as far as it is known here."""
    joined_at = history.draw[(history.chain == SHARED) & (history.reason == "merge")]
    own = history.draw[history.chain == label]
    return int(joined_at[0]) if label != SHARED and joined_at.size and own[-1] < joined_at[0] else history.end


def _mark_events(axes: Axes, history: _History) -> None:
    """Mark where chains joined, their windows ended and the warm-up was extended."""
    axes.set_xlim(0, max(history.end, 1))
    axes.set_xlabel("draw")
    for draw in history.draw[(history.reason == "merge") & (history.chain == SHARED)]:
        axes.axvline(draw, color=GREY, lw=0.9, ls="--", zorder=0.5)
        _label(axes, int(draw), "chains joined")
    for draw in history.draw[(history.reason == "window") & (history.chain == SHARED)]:
        axes.axvline(draw, color=GREY, lw=0.7, ls=":", zorder=0.5)
    for draw in history.extended:
        axes.axvline(draw, color="#D55E00", lw=0.9, ls="--", zorder=0.5)
        _label(axes, draw, "extended")


def _label(axes: Axes, draw: int, text: str) -> None:
    axes.text(draw, 0.02, f" {text}", transform=axes.get_xaxis_transform(), va="bottom", fontsize=7.5, color=GREY)


# -------------------------------------------------------------------------------------------------------- directions


def _directions(axes: Axes, final: FinalMetrics) -> None:
    """Draw the components of the eigenvectors of the first metric whose eigenvalues are furthest from 1."""
    metric, label = final.metrics[0], final.labels[0]
    if not metric.rank:
        _largest_scales(axes, final)
        return
    rows = np.argsort(-np.abs(np.log(metric.eigvals)), kind="stable")[:DIRECTIONS]
    vectors = metric.eigvecs[rows]
    weight = (np.square(vectors) * np.abs(np.log(metric.eigvals[rows]))[:, None]).sum(axis=0)
    columns = np.sort(np.argsort(-weight, kind="stable")[:PARAMETERS])
    # The sign of an eigenvector means nothing: the largest component is positive.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    limit = float(np.abs(largest).max())
    image = axes.imshow((vectors * np.sign(largest))[:, columns], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    # A few rows need not fill the panel.
    axes.set_ylim(max(len(rows), 4) - 0.5, -0.5)
    axes.set_yticks(np.arange(len(rows)), [f"{metric.eigvals[row]:.2g}" for row in rows])
    axes.set_xticks(
        np.arange(len(columns)),
        [shortened(final.names[column], 18) for column in columns],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_ylabel("eigenvalue of the scaled matrix")
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    of = "" if len(final.labels) == 1 else f" of {label}"
    axes.set_title(f"Directions: the strongest {len(rows)} eigenvectors{of}" if len(rows) > 1 else f"Direction{of}")
    axes.figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, label="component of a scaled parameter")


def _largest_scales(axes: Axes, final: FinalMetrics) -> None:
    """Draw the scales of the parameters that have the largest and the smallest, where there are no eigenvectors."""
    order = np.argsort(np.median([metric.stds for metric in final.metrics], axis=0), kind="stable")
    if len(order) > PARAMETERS:
        order = np.concatenate([order[: PARAMETERS // 2], order[-PARAMETERS // 2 :]])
    place = np.arange(len(order))
    for metric, colour in zip(final.metrics, final.colours, strict=True):
        axes.plot(metric.stds[order], place, "o", ms=4, color=colour)
    axes.set_yticks(place, [shortened(final.names[i], 24) for i in order])
    axes.set_xscale("log")
    axes.set_title("Scales" if len(final.names) <= PARAMETERS else "The smallest and the largest scales")
    axes.set_xlabel("standard deviation")
    axes.grid(axis="x", color="0.92", lw=0.8)


def _legend(figure: Figure, history: _History, final: FinalMetrics) -> None:
    from matplotlib.lines import Line2D

    entries = {f"chain {label}": colour for label, colour in history.whose() if label != SHARED}
    entries = dict(zip(final.labels, final.colours, strict=True)) | dict(sorted(entries.items()))
    if len(entries) <= 10:
        handles = [Line2D([], [], color=colour, lw=3) for colour in entries.values()]
        figure.legend(handles, list(entries), loc="outside lower center", ncols=len(entries))
