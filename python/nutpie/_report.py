"""A diagnosis as text, as HTML and as plain Python."""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nutpie.diagnose import Diagnosis

__all__ = ["headline", "shortened", "to_dict", "to_html", "to_text", "verdict"]

#: Columns of a line.
WIDTH = 100

_COLOURS = {"error": "#c0392b", "warning": "#b9770e", "note": "#7f8c8d"}


def to_text(diagnosis: Diagnosis) -> str:
    """Return what is printed."""
    lines = [_wrap(line) for line in [*headline(diagnosis), *_warmup(diagnosis), verdict(diagnosis)]]
    for problem in diagnosis.problems:
        lines += ["", _wrap(problem.message, f"  {problem.severity:<7}  "), _wrap(problem.advice, "        > ")]
    slowest = diagnosis.slowest()
    if slowest:
        names = [shortened(name, 60) for name, *_ in slowest]
        width = max(len("Slowest parameters"), *map(len, names))
        lines += ["", f"{'Slowest parameters':<{width}}  {'ESS bulk':>8}  {'ESS tail':>8}  {'R-hat':>6}"]
        lines += [
            f"{name:<{width}}  {bulk:8.0f}  {tail:8.0f}  {r_hat:6.3f}"
            for name, (_, bulk, tail, r_hat) in zip(names, slowest, strict=True)
        ]
    return "\n".join(lines)


def headline(diagnosis: Diagnosis) -> list[str]:
    """Return what the run made and what it took, and the smallest ESS."""
    run = diagnosis.run
    warmup = f" after {run.tune} of warm-up" if run.tune is not None else ""
    cost = [f"{run.n_gradients:,} gradients"] if run.n_gradients else []
    cost += [f"{run.seconds:.3g} s"] if run.seconds else []
    first = f"{run.chains} chain{'s' * (run.chains != 1)} of {run.draws} draw{'s' * (run.draws != 1)}{warmup}"
    lines = [", ".join([first, *cost])]
    if math.isfinite(run.min_ess):
        rates = [(run.ess_per_1000_gradients, "per 1000 gradients"), (run.ess_per_second, "per second")]
        known = [f"{_number(rate)} {unit}" for rate, unit in rates if math.isfinite(rate)]
        lines.append(f"Smallest ESS {run.min_ess:.0f}{': ' if known else ''}{', '.join(known)}")
    return lines


def _warmup(diagnosis: Diagnosis) -> list[str]:
    return [f"Warm-up: {diagnosis.run.warmup}"] if diagnosis.run.warmup else []


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def verdict(diagnosis: Diagnosis) -> str:
    """One line on the number of problems."""
    serious = sum(p.severity != "note" for p in diagnosis.problems)
    if serious:
        return f"{serious} problem{'s' if serious > 1 else ''}"
    # Silence about convergence is no good sign where it could not be judged.
    judged = math.isfinite(diagnosis.run.min_ess) and not any(p.kind == "few_draws" for p in diagnosis.problems)
    return "No problems found" if judged else "Nothing found, and too little to judge by"


def to_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return plain Python values that JSON knows."""
    run = dataclasses.asdict(diagnosis.run) | {
        "ess_per_1000_gradients": diagnosis.run.ess_per_1000_gradients,
        "ess_per_second": diagnosis.run.ess_per_second,
    }
    names = ("name", "ess_bulk", "ess_tail", "r_hat")
    slowest = [dict(zip(names, row, strict=True)) for row in diagnosis.slowest()]
    problems = [dataclasses.asdict(p) for p in diagnosis.problems]
    return _plain({"ok": diagnosis.ok, "run": run, "problems": problems, "slowest": slowest})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_html(diagnosis: Diagnosis) -> str:
    """Return what a notebook shows; readable on light and dark pages."""
    parts = [f"<div>{html.escape(line)}</div>" for line in ["; ".join(headline(diagnosis)), *_warmup(diagnosis)]]
    parts.append(f"<div style='margin:0.5em 0'><b>{html.escape(verdict(diagnosis))}</b></div>")
    for problem in diagnosis.problems:
        colour = _COLOURS[problem.severity]
        parts.append(
            f"<div style='border-left:4px solid {colour};padding-left:0.7em;margin:0.5em 0'>"
            f"<b style='color:{colour}'>{problem.severity}</b> {html.escape(problem.message)}"
            f"<div style='opacity:0.8'>{html.escape(problem.advice)}</div></div>"
        )
    slowest = diagnosis.slowest()
    if slowest:
        head = "".join(f"<th>{h}</th>" for h in ("Slowest parameters", "ESS bulk", "ESS tail", "R-hat"))
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td><td>{bulk:.0f}</td><td>{tail:.0f}</td>"
            f"<td>{r_hat:.3f}</td></tr>"
            for name, bulk, tail, r_hat in slowest
        )
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    return f"<div class='nutpie-diagnosis'>{''.join(parts)}</div>"


def _wrap(text: str, start: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False)


def shortened(name: str, longest: int) -> str:
    """Cut a name to so many characters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
