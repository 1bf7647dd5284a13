"""A problem, the numbers that problems are found in, and words for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from nutpie._run_data import RunData

__all__ = [
    "LOG_DENSITY",
    "Case",
    "Problem",
    "count",
    "joined",
    "longer",
    "of_all",
    "parameters_first",
    "round_up",
    "some_of",
]

#: Row number that stands for the log density among rows of parameters.
LOG_DENSITY = -1

#: Fewest draws that are advised.
LEAST_TUNE = 100


@dataclass(frozen=True)
class Problem:
    """Something wrong with a run.

    Parameters
    ----------
    kind
        ``"not_finite"``, ``"stuck"``, ``"disagreement"``, ``"r_hat"``, ``"ess"``, ``"divergences"``, ``"rejections"``,
        ``"energy"``, ``"depth"``, ``"lagging"``, ``"metric"``, ``"rejected_fits"``, ``"laplace"``, ``"few_draws"``,
        ``"one_chain"`` or ``"incomplete"``.
    severity
        ``"error"``: do not use the draws as they are. ``"warning"``: results may be biased or imprecise. ``"note"``:
        worth knowing, no reason for concern.
    message
        What was found, one sentence.
    advice
        What to do, one sentence.
    where
        The worst parameters or the chains concerned, at most 20, such as ``"theta[school=Choate]"`` or ``"chain 2"``.
    """

    kind: str
    severity: Literal["error", "warning", "note"]
    message: str
    advice: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A run and the numbers that judge it.

    Parameters
    ----------
    run
        The run.
    rows
        Which of its parameters were examined; `LOG_DENSITY` stands for the log density.
    values
        What `nutpie._convergence.summarise` says of them, of shape (rows, 6).
    max_r_hat, min_ess, min_bfmi
        Thresholds; that of the ESS is for all chains together.
    """

    run: RunData
    rows: np.ndarray
    values: np.ndarray
    max_r_hat: float
    min_ess: float
    min_bfmi: float

    @property
    def draws(self) -> int:
        """Draws of each chain."""
        return self.run.parameters.draws

    @property
    def chains(self) -> int:
        """Number of chains."""
        return self.run.parameters.chains

    @property
    def thin(self) -> int:
        """How many draws were made for each one that was kept."""
        return int(self.setting("thin", 1))

    @property
    def divergences(self) -> int:
        """Number of divergences after warm-up, also of draws that were not kept where the result has them."""
        diverging, errors = self.run.stats.get("diverging"), self.run.energy_errors
        kept = 0 if diverging is None else int(diverging.sum())
        return kept if errors is None or self.thin == 1 else max(kept, len(errors))

    @property
    def r_hat(self) -> np.ndarray:
        """R-hat of each row."""
        return self.values[:, 2]

    @property
    def least_ess(self) -> np.ndarray:
        """The smaller one of bulk and tail ESS of each row."""
        return np.fmin(self.values[:, 3], self.values[:, 4])

    def label(self, index: int) -> str:
        """Name of the parameter in a row."""
        row = int(self.rows[index])
        return "the log density" if row == LOG_DENSITY else self.run.parameters.label(row)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Draws of some rows, of shape (rows, chains, draws)."""
        draws = self.run.parameters.take(self.rows[indices])
        for i in np.flatnonzero(self.rows[indices] == LOG_DENSITY):
            draws[i] = self.run.stats["logp"]
        return draws

    def parameters(self, indices: np.ndarray) -> np.ndarray:
        """Return those of the indices that are parameters and not the log density."""
        return indices[self.rows[indices] != LOG_DENSITY]

    @property
    def kernel(self) -> str:
        """Name of the kernel that made the draws."""
        return str(self.run.settings.get("kernel", "nuts"))

    @property
    def target(self) -> tuple[str, float]:
        """The setting that says how small the steps of the draws are: its name and its value."""
        names = {"nuts": "target_accept", "walnuts": "walnuts_target", "ghmc": "meads_target_accept"}
        name = names.get(self.kernel, f"{self.kernel}_target_accept")
        return name, self.setting(name, 0.8)

    def setting(self, name: str, default: float = math.nan) -> float:
        """Return a setting of the run."""
        value = self.run.settings.get(name, default)
        return float(value) if isinstance(value, int | float) else default


def parameters_first(case: Case, indices: np.ndarray) -> np.ndarray:
    """Leave out the log density unless it is alone: advice about a parameter helps more."""
    parameters = case.parameters(indices)
    return parameters if len(parameters) else indices


def of_all(case: Case, indices: np.ndarray) -> str:
    number, total = len(case.parameters(indices)), int((case.rows != LOG_DENSITY).sum())
    if not number:
        return ""
    looked = " that were looked at" if total < len(case.run.parameters) else ""
    return f"{number} of {count(total, 'parameter')}{looked}: "


def some_of(names: Sequence[str], total: int, shown: int = 3) -> str:
    if total <= shown:
        return joined(names)
    return f"{', '.join(names[:shown])} and {total - shown} more"


def joined(words: Iterable[str]) -> str:
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def round_up(value: float) -> int:
    """Two leading digits are precise enough for advice."""
    if not value > 0:
        return LEAST_TUNE
    scale = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return int(math.ceil(value / scale - 1e-9) * scale)


def longer(case: Case) -> int:
    """Warm-up draws to advise: twice those that there were, or as many as there are draws if that is not known."""
    made = case.setting("num_tune", math.nan)
    if math.isnan(made):
        made = float(case.run.attrs.get("tuning_steps", case.draws * case.thin / 2))
    return round_up(max(2 * made, LEAST_TUNE))
