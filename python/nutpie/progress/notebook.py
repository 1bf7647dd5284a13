"""A table in a notebook cell, updated in place: Jupyter, VS Code, Colab, Databricks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nutpie.progress.chain import ChainProgress
from nutpie.progress.summary import COLUMNS, Row, Summary, Tracker, cells, phase_counts
from nutpie.progress.table import Style, select, text_table

__all__ = ["NotebookDisplay", "ProgressTable"]

#: Most chains that are shown.
MAX_CHAINS = 20


class ProgressTable:
    """What the cell shows, as HTML and as text for front ends without."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    def _repr_html_(self) -> str:
        return html_table(self._summary)

    def __repr__(self) -> str:
        return "\n".join(text_table(self._summary, Style(), width=100, limit=MAX_CHAINS))


class NotebookDisplay:
    """One output of the cell, replaced a few times a second; its last state is saved with the notebook."""

    interval = 0.3

    def __init__(self) -> None:
        self._tracker = Tracker()
        self._handle: Any = None

    def update(self, chains: Sequence[ChainProgress]) -> None:
        """Replace the table."""
        self._show(self._tracker.summary(chains))

    def close(self, chains: Sequence[ChainProgress]) -> None:
        """Replace the table a last time."""
        self._show(self._tracker.summary(chains, closed=True))

    def _show(self, summary: Summary) -> None:
        from IPython.display import display

        table = ProgressTable(summary)
        if self._handle is None:
            self._handle = display(table, display_id=True)
        else:
            self._handle.update(table)


def html_table(summary: Summary, caption: str = "") -> str:
    """Write the table in HTML without scripts and style sheets, which saved notebooks may not be trusted to run."""
    shown = select(summary.chains, MAX_CHAINS)
    rows = [_html_row(r) for r in shown]
    if hidden := [r for r in summary.chains if r not in shown]:
        more = f"{len(hidden)} more: {phase_counts(hidden)}"
        rows.append(f'<tr><td colspan="{len(COLUMNS) + 1}" style="text-align: left">{escape(more)}</td></tr>')
    if len(summary.chains) > 1:
        rows.append(_html_row(summary.total))
    heading = "".join(f"<th>{escape(title)}</th>" for title in ("", *COLUMNS.values()))
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{heading}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_row(row: Row) -> str:
    texts = {column: escape(text) for column, text in cells(row).items()}
    if row.divergences:
        texts["divergences"] = f'<b style="color: #d62728">{texts["divergences"]}</b>'
    if row.phase == "warm-up":
        texts["phase"] = f"<i>{texts['phase']}</i>"
    bar = f'<td><progress value="{row.fraction:.3f}" max="1"></progress></td>'
    return f"<tr>{bar}{''.join(f'<td>{texts[column]}</td>' for column in COLUMNS)}</tr>"
