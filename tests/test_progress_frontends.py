"""The progress in real front ends: a terminal, a Jupyter kernel, marimo, a pipe."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

PREPARE = f"""\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore it
sys.path.insert(0, {str(TESTS)!r})
import nutpie
from simple_model import NormalModel
"""


def run_in_terminal(script: str, *, lines: int = 30, when: Callable[[str], bytes | None] | None = None, **environment):
    """Run a script in a terminal of 110 columns; `when` sees the screen and returns keys to press, once.

    Returns the screen at the end, as lines.
    """
    pyte = pytest.importorskip("pyte")
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    screen = pyte.Screen(110, lines)
    emulator = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 110, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE + textwrap.dedent(script)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"} | environment,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(theirs)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux, when the other side is closed
                break
            if not data:
                break
            emulator.feed(data)
        if when is not None and (keys := when("\n".join(screen.display))):
            os.write(ours, keys)
            when = None
    process.kill()
    process.wait()
    os.close(ours)
    assert not screen.cursor.hidden
    return [line.rstrip() for line in screen.display if line.strip()]


def test_table_in_a_terminal():
    text = run_in_terminal("""
        import warnings
        calls = []
        def callback(chains):
            calls.append(chains)
            if len(calls) == 2:
                print("said by the callback")
            if len(calls) == 4:
                warnings.warn("take care")
        model = NormalModel(4)
        nutpie.sample(model, draws=500_000, tune=100, chains=3, seed=1, progress_callback=callback, progress_rate=20)
        print("the end")
    """)
    assert text[0] == "said by the callback"
    assert "take care" in text[1], text
    assert text[-6].split()[0] == "chain"
    assert [line.split()[0] for line in text[-5:-1]] == ["0", "1", "2", "all"]
    assert "500100/500100" in text[-3]
    assert "1500300/1500300" in text[-2]
    assert text[-1] == "the end"
    assert sum("draws/s" in line for line in text) == 1


def test_interrupt_in_a_terminal():
    def press(screen: str) -> bytes | None:
        return b"\x03" if "sampling" in screen else None

    text = run_in_terminal(
        """
        idata = nutpie.sample(NormalModel(4), draws=5_000_000, tune=100, chains=2, cores=2, seed=1)
        print("kept", idata.posterior.sizes["draw"] > 0)
        """,
        when=press,
    )
    assert text[-1] == "kept True"
    assert "interrupted" in "".join(text)
    assert sum("draws/s" in line for line in text) == 1
    assert sum(line.split()[0] == "all" for line in text) == 1
    assert [" stopped " in line for line in text if line.split()[0] in ("0", "1", "all")] == [True, True, True]


def test_many_chains_in_a_low_terminal():
    script = "nutpie.sample(NormalModel(4), draws=5_000, tune=100, chains=40, seed=1)"
    text = run_in_terminal(script, lines=10)
    assert text[0].split()[0] == "chain"
    assert text[-2] == "34 more chains: 34 done"
    assert text[-1].split()[0] == "all"
    assert len(text) == 9


def test_dumb_terminal():
    text = run_in_terminal("nutpie.sample(NormalModel(4), draws=100, tune=100, chains=2, seed=1)", TERM="dumb")
    assert "".join(text).startswith("nutpie: done after")


def test_pipe():
    script = "nutpie.sample(NormalModel(4), draws=100, tune=100, chains=2, seed=1, check=False)"
    done = subprocess.run([sys.executable, "-c", PREPARE + script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.startswith("nutpie: done after")
    assert done.stderr.count("\n") == 1


def test_jupyter():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [
        PREPARE + "trace = nutpie.sample(NormalModel(3), draws=200_000, tune=10, seed=1, chains=2)",
        "import threading\n"
        "other = threading.Thread(target=nutpie.sample, args=(NormalModel(3),), kwargs=dict(draws=200_000, chains=1))\n"
        "other.start()\n"
        "other.join()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    for cell, text in zip(notebook.cells, ["400020/400020", "200150/200150"], strict=True):
        (output,) = cell.outputs
        assert output.output_type == "display_data"
        assert text in output.data["text/html"]
        assert text in output.data["text/plain"]
        assert "<td>done</td>" in output.data["text/html"]
        assert "left" not in output.data["text/html"]


def test_marimo(tmp_path):
    pytest.importorskip("marimo")
    pytest.importorskip("nbformat")
    import json

    cells = [
        PREPARE + "import marimo as mo, threading\n"
        "trace = nutpie.sample(NormalModel(3), draws=100_000, tune=10, seed=1, chains=2)",
        # What PyMC asks for writes to the cell that asked, from other threads and when another cell runs.
        "from nutpie.sample import _mo_create_replace\n"
        "replace = _mo_create_replace()\n"
        "go = threading.Event()\n"
        "thread = threading.Thread(target=lambda: (go.wait(), replace(mo.Html('<b>from a thread</b>'))))\n"
        "thread.start()",
        "go.set()\nthread.join()\n'from the last cell'",
    ]
    names = ["", "mo, threading", "go, thread"]
    values = ["mo, threading,", "go, thread,", ""]
    source = "import marimo\napp = marimo.App()\n"
    for cell, given, returned in zip(cells, names, values, strict=True):
        source += f"\n@app.cell\ndef _({given}):\n{textwrap.indent(cell, '    ')}\n    return {returned}\n"
    (tmp_path / "notebook.py").write_text(source)
    command = [sys.executable, "-m", "marimo", "export", "ipynb", "--include-outputs", "notebook.py", "-o", "out.ipynb"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    outputs = [str(cell["outputs"]) for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"]]
    assert "<td>200020/200020</td><td>done</td>" in outputs[0]
    assert "from a thread" in outputs[1]
    assert "from a thread" not in outputs[2]
    assert "from the last cell" in outputs[2]
