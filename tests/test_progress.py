"""Progress: what displays show of made-up chains, and what the callback may do to a real run."""

from __future__ import annotations

import html.parser
import io
import logging
import os
import pickle
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from simple_model import NormalModel, fatal_logp

import nutpie
from nutpie import ChainProgress
from nutpie.progress import Watcher, make_display
from nutpie.progress.notebook import ProgressTable, html_table
from nutpie.progress.plain import PlainDisplay
from nutpie.progress.summary import Tracker, duration
from nutpie.progress.table import Style, select, text_table
from nutpie.progress.terminal import TerminalDisplay

TUNE, TOTAL = 400, 1400


def chain(finished: int, seconds: float = 0.0, *, divergences: int = 0, steps: int = 7, **values) -> ChainProgress:
    """A chain that needs the same number of steps for each draw."""
    return ChainProgress(
        **{
            "finished_draws": finished,
            "total_draws": TOTAL,
            "divergences": divergences,
            "divergent_draws": list(range(divergences)),
            "tuning": finished <= TUNE,
            "started": seconds > 0,
            "latest_num_steps": steps,
            "total_num_steps": steps * finished,
            "step_size": 0.5,
            "runtime_ms": round(1000 * seconds),
            "total_tune": TUNE,
        }
        | values
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def summary(*steps: list[ChainProgress], closed: bool = False, elapsed: float = 2.0):
    """Summary after the last of some moments, the first one and the last one `elapsed` seconds apart."""
    clock = Clock()
    tracker = Tracker(clock)
    for chains in steps[:-1]:
        tracker.summary(chains)
    clock.now += elapsed
    return tracker.summary(steps[-1], closed=closed)


FOUR = [
    chain(900, 2.0, divergences=2, step_size=0.412),
    chain(212, 2.0, step_size=0.0387, steps=31),
    chain(0, 1.0),
    chain(0),
]
WAITING = [chain(0)] * 4
DONE = [chain(TOTAL, 3.0, steps=s, step_size=0.4 + 0.01 * s) for s in (7, 8, 9, 10)]


# What is shown of the chains


def test_speed_and_time_left_of_a_steady_chain():
    row = summary(WAITING[:1], [chain(200, 1.0)], [chain(400, 2.0)]).chains[0]
    assert row.draws_per_second == pytest.approx(200)
    assert row.gradients_per_draw == pytest.approx(7)
    assert row.seconds == pytest.approx(1000 / 200)
    assert row.phase == "warm-up"


def test_speed_follows_a_chain_that_becomes_faster():
    slow = [[chain(10 * i, 0.1 * i)] for i in range(51)]
    fast = [[chain(500 + 40 * i, 5 + 0.1 * i, total_num_steps=3500 + 3 * 40 * i)] for i in range(21)]
    before, later = summary(*slow).chains[0], summary(*slow, *fast).chains[0]
    assert before.draws_per_second == pytest.approx(100)
    assert before.gradients_per_draw == pytest.approx(7)
    assert 180 < later.draws_per_second < 400
    assert 3 < later.gradients_per_draw < 5


def test_the_same_moment_twice_changes_nothing():
    once, twice = summary(WAITING, FOUR), summary(WAITING, FOUR, FOUR)
    assert once == twice


def test_phases():
    phases = [r.phase for r in summary(WAITING, FOUR + DONE[:0]).chains]
    assert phases == ["sampling", "warm-up", "warm-up", "waiting"]
    assert {r.phase for r in summary(WAITING, DONE).chains} == {"done"}
    assert [r.phase for r in summary(WAITING, FOUR, closed=True).chains] == ["stopped"] * 4
    assert summary(WAITING, [DONE[0], *FOUR[1:]], closed=True).total.phase == "stopped"


def test_total_of_chains_that_wait_for_a_core():
    rows = summary([chain(0)] * 4, [chain(700, 1.0), chain(700, 1.0), chain(0), chain(0)])
    assert rows.total.draws_per_second == pytest.approx(1400)
    assert rows.chains[0].seconds == pytest.approx(1)
    assert rows.total.seconds == pytest.approx(3)  # two rounds of two chains of 2 s


def test_total_waits_for_the_slowest():
    rows = summary([chain(0)] * 2, [chain(1300, 1.0), chain(100, 1.0)])
    assert rows.total.seconds == pytest.approx(13)


def test_at_the_end_numbers_are_of_the_whole_run():
    rows = summary(WAITING, FOUR, DONE, closed=True, elapsed=4.0)
    assert rows.chains[3].draws_per_second == pytest.approx(TOTAL / 3)
    assert rows.chains[3].gradients_per_draw == pytest.approx(10)
    assert rows.total.gradients_per_draw == pytest.approx(8.5)
    assert rows.total.draws_per_second == pytest.approx(4 * TOTAL / 4.0)
    assert rows.total.seconds == pytest.approx(4.0)


def test_no_draws_at_all():
    nothing = [chain(0, 0.001, total_draws=0, tuning=True)]
    assert summary(nothing, nothing, closed=True).chains[0].phase == "done"
    assert text_table(summary(nothing, nothing, closed=True), Style(), width=80, limit=20)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03"), (90061, "1d 01:01")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


# The table as text


def table(width: int, chains=FOUR, **kwargs) -> list[str]:
    return text_table(summary(WAITING, chains), Style(), **{"width": width, "limit": 20} | kwargs)


EIGHTY = """\
chain ▒ warm-up            draws diverg.  step size grad/draw draws/s      time
    0 ▒▒▒▒▒█████······  900/1400       2      0.412       7.0     450  1 s left
    1 ▒▒··············  212/1400       0     0.0387      31.0     106 11 s left
    2 ················    0/1400       0
    3 ················    0/1400       0
  all ▒▒▒············· 1112/5600       2 0.039-0.41      11.6     556 11 s left"""

WIDE = """\
chain  ▒ warm-up                           draws     phase  diverg.   step size  grad/draw  draws/s       time
    0  ▒▒▒▒▒▒▒▒▒██████████···········   900/1400  sampling        2       0.412        7.0      450   1 s left
    1  ▒▒▒▒··························   212/1400   warm-up        0      0.0387       31.0      106  11 s left
    2  ······························     0/1400   warm-up        0
    3  ······························     0/1400   waiting        0
  all  ▒▒▒▒▒·························  1112/5600   warm-up        2  0.039-0.41       11.6      556  11 s left"""

NARROW = """\
chain      draws  diverg.
    0   900/1400        2
    1   212/1400        0
    2     0/1400        0
    3     0/1400        0
  all  1112/5600        2"""

DONE_EIGHTY = """\
chain ▒ warm-up            draws diverg.  step size grad/draw draws/s      time
    0 ▒▒▒▒▒███████████ 1400/1400       0       0.47       7.0     467     3.0 s
    1 ▒▒▒▒▒███████████ 1400/1400       0       0.48       8.0     467     3.0 s
    2 ▒▒▒▒▒███████████ 1400/1400       0       0.49       9.0     467     3.0 s
    3 ▒▒▒▒▒███████████ 1400/1400       0        0.5      10.0     467     3.0 s
  all ▒▒▒▒▒███████████ 5600/5600       0   0.47-0.5       8.5    2800     2.0 s"""


@pytest.mark.parametrize(
    ("width", "chains", "text"), [(79, FOUR, EIGHTY), (119, FOUR, WIDE), (30, FOUR, NARROW), (79, DONE, DONE_EIGHTY)]
)
def test_tables_of_some_widths(width, chains, text):
    assert "\n".join(line.rstrip() for line in table(width, chains)) == text


def test_every_line_fits_into_any_width():
    huge = [chain(123_456, 9e5, total_draws=10_000_000, divergences=5432)] * 4
    for width in range(1, 160):
        for chains in (FOUR, DONE, huge):
            lines = table(width, chains)
            assert len(lines) == 6
            assert max(map(len, lines)) <= width


def test_one_chain_has_no_total():
    lines = text_table(summary(WAITING[:1], FOUR[:1]), Style(), width=79, limit=20)
    assert len(lines) == 2


def test_ascii():
    lines = text_table(summary(WAITING, FOUR), Style(blocks=False), width=79, limit=20)
    assert "~~~~~#####......" in lines[1]
    assert all(line.isascii() for line in lines)


def test_the_bar_shows_the_warmup_that_was_made_and_not_the_one_planned():
    extended = chain(1000, 2.0, total_draws=TOTAL + 400, total_tune=TUNE + 400)
    found = summary(WAITING, [chain(1000, 2.0), extended, *FOUR[2:]])
    # 400/1400 and 800/1800 are warm-up, 1000/1400 and 1000/1800 done.
    assert [Style().bar(row, 16) for row in found.chains[:2]] == ["▒▒▒▒▒██████·····", "▒▒▒▒▒▒▒█········"]
    assert found.total.tune == 3 * TUNE + TUNE + 400


def test_colour_does_not_change_the_text():
    import re

    painted = text_table(summary(WAITING, FOUR), Style(color=True), width=119, limit=20)
    assert [re.sub(r"\x1b\[[\d;]+m", "", line) for line in painted] == table(119)
    assert "\x1b[1;31m      2\x1b[0m" in painted[1]
    assert "\x1b[1;31m" not in painted[2]


def many_chains(n: int = 100) -> list[ChainProgress]:
    """The first half done, then some at work, the rest waiting; number 7 and 90 diverge."""
    chains = [chain(TOTAL, 5.0) for _ in range(n // 2)]
    chains += [chain(500 + i, 5.0) for i in range(20)]
    chains += [chain(0) for _ in range(n - len(chains))]
    chains[7] = chain(TOTAL, 5.0, divergences=30)
    chains[60] = chain(800, 5.0, divergences=3)
    return chains


def test_of_many_chains_the_worst_and_the_last_are_shown():
    rows = summary([chain(0)] * 100, many_chains())
    shown = select(rows.chains, 6)
    assert [r.label for r in shown] == ["7", "50", "51", "52", "53", "60"]
    lines = text_table(rows, Style(), width=79, limit=6)
    assert lines[-2] == "94 more chains: 49 done, 15 sampling, 30 waiting"
    assert lines[-1].split()[0] == "all"
    assert len(lines) == 9


def test_no_room_for_any_chain():
    lines = text_table(summary([chain(0)] * 100, many_chains()), Style(), width=79, limit=0)
    assert len(lines) == 3


# The table in a terminal


class Terminal(io.StringIO):
    """A terminal of a given size, emulated by pyte."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        super().__init__()
        pyte = pytest.importorskip("pyte")
        self.screen = pyte.Screen(columns, lines)
        self.screen.set_mode(pyte.modes.LNM)  # the driver of a terminal adds carriage returns
        self._emulator = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        self._emulator.feed(text)
        return len(text)

    def isatty(self) -> bool:
        return True

    def size(self) -> tuple[int, int]:
        return self.screen.columns, self.screen.lines

    @property
    def text(self) -> list[str]:
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines


@pytest.fixture
def in_terminal(monkeypatch):
    """Function that lets the test run in a terminal; pytest would undo it if this fixture did it."""

    def enter() -> Terminal:
        terminal = Terminal()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        return terminal

    return enter


def test_the_table_is_redrawn_in_place(in_terminal):
    terminal = in_terminal()
    print("before", file=terminal)
    display = TerminalDisplay(terminal, size=terminal.size)
    for n in range(0, TOTAL, 100):
        display.update([chain(n, 0.1 + n / 1000)] * 2)
    assert terminal.text[0] == "before"
    assert terminal.text[2].split()[2] == "1300/1400"
    assert len(terminal.text) == 5
    display.close([chain(TOTAL, 1.4)] * 2)
    print("after", file=terminal)
    assert terminal.text[4].split()[2] == "2800/2800"
    assert terminal.text[5:] == ["after"]


def test_what_others_print_stays_above_the_table(in_terminal):
    terminal = in_terminal()
    display = TerminalDisplay(terminal, size=terminal.size)
    display.update(WAITING)
    print("to stdout")
    display.update(FOUR)
    print("to stderr", file=sys.stderr)
    print("in ", end="")
    print("two parts")
    display.update(FOUR)
    print("without an end", end="")
    display.close(DONE)
    text = terminal.text
    assert text[:3] == ["to stdout", "to stderr", "in two parts"]
    assert sum("draws/s" in line for line in text) == 1
    assert text[3] == "without an end"
    assert len(text) == 4 + 6
    assert text[-1].split()[2] == "5600/5600"


def test_the_streams_are_given_back(in_terminal):
    terminal = in_terminal()
    display = TerminalDisplay(terminal, size=terminal.size)
    display.update(WAITING)
    stand_in = sys.stdout
    assert stand_in is not terminal
    assert sys.stdout.isatty()
    display.close(WAITING)
    assert sys.stdout is terminal
    assert sys.stderr is terminal
    stand_in.writelines(["kept by ", "somebody\n"])
    assert terminal.text[-1] == "kept by somebody"


def test_the_streams_are_given_back_when_the_terminal_is_gone(in_terminal, monkeypatch):
    terminal = in_terminal()

    def gone(text: str) -> int:
        raise OSError("gone")

    display = TerminalDisplay(terminal, size=terminal.size)
    monkeypatch.setattr(terminal, "write", gone)
    with pytest.raises(OSError, match="gone"):
        display.update(WAITING)
    assert sys.stdout is terminal
    assert not TerminalDisplay.in_use(terminal)


def test_a_second_table_does_not_fit_into_a_terminal(in_terminal):
    in_terminal()
    display = make_display(True)
    assert isinstance(display, TerminalDisplay)
    display.update(WAITING)
    assert isinstance(make_display(True), PlainDisplay)
    display.close(WAITING)
    assert isinstance(make_display(True), TerminalDisplay)


def test_a_terminal_that_becomes_narrower_or_wider(in_terminal):
    terminal = in_terminal()
    display = TerminalDisplay(terminal, size=terminal.size)
    for columns in (80, 60, 25, 70):
        terminal.screen.resize(columns=columns)
        display.update(FOUR)
        assert sum("chain" in line for line in terminal.text) >= 1
        assert "".join(terminal.text[-1:]).split()[0] == "all"


@pytest.mark.parametrize("lines", [3, 4, 5, 8, 24, 60])
def test_the_table_never_scrolls(monkeypatch, lines):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(lines=lines)
    display = TerminalDisplay(terminal, size=terminal.size)
    for _ in range(3):
        display.update(many_chains())
    if lines > 3:
        assert terminal.text[0].split()[0] == "chain"
    assert terminal.text[-1].split()[0] == "all"
    assert len(terminal.text) <= 24


def test_colours_follow_no_color(in_terminal, monkeypatch):
    terminal = in_terminal()

    def foreground() -> set[str]:
        display = TerminalDisplay(terminal, size=terminal.size)
        display.update(FOUR)
        display.close(FOUR)
        return {terminal.screen.buffer[y][x].fg for y in range(terminal.screen.cursor.y) for x in range(80)}

    monkeypatch.setenv("NO_COLOR", "1")
    assert foreground() == {"default"}
    monkeypatch.delenv("NO_COLOR")
    assert "red" in foreground()


# Plain lines


def plain_lines(moments: list[tuple[float, list[ChainProgress]]], last: list[ChainProgress]) -> list[str]:
    clock, stream = Clock(), io.StringIO()
    display = PlainDisplay(stream, clock=clock)
    begin = clock.now
    for seconds, chains in moments:
        clock.now = begin + seconds
        display.update(chains)
    display.close(last)
    return stream.getvalue().splitlines()


def test_a_short_run_gets_one_line():
    lines = plain_lines([(0.1 * i, [chain(100 * i, 0.1 * i)] * 4) for i in range(9)], [chain(TOTAL, 0.8)] * 4)
    assert lines == [
        "nutpie: done after 0.8 s: 100 % (5600/5600 draws of 4 chains), 0 divergences, step size 0.5, "
        "7.0 gradients per draw, 7000 draws/s"
    ]


def test_a_line_with_each_tenth():
    moments = [(i, [chain(10 * i, i), chain(14 * i, i, divergences=1)]) for i in range(101)]
    lines = plain_lines(moments, [chain(1000, 100), chain(1400, 100, divergences=1)])
    assert lines[0] == "nutpie: 2 chains with 1400 draws each, warm-up included"
    assert lines[1] == (
        "nutpie: 10 % (288/2800 draws of 2 chains), 2 warm-up, 1 divergence, step size 0.5, 7.0 gradients per draw, "
        "24.0 draws/s, 2:08 left"
    )
    assert [line.split()[1] for line in lines[1:-1]] == ["10", "20", "30", "40", "50", "60", "70", "80"]
    assert lines[-1].startswith("nutpie: stopped after 1:40: 85 % (2400/2800 draws")


def test_lines_of_quick_and_of_slow_runs_keep_a_distance():
    quick = plain_lines([(0.1 * i, [chain(12 * i, 0.1 * i)]) for i in range(117)], [chain(TOTAL, 11.7)])
    assert len(quick) == 4  # start, after 6 and 11 seconds, end
    slow = plain_lines([(i, [chain(0, i)]) for i in range(1000)], [chain(0, 1000)])
    assert len(slow) == 2 + 1000 // 120
    assert slow[1] == "nutpie: 0 % (0/1400 draws of 1 chain), 1 warm-up, 0 divergences"


# Notebooks


class Cells(html.parser.HTMLParser):
    """Texts of the cells of a table; complains of what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.rows[-1][-1] += data


def test_html_table():
    rows = Cells(html_table(summary(WAITING, FOUR))).rows
    assert rows[0][1:] == [
        "Chain",
        "Draws",
        "Phase",
        "Divergences",
        "Step size",
        "Gradients per draw",
        "Draws per second",
        "Time",
    ]
    assert rows[1][1:] == ["0", "900/1400", "sampling", "2", "0.412", "7.0", "450", "1 s left"]
    assert rows[4][1:] == ["3", "0/1400", "waiting", "0", "", "", "", ""]
    assert rows[5][1] == "all"
    assert len(rows) == 6


def test_html_table_of_many_chains():
    rows = Cells(html_table(summary([chain(0)] * 100, many_chains()))).rows
    assert len(rows) == 1 + 20 + 1 + 1
    assert rows[-2] == ["80 more: 49 done, 1 sampling, 30 waiting"]


def test_the_table_of_a_notebook_as_text():
    assert "900/1400" in repr(ProgressTable(summary(WAITING, FOUR)))


# Choice of the display


def test_no_display():
    assert make_display(False) is None
    assert make_display(np.False_) is None


def test_a_display_by_name(capsys):
    assert isinstance(make_display("plain"), PlainDisplay)
    assert isinstance(make_display("terminal"), TerminalDisplay)
    with pytest.raises(ValueError, match="'terminal', 'notebook', 'marimo', 'plain', not 'rich'"):
        make_display("rich")


def test_the_display_follows_the_stream(in_terminal, monkeypatch):
    in_terminal()
    assert isinstance(make_display(True), TerminalDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(True), PlainDisplay)
    monkeypatch.delenv("TERM")
    assert isinstance(make_display(True), PlainDisplay)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_display(True), PlainDisplay)
    monkeypatch.setattr(sys, "stderr", None)
    assert make_display(True) is None


def test_no_table_over_the_prompt_of_an_interactive_session(in_terminal, monkeypatch):
    in_terminal()
    assert isinstance(make_display(True, background=True), TerminalDisplay)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert make_display(True, background=True) is None
    assert isinstance(make_display(True), TerminalDisplay)


def test_nothing_of_marimo_outside_of_its_notebooks():
    from nutpie.sample import _mo_create_replace

    assert _mo_create_replace() is None


# The watcher


class Recorder:
    """A display that keeps what it is told."""

    interval = 0.05

    def __init__(self, seconds: float = 0.0) -> None:
        self.updates: list = []
        self.closed: list = []
        self._seconds = seconds

    def update(self, chains) -> None:
        self.updates.append(chains)
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass

    def close(self, chains) -> None:
        self.closed.append(chains)


def poll_for(watcher: Watcher, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watcher.poll()
        time.sleep(0.002)


def test_displays_are_updated_at_their_pace_and_closed_once():
    display = Recorder()
    watcher = Watcher(lambda: FOUR, display)
    watcher.start()
    poll_for(watcher, 0.5)
    watcher.finish()
    assert 5 <= len(display.updates) <= 12
    assert display.closed == [FOUR]


def test_a_slow_display_is_asked_seldom():
    display = Recorder(seconds=0.01)
    watcher = Watcher(lambda: FOUR, display)
    watcher.start()
    poll_for(watcher, 0.5)
    assert len(display.updates) == 2  # at the start and once more


def test_the_progress_is_not_read_for_nobody():
    reads = []
    watcher = Watcher(lambda: reads.append(1) or FOUR, None, None)
    watcher.start()
    poll_for(watcher, 0.05)
    assert reads == []


def test_a_display_that_fails_is_left_out_and_the_run_goes_on(model, monkeypatch, caplog):
    def fail(self, chains):
        raise RuntimeError("no display")

    monkeypatch.setattr(PlainDisplay, "update", fail)
    with caplog.at_level(logging.WARNING, logger="nutpie"):
        idata = nutpie.sample(model, draws=50, tune=50, chains=2, seed=1, progress_bar="plain")
    assert idata.posterior.sizes["draw"] == 50
    assert "the progress display failed" in caplog.text


def test_a_closed_stream_does_not_matter(model, monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert nutpie.sample(model, draws=50, tune=50, chains=2, seed=1).posterior.sizes["draw"] == 50


# The callback of a real run

LONG = 5_000_000


def sample(model=None, **kwargs):
    defaults = {"draws": 50, "tune": 50, "chains": 2, "cores": 2, "seed": 1, "progress_bar": False}
    return nutpie.sample(model or NormalModel(5), **defaults | kwargs)


def test_the_callback_gets_all_chains_and_the_end():
    calls: list[list[ChainProgress]] = []
    threads = set()

    def callback(chains):
        calls.append(chains)
        threads.add(threading.current_thread())

    sample(draws=300_000, progress_callback=callback, progress_rate=20)
    assert len(calls) > 5
    assert all(isinstance(chains, list) and len(chains) == 2 for chains in calls)
    finished = np.array([[c.finished_draws for c in chains] for chains in calls])
    assert (np.diff(finished, axis=0) >= 0).all()
    assert (finished[-1] == 300_050).all()
    last = calls[-1][0]
    assert last.started
    assert not last.tuning
    assert last.total_draws == 300_050
    assert last.num_steps == last.latest_num_steps > 0
    assert last.total_num_steps > 300_050
    assert last.step_size > 0
    assert last.runtime_ms > 0
    assert threads == {threading.main_thread()}


def test_a_short_run_calls_once_at_the_end():
    calls = []
    sample(progress_callback=calls.append, progress_rate=10_000)
    assert [[c.finished_draws for c in chains] for chains in calls] == [[100, 100]]


def test_divergences_arrive():
    calls = []
    idata = sample(NormalModel(3), tune=20, draws=30, maxdepth=3, progress_callback=calls.append)
    for i, c in enumerate(calls[-1]):
        assert c.divergences == idata.sample_stats["diverging"].sel(chain=i).sum()


def test_the_callback_changes_no_draw():
    plain, watched = sample(), sample(progress_callback=lambda chains: None, progress_rate=1)
    np.testing.assert_array_equal(plain.posterior["x"], watched.posterior["x"])


@pytest.mark.parametrize("value", [True, "stop", 1, object()])
def test_other_values_than_stop_mean_nothing(value):
    assert sample(draws=20_000, progress_callback=lambda _: value, progress_rate=1).posterior.sizes["draw"] == 20_000


def test_stop_keeps_the_draws():
    def callback(chains):
        return nutpie.STOP if min(c.finished_draws for c in chains) > 1000 else None

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idata = sample(draws=LONG, progress_callback=callback, progress_rate=10)
    assert 900 < idata.posterior.sizes["draw"] < LONG


def test_stop_is_one_object():
    assert pickle.loads(pickle.dumps(nutpie.STOP)) is nutpie.STOP
    assert repr(nutpie.STOP) == "nutpie.STOP"


def test_an_exception_of_the_callback_arrives_with_the_draws():
    calls = []

    def callback(chains):
        calls.append(chains)
        if len(calls) == 3:
            raise LookupError("not found")

    with pytest.raises(LookupError, match="not found") as caught:
        sample(draws=LONG, progress_callback=callback, progress_rate=20)
    assert len(calls) == 3
    assert 0 < caught.value.partial_trace.posterior.sizes["draw"] < LONG
    assert any("partial_trace" in note for note in caught.value.__notes__)


def test_an_exception_of_the_last_call_arrives_with_all_draws():
    def callback(chains):
        raise LookupError("not found")

    with pytest.raises(LookupError) as caught:
        sample(progress_callback=callback, progress_rate=10_000)
    assert caught.value.partial_trace.posterior.sizes["draw"] == 50


def test_the_error_of_the_model_comes_before_that_of_the_callback():
    def callback(chains):
        raise LookupError("not found")

    with pytest.raises(RuntimeError, match="fatal code -1"):
        sample(NormalModel(3, fatal_logp), progress_callback=callback, progress_rate=1)


def test_an_interrupt_in_the_callback_is_an_interrupt_of_the_run():
    sent = []

    def callback(chains):
        if not sent and all(chain.started and not chain.tuning for chain in chains):
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    with pytest.warns(UserWarning, match="interrupted"):
        idata = sample(draws=LONG, progress_callback=callback, progress_rate=20)
    assert 0 < idata.posterior.sizes["draw"] < LONG


def test_an_interrupt_in_the_last_call_arrives_with_the_draws():
    def callback(chains):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        sample(progress_callback=callback, progress_rate=10_000)
    assert caught.value.partial_trace.posterior.sizes["draw"] == 50


def test_a_slow_callback_is_not_called_twice_in_a_row():
    calls = []

    def callback(chains):
        calls.append(time.monotonic())
        if len(calls) == 1:
            time.sleep(0.5)

    watcher = Watcher(lambda: FOUR, None, callback, 50)
    watcher.start()
    poll_for(watcher, 1.0)
    assert 8 <= len(calls) <= 13
    assert min(np.diff(calls)) > 0.02


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"progress_callback": 3}, TypeError, "progress_callback must be a function"),
        ({"progress_rate": 0}, ValueError, "progress_rate must be a positive"),
        ({"progress_rate": float("nan")}, ValueError, "progress_rate must be a positive"),
        ({"progress_rate": "often"}, TypeError, "progress_rate must be a number"),
        ({"progress_rate": True}, TypeError, "progress_rate must be a number"),
        ({"progress_bar": "rich"}, ValueError, "progress_bar must be True, False or one of"),
    ],
)
def test_bad_keywords(keywords, error, message):
    with pytest.raises(error, match=message):
        sample(**keywords)
