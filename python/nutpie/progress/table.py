"""The table of chains: which of many are shown, and as text of a given width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nutpie.progress.summary import Row, Summary, cells, phase_counts

__all__ = ["Style", "select", "text_table"]

#: Columns from the one that goes first when there is no room to the one that goes last. ``chain`` and ``draws`` stay.
_DROPPED = ("phase", "step size", "grad/draw", "draws/s", "bar", "time", "divergences")
_ORDER = ("chain", "bar", "draws", "phase", "divergences", "step size", "grad/draw", "draws/s", "time")
_HEADINGS = {"bar": "", "divergences": "diverg."}
_BAR_WIDTHS = (8, 30)
#: Wide enough for what comes later in the run, so that the columns stay where they are.
_LEAST_WIDTHS = {"phase": len("sampling"), "step size": len("0.035-0.42"), "time": len("59 s left")}


@dataclass(frozen=True)
class Style:
    """How the text looks.

    Parameters
    ----------
    color
        Whether to use the colours of ANSI terminals.
    blocks
        Whether there are block characters, or only ASCII.
    """

    color: bool = False
    blocks: bool = True

    def paint(self, text: str, code: str) -> str:
        """Add a colour or weight, given by its ANSI code."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text

    def legend(self, width: int) -> str:
        """Explain the warm-up part of bars, if that fits to the width of the bars."""
        text = f"{'▒' if self.blocks else '~'} warm-up"
        return text.ljust(width) if len(text) <= width else " " * width

    def bar(self, row: Row, width: int) -> str:
        """Draw a bar; warm-up, which is the first draws of the row, looks different."""
        warm, done, rest = "▒█·" if self.blocks else "~#."
        filled = int(width * row.fraction)
        boundary = min(filled, round(width * row.tune / row.total) if row.total else 0)
        if row.phase == "warm-up" and row.label != "all":
            boundary = filled
        after = self.paint(done * (filled - boundary), "31" if row.divergences else "32")
        return self.paint(warm * boundary, "33") + after + self.paint(rest * (width - filled), "2")


def select(rows: Sequence[Row], limit: int) -> list[Row]:
    """Choose the chains to look at among many: those with the most divergences, and the ones furthest behind.

    They keep their order, so that the table is calm.
    """
    if len(rows) <= limit:
        return list(rows)
    worst = sorted((r for r in rows if r.divergences), key=lambda r: -r.divergences)[: limit // 2]
    others = sorted((r for r in rows if r not in worst), key=lambda r: (r.ended, r.phase == "waiting", r.fraction))
    chosen = {r.label for r in [*worst, *others[: limit - len(worst)]]}
    return [r for r in rows if r.label in chosen]


def text_table(summary: Summary, style: Style, *, width: int, limit: int) -> list[str]:
    """Write a table.

    Parameters
    ----------
    summary
        What to show.
    style
        How.
    width
        Most characters in a line.
    limit
        Most chains to show; of the others one line tells how many are where.

    Returns
    -------
    list of str
        Lines, each no longer than the width.
    """
    shown = select(summary.chains, limit)
    hidden = [r for r in summary.chains if r not in shown]
    rows = [*shown, summary.total] if len(summary.chains) > 1 else shown
    texts = [cells(r) for r in rows]
    columns, widths, gap = _columns(rows, texts, width)
    headings = {c: _HEADINGS.get(c, c).rjust(widths[c]) for c in columns}
    if summary.total.tune and "bar" in columns:
        headings["bar"] = style.legend(widths["bar"])
    heading = gap.join(headings.values())
    lines = [style.paint(heading[:width], "2")]
    for row, text in zip(rows, texts, strict=True):
        line = gap.join(_cell(c, row, text, style, widths[c]) for c in columns)
        # Too long only if not even the last two columns fit, and there is no colour in them.
        lines.append(line if len(heading) <= width else line[:width])
    if hidden:
        more = f"{len(hidden)} more chain{'s' if len(hidden) > 1 else ''}: {phase_counts(hidden)}"
        lines.insert(len(lines) - 1, more[:width])
    return lines


def _columns(
    rows: Sequence[Row], texts: Sequence[Mapping[str, str]], width: int
) -> tuple[list[str], dict[str, int], str]:
    """Choose columns, their widths and the gap between them."""
    widths = {
        c: max(_LEAST_WIDTHS.get(c, 0), len(_HEADINGS.get(c, c)), *(len(t[c]) for t in texts))
        for c in _ORDER
        if c != "bar"
    }
    widths["draws"] = max(widths["draws"], *(len(f"{r.total}/{r.total}") for r in rows))
    widths["bar"] = _BAR_WIDTHS[0]
    columns = list(_ORDER)
    for column in _DROPPED:
        if sum(widths[c] + 1 for c in columns) - 1 <= width:
            break
        columns.remove(column)
    spare = width - sum(widths[c] + 1 for c in columns) + 1
    gap = " "
    if spare >= 2 * len(columns):
        gap, spare = "  ", spare - len(columns) + 1
    if "bar" in columns:
        widths["bar"] = min(_BAR_WIDTHS[1], widths["bar"] + spare)
    return columns, widths, gap


def _cell(column: str, row: Row, text: Mapping[str, str], style: Style, width: int) -> str:
    if column == "bar":
        return style.bar(row, width)
    cell = text[column].rjust(width)
    if column == "divergences" and row.divergences:
        return style.paint(cell, "1;31")
    if column == "phase" and row.phase == "warm-up":
        return style.paint(cell, "33")
    return cell
