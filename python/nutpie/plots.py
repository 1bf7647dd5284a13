"""`plot_run`: how a run went, in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie._checks import bfmi
from nutpie._plotting import (
    COLOURS,
    GREY,
    STYLE,
    chain_colour,
    close_if_shown,
    empty,
    need_matplotlib,
    note,
    plain_log_ticks,
    shortened,
)
from nutpie._report import headline, verdict
from nutpie._run_data import STATISTICS, group, statistics
from nutpie.diagnose import Diagnosis, diagnose
from nutpie.metric_plots import FinalMetrics, spectrum_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_run"]

#: Points of a line, at most: more than the pixels of a panel.
MAX_POINTS = 1500

#: Rank plots in the figure.
RANK_PLOTS = 4


def plot_run(result: Any, *, var_names: str | Sequence[str] | None = None) -> Figure:
    """Draw how a run went: adaptation, trajectories, energy, log density, metric and the slowest parameters.

    The panels are: the step size of each draw; how deep trajectories were; the energy of the draws and its changes
    (Betancourt 2016), which should be about as wide; the log density with divergent draws marked; the eigenvalues of
    the metric, of which `nutpie.plot_metric` shows more; and the ranks of the draws of the four parameters with the
    smallest ESS, where lines that leave the grey band show chains that differ (Vehtari and others 2021).

    Parameters
    ----------
    result : arviz.InferenceData or xarray.DataTree
        What `nutpie.sample` returned.
    var_names : str or sequence of str, optional
        The variables among which the slowest parameters are sought; all by default.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; save it with ``savefig``.

    Raises
    ------
    ImportError
        Without matplotlib, which ``pip install "nutpie[plots]"`` brings.
    TypeError, ValueError
        As `nutpie.diagnose` does.

    Examples
    --------
    >>> nutpie.plot_run(idata).savefig("run.png", dpi=150)
    """
    mpl = need_matplotlib("plot_run")
    diagnosis = diagnose(result, var_names=var_names)
    data = _PlotData.read(result)
    with mpl.rc_context(STYLE):
        figure = mpl.pyplot.figure(figsize=(13, 9.6), layout="constrained")
        figure.get_layout_engine().set(hspace=0.06, wspace=0.04)
        _title(figure, diagnosis)
        grid = figure.add_gridspec(3, 12)
        _step_size(figure.add_subplot(grid[0, :4]), data)
        _depth(figure.add_subplot(grid[0, 4:8]), data)
        _energy(figure.add_subplot(grid[0, 8:]), data)
        final = FinalMetrics.read(result)
        wide = final is None and data.metric is None
        _log_density(figure.add_subplot(grid[1, :] if wide else grid[1, :7]), data)
        if final is not None:
            spectrum_panel(figure.add_subplot(grid[1, 7:]), final)
        elif data.metric is not None:
            _metric(figure.add_subplot(grid[1, 7:]), data, data.metric)
        rows = diagnosis.slowest(RANK_PLOTS)
        draws = diagnosis.slowest_draws(RANK_PLOTS)
        for i in range(len(rows)):
            _ranks(figure.add_subplot(grid[2, 3 * i : 3 * i + 3]), data, draws[i], rows[i], first=i == 0)
        if not rows:
            empty(figure.add_subplot(grid[2, :]), "Ranks", "too few draws, or no parameter varies")
        _legend(figure, data)
    close_if_shown(figure)
    return figure


@dataclass(frozen=True)
class _PlotData:
    """Statistics with the warm-up, each (chains, draws); warm-up draws have negative numbers."""

    stats: dict[str, np.ndarray]
    numbers: np.ndarray
    chains: list[Any]
    metric: np.ndarray | None

    @classmethod
    def read(cls, result: Any) -> _PlotData:
        dataset, warmup = group(result, "sample_stats"), group(result, "warmup_sample_stats")
        parts = [statistics(d) for d in (warmup, dataset) if d is not None and d.sizes.get("chain", 0)]
        # Chains of an interrupted run may have a warm-up and no draws.
        if len(parts) == 2 and warmup.sizes["chain"] != dataset.sizes["chain"]:
            parts = parts[1:]
        stats = {
            name: np.concatenate([part[name] for part in parts], axis=1)
            for name in STATISTICS
            if parts and all(name in part for part in parts)
        }
        total = max((v.shape[1] for v in stats.values()), default=0)
        draws = dataset.sizes.get("draw", 0) if dataset is not None else 0
        chains = dataset["chain"].values.tolist() if dataset is not None and "chain" in dataset.coords else []
        return cls(stats, np.arange(total) - (total - draws), chains, _final_metric(dataset, warmup))

    @property
    def after(self) -> np.ndarray:
        """Which draws come after the warm-up."""
        return self.numbers >= 0

    def colour(self, chain: int) -> Any:
        """Colour of the chain at a position."""
        return chain_colour(chain, len(self.chains))

    @property
    def alpha(self) -> float:
        """Opacity of lines, of which there may be many."""
        return 0.9 if len(self.chains) <= 4 else 0.6


def _final_metric(*datasets: Any) -> np.ndarray | None:
    """Diagonal of the last inverse mass matrix of each chain, (chains, parameters), from where it is stored."""
    for dataset in datasets:
        if dataset is None or "mass_matrix_inv" not in dataset or not dataset.sizes.get("draw", 0):
            continue
        stored = dataset["mass_matrix_inv"].transpose("chain", "draw", ...)
        last = np.asarray(stored.isel(draw=-1).values, dtype=float)
        if last.ndim != 2 or not last.size:
            continue
        if np.isfinite(last).all():
            return last
        # It may be there for those draws only before which it changed.
        values = np.asarray(stored.values, dtype=float)
        known = np.isfinite(values).all(axis=2)
        if known.any(axis=1).all():
            return values[np.arange(len(values)), known.shape[1] - 1 - known[:, ::-1].argmax(axis=1)]
    return None


def _title(figure: Figure, diagnosis: Diagnosis) -> None:
    divergences = diagnosis.run.divergences
    last = f"{verdict(diagnosis)}; {divergences} divergent draw{'s' * (divergences != 1)}"
    figure.suptitle("\n".join([*headline(diagnosis), last]), x=0.01, ha="left", fontsize=10.5)


def _step_size(axes: Axes, data: _PlotData) -> None:
    if not _has(axes, data, "step_size", "Step size"):
        return
    x, every = _thinned(data)
    averaged = data.stats.get("mean_step_size")
    for chain, values in enumerate(data.stats["step_size"]):
        axes.plot(x, values[every], color=data.colour(chain), lw=0.7, alpha=0.25 if averaged is not None else 0.9)
        if averaged is not None:
            axes.plot(x, averaged[chain][every], color=data.colour(chain), lw=1.6, alpha=data.alpha)
    axes.set_yscale("log")
    if averaged is not None:
        note(axes, "pale: of each draw; strong: average")
    plain_log_ticks(axes)
    axes.set_xlabel("draw")
    _mark_warmup(axes, data)


def _depth(axes: Axes, data: _PlotData) -> None:
    title = "Depth of trajectories"
    if not _has(axes, data, "depth", title, after=True):
        return
    depth = data.stats["depth"][:, data.after].astype(int)
    low, high = int(depth.min()), int(depth.max())
    levels = np.arange(low, high + 1)
    width = 0.8 / len(depth)
    for chain, values in enumerate(depth):
        shares = np.bincount(values - low, minlength=len(levels)) / values.size
        axes.bar(levels + (chain - (len(depth) - 1) / 2) * width, shares, width, color=data.colour(chain))
    axes.set_xticks(levels, [f"{level}\n({2**level - 1:,})" for level in levels])
    # Bars of one or two depths alone would be as wide as the panel.
    padding = max(0, 5 - len(levels)) / 2
    axes.set_xlim(low - 0.6 - padding, high + 0.6 + padding)
    axes.set_xlabel("doublings (leapfrog steps)")
    axes.set_ylabel("share of draws")
    limit = data.stats.get("depth_limit")
    if limit is not None and limit[:, data.after].any():
        note(axes, f"{limit[:, data.after].mean():.1%} at the limit")
    if "n_steps" in data.stats:
        axes.set_title(f"{title}: {data.stats['n_steps'][:, data.after].mean():.1f} steps per draw")


def _energy(axes: Axes, data: _PlotData) -> None:
    if not _has(axes, data, "energy", "Energy", after=True):
        return
    energy = data.stats["energy"][:, data.after]
    centred = (energy - energy.mean(axis=1, keepdims=True)).ravel()
    changes = np.diff(energy, axis=1).ravel()
    together = np.concatenate([centred, changes])
    together = together[np.isfinite(together)]
    if together.size < 10 or not np.ptp(together) > 0:
        empty(axes, "Energy", "too few draws, or it does not vary")
        return
    low, high = np.quantile(together, [0.001, 0.999])
    bins = np.linspace(low, high, 50).tolist()
    axes.hist(centred, bins, density=True, color="#0072B2", alpha=0.45, label="energy of draws, centred")
    axes.hist(changes, bins, density=True, histtype="step", color="#D55E00", lw=1.6, label="change between draws")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("energy")
    axes.margins(y=0.3)
    axes.legend(loc="upper left", fontsize=8)
    values = bfmi(energy)
    shown = ", ".join(f"{v:.2f}" for v in values) if len(values) <= 4 else f"from {values.min():.2f}"
    axes.set_title(f"Energy: E-BFMI {shown}")


def _log_density(axes: Axes, data: _PlotData) -> None:
    if not _has(axes, data, "logp", "Log density"):
        return
    x, every = _thinned(data)
    logp = data.stats["logp"]
    for chain, values in enumerate(logp):
        axes.plot(x, values[every], color=data.colour(chain), lw=0.6, alpha=0.7 * data.alpha)
    shown = logp[:, data.after] if data.after.any() else logp
    shown = shown[np.isfinite(shown)]
    if shown.size:
        # The way from the start to the typical set would flatten everything else.
        low, high = np.quantile(shown, [0, 1])
        margin = max(high - low, 1e-6)
        axes.set_ylim(low - 0.25 * margin, high + 0.1 * margin)
    diverging = data.stats.get("diverging")
    if diverging is not None and diverging[:, data.after].any():
        chains, draws = np.nonzero(diverging & data.after)
        colours = [data.colour(int(c)) for c in chains]
        at = np.full(len(draws), 0.04)
        axes.scatter(data.numbers[draws], at, marker="|", s=60, c=colours, transform=axes.get_xaxis_transform())
        note(axes, f"ticks mark {len(draws)} divergent draws")
    axes.set_xlabel("draw")
    _mark_warmup(axes, data)


def _metric(axes: Axes, data: _PlotData, metric: np.ndarray) -> None:
    order = np.argsort(np.median(metric, axis=0))
    size = 12 if metric.shape[1] <= 200 else 2
    for chain, values in enumerate(metric):
        axes.scatter(np.arange(len(order)), values[order], s=size, color=data.colour(chain), alpha=0.7, lw=0)
    axes.set_yscale("log")
    plain_log_ticks(axes)
    axes.set_title("Metric: diagonal of the inverse mass matrix")
    axes.set_xlabel("unconstrained parameter, ordered")
    axes.set_ylabel("about the variance")


def _ranks(axes: Axes, data: _PlotData, draws: np.ndarray, row: tuple[str, float, float, float], first: bool) -> None:
    from scipy.special import ndtr

    from nutpie._convergence import normal_scores

    name, bulk, tail, r_hat = row
    length = draws.shape[1]
    bins = int(np.clip(length // 20, 2, 20))
    # The normal scores are those of ranks, so that this is the rank as a share of all draws.
    shares = ndtr(normal_scores(draws[None])[0])
    edges = np.linspace(0, 1, bins + 1)
    spread = 1.96 * np.sqrt((1 - 1 / bins) * bins / length)
    axes.axhspan(1 - spread, 1 + spread, color="0.9", zorder=0)
    top = 1 + 2 * spread
    for chain, values in enumerate(shares):
        heights = np.histogram(values, edges)[0] * bins / length
        top = max(top, heights.max())
        axes.stairs(heights, edges, color=data.colour(chain), lw=1.3, alpha=data.alpha, baseline=None)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.1 * top)
    axes.set_title(f"{shortened(name)}\n", fontsize=9)
    axes.text(
        0,
        1.02,
        f"ESS {bulk:.0f} (tail {tail:.0f}), R-hat {r_hat:.3f}",
        transform=axes.transAxes,
        fontsize=8,
        color=GREY,
    )
    axes.set_xlabel("rank, share of all draws")
    if first:
        axes.set_ylabel("draws relative to uniform")


def _legend(figure: Figure, data: _PlotData) -> None:
    from matplotlib.lines import Line2D

    if len(data.chains) <= len(COLOURS):
        handles = [Line2D([], [], color=data.colour(i), lw=3) for i in range(len(data.chains))]
        labels = [f"chain {c}" for c in data.chains]
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))


def _has(axes: Axes, data: _PlotData, name: str, title: str, after: bool = False) -> bool:
    """Set the title; if there is nothing to draw, say so instead."""
    axes.set_title(title)
    if name not in data.stats:
        empty(axes, title, "not in the result")
        return False
    if not data.stats[name].size or (after and not data.after.any()):
        empty(axes, title, "no draws")
        return False
    return True


def _thinned(data: _PlotData) -> tuple[np.ndarray, slice]:
    every = slice(None, None, max(1, len(data.numbers) // MAX_POINTS))
    return data.numbers[every], every


def _mark_warmup(axes: Axes, data: _PlotData) -> None:
    if not len(data.numbers):
        return
    axes.set_xlim(data.numbers[0], max(data.numbers[-1], data.numbers[0] + 1))
    if data.numbers[0] < 0:
        axes.axvspan(data.numbers[0], 0, color="0.94", zorder=0)
        axes.text(0.01, 0.97, "warm-up", va="top", fontsize=8, color=GREY, transform=axes.transAxes)
